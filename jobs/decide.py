"""Decide: the decision of each filter on each stored pair, from signal tables alone. No image is read.

Every filter is one query over the joined rows of its signals, whatever its rules are.
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
from filters.rules.corpus import StatisticsRule
from filters.rules.sql import among_condition, decision_column, reason_sql, subset_column, view_with_among_columns
from filters.rules.sql_expressions import KEEP
from filters.rules.statistics import Statistics, measure, statistics_rules
from jobs.spark.staging import stage_frame
from jobs.spark.tasks import view_name, write_frame
from jobs.spark.uid_join import AddColumns, JoinSide, join_frames_on_uid
from jobs.workflow.plan import Job, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.core.uid_arrays import uid_keys
from pipeline.errors import StageFailed
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.storage.object_store import open_source
from pipeline.storage.store import Store
from pipeline.storage.uid_files import contains, open_subset

PARTITION_ROWS = 250_000
"""Pairs per partition; the rows of all signals of these pairs are in memory at once."""


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Apply filters, one after another."""
    task = run.task("filters", "filters")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        _decide(run, job)
    task(len(jobs), len(jobs))


def _decide(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    rule, stored = run.experiment.rules[job.name], _count_stored(run)
    with ExitStack() as after:
        rows = decision_rows(run, job, rule, stored, after)
        files = write_frame(rows, run.store, job.id, "decisions", TABLES["decisions"]).files[job.id]
    if (decided_pairs := sum(file.rows for file in files)) != stored:
        raise StageFailed(
            f"filters.{job.name}: found {decided_pairs} decisions, expected {stored}, one for each stored pair"
        )
    run.finish([(job, files, {"rule": rule.text()})], started, [job.id])


def decision_rows(run: Run, job: Job, rule: Rule, stored: int, after: ExitStack) -> DataFrame:
    """Return the rows of `decisions` of a rule on the `stored` pairs; `after` releases the cached rows and the view."""
    rows = _joined_pairs(run, job, rule, max(1, -(-stored // PARTITION_ROWS)))
    if any(
        rule_part.among for rule_part in statistics_rules(rule)
    ):  # the rows are read twice: to measure and to decide
        after.callback(rows.persist().unpersist)
    view = view_name()
    rows.createOrReplaceTempView(view)
    after.callback(run.spark.catalog.dropTempView, view)
    reasons = run.spark.sql(reason_sql(rule, view, _measure(run, job, rule, view)))
    keep = (F.col("reason") == KEEP).alias("keep")
    return reasons.select("uid", "source", F.lit(job.name).alias("filter"), keep, "reason")


def _count_stored(run: Run) -> int:
    rows = [run.ledger.finished(job.id) for job in run.plan.ingests()]
    return sum(row.rows.get("samples", 0) for row in rows if row)


def _joined_pairs(run: Run, job: Job, rule: Rule, part_count: int) -> DataFrame:
    """Return all stored pairs with the columns that `filters.rules.sql` needs for a rule, in `part_count` parts."""
    base = JoinSide("samples", ("source",), _files(run, "samples", [ingest.id for ingest in run.plan.ingests()]))
    schemas = {"samples": pa.schema([TABLES["samples"].field("source")])}
    sides = []
    for name, columns in sorted(rule.signals().items()):
        sides.append(JoinSide(name, tuple(sorted(columns)), _signal_files(run, name)))
        schemas[name] = pa.schema([run.schema(signal_table(name)).field(column) for column in sides[-1].columns])
    decide_jobs = {decide_job.name: decide_job.id for decide_job in needs_of_stage(job, "decide")}
    for name in rule.filters():
        sides.append(JoinSide(decision_column(name), ("reason",), _files(run, "decisions", [decide_jobs[name]])))
        schemas[decision_column(name)] = pa.schema([TABLES["decisions"].field("reason")])
    marks = [(pa.field(subset_column(path), pa.bool_()), _stage_subset(run, job, path)) for path in rule.files()]
    return join_frames_on_uid(run.spark, run.store, base, sides, schemas, part_count, marks)


def _files(run: Run, table: str, jobs: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for _, path in run.ledger.snapshot(table, jobs))


def _signal_files(run: Run, name: str) -> tuple[str, ...]:
    return _files(run, signal_table(name), [job.id for job in run.plan.signal(name)])


def _stage_subset(run: Run, job: Job, path: str) -> AddColumns:
    """Copy a subset file into the store, where tasks can read it; return a function that marks the rows it lists."""
    folder = f"staging/{job.id}/subset-{subset_column(path).rpartition(':')[2]}"
    with open_source(path) as source, run.store.create(f"{folder}/uids.npy") as copy:
        while block := source.read(1 << 24):
            copy.write(block)
    return partial(_mark_listed, run.store, folder, subset_column(path))


def _mark_listed(store: Store, folder: str, column: str, rows: pa.Table) -> pa.Table:
    return rows.append_column(column, pa.array(contains(_subset(store, folder), uid_keys(rows["uid"]))))


@cache
def _subset(store: Store, folder: str) -> Any:
    return open_subset(Path(store.local_folder(folder)) / "uids.npy")


def _measure(run: Run, job: Job, rule: Rule, view: str) -> Statistics:
    """Return the statistics over all pairs that the rule's parts need.

    A column is read from its signal's files, which have exactly one row per stored pair, or from a file of the pairs
    that `among` keeps.
    """
    measured: dict[str, Any] = {}
    for rule_part in statistics_rules(rule):
        files = (
            _stage_considered(run, job, rule_part, view, measured)
            if rule_part.among
            else _signal_files(run, next(iter(rule_part.own())))
        )
        measured[rule_part.name] = measure(rule_part, partial(_fold, run, files))
    return measured


def _stage_considered(
    run: Run, job: Job, rule_part: StatisticsRule, view: str, measured: Statistics
) -> tuple[str, ...]:
    [(signal, [column])] = rule_part.own().items()
    pairs = view_with_among_columns(rule_part, view, measured)
    query = f"select uid, source, {signal}.{column} from {pairs} where {among_condition(rule_part)}"
    return stage_frame(run.spark.sql(query), run.store, job.id, f"among-{rule_part.name}").files


def _fold(run: Run, files: Sequence[str], columns: Sequence[str], function: Callable[[Any], Any]) -> Sequence[Any]:
    count = min(len(files), max(2, run.spark.sparkContext.defaultParallelism))
    chunks = [files[first::count] for first in range(count)]
    if not chunks:
        return []
    work = partial(_fold_files, run.store, columns, function)
    results: list[Any] = run.spark.sparkContext.parallelize(chunks, count).map(work).collect()
    return results


def _fold_files(store: Store, columns: Sequence[str], function: Callable[[Any], Any], files: Sequence[str]) -> Any:
    return function(_read_tables(store, columns, files))


def _read_tables(store: Store, columns: Sequence[str], files: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of files as tables; small files are joined into one table."""
    batch: list[pa.Table] = []
    for path in files:
        with store.arrow(path) as stream:
            batch.append(pq.ParquetFile(stream).read(columns, use_threads=False))
        if sum(rows.num_rows for rows in batch) >= PARTITION_ROWS:
            yield pa.concat_tables(batch)
            batch = []
    if batch:
        yield pa.concat_tables(batch)
