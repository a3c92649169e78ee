"""Reads a source's published files with Spark, in parts where the format can be split, and assigns rows to shards.

Two passes. The first finds the parts of each file. The second reads the rows, once: they are cached on Spark's disks,
each with its line in its part. Their counts give the number of lines before each part, and so each row's line in its
file, and the number of rows that cannot be read, before any row is written. Then uids and host partitions are computed,
and each shard's rows are written as one file of `pairs`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.core.uids import uid_sql
from pipeline.errors import InputError
from pipeline.fetch.urls import host_of
from pipeline.ingest.host_partitions import bucket_sql, partition_hosts, shard_sql
from pipeline.ingest.tombstones import Tombstones, blank_refused
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.work_units import UnitOutput, run_unit
from pipeline.records import MALFORMED, REPEATED_ROW, ROW_SCHEMA, FilePart, to_batches
from pipeline.storage.object_store import open_source
from pipeline.storage.store import Store
from sources.registry import source_format

MAX_NAMED_HOSTS = 8
"""A shard of at most so many hosts names them in its record."""


_PART_SCHEMA = pa.schema(
    [
        *(("part", pa.int32()), ("path", pa.string()), ("file", pa.string())),
        *(("start", pa.int64()), ("stop", pa.int64())),
    ]
)
_PART_ROW_SCHEMA = ROW_SCHEMA.append(pa.field("part", pa.int32()))
"""Rows as they were read: `line` and a malformed row's record id count from the part's start, until lines are known."""


@dataclass(frozen=True)
class SourcePart:
    """A part of a published file: the file's path and its name, and the part's start and stop in it."""

    path: str
    file: str
    start: int
    stop: int | None


@dataclass(frozen=True)
class PublishedRows:
    """The content of a source's files before any row is written: the rows as `_PART_ROW_SCHEMA`, the number of lines
    of its file before each part, and counts.
    """

    read: DataFrame
    before: tuple[int, ...]
    rows: int
    malformed: int
    first: str  # the place and the problem of the first malformed row, "" where there is none

    @property
    def summary(self) -> str:
        """A message about the malformed rows, "" where there are none."""
        return f"{self.malformed} malformed rows of {self.rows}; the first: {self.first}" if self.malformed else ""

    def close(self) -> None:
        """Release the cached rows."""
        self.read.unpersist()


def find_parts(kind: str, options: dict[str, Any], size: int, files: Iterable[tuple[str, str]]) -> list[SourcePart]:
    """Return the parts of files, given as (path, name)."""
    reader = source_format(kind, options)
    parts: list[SourcePart] = []
    for path, file in files:
        with open_source(path) as stream:
            parts += [
                SourcePart(path, file, file_part.start, file_part.end) for file_part in reader.parts(stream, size)
            ]
    return parts


def read_parts(source: str, kind: str, options: dict[str, Any], batches: Iterator[pa.RecordBatch]) -> Any:
    """Yield the published rows, as `_PART_ROW_SCHEMA`, of the parts in `batches`."""
    reader = source_format(kind, options)
    for batch in batches:
        for place in batch.to_pylist():
            with open_source(place["path"]) as stream:
                rows = reader.read(stream, FilePart(place["start"], place["stop"]))
                for read in to_batches(rows, source, place["file"], linked=not reader.joins):
                    part = pa.array([place["part"]] * read.num_rows, pa.int32())
                    yield pa.RecordBatch.from_arrays([*read.columns, part], schema=_PART_ROW_SCHEMA)


def read_published(run: Run, job: Job) -> PublishedRows:
    """Read a source's files; raise InputError where there is nothing to fetch, or too many rows are malformed."""
    kind, options = job.config["about"]["format"], job.config["about"]["options"]
    parts = _find_all_parts(run, kind, options, job.local["paths"])
    rows = _read_rows(run, job.name, kind, options, parts).persist(StorageLevel.DISK_ONLY)
    malformed = F.col("problem") == MALFORMED
    counts = rows.groupBy("part").agg(
        F.count("*").alias("rows"),
        F.max("line").alias("lines"),
        F.count_if(malformed).alias("malformed"),
        F.min(F.when(malformed, F.struct("line", "detail"))).alias("first"),
    )
    by_part = {count["part"]: count for count in counts.collect()}
    lines, before, first = Counter[str](), [], ""
    for part, piece in enumerate(parts):
        before.append(lines[piece.file])
        if (count := by_part.get(part)) is not None:  # a part without rows has none
            if count["first"] and not first:
                first = f"{piece.file} line {lines[piece.file] + count['first']['line']}: {count['first']['detail']}"
            lines[piece.file] += count["lines"]
    total, malformed_rows = (sum(count[name] for count in by_part.values()) for name in ("rows", "malformed"))
    result = PublishedRows(rows, tuple(before), total, malformed_rows, first)
    try:
        _check_rows(run, job, result)
    except InputError:
        result.close()
        raise
    return result


def _check_rows(run: Run, job: Job, published: PublishedRows) -> None:
    paths = list(job.local["paths"])
    files = ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
    if published.rows == 0:
        raise InputError(f"sources.{job.name}: {files}: no rows; expected at least one")
    if published.rows == published.malformed:
        kind = job.config["about"]["format"]
        raise InputError(f"sources.{job.name}: {files}: expected {kind}, found {published.summary}")
    allowed = run.experiment.file.ingest.malformed_rows
    if allowed is not None and published.malformed > allowed:
        limit = f"at most {allowed} (ingest.malformed_rows)"
        raise InputError(f"sources.{job.name}: expected {limit}, found {published.summary}")


def _find_all_parts(run: Run, kind: str, options: dict[str, Any], paths: dict[str, str]) -> list[SourcePart]:
    """Return the parts of files (path to published name), sorted by name and start."""
    work = partial(find_parts, kind, options, run.experiment.file.ingest.part_bytes)
    files = list(paths.items())
    parts = run.spark.sparkContext.parallelize(files, max(1, len(files))).mapPartitions(work).collect()
    return sorted(parts, key=lambda place: (place.file, place.start))


def _read_rows(run: Run, source: str, kind: str, options: dict[str, Any], parts: Sequence[SourcePart]) -> DataFrame:
    """Return the rows of file parts as `_PART_ROW_SCHEMA`, one Spark partition for each part."""
    rows = [(part, *vars(file_part).values()) for part, file_part in enumerate(parts)]
    frame = run.spark.createDataFrame(run.spark.sparkContext.parallelize(rows, max(1, len(rows))), _ddl(_PART_SCHEMA))
    return frame.mapInArrow(partial(read_parts, source, kind, options), _ddl(_PART_ROW_SCHEMA))


def _ddl(schema: pa.Schema) -> str:
    kinds = {pa.string(): "string", pa.int64(): "bigint", pa.int32(): "int"}
    return ", ".join(f"{field.name} {kinds[field.type]}" for field in schema)


def _rows_with_uids(run: Run, job: Job, published: PublishedRows) -> DataFrame:
    """Return a source's published rows with their uids."""
    source_config = job.config["about"]
    rows = with_file_lines(run.spark, published.read, published.before)
    if kind := source_format(source_config["format"], source_config["options"]).joins:
        parts = _find_all_parts(run, kind, {}, job.local["joined"])
        others = _read_rows(run, job.name, kind, {}, parts).select(*ROW_SCHEMA.names)
        rows = join_list(rows, others, kind)
    return rows.withColumn("uid", F.expr(uid_sql("source", "record_id", "url", "caption")))


def with_file_lines(spark: SparkSession, read: DataFrame, before: Sequence[int]) -> DataFrame:
    """Return rows as `ROW_SCHEMA`, with lines counted from the file's start; `before` has the lines before each part.

    A row that could not be read is identified by its place alone.
    """
    lines_before = spark.createDataFrame(list(enumerate(before)), "part int, before bigint")
    rows = read.join(F.broadcast(lines_before), "part").withColumn("line", F.col("line") + F.col("before"))
    place = F.concat_ws("#", "file", F.col("line").cast("string"))
    record_id = F.when(F.col("problem") == MALFORMED, place).otherwise(F.col("record_id"))
    return rows.withColumn("record_id", record_id).select(*ROW_SCHEMA.names)


def join_list(rows: DataFrame, others: DataFrame, kind: str) -> DataFrame:
    """Return the rows of a list, joined on the record id with `others`, rows of format `kind`.

    A record without such a row is malformed; of one with several, the first by file and line counts.
    """
    order = F.struct("file", "line")
    copied = ["url", "caption", "problem", "detail", "published", "licence", "hashes", "faces", "place"]
    first = others.groupBy("record_id").agg(*(F.min_by(name, order).alias(f"its_{name}") for name in copied))
    missing = F.col("its_url").isNull()
    detail = F.concat(F.lit(f"expected the record in the {kind} files, found no "), F.col("record_id"))
    combined = rows.join(first, "record_id", "left")
    has_problem = F.col("problem") != ""
    columns = {
        "problem": F.when(has_problem, F.col("problem"))
        .when(missing, F.lit(MALFORMED))
        .otherwise(F.col("its_problem")),
        "detail": F.when(has_problem, F.col("detail")).when(missing, detail).otherwise(F.col("its_detail")),
        **{name: F.coalesce(f"its_{name}", name) for name in copied if name not in ("problem", "detail")},
    }
    return combined.withColumns(columns).select(*ROW_SCHEMA.names)


def write_pairs(run: Run, job: Job, published: PublishedRows, tombstones: Tombstones) -> None:
    """Write a source's published rows as `pairs`, one unit for each shard that is not written yet.

    Rows that the tombstones name are written blanked.
    """
    rows = _rows_with_uids(run, job, published)
    if source_format(job.config["about"]["format"], job.config["about"]["options"]).joins:
        rows = rows.persist(StorageLevel.DISK_ONLY)  # else the join would run twice
    try:
        rows = rows.withColumn("bucket", F.expr(bucket_sql("url", "uid")))
        counts = {row["bucket"]: row["count"] for row in rows.groupBy("bucket").count().collect()}
        partitions = partition_hosts(counts, job.config["fetch"]["pairs_per_shard"])
        bucket_rows = [
            (bucket, partition.number, partition.first, partition.shards)
            for partition in partitions
            for bucket in range(partition.start, partition.end)
        ]
        table = run.spark.createDataFrame(bucket_rows, "bucket int, lane int, first int, shards int")
        with_shards = rows.join(F.broadcast(table), "bucket").withColumn(
            "shard", F.expr(shard_sql("uid", "first", "shards"))
        )
        store, job_id, licence = run.store, job.id, job.config["about"]["licence"]

        def write(key: tuple[Any, ...], shard: pa.Table) -> pa.Table:  # Spark reads the type hints
            return _write_shard(store, job_id, licence, tombstones, int(key[0].as_py()), shard)

        with_shards.drop("bucket", "first", "shards").groupBy("shard").applyInArrow(write, "unit string").collect()
    finally:
        rows.unpersist()


def _write_shard(store: Store, job: str, licence: str, tombstones: Tombstones, number: int, rows: pa.Table) -> pa.Table:
    """Write one shard's published rows; called by Spark with the rows of one shard."""
    lane = rows["lane"][0].as_py()

    def work() -> UnitOutput:
        pairs = blank_refused(shard_rows(rows, licence), tombstones)
        hosts = {host_of(url) for url in pairs["url"].to_pylist()}
        return UnitOutput({job: {"pairs": pairs}}, {"lane": lane, "hosts": sorted(hosts)[: MAX_NAMED_HOSTS + 1]})

    return pa.table({"unit": [run_unit(store, job, f"pairs-{number:08d}", work).unit]})


def shard_rows(rows: pa.Table, licence: str) -> pa.Table:
    """Return a shard's rows as `pairs`, sorted by uid, file and line; a uid's later rows are marked as repeated.

    A row that already has a problem keeps it. `licence` is the source's, for rows without their own.
    """
    rows = rows.sort_by([("uid", "ascending"), ("file", "ascending"), ("line", "ascending")])
    uids = rows["uid"].to_pylist()
    repeated = pa.array([before == uid for before, uid in zip([None, *uids[:-1]], uids, strict=True)], pa.bool_())
    has_no_problem = pc.equal(rows["problem"], "")
    problem = pc.if_else(pc.and_(repeated, has_no_problem), REPEATED_ROW, rows["problem"])
    licences = pc.if_else(pc.equal(rows["licence"], ""), licence, rows["licence"])
    for name, column in (("problem", problem), ("licence", licences)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows.select(TABLES["pairs"].names).cast(TABLES["pairs"])
