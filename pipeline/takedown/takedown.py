"""Takedown: pairs leave a store for good, from tables, shards, exports and reports, and stay out of it.

What goes is found and written down as an intent, tombstones are set up, all new files are written beside the old ones
and listed in a second record; only then are they put in the old ones' place, and what no job owns any more is removed.
Every step can be done again. So a takedown that was killed, at whatever moment, is finished by the next one. No other
job may run in the meantime: what it has staged would be removed with the rest.
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

from pipeline.export.documents import papers
from pipeline.ingest.tombstones import KINDS, read
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.journal import FOLDER, Swap, intent_path, prepared_path, unfinished
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.ledger.value_filter import Keys
from pipeline.operations.openlineage import event_path, record
from pipeline.provenance.verify import owned, unowned
from pipeline.takedown.impact import Survey, seen, survey
from pipeline.takedown.journal import Intent, Prepared, read_intent, read_prepared
from pipeline.takedown.matching import Found, find
from pipeline.takedown.request import Wanted
from pipeline.takedown.rewrite import Rewritten, new_path, rewrite
from pipeline.takedown.update_job_facts import losses, restated, restated_export, tars_of
from pipeline.takedown.update_mixture_facts import lost_of, restated_about, restated_mixture

STAGE = "takedown"


@dataclass(frozen=True)
class Code:
    """What shapes a takedown's result, for its row in `jobs`: the digest of the code, versions of packages."""

    digest: str
    versions: dict[str, str]


def look(ledger: Ledger, wanted: Wanted, reason: str, distance: int) -> tuple[Intent, Survey]:
    """Return what a takedown of this list would do, and where; nothing is changed."""
    found = find(ledger, wanted, distance)
    places = survey(ledger, found.pairs)
    new = found.tombstones.rows() - read(ledger).rows()
    number = 1 + sum(job.stage == STAGE for job in ledger.jobs())
    uids = tuple(sorted(found.pairs))
    told = _answer(ledger, wanted, found, places, sorted(new))
    return Intent(number, reason, datetime.now(UTC), uids, tuple(sorted(new)), told), places


def _answer(
    ledger: Ledger, wanted: Wanted, found: Found, places: Survey, new: Sequence[tuple[str, str, int]]
) -> dict[str, Any]:
    """Return what a person is told: nothing in it is more than a hash, a number, or a name that the store gave."""
    lines = dict.fromkeys(sorted(wanted.lines.values()), 0)
    for why in found.pairs.values():
        if why.line:
            lines[why.line] += 1
    folders = {job: (row.facts["folder"] if (row := ledger.finished(job)) else "") for job in places.tars()}
    return {
        "found": found.counts(),
        "lines": {str(line): count for line, count in lines.items()},
        "pairs": {uid: {"how": why.how, "line": why.line} for uid, why in sorted(found.pairs.items())},
        "tombstones": {kind: sum(row[0] == kind for row in new) for kind in KINDS},
        "tables": places.rows(),
        "shards": places.shards(),
        "exports": {folders[job]: tars for job, tars in places.tars().items()},
        "reports": places.reports,
        "trainings": [one.plain() for one in seen(ledger, places)],
        "notes": found.notes,
    }


def take_down(ledger: Ledger, intent: Intent, code: Code, places: Survey | None = None) -> None:
    """Do what an intent says, or what is left of it to do; `places` is what a survey found of its pairs, if known."""
    store = ledger.store
    intent.write(store)
    _bury(ledger, intent)
    prepared = read_prepared(store, intent.id)
    if prepared is None:
        prepared = _prepare(ledger, intent, places or survey(ledger, intent.uids))
        prepared.write(store, intent.id)
    for table, swap in sorted(prepared.swaps.items(), key=lambda one: (one[0] == "jobs", one[0])):
        ledger.replace(intent.id, table, swap.old, swap.new, swap.withdrawn)
    ledger.refresh()
    for path, text in sorted(prepared.papers.items()):
        store.write(path, text.encode())
    for path in prepared.gone:
        store.remove(path)
    _clear(ledger)
    _finish(ledger, intent, prepared, code)
    for path in (prepared_path(intent.id), intent_path(intent.id), f"{FOLDER}/{intent.id}"):
        store.remove(path)


def finish_all(ledger: Ledger, code: Code) -> list[Intent]:
    """Finish the takedowns that were begun; return them."""
    intents = [read_intent(ledger.store, takedown) for takedown in unfinished(ledger.store)]
    for intent in sorted(intents, key=lambda one: one.number):
        take_down(ledger, intent, code)
    return intents


def _bury(ledger: Ledger, intent: Intent) -> None:
    """Set up the tombstones, before anything else is done: from now on no ingest fetches what goes."""
    if not intent.tombstones:
        return
    kinds, values, distances = zip(*intent.tombstones, strict=True)
    times: dict[str, dict[str, float]] = {}
    for training in intent.answer["trainings"]:
        for uid, count in training["times"].items():
            times.setdefault(uid, {})[training["training"]] = count
    told = [json.dumps(times[value], sort_keys=True) if value in times else "" for value in values]
    many = len(kinds)
    columns = [kinds, values, distances, [intent.reason] * many, [intent.at] * many, told]
    schema = TABLES["tombstones"]
    rows = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema)
    ledger.commit(intent.id, "tombstones", schema, [write_rows(ledger.store, intent.id, "tombstones", rows)])


def _prepare(ledger: Ledger, intent: Intent, places: Survey) -> Prepared:
    """Write all new files; return what is then left to do."""
    made = rewrite(ledger, intent.id, Keys(intent.uids), places)
    swaps = {}
    for table in sorted(made.tables.keys() | places.abandoned.keys()):
        old = list(made.tables.get(table, {})) + [path for _, path in places.abandoned.get(table, ())]
        jobs = sorted({job for job, _ in places.abandoned.get(table, ())})
        prefix = f"tables/{table}/"
        new = list(made.tables.get(table, {}).values())
        swaps[table] = Swap([path.removeprefix(prefix) for path in old], new, jobs)
    lost = losses(places, made)
    rows = {row.job: restated(row, made, lost) for row in ledger.jobs()}
    drawn = {job: lost_of(ledger, row, places) for job, row in rows.items() if row.stage == "blend"}
    for job, out in drawn.items():
        rows[job].facts.update(restated_mixture(rows[job], out))
    written: dict[str, str] = {}
    for job, row in rows.items():
        blend = next((drawn[one] for one in row.inputs if one in drawn), None)
        if row.stage == "export" and blend is not None and (blend.any or job in made.tars):
            tars = tars_of(ledger, job, made.tars.get(job, {}))
            about = restated_about(row.facts["about"], blend, places)
            texts = {f"{row.facts['folder']}/{name}": data for name, data in papers(about, tars).items()}
            row.facts.update(restated_export(row, about, tars, texts))
            written |= {path: data.decode() for path, data in texts.items()}
    reports = set(places.reports)
    shown = {job for job, row in rows.items() if row.stage == "report" and reports & row.facts["files"].keys()}
    if swap := _job_rows(ledger, intent.id, rows, shown):
        swaps["jobs"] = swap
    gone = places.reports + [event_path(job) for job in sorted(shown)]
    return Prepared(swaps, written, gone, _facts(ledger, intent, places, made))


def _job_rows(ledger: Ledger, takedown: str, rows: dict[str, JobRow], withdrawn: set[str]) -> Swap | None:
    """Write the files of `jobs` anew in which a row changes, or goes with its report."""
    old, new = [], []
    for _, path in ledger.snapshot("jobs"):
        with ledger.store.parquet(path) as file:
            before = [JobRow.from_arrow(row) for row in file.read(use_threads=False).to_pylist()]
        after = [rows[row.job] for row in before if row.job not in withdrawn]
        if after == before:
            continue
        old.append(path.removeprefix("tables/jobs/"))
        relative = new_path(takedown, old[-1])
        with ledger.store.create(f"tables/jobs/{relative}") as stream:
            pq.write_table(pa.Table.from_pylist([row.to_arrow() for row in after], TABLES["jobs"]), stream)
        new.append(DataFile("jobs", relative, len(after), ledger.store.size(f"tables/jobs/{relative}")))
    return Swap(old, new, sorted(withdrawn)) if old else None


def _facts(ledger: Ledger, intent: Intent, places: Survey, made: Rewritten) -> dict[str, Any]:
    """Return what the ledger keeps of a takedown: counts by table, and digests of what took the place of what."""
    before = {one["shard"]: one["sha256"] for job in ledger.jobs() for one in job.facts.get("shards", ())}
    shards = [
        {"from": old, "from_sha256": before[old], "to": new.path, **new.plain()} for old, new in made.shards.items()
    ]
    exports = {}
    for job, tars in made.tars.items():
        row = ledger.finished(job)
        assert row is not None
        told = {name: new.plain() if new else None for name, new in sorted(tars.items())}
        gone = Counter(one["tar"] for one in places.gone["export_members"] if one["job"] == job)
        exports[job] = {"folder": row.facts["folder"], "gone": dict(gone), "tars": told}
    trainings = [{key: value for key, value in one.items() if key != "times"} for one in intent.answer["trainings"]]
    return {
        "reason": intent.reason,
        "pairs": len(intent.uids),
        "found": intent.answer["found"],
        "removed": places.rows(),
        "rewritten": sorted(shards, key=lambda one: str(one["from"])),
        "exports": exports,
        "reports": places.reports,
        "trainings": trainings,
    }


def _clear(ledger: Ledger) -> None:
    """Remove what no finished job owns and what was half written: old files, and leftovers that may hold an image."""
    for path in unowned(ledger, owned(ledger), ("tables", "shards", "exports", "staging", "reports")):
        ledger.store.remove(path)
    for path in ledger.store.files(""):
        if PurePosixPath(path).suffix == ".draft":
            ledger.store.remove(path)


def _finish(ledger: Ledger, intent: Intent, prepared: Prepared, code: Code) -> None:
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
    record(ledger.store, replace(row, rows={**dict.fromkeys(prepared.swaps, 0), **row.rows}), [])
