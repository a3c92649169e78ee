"""Updates of the facts in `jobs` after a takedown: digests, sizes, paths and row counts of files."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.export.manifest import export_digest
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.takedown.impact import TakedownImpact
from pipeline.takedown.rewrite import NewTar, RewrittenFiles

Facts = dict[str, Any]


@dataclass
class Losses:
    """What finished jobs lost, in the units in which their rows in `jobs` count it."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    """Removed rows by table, by job."""
    pairs: Counter[str] = field(default_factory=Counter)
    """Removed published rows, by file of `pairs`."""
    taken: Counter[str] = field(default_factory=Counter)
    """Removed published rows, by ingest job."""
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    """Removed stored pairs by verdict, by ingest job."""


def count_losses(impact: TakedownImpact, rewritten: RewrittenFiles) -> Losses:
    """Return the sums of the removed rows and pairs."""
    lost = Losses()
    for table, hits in impact.files.items():
        for hit in hits.values():
            lost.rows.setdefault(hit.job, Counter())[table] += hit.rows
    for job, tars in rewritten.tars.items():
        lost.rows.setdefault(job, Counter())["exports"] += list(tars.values()).count(None)
    for row in impact.gone.get("pairs", ()):
        lost.pairs[row["path"]] += 1
        lost.taken[row["job"]] += 1
    for row in impact.gone.get("samples", ()):
        lost.verdicts.setdefault(row["job"], Counter())[row["verdict"]] += 1
    return lost


def updated_job(row: JobRow, rewritten: RewrittenFiles, lost: Losses) -> JobRow:
    """Return a job's row as it must be after the takedown, equal to `row` where nothing changes.

    The counts of mixtures and exports are updated by `pipeline.takedown.update_mixture_facts`.
    """
    lost_rows = lost.rows.get(row.job, Counter())
    rows = {table: count - lost_rows[table] for table, count in row.rows.items()}
    facts = dict(row.facts)
    if row.stage == "ingest":
        facts |= _ingest_facts(row, rewritten, lost)
    return replace(row, rows=rows, facts=facts)


def _ingest_facts(row: JobRow, rewritten: RewrittenFiles, lost: Losses) -> Facts:
    """Return the updated facts of an ingest: its shards with their new names, and the files of `pairs` behind them.

    `taken_down` counts the published rows that takedowns removed, so that the funnel accounts for each of them.
    """
    files = {old: f"tables/pairs/{file.path}" for old, file in rewritten.tables.get("pairs", {}).items()}
    shards = []
    for shard in row.facts.get("shards", ()):
        published = (
            shard["published"] - sum(lost.pairs[path] for path in shard["rows"]) if row.job in lost.taken else None
        )
        updated = {**shard, "rows": [files.get(path, path) for path in shard["rows"]]}
        if published is not None:
            updated["published"] = published
        if new := rewritten.shards.get(shard["shard"]):
            updated |= {"shard": new.path, **new.plain()}
        shards.append(updated)
    facts: Facts = {"shards": shards} if shards else {}
    if row.job in lost.verdicts and "verdicts" in row.facts:
        remaining = Counter(row.facts["verdicts"])
        remaining.subtract({verdict: count for verdict, count in lost.verdicts[row.job].items() if verdict})
        facts["verdicts"] = {verdict: count for verdict, count in remaining.items() if count}
    if row.job in lost.taken:
        facts["taken_down"] = row.facts.get("taken_down", 0) + lost.taken[row.job]
    return facts


def updated_tars(ledger: Ledger, job: str, changed: Mapping[str, NewTar | None]) -> list[Facts]:
    """Return tar, pairs, bytes and sha256 of an export's tars, with the new values of the `changed` ones."""
    names = ("tar", "pairs", "bytes", "sha256")
    rows = [{name: row[name] for name in names} for row in ledger.read("exports", names, [job]).to_pylist()]
    updated = [row | (new.plain() if (new := changed.get(row["tar"])) else {}) for row in rows]
    removed = {name for name, new in changed.items() if new is None}
    return sorted((row for row in updated if row["tar"] not in removed), key=lambda row: str(row["tar"]))


def updated_export_facts(row: JobRow, about: Any, tars: Sequence[Facts], documents: Mapping[str, bytes]) -> Facts:
    """Return an export's facts, with the digests of its documents by their path in the store."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in documents.items()}
    return {"about": about, "digest": export_digest(tars), "files": row.facts["files"] | digests}
