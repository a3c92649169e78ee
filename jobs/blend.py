"""Blend: which pairs a mixture is made of, and how often each is in it."""

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

from filters.rules.sql_expressions import compared
from jobs.spark.frames import frame
from jobs.spark.tasks import write_frame
from jobs.workflow.plan import Job, of_stage
from jobs.workflow.runner import Run
from pipeline.config.mixture import Mixture
from pipeline.core.sampling import rank_sql
from pipeline.core.uid_arrays import keys, texts, unique
from pipeline.errors import InputError, StageFailed
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.mixtures.apportionment import Quota, quotas
from pipeline.mixtures.parts import Condition, Taken, columns_of, filters_of, parts_of
from pipeline.outcomes import MISMATCH
from pipeline.storage.uid_files import read_uids


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Draw up mixtures, one after another."""
    task = run.task("mixtures", "mixtures")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        _blend(run, job)
    task(len(jobs), len(jobs))


def times_column(chosen: dict[str, Quota], column: str = "source") -> str:
    """Return the Spark SQL expression of how often a pair is taken, from what it is drawn by and its rank within it."""
    cases = []
    for name, quota in sorted(chosen.items()):
        rounds, rest = divmod(quota.pairs, quota.available)
        cases.append(f"when '{name}' then {rounds} + if(rank < {rest}, 1, 0)")
    return f"case {column} {' '.join(cases)} else 0 end"


def _stored(run: Run, job: Job, columns: Sequence[str]) -> DataFrame:
    """Return columns of the stored pairs of the mixture's sources."""
    ingests = [one.id for one in of_stage(job, "ingest")]
    return frame(run.spark, run.ledger, "samples", TABLES["samples"], columns, ingests, {"source": job.config["of"]})


def _candidates(run: Run, job: Job, given: Mixture, parts: Sequence[Taken]) -> DataFrame:
    """Return uid and source of the pairs that the mixture's filter keeps, or of all that are stored.

    With them stands a boolean for each other filter that a part names, whether it keeps the pair, and a struct of the
    columns of each signal; both are null where nothing is said of the pair.
    """
    decided = {one.name: one.id for one in of_stage(job, "decide")}

    def says(name: str, columns: Sequence[str], **where: Sequence[Any]) -> DataFrame:
        of = {"source": job.config["of"], **where}
        return frame(run.spark, run.ledger, "decisions", TABLES["decisions"], columns, [decided[name]], of)

    both = ["uid", "source"]
    rows = says(given.filter, both, keep=[True]) if given.filter else _stored(run, job, both)
    for name in filters_of(given):
        if name != given.filter:
            kept = says(name, ["uid", "keep"]).withColumnRenamed("keep", f"filter:{name}")
            rows = rows.join(kept, "uid", "left")
    for signal, columns in columns_of(parts).items():
        table = signal_table(signal)
        jobs = [one.id for one in run.plan.signal(signal)]
        values = frame(run.spark, run.ledger, table, run.schema(table), ["uid", *columns], jobs)
        rows = rows.join(values.select("uid", F.struct(*columns).alias(f"signal:{signal}")), "uid", "left")
    return rows


def _meets(condition: Condition) -> Column:
    column = f"`signal:{condition.signal}`.{condition.column}"
    if condition.values:
        return F.col(column).isin(list(condition.values))
    bounds = [compared(column, ">=", condition.least)] if condition.least > -math.inf else []
    bounds += [compared(column, "<", condition.below)] if condition.below < math.inf else []
    return F.expr(f"not isnan({column}) and {' and '.join(bounds)}")


def _takes(part: Taken, main: str) -> Column:
    """Return whether a part takes a candidate; where nothing is said of it, it does not. `main` kept them all."""
    said = [F.col("source").isin(list(part.sources))]
    if part.filter:
        said.append(F.lit(True) if part.filter == main else F.col(f"`filter:{part.filter}`"))
    if part.dropped_by:
        said.append(F.lit(False) if part.dropped_by == main else ~F.col(f"`filter:{part.dropped_by}`"))
    if part.condition:
        said.append(_meets(part.condition))
    return reduce(lambda one, other: one & other, said)


def _listed(run: Run, job: Job, given: Mixture, rows: DataFrame) -> tuple[DataFrame, dict[str, int]]:
    """Return those of the rows whose uids the mixture's file lists, and counts of what it lists.

    Raises InputError where more of them than the mixture allows are not stored.
    """
    if not given.uids:
        return rows, {}
    keys, repeated = read_uids(given.uids)
    listed = run.spark.createDataFrame(pa.table({"uid": texts(keys)}))
    stored = _stored(run, job, ["uid"])
    absent = listed.join(stored, "uid", "left_anti").agg(F.count("*").alias("n"), F.min("uid").alias("first")).first()
    assert absent is not None
    if absent["n"] > given.missing:
        raise InputError(
            f"mixtures.{job.name}.uids: {given.uids}: {absent['n']} of its {len(keys)} uids are not stored "
            f"({absent['first']} is one), expected at most {given.missing} (mixtures.{job.name}.missing)"
        )
    return rows.join(listed, "uid", "left_semi"), {"listed": len(keys), "repeated": repeated, "missing": absent["n"]}


def _split(run: Run, job: Job, rows: DataFrame) -> tuple[DataFrame, DataFrame | None]:
    """Return the rows that may be drawn, and those that are quarantined and stay out, None where there are none."""
    finished = [run.ledger.finished(one.id) for one in of_stage(job, "ingest")]
    if job.config["mismatched"] or not any(one and one.facts.get("verdicts", {}).get(MISMATCH) for one in finished):
        return rows, None
    wrong = _stored(run, job, ["uid", "verdict"]).filter(F.col("verdict") == MISMATCH).select("uid")
    return rows.join(wrong, "uid", "left_anti"), rows.join(wrong, "uid", "left_semi")


def _counts(rows: DataFrame | None, *columns: str) -> dict[Any, int]:
    found = {} if rows is None else {tuple(row[:-1]): row[-1] for row in rows.groupBy(*columns).count().collect()}
    return {key if len(columns) > 1 else key[0]: count for key, count in found.items()}


def _summed(counts: dict[tuple[int, str], int], place: int) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for key, count in counts.items():
        found[key[place]] = found.get(key[place], 0) + count
    return found


@dataclass(frozen=True)
class _Blended:
    """A mixture's rows, not yet written; how many pairs each part gives; and what could have been chosen, in counts."""

    rows: DataFrame
    quotas: dict[str, Quota]
    facts: dict[str, Any]


def _blend(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    with ExitStack() as after:
        blended = chosen_pairs(run, job, after)
        record = write_frame(blended.rows, run.store, job.id, "mixtures", TABLES["mixtures"])
    files = record.files[job.id]
    facts = blended.facts | {"by_source": _verified(run, job, files, blended.quotas)}
    run.finish([(job, files, facts)], started, [job.id])


def chosen_pairs(run: Run, job: Job, after: ExitStack) -> _Blended:
    """Return the pairs that a mixture is made of; `after` lets go of what is held for that."""
    given = run.experiment.file.mixtures[job.name]
    parts = parts_of(job.name, given, job.config["of"])
    rows, listed = _listed(run, job, given, _candidates(run, job, given, parts))
    number = F.coalesce(*(F.when(_takes(part, given.filter), F.lit(place)) for place, part in enumerate(parts)))
    taken = rows.select("uid", "source", number.alias("part")).filter("part is not null")
    eligible, wrong = _split(run, job, taken)
    eligible = eligible.cache()
    after.callback(eligible.unpersist)
    counts = _counts(eligible, "part", "source")
    by_part, by_source = _summed(counts, 0), _summed(counts, 1)
    available = {part.name: by_part.get(place, 0) for place, part in enumerate(parts)}
    shares = {part.name: part.share for part in parts if part.share is not None}
    total = None if given.total == "all" else given.total
    chosen = quotas(job.name, shares, total, available, given.shortage, given.repeat)
    drawn = _drawn(run, job, eligible, [chosen.get(part.name) for part in parts], [part.name for part in parts])
    facts = {
        "available": {source: by_source.get(source, 0) for source in job.config["of"]},
        "parts": {name: {"available": count, "pairs": _pairs(chosen, name)} for name, count in available.items()},
        "quarantined": _counts(wrong, "source"),
        **({"uids": listed} if listed else {}),
    }
    return _Blended(drawn, chosen, facts)


def _pairs(chosen: dict[str, Quota], name: str) -> int:
    return chosen[name].pairs if name in chosen else 0


def _drawn(
    run: Run, job: Job, eligible: DataFrame, by_place: Sequence[Quota | None], names: Sequence[str]
) -> DataFrame:
    """Return the rows of `mixtures`: of each part the first pairs by rank, as often as its quota says."""
    order = f"row_number() over (partition by part order by {rank_sql(run.experiment.file.seed)}, uid) - 1"
    ranked = eligible.withColumn("rank", F.expr(order).cast("bigint"))
    quota = {str(place): one for place, one in enumerate(by_place) if one}
    times = F.expr(times_column(quota, "cast(part as string)")).cast("int")
    named = F.element_at(F.array(*map(F.lit, names)), F.col("part") + 1)
    return (
        ranked.withColumn("times", times)
        .filter("times > 0")
        .select(F.lit(job.name).alias("mixture"), "uid", "source", named.alias("part"), "times", "rank")
    )


def _verified(run: Run, job: Job, files: Sequence[DataFile], chosen: dict[str, Quota]) -> dict[str, int]:
    """Return the pairs written of each source; raise StageFailed where a part has not its quota, or a pair is twice."""
    written = [TABLES["mixtures"].empty_table().select(["uid", "source", "part", "times"])]
    for file in files:
        with run.store.arrow(f"tables/mixtures/{file.path}") as stream:
            written.append(pq.read_table(stream, columns=["uid", "source", "part", "times"]))
    rows = pa.concat_tables(written)
    found = {one["part"]: one["times_sum"] for one in rows.group_by("part").aggregate([("times", "sum")]).to_pylist()}
    if found != (wanted := {name: quota.pairs for name, quota in chosen.items()}):
        raise StageFailed(f"mixtures.{job.name}: wrote {found}, expected {wanted}")
    if (distinct := len(unique(keys(rows["uid"])))) != rows.num_rows:
        raise StageFailed(f"mixtures.{job.name}: wrote {rows.num_rows} rows of {distinct} pairs, expected one of each")
    return {
        one["source"]: one["times_sum"] for one in rows.group_by("source").aggregate([("times", "sum")]).to_pylist()
    }
