"""Blend: which pairs a mixture is made of, and how often each is in it."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.ledger_source import frame
from jobs.plan import Job, of_stage
from jobs.run import Run
from jobs.spark import write_frame
from pipeline.errors import StageFailed
from pipeline.integrity import MISMATCH
from pipeline.mixtures import Quota, quotas, rank_sql
from pipeline.schemas import TABLES


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Draw up mixtures, one after another."""
    task = run.task("mixtures", "mixtures")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        _blend(run, job)
    task(len(jobs), len(jobs))


def _eligible(run: Run, job: Job) -> tuple[DataFrame, DataFrame | None]:
    """Return uid and source of the pairs that the mixture's filter keeps, or of all that are stored; and the same of
    those among them that are quarantined and stay out, None where there are none.
    """
    sources = list(job.config["of"])
    decided = of_stage(job, "decide")
    ingests = of_stage(job, "ingest")
    if decided:
        columns, jobs = ["uid", "source", "keep"], [decided[0].id]
        rows = frame(run.spark, run.ledger, "decisions", TABLES["decisions"], columns, jobs).filter("keep")
    else:
        jobs = [one.id for one in ingests]
        rows = frame(run.spark, run.ledger, "samples", TABLES["samples"], ["uid", "source"], jobs)
    rows = rows.filter(F.col("source").isin(sources)).select("uid", "source")
    finished = [run.ledger.finished(one.id) for one in ingests]
    if job.config["mismatched"] or not any(one and one.facts.get("verdicts", {}).get(MISMATCH) for one in finished):
        return rows, None
    samples = frame(
        run.spark, run.ledger, "samples", TABLES["samples"], ["uid", "verdict"], [one.id for one in ingests]
    )
    wrong = samples.filter(F.col("verdict") == MISMATCH).select("uid")
    return rows.join(wrong, "uid", "left_anti"), rows.join(wrong, "uid", "left_semi")


def _by_source(rows: DataFrame | None) -> dict[str, int]:
    return {} if rows is None else {row["source"]: row["count"] for row in rows.groupBy("source").count().collect()}


def times_column(chosen: dict[str, Quota]) -> str:
    """Return the Spark SQL expression of how often a pair is taken, from its source and its rank within it."""
    cases = []
    for source, quota in sorted(chosen.items()):
        rounds, rest = divmod(quota.pairs, quota.available)
        cases.append(f"when '{source}' then {rounds} + if(rank < {rest}, 1, 0)")
    return f"case source {' '.join(cases)} else 0 end"


def _blend(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    given = run.experiment.file.mixtures[job.name]
    eligible, wrong = _eligible(run, job)
    eligible = eligible.cache()
    counted = _by_source(eligible)
    available = {source: counted.get(source, 0) for source in job.config["of"]}
    total = None if given.total == "all" else given.total
    chosen = quotas(job.name, given.shares, total, available, given.shortage, given.repeat)
    order = f"row_number() over (partition by source order by {rank_sql(run.experiment.file.seed)}, uid) - 1"
    ranked = eligible.withColumn("rank", F.expr(order).cast("bigint"))
    taken = ranked.withColumn("times", F.expr(times_column(chosen)).cast("int")).filter("times > 0")
    rows = taken.select(F.lit(job.name).alias("mixture"), "uid", "source", "times", "rank")
    record = write_frame(rows, run.store, job.id, "mixtures", TABLES["mixtures"])
    eligible.unpersist()
    files = record.files[job.id]
    written = pa.concat_tables([_read(run, file.path) for file in files])
    found = {
        one["source"]: one["times_sum"] for one in written.group_by("source").aggregate([("times", "sum")]).to_pylist()
    }
    if found != (wanted := {source: quota.pairs for source, quota in chosen.items()}):
        raise StageFailed(f"mixtures.{job.name}: wrote {found}, expected {wanted}")
    facts = {"available": available, "by_source": found, "quarantined": _by_source(wrong)}
    run.finish([(job, files, facts)], started, [job.id])


def _read(run: Run, path: str) -> pa.Table:
    import pyarrow.parquet as pq

    with run.store.arrow(f"tables/mixtures/{path}") as stream:
        return pq.read_table(stream, columns=["source", "times"])
