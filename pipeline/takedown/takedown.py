"""Takedown: permanent removal of pairs from the tables, shards, exports and reports of a store.

The pairs to remove are found and recorded as an intent, tombstones are committed, and all new files are written beside
the old ones and listed in a second record. Only then do they replace the old ones, and files that no job owns any more
are removed. Every step can be repeated, so a takedown that was killed at any moment is finished by the next one. No
other job may run in the meantime: its staged files would be removed too.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.documents import render_documents
from pipeline.ingest.tombstones import KINDS, read_tombstones
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.journal import TAKEDOWNS_FOLDER, FileReplacement, intent_path, prepared_path, unfinished_takedowns
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.ledger.value_filter import ValueFilter
from pipeline.operations.openlineage import event_path, write_events
from pipeline.provenance.verify import files_owned_by_jobs, unowned_files
from pipeline.takedown.impact import TakedownImpact, find_impact, training_exposures
from pipeline.takedown.journal import Intent, Prepared, read_intent, read_prepared
from pipeline.takedown.matching import TakedownMatches, find_matches
from pipeline.takedown.request import TakedownRequest
from pipeline.takedown.rewrite import RewrittenFiles, replacement_path, rewrite_files
from pipeline.takedown.update_job_facts import count_losses, updated_export_facts, updated_job, updated_tars
from pipeline.takedown.update_mixture_facts import lost_pairs_of, updated_dataset_facts, updated_mixture_facts

STAGE = "takedown"


@dataclass(frozen=True)
class CodeVersion:
    """What determines a takedown's result, for its row in `jobs`: the digest of the code and the package versions."""

    digest: str
    versions: dict[str, str]


def plan_takedown(
    ledger: Ledger, request: TakedownRequest, reason: str, distance: int
) -> tuple[Intent, TakedownImpact]:
    """Return the intent of a takedown of this list, and its impact; nothing is changed."""
    matches = find_matches(ledger, request, distance)
    impact = find_impact(ledger, matches.pairs)
    new = matches.tombstones.rows() - read_tombstones(ledger).rows()
    number = 1 + sum(job.stage == STAGE for job in ledger.jobs())
    uids = tuple(sorted(matches.pairs))
    summary = _summary(ledger, request, matches, impact, sorted(new))
    return Intent(number, reason, datetime.now(UTC), uids, tuple(sorted(new)), summary), impact


def _summary(
    ledger: Ledger,
    request: TakedownRequest,
    matches: TakedownMatches,
    impact: TakedownImpact,
    new: Sequence[tuple[str, str, int]],
) -> dict[str, Any]:
    """Return the summary for the user; it holds only hashes, numbers and names that the store assigned."""
    lines = dict.fromkeys(sorted(request.lines.values()), 0)
    for why in matches.pairs.values():
        if why.line:
            lines[why.line] += 1
    folders = {job: (row.facts["folder"] if (row := ledger.finished(job)) else "") for job in impact.tars()}
    return {
        "found": matches.counts(),
        "lines": {str(line): count for line, count in lines.items()},
        "pairs": {uid: {"how": why.how, "line": why.line} for uid, why in sorted(matches.pairs.items())},
        "tombstones": {kind: sum(row[0] == kind for row in new) for kind in KINDS},
        "tables": impact.rows(),
        "shards": impact.shards(),
        "exports": {folders[job]: tars for job, tars in impact.tars().items()},
        "reports": impact.reports,
        "trainings": [exposure.plain() for exposure in training_exposures(ledger, impact)],
        "notes": matches.notes,
    }


def take_down(ledger: Ledger, intent: Intent, code: CodeVersion, impact: TakedownImpact | None = None) -> None:
    """Carry out an intent, or what remains of it; `impact` is that of its pairs, where it is known."""
    store = ledger.store
    intent.write(store)
    _write_tombstones(ledger, intent)
    prepared = read_prepared(store, intent.id)
    if prepared is None:
        prepared = _prepare(ledger, intent, impact or find_impact(ledger, intent.uids))
        prepared.write(store, intent.id)
    for table, swap in sorted(prepared.swaps.items(), key=lambda entry: (entry[0] == "jobs", entry[0])):
        ledger.replace(intent.id, table, swap.old, swap.new, swap.withdrawn)
    ledger.refresh()
    for path, text in sorted(prepared.papers.items()):
        store.write(path, text.encode())
    for path in prepared.gone:
        store.remove(path)
    _remove_unowned(ledger)
    _finish(ledger, intent, prepared, code)
    for path in (prepared_path(intent.id), intent_path(intent.id), f"{TAKEDOWNS_FOLDER}/{intent.id}"):
        store.remove(path)


def finish_all(ledger: Ledger, code: CodeVersion) -> list[Intent]:
    """Finish the unfinished takedowns; return them."""
    intents = [read_intent(ledger.store, takedown) for takedown in unfinished_takedowns(ledger.store)]
    for intent in sorted(intents, key=lambda intent: intent.number):
        take_down(ledger, intent, code)
    return intents


def _write_tombstones(ledger: Ledger, intent: Intent) -> None:
    """Commit the tombstones before anything else: from now on no ingest fetches the removed pairs."""
    if not intent.tombstones:
        return
    kinds, values, distances = zip(*intent.tombstones, strict=True)
    times: dict[str, dict[str, float]] = {}
    for training in intent.answer["trainings"]:
        for uid, times_seen in training["times"].items():
            times.setdefault(uid, {})[training["training"]] = times_seen
    seen_by = [json.dumps(times[value], sort_keys=True) if value in times else "" for value in values]
    count = len(kinds)
    columns = [kinds, values, distances, [intent.reason] * count, [intent.at] * count, seen_by]
    schema = TABLES["tombstones"]
    rows = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema)
    ledger.commit(intent.id, "tombstones", schema, [write_rows(ledger.store, intent.id, "tombstones", rows)])


def _prepare(ledger: Ledger, intent: Intent, impact: TakedownImpact) -> Prepared:
    """Write all new data files; return what then remains to do."""
    rewritten = rewrite_files(ledger, intent.id, ValueFilter(intent.uids), impact)
    swaps = {}
    for table in sorted(rewritten.tables.keys() | impact.abandoned.keys()):
        old = list(rewritten.tables.get(table, {})) + [path for _, path in impact.abandoned.get(table, ())]
        jobs = sorted({job for job, _ in impact.abandoned.get(table, ())})
        prefix = f"tables/{table}/"
        new = list(rewritten.tables.get(table, {}).values())
        swaps[table] = FileReplacement([path.removeprefix(prefix) for path in old], new, jobs)
    lost = count_losses(impact, rewritten)
    rows = {row.job: updated_job(row, rewritten, lost) for row in ledger.jobs()}
    lost_shares = {job: lost_pairs_of(ledger, row, impact) for job, row in rows.items() if row.stage == "blend"}
    for job, lost_share in lost_shares.items():
        rows[job].facts.update(updated_mixture_facts(rows[job], lost_share))
    written: dict[str, str] = {}
    for job, row in rows.items():
        blend = next((lost_shares[input_job] for input_job in row.inputs if input_job in lost_shares), None)
        if row.stage == "export" and blend is not None and (blend.any or job in rewritten.tars):
            tars = updated_tars(ledger, job, rewritten.tars.get(job, {}))
            about = updated_dataset_facts(row.facts["about"], blend, impact)
            contents = {f"{row.facts['folder']}/{name}": data for name, data in render_documents(about, tars).items()}
            row.facts.update(updated_export_facts(row, about, tars, contents))
            written |= {path: data.decode() for path, data in contents.items()}
    reports = set(impact.reports)
    shown = {job for job, row in rows.items() if row.stage == "report" and reports & row.facts["files"].keys()}
    if swap := _rewrite_jobs(ledger, intent.id, rows, shown):
        swaps["jobs"] = swap
    gone = impact.reports + [event_path(job) for job in sorted(shown)]
    return Prepared(swaps, written, gone, _facts(ledger, intent, impact, rewritten))


def _rewrite_jobs(
    ledger: Ledger, takedown: str, rows: dict[str, JobRow], withdrawn: set[str]
) -> FileReplacement | None:
    """Rewrite the files of `jobs` in which a row changes, or is removed with its report."""
    old, new = [], []
    for _, path in ledger.snapshot("jobs"):
        with ledger.store.parquet(path) as file:
            before = [JobRow.from_arrow(row) for row in file.read(use_threads=False).to_pylist()]
        after = [rows[row.job] for row in before if row.job not in withdrawn]
        if after == before:
            continue
        old.append(path.removeprefix("tables/jobs/"))
        relative = replacement_path(takedown, old[-1])
        with ledger.store.create(f"tables/jobs/{relative}") as stream:
            pq.write_table(pa.Table.from_pylist([row.to_arrow() for row in after], TABLES["jobs"]), stream)
        new.append(DataFile("jobs", relative, len(after), ledger.store.size(f"tables/jobs/{relative}")))
    return FileReplacement(old, new, sorted(withdrawn)) if old else None


def _facts(ledger: Ledger, intent: Intent, impact: TakedownImpact, rewritten: RewrittenFiles) -> dict[str, Any]:
    """Return the facts of a takedown for the ledger: row counts by table, and the digests of old and new files."""
    before = {shard["shard"]: shard["sha256"] for job in ledger.jobs() for shard in job.facts.get("shards", ())}
    shards = [
        {"from": old, "from_sha256": before[old], "to": new.path, **new.plain()}
        for old, new in rewritten.shards.items()
    ]
    exports = {}
    for job, tars in rewritten.tars.items():
        row = ledger.finished(job)
        assert row is not None
        new_tars = {name: new.plain() if new else None for name, new in sorted(tars.items())}
        gone = Counter(row["tar"] for row in impact.gone["export_members"] if row["job"] == job)
        exports[job] = {"folder": row.facts["folder"], "gone": dict(gone), "tars": new_tars}
    trainings = [
        {key: value for key, value in training.items() if key != "times"} for training in intent.answer["trainings"]
    ]
    return {
        "reason": intent.reason,
        "pairs": len(intent.uids),
        "found": intent.answer["found"],
        "removed": impact.rows(),
        "rewritten": sorted(shards, key=lambda shard: str(shard["from"])),
        "exports": exports,
        "reports": impact.reports,
        "trainings": trainings,
    }


def _remove_unowned(ledger: Ledger) -> None:
    """Remove files that no finished job owns and partial writes: old files, and leftovers that may hold an image."""
    for path in unowned_files(
        ledger, files_owned_by_jobs(ledger), ("tables", "shards", "exports", "staging", "reports")
    ):
        ledger.store.remove(path)
    for path in ledger.store.files(""):
        if PurePosixPath(path).suffix == ".draft":
            ledger.store.remove(path)


def _finish(ledger: Ledger, intent: Intent, prepared: Prepared, code: CodeVersion) -> None:
    """Write the takedown's row in `jobs` and its event."""
    row = JobRow(
        job=intent.id,
        stage=STAGE,
        name=f"takedown/{intent.number}",
        started=intent.at,
        finished=datetime.now(UTC),
        rows={"tombstones": len(intent.tombstones)},
        config={"number": intent.number, "reason": intent.reason},
        inputs=[],
        code=code.digest,
        versions=code.versions,
        facts=prepared.facts,
    )
    ledger.finish([row])
    write_events(ledger.store, replace(row, rows={**dict.fromkeys(prepared.swaps, 0), **row.rows}), [])
