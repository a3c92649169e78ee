"""Decide: what each filter says of each stored pair, from signal tables alone. No image is read.

A filter is one query over its signals' rows side by side, whatever it is made of.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from filters.rules.base import Rule
from filters.rules.corpus import MeasuredFirst
from filters.rules.sql import considered, decided, listed, pool, reason_sql
from filters.rules.sql_expressions import KEEP
from filters.rules.statistics import Measured, measure, measured_first
from jobs.spark.staging import stage
from jobs.spark.tasks import frame_name, write_frame
from jobs.spark.uid_join import More, Side, side_by_side
from jobs.workflow.plan import Job, of_stage
from jobs.workflow.runner import Run
from pipeline.core.uid_arrays import keys
from pipeline.errors import StageFailed
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.storage.object_store import opened
from pipeline.storage.store import Store
from pipeline.storage.uid_files import contains, open_subset

PART_ROWS = 250_000
"""Pairs of one part: of these, the rows of all signals are held in memory at once."""


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Decide by filters, one after another."""
    task = run.task("filters", "filters")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        _decide(run, job)
    task(len(jobs), len(jobs))


def _decide(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    rule, stored = run.experiment.rules[job.name], _stored(run)
    with ExitStack() as after:
        rows = decisions(run, job, rule, stored, after)
        files = write_frame(rows, run.store, job.id, "decisions", TABLES["decisions"]).files[job.id]
    if (found := sum(file.rows for file in files)) != stored:
        raise StageFailed(f"filters.{job.name}: decided about {found} pairs, {stored} are stored")
    run.finish([(job, files, {"rule": rule.text()})], started, [job.id])


def decisions(run: Run, job: Job, rule: Rule, stored: int, after: ExitStack) -> DataFrame:
    """Return the rows of `decisions` of a rule about the pairs that are stored, so many; `after` lets go of them."""
    rows = _pairs(run, job, rule, max(1, -(-stored // PART_ROWS)))
    if any(part.among for part in measured_first(rule)):  # they are read once to measure, and once to decide
        after.callback(rows.persist().unpersist)
    view = frame_name()
    rows.createOrReplaceTempView(view)
    after.callback(run.spark.catalog.dropTempView, view)
    reasons = run.spark.sql(reason_sql(rule, view, _measured(run, job, rule, view)))
    keep = (F.col("reason") == KEEP).alias("keep")
    return reasons.select("uid", "source", F.lit(job.name).alias("filter"), keep, "reason")


def _stored(run: Run) -> int:
    rows = [run.ledger.finished(job.id) for job in run.plan.ingests()]
    return sum(row.rows.get("samples", 0) for row in rows if row)


def _pairs(run: Run, job: Job, rule: Rule, parts: int) -> DataFrame:
    """Return all stored pairs as `filters.rules.sql` wants them for a rule, in `parts` parts."""
    base = Side("samples", ("source",), _files(run, "samples", [one.id for one in run.plan.ingests()]))
    kinds = {"samples": pa.schema([TABLES["samples"].field("source")])}
    sides = []
    for name, columns in sorted(rule.signals().items()):
        sides.append(Side(name, tuple(sorted(columns)), _signal_files(run, name)))
        kinds[name] = pa.schema([run.schema(signal_table(name)).field(column) for column in sides[-1].columns])
    before = {one.name: one.id for one in of_stage(job, "decide")}
    for name in rule.filters():
        sides.append(Side(decided(name), ("reason",), _files(run, "decisions", [before[name]])))
        kinds[decided(name)] = pa.schema([TABLES["decisions"].field("reason")])
    more = [(pa.field(listed(path), pa.bool_()), _listing(run, job, path)) for path in rule.files()]
    return side_by_side(run.spark, run.store, base, sides, kinds, parts, more)


def _files(run: Run, table: str, jobs: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for _, path in run.ledger.snapshot(table, jobs))


def _signal_files(run: Run, name: str) -> tuple[str, ...]:
    return _files(run, signal_table(name), [job.id for job in run.plan.signal(name)])


def _listing(run: Run, job: Job, path: str) -> More:
    """Copy a subset file into the store, where tasks find it; return what marks the rows that it lists."""
    folder = f"staging/{job.id}/subset-{listed(path).rpartition(':')[2]}"
    with opened(path) as source, run.store.create(f"{folder}/uids.npy") as copy:
        while block := source.read(1 << 24):
            copy.write(block)
    return partial(_mark, run.store, folder, listed(path))


def _mark(store: Store, folder: str, column: str, rows: pa.Table) -> pa.Table:
    return rows.append_column(column, pa.array(contains(_subset(store, folder), keys(rows["uid"]))))


@cache
def _subset(store: Store, folder: str) -> Any:
    return open_subset(Path(store.local_folder(folder)) / "uids.npy")


def _measured(run: Run, job: Job, rule: Rule, view: str) -> Measured:
    """Return what the rule's parts must know of all pairs.

    A column is read from its signal's files, which have a row for each stored pair and none besides, or from a file of
    the pairs that `among` keeps.
    """
    found: dict[str, Any] = {}
    for part in measured_first(rule):
        files = _considered(run, job, part, view, found) if part.among else _signal_files(run, next(iter(part.own())))
        found[part.name] = measure(part, partial(_fold, run, files))
    return found


def _considered(run: Run, job: Job, part: MeasuredFirst, view: str, found: Measured) -> tuple[str, ...]:
    [(signal, [column])] = part.own().items()
    query = f"select uid, source, {signal}.{column} from {pool(part, view, found)} where {considered(part)}"
    return stage(run.spark.sql(query), run.store, job.id, f"among-{part.name}").files


def _fold(run: Run, files: Sequence[str], columns: Sequence[str], function: Callable[[Any], Any]) -> Sequence[Any]:
    count = min(len(files), max(2, run.spark.sparkContext.defaultParallelism))
    chunks = [files[first::count] for first in range(count)]
    if not chunks:
        return []
    work = partial(_folded, run.store, columns, function)
    made: list[Any] = run.spark.sparkContext.parallelize(chunks, count).map(work).collect()
    return made


def _folded(store: Store, columns: Sequence[str], function: Callable[[Any], Any], files: Sequence[str]) -> Any:
    return function(_tables(store, columns, files))


def _tables(store: Store, columns: Sequence[str], files: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of files, many small ones as one table."""
    held: list[pa.Table] = []
    for path in files:
        with store.arrow(path) as stream:
            held.append(pq.ParquetFile(stream).read(columns, use_threads=False))
        if sum(rows.num_rows for rows in held) >= PART_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
