"""Decide: what each filter says of each stored pair, from signal tables alone. No image is read."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from filters.decisions import composed_sql, reason_sql
from filters.rules import KEEP, AllOf, Rule
from jobs.ledger_source import frame
from jobs.plan import Job, of_stage
from jobs.run import Run
from jobs.spark import frame_name, write_frame
from pipeline.errors import StageFailed
from pipeline.schemas import TABLES, signal_table


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Decide by filters, one after another."""
    task = run.task("filters", "filters")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        _decide(run, job)
    task(len(jobs), len(jobs))


def _decide(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    rule = run.experiment.rules[job.name]
    view = _parts_view(run, job) if isinstance(rule, AllOf) else _signals_view(run, rule)
    name = frame_name()
    view.createOrReplaceTempView(name)
    query = composed_sql(name, rule.parts) if isinstance(rule, AllOf) else reason_sql(rule, name)
    reasons = run.spark.sql(query)
    decided = reasons.select(
        "uid", "source", F.lit(job.name).alias("filter"), (F.col("reason") == KEEP).alias("keep"), "reason"
    )
    record = write_frame(decided, run.store, job.id, "decisions", TABLES["decisions"])
    run.spark.catalog.dropTempView(name)
    files = record.files[job.id]
    expected = _stored(run)
    if (found := sum(file.rows for file in files)) != expected:
        raise StageFailed(f"filters.{job.name}: decided about {found} pairs, {expected} are stored")
    run.finish([(job, files, {"rule": rule.text()})], started, [job.id])


def _stored(run: Run) -> int:
    rows = [run.ledger.finished(job.id) for job in run.plan.ingests()]
    return sum(row.rows.get("samples", 0) for row in rows if row)


def _parts_view(run: Run, job: Job) -> DataFrame:
    parts = [part.id for part in of_stage(job, "decide")]
    return frame(run.spark, run.ledger, "decisions", TABLES["decisions"], ["uid", "source", "filter", "reason"], parts)


def _signals_view(run: Run, rule: Rule) -> DataFrame:
    """Return all stored pairs with a struct column for each signal that the rule reads."""
    ingests = [job.id for job in run.plan.ingests()]
    rows = frame(run.spark, run.ledger, "samples", TABLES["samples"], ["uid", "source"], ingests)
    for name, columns in sorted(rule.signals().items()):
        rows = rows.join(_signal(run, name, sorted(columns)), "uid", "left")
    return rows


def _signal(run: Run, name: str, columns: list[str]) -> Any:
    table = signal_table(name)
    jobs = [job.id for job in run.plan.signal(name)]
    rows = frame(run.spark, run.ledger, table, run.schema(table), ["uid", *columns], jobs)
    return rows.select("uid", F.struct(*columns).alias(name))
