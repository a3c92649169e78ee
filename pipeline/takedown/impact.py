"""The impact of a takedown: the data files, shards, export tars and reports that hold its pairs, and the trainings that
saw them.

Only the uid column of each table is read, plus a few more columns of the files that hold one of the pairs.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.ledger.scan import column_names, matching_rows, scan_file
from pipeline.ledger.tables import JobRow, Ledger, SnapshotFile
from pipeline.ledger.value_filter import ValueFilter

TABLES_WITHOUT_PAIRS = frozenset({"jobs", "tombstones"})
"""Tables that hold no pairs. `jobs` is rewritten all the same, as its rows count the rows of the others."""


REMEMBERED_COLUMNS = {
    "pairs": ("uid", "source"),
    "fetches": ("uid", "source", "attempt", "final", "outcome"),
    "samples": ("uid", "source", "shard", "verdict"),
    "decisions": ("uid", "source", "keep", "reason"),
    "mixtures": ("uid", "source", "part", "times"),
    "export_members": ("uid", "tar"),
}
"""Columns to remember of each removed row: what is needed to update the facts in `jobs`."""


_DIGITS = re.compile(rb"[0-9a-f]{8,}")


_SHORT_UID_DIGITS = 8
"""Leading uid digits by which a report may name a pair whose image it shows."""


@dataclass(frozen=True)
class Hit:
    """A data file with rows to remove: its job and the number of these rows."""

    job: str
    rows: int


@dataclass
class TakedownImpact:
    """Everything that holds a pair of a takedown.

    `files` are the data files of finished jobs, by table and path in the store. `gone` are their rows to remove, by
    table: the columns in `REMEMBERED_COLUMNS` with path and job. `abandoned` are (job, path) of the data files of
    unfinished jobs, by table; these files are removed as a whole.
    """

    files: dict[str, dict[str, Hit]] = field(default_factory=dict)
    gone: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    abandoned: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, int]:
        """Return the number of rows to remove from each table."""
        return {table: sum(hit.rows for hit in hits.values()) for table, hits in sorted(self.files.items())}

    def shards(self) -> list[str]:
        """Return the shards that hold a pair."""
        return sorted({row["shard"] for row in self.gone.get("samples", ())})

    def tars(self) -> dict[str, list[str]]:
        """Return the tars that hold a pair, by export job."""
        tars_by_job: dict[str, set[str]] = {}
        for row in self.gone.get("export_members", ()):
            tars_by_job.setdefault(row["job"], set()).add(row["tar"])
        return {job: sorted(tars) for job, tars in sorted(tars_by_job.items())}


def find_impact(ledger: Ledger, uids: Collection[str]) -> TakedownImpact:
    """Return everything in the store that holds one of these pairs."""
    impact, keys, ordered = TakedownImpact(), ValueFilter(uids), sorted(uids)
    with ThreadPoolExecutor(ledger.store.at_once) as pool:
        for table in ledger.tables():
            if table in TABLES_WITHOUT_PAIRS:
                continue
            columns = column_names(ledger, table)
            remembered = [name for name in REMEMBERED_COLUMNS.get(table, ()) if name in columns]
            files = []
            for file in ledger.files(table):
                if ledger.finished(file.job) is None:
                    impact.abandoned.setdefault(table, []).append((file.job, file.path))
                elif "uid" in columns and file.may_hold(ordered):
                    files.append(file)
            for file, (hits, rows) in zip(
                files, pool.map(partial(_rows_to_remove, ledger, keys, remembered), files), strict=True
            ):
                if hits:
                    impact.files.setdefault(table, {})[file.path] = Hit(file.job, hits)
                if rows:
                    impact.gone.setdefault(table, []).extend(rows)
    impact.reports = _reports_naming(ledger, uids)
    return impact


def _rows_to_remove(
    ledger: Ledger, keys: ValueFilter, remembered: Sequence[str], file: SnapshotFile
) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of rows to remove from a file, and their columns to remember."""
    uids = scan_file(ledger, file.job, file.path, ["uid"])
    hits = sum(keys.within(batch.rows["uid"]).true_count for batch in uids)
    if not hits or not remembered:
        return hits, []
    rows = matching_rows(scan_file(ledger, file.job, file.path, remembered), lambda rows: keys.within(rows["uid"]))
    return hits, [{**row, "job": file.job, "path": file.path} for _, row in rows]


def _reports_naming(ledger: Ledger, uids: Collection[str]) -> list[str]:
    """Return the files of finished reports that name one of the pairs, by its uid or the first digits of it."""
    short = {uid[:_SHORT_UID_DIGITS].encode() for uid in uids}
    reports = set()
    for job in ledger.jobs():
        if job.stage == "report" and short:
            paths = [name for name in job.facts.get("files", {}) if ledger.store.exists(name)]
            words = (word[:_SHORT_UID_DIGITS] for name in paths for word in _DIGITS.findall(ledger.store.read(name)))
            if not short.isdisjoint(words):
                reports.update(paths)
    return sorted(reports)


@dataclass(frozen=True)
class TrainingExposure:
    """A training that saw pairs of a takedown, with the number of times it saw each, by uid.

    `about` is true where the counts are averages: the samples seen are not a whole number of passes over the export, so
    some pairs were seen once more than others.
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
        """Return the fields as plain data, with the number of pairs and the sum over them."""
        total = round(sum(self.times.values()), 3)
        return {**self.__dict__, "pairs": len(self.times), "total": total}


def training_exposures(ledger: Ledger, impact: TakedownImpact) -> Iterator[TrainingExposure]:
    """Yield the trainings that saw the pairs.

    A training reads the tars of its export equally often, or in proportion to their factors where pairs are repeated by
    weights. So a pair in a tar of factor f is seen f * samples / sum(f * pairs) times. The sum is over the tars as they
    were at the time of the training: their present pairs plus those that later takedowns removed.
    """
    copies: dict[str, Counter[tuple[str, str]]] = {}
    for row in impact.gone.get("export_members", ()):
        copies.setdefault(row["job"], Counter())[row["uid"], row["tar"]] += 1
    sizes: dict[str, Counter[str]] = {job: Counter() for job in copies}
    for row in ledger.read("exports", ["tar", "pairs"], copies).to_pylist():
        sizes[row["job"]][row["tar"]] += row["pairs"]
    for row in ledger.read("trainings").to_pylist() if copies else ():
        job = ledger.finished(row["job"])
        for export in sorted(copies.keys() & set(job.inputs if job else ())):
            assert job is not None
            yield _exposure(ledger, row, job, export, copies[export], sizes[export])


def _exposure(
    ledger: Ledger,
    training: dict[str, Any],
    job: JobRow,
    export: str,
    copies: Mapping[tuple[str, str], int],
    sizes: Counter[str],
) -> TrainingExposure:
    pairs_by_tar = sizes.copy()
    for takedown in ledger.jobs():
        if takedown.stage == "takedown" and takedown.finished > job.finished:
            pairs_by_tar.update(takedown.facts["exports"].get(export, {}).get("gone", {}))
    exported = ledger.finished(export)
    factors = exported.facts.get("about", {}).get("factors", {}) if exported else {}
    weight = sum(factors.get(tar, 1.0) * count for tar, count in pairs_by_tar.items())
    times: dict[str, float] = {}
    for (uid, tar), count in sorted(copies.items()):
        times[uid] = times.get(uid, 0.0) + count * factors.get(tar, 1.0) * training["samples_seen"] / weight
    columns = ("training", "mixture", "seed", "checkpoint", "checkpoint_sha256", "samples_seen")
    epochs = job.config.get("epochs") or job.config.get("checkpoints", 1)  # each epoch starts a new pass
    return TrainingExposure(
        **{name: training[name] for name in columns},
        times={uid: round(value, 3) for uid, value in times.items()},
        # open_clip_train drops the last, partial batch of a pass, and each of several processes makes its own passes
        about=bool(
            factors
            or training["samples_seen"] % (pairs_by_tar.total() * epochs)
            or pairs_by_tar.total() % job.config.get("batch_size", 1)
            or job.config.get("processes", 1) > 1
        ),
    )
