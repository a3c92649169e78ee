"""Blend: the pairs of a mixture, and the number of copies of each."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from filters.rules.sql_expressions import comparison
from jobs.spark.frames import table_frame
from jobs.spark.tasks import write_frame
from jobs.workflow.plan import Job, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.config.mixture import MixtureConfig
from pipeline.core.sampling import rank_sql
from pipeline.core.uid_arrays import uid_keys, uid_strings, unique_keys
from pipeline.errors import InputError, StageFailed
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.mixtures.apportionment import Quota, quotas
from pipeline.mixtures.parts import ColumnCondition, PartSpec, filters_of, parts_of, signal_columns_of
from pipeline.outcomes import VERDICT_MISMATCH
from pipeline.storage.uid_files import read_uids


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Compute mixtures, one after another."""
    task = run.task("mixtures", "mixtures")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        _blend(run, job)
    task(len(jobs), len(jobs))


def times_sql(quotas_by_name: dict[str, Quota], column: str = "source") -> str:
    """Return the Spark SQL expression for the copies of a pair, from `column` (part or source) and its rank in it."""
    cases = []
    for name, quota in sorted(quotas_by_name.items()):
        rounds, rest = divmod(quota.pairs, quota.available)
        cases.append(f"when '{name}' then {rounds} + if(rank < {rest}, 1, 0)")
    return f"case {column} {' '.join(cases)} else 0 end"


def _stored_pairs(run: Run, job: Job, columns: Sequence[str]) -> DataFrame:
    """Return the given columns of the stored pairs of the mixture's sources."""
    ingests = [ingest.id for ingest in needs_of_stage(job, "ingest")]
    return table_frame(
        run.spark, run.ledger, "samples", TABLES["samples"], columns, ingests, {"source": job.config["of"]}
    )


def _candidates(run: Run, job: Job, mixture: MixtureConfig, parts: Sequence[PartSpec]) -> DataFrame:
    """Return uid and source of the pairs that the mixture's filter keeps, or of all stored pairs without a filter.

    Each other filter that a part names adds a boolean column, whether it keeps the pair, and each signal a struct of
    its columns; both are null where there is no row for the pair.
    """
    decide_jobs = {decide_job.name: decide_job.id for decide_job in needs_of_stage(job, "decide")}

    def decision_rows(name: str, columns: Sequence[str], **where: Sequence[Any]) -> DataFrame:
        conditions = {"source": job.config["of"], **where}
        return table_frame(
            run.spark, run.ledger, "decisions", TABLES["decisions"], columns, [decide_jobs[name]], conditions
        )

    pair_columns = ["uid", "source"]
    rows = (
        decision_rows(mixture.filter, pair_columns, keep=[True])
        if mixture.filter
        else _stored_pairs(run, job, pair_columns)
    )
    for name in filters_of(mixture):
        if name != mixture.filter:
            keeps = decision_rows(name, ["uid", "keep"]).withColumnRenamed("keep", f"filter:{name}")
            rows = rows.join(keeps, "uid", "left")
    for signal, columns in signal_columns_of(parts).items():
        table = signal_table(signal)
        jobs = [signal_job.id for signal_job in run.plan.signal(signal)]
        values = table_frame(run.spark, run.ledger, table, run.schema(table), ["uid", *columns], jobs)
        rows = rows.join(values.select("uid", F.struct(*columns).alias(f"signal:{signal}")), "uid", "left")
    return rows


def _condition_column(condition: ColumnCondition) -> Column:
    column = f"`signal:{condition.signal}`.{condition.column}"
    if condition.values:
        return F.col(column).isin(list(condition.values))
    bounds = [comparison(column, ">=", condition.least)] if condition.least > -math.inf else []
    bounds += [comparison(column, "<", condition.below)] if condition.below < math.inf else []
    return F.expr(f"not isnan({column}) and {' and '.join(bounds)}")


def _takes_column(part: PartSpec, main: str) -> Column:
    """Return whether a part takes a candidate: not if a value is missing. `main` is the filter that keeps them all."""
    conditions = [F.col("source").isin(list(part.sources))]
    if part.filter:
        conditions.append(F.lit(True) if part.filter == main else F.col(f"`filter:{part.filter}`"))
    if part.dropped_by:
        conditions.append(F.lit(False) if part.dropped_by == main else ~F.col(f"`filter:{part.dropped_by}`"))
    if part.condition:
        conditions.append(_condition_column(part.condition))
    return reduce(lambda left_condition, right_condition: left_condition & right_condition, conditions)


def _keep_listed(run: Run, job: Job, mixture: MixtureConfig, rows: DataFrame) -> tuple[DataFrame, dict[str, int]]:
    """Return the rows whose uids are in the mixture's uid file, and counts of the file's uids.

    Raises InputError where more of these uids are not stored than the mixture allows.
    """
    if not mixture.uids:
        return rows, {}
    uid_keys, repeated = read_uids(mixture.uids)
    listed = run.spark.createDataFrame(pa.table({"uid": uid_strings(uid_keys)}))
    stored = _stored_pairs(run, job, ["uid"])
    absent = listed.join(stored, "uid", "left_anti").agg(F.count("*").alias("n"), F.min("uid").alias("first")).first()
    assert absent is not None
    if absent["n"] > mixture.missing:
        raise InputError(
            f"mixtures.{job.name}.uids: {mixture.uids}: {absent['n']} of its {len(uid_keys)} uids are not stored "
            f"({absent['first']} is one), expected at most {mixture.missing} (mixtures.{job.name}.missing)"
        )
    return rows.join(listed, "uid", "left_semi"), {
        "listed": len(uid_keys),
        "repeated": repeated,
        "missing": absent["n"],
    }


def _split_quarantined(run: Run, job: Job, rows: DataFrame) -> tuple[DataFrame, DataFrame | None]:
    """Return the rows that may be drawn, and the quarantined rows that must not, None where there are none."""
    finished = [run.ledger.finished(ingest.id) for ingest in needs_of_stage(job, "ingest")]
    if job.config["mismatched"] or not any(
        row and row.facts.get("verdicts", {}).get(VERDICT_MISMATCH) for row in finished
    ):
        return rows, None
    mismatched = _stored_pairs(run, job, ["uid", "verdict"]).filter(F.col("verdict") == VERDICT_MISMATCH).select("uid")
    return rows.join(mismatched, "uid", "left_anti"), rows.join(mismatched, "uid", "left_semi")


def _counts(rows: DataFrame | None, *columns: str) -> dict[Any, int]:
    counts_by_key = (
        {} if rows is None else {tuple(row[:-1]): row[-1] for row in rows.groupBy(*columns).count().collect()}
    )
    return {key if len(columns) > 1 else key[0]: count for key, count in counts_by_key.items()}


def _sum_by_index(counts: dict[tuple[int, str], int], index: int) -> dict[Any, int]:
    sums: dict[Any, int] = {}
    for key, count in counts.items():
        sums[key[index]] = sums.get(key[index], 0) + count
    return sums


@dataclass(frozen=True)
class _Blended:
    """A mixture's rows, not yet written, the quota of each part, and the counts of available pairs."""

    rows: DataFrame
    quotas: dict[str, Quota]
    facts: dict[str, Any]


def _blend(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    with ExitStack() as after:
        blended = mixture_rows(run, job, after)
        record = write_frame(blended.rows, run.store, job.id, "mixtures", TABLES["mixtures"])
    files = record.files[job.id]
    facts = blended.facts | {"by_source": _verified_counts(run, job, files, blended.quotas)}
    run.finish([(job, files, facts)], started, [job.id])


def mixture_rows(run: Run, job: Job, after: ExitStack) -> _Blended:
    """Return the pairs of a mixture; `after` releases the cached rows."""
    mixture = run.experiment.file.mixtures[job.name]
    parts = parts_of(job.name, mixture, job.config["of"])
    rows, listed = _keep_listed(run, job, mixture, _candidates(run, job, mixture, parts))
    part_number = F.coalesce(
        *(F.when(_takes_column(part, mixture.filter), F.lit(index)) for index, part in enumerate(parts))
    )
    in_parts = rows.select("uid", "source", part_number.alias("part")).filter("part is not null")
    eligible, quarantined = _split_quarantined(run, job, in_parts)
    eligible = eligible.cache()
    after.callback(eligible.unpersist)
    counts = _counts(eligible, "part", "source")
    by_part, by_source = _sum_by_index(counts, 0), _sum_by_index(counts, 1)
    available = {part.name: by_part.get(index, 0) for index, part in enumerate(parts)}
    shares = {part.name: part.share for part in parts if part.share is not None}
    total = None if mixture.total == "all" else mixture.total
    part_quotas = quotas(job.name, shares, total, available, mixture.shortage, mixture.repeat)
    drawn = _drawn_rows(
        run, job, eligible, [part_quotas.get(part.name) for part in parts], [part.name for part in parts]
    )
    facts = {
        "available": {source: by_source.get(source, 0) for source in job.config["of"]},
        "parts": {
            name: {"available": count, "pairs": _quota_pairs(part_quotas, name)} for name, count in available.items()
        },
        "quarantined": _counts(quarantined, "source"),
        **({"uids": listed} if listed else {}),
    }
    return _Blended(drawn, part_quotas, facts)


def _quota_pairs(part_quotas: dict[str, Quota], name: str) -> int:
    return part_quotas[name].pairs if name in part_quotas else 0


def _drawn_rows(
    run: Run, job: Job, eligible: DataFrame, quotas_by_index: Sequence[Quota | None], names: Sequence[str]
) -> DataFrame:
    """Return the rows of `mixtures`: the first pairs of each part by rank, with the copies that fill its quota."""
    order = f"row_number() over (partition by part order by {rank_sql(run.experiment.file.seed)}, uid) - 1"
    ranked = eligible.withColumn("rank", F.expr(order).cast("bigint"))
    quota_of = {str(index): part_quota for index, part_quota in enumerate(quotas_by_index) if part_quota}
    times = F.expr(times_sql(quota_of, "cast(part as string)")).cast("int")
    part_name = F.element_at(F.array(*map(F.lit, names)), F.col("part") + 1)
    return (
        ranked.withColumn("times", times)
        .filter("times > 0")
        .select(F.lit(job.name).alias("mixture"), "uid", "source", part_name.alias("part"), "times", "rank")
    )


def _verified_counts(run: Run, job: Job, files: Sequence[DataFile], part_quotas: dict[str, Quota]) -> dict[str, int]:
    """Return the number of pairs written per source; raise StageFailed where a quota is not met or a pair repeats."""
    written = [TABLES["mixtures"].empty_table().select(["uid", "source", "part", "times"])]
    for file in files:
        with run.store.arrow(f"tables/mixtures/{file.path}") as stream:
            written.append(pq.read_table(stream, columns=["uid", "source", "part", "times"]))
    rows = pa.concat_tables(written)
    actual = {
        group["part"]: group["times_sum"] for group in rows.group_by("part").aggregate([("times", "sum")]).to_pylist()
    }
    if actual != (expected := {name: quota.pairs for name, quota in part_quotas.items()}):
        raise StageFailed(f"mixtures.{job.name}: wrote {actual}, expected {expected}")
    if (distinct := len(unique_keys(uid_keys(rows["uid"])))) != rows.num_rows:
        raise StageFailed(f"mixtures.{job.name}: wrote {rows.num_rows} rows of {distinct} pairs, expected one of each")
    return {
        group["source"]: group["times_sum"]
        for group in rows.group_by("source").aggregate([("times", "sum")]).to_pylist()
    }
