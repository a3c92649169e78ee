"""What `jobs` says of files and counts, put right after a takedown: digests, sizes, places and numbers of rows."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.export.manifest import export_digest
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.takedown.impact import Survey
from pipeline.takedown.rewrite import NewTar, Rewritten

Facts = dict[str, Any]


@dataclass
class Losses:
    """What finished jobs lost, as their rows in `jobs` count it."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    """By job, the rows of each table."""
    pairs: Counter[str] = field(default_factory=Counter)
    """By file of `pairs`, published rows."""
    taken: Counter[str] = field(default_factory=Counter)
    """By ingest job, published rows."""
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    """By ingest job, stored pairs of each verdict."""


def losses(found: Survey, made: Rewritten) -> Losses:
    """Add up what goes."""
    lost = Losses()
    for table, hits in found.files.items():
        for hit in hits.values():
            lost.rows.setdefault(hit.job, Counter())[table] += hit.rows
    for job, tars in made.tars.items():
        lost.rows.setdefault(job, Counter())["exports"] += list(tars.values()).count(None)
    for row in found.gone.get("pairs", ()):
        lost.pairs[row["path"]] += 1
        lost.taken[row["job"]] += 1
    for row in found.gone.get("samples", ()):
        lost.verdicts.setdefault(row["job"], Counter())[row["verdict"]] += 1
    return lost


def restated(row: JobRow, made: Rewritten, lost: Losses) -> JobRow:
    """Return a job's row as it must be after the takedown; the same where nothing of it changes.

    What a mixture and an export say of their pairs is put right by `pipeline.takedown.update_mixture_facts`.
    """
    gone = lost.rows.get(row.job, Counter())
    rows = {table: count - gone[table] for table, count in row.rows.items()}
    facts = dict(row.facts)
    if row.stage == "ingest":
        facts |= _ingest(row, made, lost)
    return replace(row, rows=rows, facts=facts)


def _ingest(row: JobRow, made: Rewritten, lost: Losses) -> Facts:
    """Return the facts of an ingest: its shards with their new names, the files of `pairs` that they were read from.

    `taken_down` counts the published rows that takedowns took, so that the funnel accounts for each.
    """
    files = {old: f"tables/pairs/{file.path}" for old, file in made.tables.get("pairs", {}).items()}
    shards = []
    for one in row.facts.get("shards", ()):
        published = one["published"] - sum(lost.pairs[path] for path in one["rows"]) if row.job in lost.taken else None
        told = {**one, "rows": [files.get(path, path) for path in one["rows"]]}
        if published is not None:
            told["published"] = published
        if new := made.shards.get(one["shard"]):
            told |= {"shard": new.path, **new.plain()}
        shards.append(told)
    facts: Facts = {"shards": shards} if shards else {}
    if row.job in lost.verdicts and "verdicts" in row.facts:
        left = Counter(row.facts["verdicts"])
        left.subtract({verdict: count for verdict, count in lost.verdicts[row.job].items() if verdict})
        facts["verdicts"] = {verdict: count for verdict, count in left.items() if count}
    if row.job in lost.taken:
        facts["taken_down"] = row.facts.get("taken_down", 0) + lost.taken[row.job]
    return facts


def tars_of(ledger: Ledger, job: str, changed: Mapping[str, NewTar | None]) -> list[Facts]:
    """Return tar, pairs, bytes and sha256 of an export's tars, once the `changed` ones are as they will be."""
    names = ("tar", "pairs", "bytes", "sha256")
    rows = [{name: row[name] for name in names} for row in ledger.read("exports", names, [job]).to_pylist()]
    told = [row | (new.plain() if (new := changed.get(row["tar"])) else {}) for row in rows]
    gone = {name for name, new in changed.items() if new is None}
    return sorted((row for row in told if row["tar"] not in gone), key=lambda row: str(row["tar"]))


def restated_export(row: JobRow, about: Any, tars: Sequence[Facts], papers: Mapping[str, bytes]) -> Facts:
    """Return an export's facts, with the digests of its papers by their path in the store."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in papers.items()}
    return {"about": about, "digest": export_digest(tars), "files": row.facts["files"] | digests}
