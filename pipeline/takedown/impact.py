"""Where the pairs of a takedown stand: the files of every table, shards, export tars, reports, and who trained on them.

Only the uid column of a table is read, and of the files that hold one of the pairs a few columns more.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.ledger.scan import columns_of, matching, scan_file
from pipeline.ledger.tables import JobRow, Ledger, Listed
from pipeline.ledger.value_filter import Keys

UNTOUCHED = frozenset({"jobs", "tombstones"})
"""Tables that hold no pair; `jobs` is rewritten for what its rows say of the others."""


REMEMBERED = {
    "pairs": ("uid", "source"),
    "fetches": ("uid", "source", "attempt", "final", "outcome"),
    "samples": ("uid", "source", "shard", "verdict"),
    "decisions": ("uid", "source", "keep", "reason"),
    "mixtures": ("uid", "source", "part", "times"),
    "export_members": ("uid", "tar"),
}
"""What must be known of a row that goes, to put right what `jobs` says of its file."""


_DIGITS = re.compile(rb"[0-9a-f]{8,}")


_SHORT = 8
"""Digits of a uid by which a report may name a pair whose picture it shows."""


@dataclass(frozen=True)
class Hit:
    """A data file with rows that go: its job, and how many they are."""

    job: str
    rows: int


@dataclass
class Survey:
    """What holds a pair of a takedown.

    `files` are the data files of finished jobs by table and path in the store; `gone` their rows that go, as
    `REMEMBERED` with path and job; `abandoned` (job, path) of rows of jobs that were not finished, which go whole.
    """

    files: dict[str, dict[str, Hit]] = field(default_factory=dict)
    gone: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    abandoned: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, int]:
        """Return how many rows go from each table."""
        return {table: sum(hit.rows for hit in hits.values()) for table, hits in sorted(self.files.items())}

    def shards(self) -> list[str]:
        """Return the shards that hold a pair."""
        return sorted({row["shard"] for row in self.gone.get("samples", ())})

    def tars(self) -> dict[str, list[str]]:
        """Return by export job the tars that hold a pair."""
        found: dict[str, set[str]] = {}
        for row in self.gone.get("export_members", ()):
            found.setdefault(row["job"], set()).add(row["tar"])
        return {job: sorted(tars) for job, tars in sorted(found.items())}


def survey(ledger: Ledger, uids: Collection[str]) -> Survey:
    """Return where these pairs stand."""
    found, keys, ordered = Survey(), Keys(uids), sorted(uids)
    with ThreadPoolExecutor(ledger.store.at_once) as pool:
        for table in ledger.tables():
            if table in UNTOUCHED:
                continue
            columns = columns_of(ledger, table)
            remembered = [name for name in REMEMBERED.get(table, ()) if name in columns]
            files = []
            for one in ledger.files(table):
                if ledger.finished(one.job) is None:
                    found.abandoned.setdefault(table, []).append((one.job, one.path))
                elif "uid" in columns and one.may_hold(ordered):
                    files.append(one)
            for one, (hits, rows) in zip(files, pool.map(partial(_hits, ledger, keys, remembered), files), strict=True):
                if hits:
                    found.files.setdefault(table, {})[one.path] = Hit(one.job, hits)
                if rows:
                    found.gone.setdefault(table, []).extend(rows)
    found.reports = _reports(ledger, uids)
    return found


def _hits(ledger: Ledger, keys: Keys, remembered: Sequence[str], file: Listed) -> tuple[int, list[dict[str, Any]]]:
    """Return how many rows of a file go, and what is to be remembered of them."""
    uids = scan_file(ledger, file.job, file.path, ["uid"])
    hits = sum(keys.within(part.rows["uid"]).true_count for part in uids)
    if not hits or not remembered:
        return hits, []
    rows = matching(scan_file(ledger, file.job, file.path, remembered), lambda rows: keys.within(rows["uid"]))
    return hits, [{**row, "job": file.job, "path": file.path} for _, row in rows]


def _reports(ledger: Ledger, uids: Collection[str]) -> list[str]:
    """Return the files of finished reports that name one of the pairs, be it by its first digits."""
    short = {uid[:_SHORT].encode() for uid in uids}
    found = set()
    for job in ledger.jobs():
        if job.stage == "report" and short:
            names = [name for name in job.facts.get("files", {}) if ledger.store.exists(name)]
            words = (word[:_SHORT] for name in names for word in _DIGITS.findall(ledger.store.read(name)))
            if not short.isdisjoint(words):
                found.update(names)
    return sorted(found)


@dataclass(frozen=True)
class Seen:
    """A training that saw pairs of a takedown: how often each, by uid; `about` where that is no whole number of
    passes over its export, so that some pairs were seen once more than others.
    """

    training: str
    mixture: str
    seed: int
    checkpoint: str
    checkpoint_sha256: str
    samples_seen: int
    times: dict[str, float]
    about: bool

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, with the sum over the pairs."""
        total = round(sum(self.times.values()), 3)
        return {**self.__dict__, "pairs": len(self.times), "total": total}


def seen(ledger: Ledger, found: Survey) -> Iterator[Seen]:
    """Yield the trainings that saw the pairs.

    A training reads the tars of its export equally often, or where pairs are repeated by weights in proportion to
    their factors: so a pair of a tar of factor f is seen f * samples / sum(f * pairs) times, the sum over the tars as
    they were then: as they are now, and with what later takedowns took out of them.
    """
    copies: dict[str, Counter[tuple[str, str]]] = {}
    for row in found.gone.get("export_members", ()):
        copies.setdefault(row["job"], Counter())[row["uid"], row["tar"]] += 1
    sizes: dict[str, Counter[str]] = {job: Counter() for job in copies}
    for row in ledger.read("exports", ["tar", "pairs"], copies).to_pylist():
        sizes[row["job"]][row["tar"]] += row["pairs"]
    for row in ledger.read("trainings").to_pylist() if copies else ():
        job = ledger.finished(row["job"])
        for export in sorted(copies.keys() & set(job.inputs if job else ())):
            assert job is not None
            yield _seen(ledger, row, job, export, copies[export], sizes[export])


def _seen(
    ledger: Ledger,
    row: dict[str, Any],
    job: JobRow,
    export: str,
    copies: Mapping[tuple[str, str], int],
    sizes: Counter[str],
) -> Seen:
    had = sizes.copy()
    for one in ledger.jobs():
        if one.stage == "takedown" and one.finished > job.finished:
            had.update(one.facts["exports"].get(export, {}).get("gone", {}))
    exported = ledger.finished(export)
    factors = exported.facts.get("about", {}).get("factors", {}) if exported else {}
    weight = sum(factors.get(tar, 1.0) * count for tar, count in had.items())
    times: dict[str, float] = {}
    for (uid, tar), count in sorted(copies.items()):
        times[uid] = times.get(uid, 0.0) + count * factors.get(tar, 1.0) * row["samples_seen"] / weight
    names = ("training", "mixture", "seed", "checkpoint", "checkpoint_sha256", "samples_seen")
    epochs = job.config.get("epochs") or job.config.get("checkpoints", 1)  # each begins a pass of its own
    return Seen(
        **{name: row[name] for name in names},
        times={uid: round(much, 3) for uid, much in times.items()},
        # open_clip_train drops a pass's last, partial batch, and each of several processes makes passes of its own
        about=bool(
            factors
            or row["samples_seen"] % (had.total() * epochs)
            or had.total() % job.config.get("batch_size", 1)
            or job.config.get("processes", 1) > 1
        ),
    )
