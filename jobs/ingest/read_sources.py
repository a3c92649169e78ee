"""A source's published files, read by Spark: in parts where the format can be cut, every row in its shard.

Two passes. The first finds the parts of each file. The second reads the rows, once: they are kept on Spark's disks,
each with its line in its part. What they count to says how many lines come before each part, so that a row's line in
its file is known, and how many rows cannot be read, before one is written. Then uids and host partitions are computed,
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
from pipeline.ingest.host_partitions import bucket_sql, lanes, shard_sql
from pipeline.ingest.tombstones import Tombstones, blanked
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.work_units import Output, run_unit
from pipeline.records import MALFORMED, REPEATED_ROW, ROW_SCHEMA, Part, to_batches
from pipeline.storage.object_store import opened
from pipeline.storage.store import Store
from sources.registry import source_format

FEW_HOSTS = 8
"""A shard of so few hosts or fewer says in its record which they are."""


_PLACE = pa.schema(
    [
        *(("part", pa.int32()), ("path", pa.string()), ("file", pa.string())),
        *(("start", pa.int64()), ("stop", pa.int64())),
    ]
)
_READ = ROW_SCHEMA.append(pa.field("part", pa.int32()))
"""Rows as they were read: `line` and the record id of a malformed row are by the part, until its file is counted."""


@dataclass(frozen=True)
class Place:
    """A part of a published file: where the file lies, what it is called, and where the part starts and ends in it."""

    path: str
    file: str
    start: int
    stop: int | None


@dataclass(frozen=True)
class Published:
    """What a source's files hold, before a row of it is written: the rows as `_READ`, how many lines of its file come
    before each part, and counts.
    """

    read: DataFrame
    before: tuple[int, ...]
    rows: int
    malformed: int
    first: str  # where the first malformed row stands and what it is, "" where there is none

    @property
    def summary(self) -> str:
        """What to tell a person of the malformed rows, "" where there are none."""
        return f"{self.malformed} malformed rows of {self.rows}; the first: {self.first}" if self.malformed else ""

    def close(self) -> None:
        """Let go of the rows."""
        self.read.unpersist()


def find_parts(kind: str, options: dict[str, Any], size: int, files: Iterable[tuple[str, str]]) -> list[Place]:
    """Return the parts of files, given as (path, name)."""
    reader = source_format(kind, options)
    places: list[Place] = []
    for path, file in files:
        with opened(path) as stream:
            places += [Place(path, file, part.start, part.end) for part in reader.parts(stream, size)]
    return places


def read_parts(source: str, kind: str, options: dict[str, Any], batches: Iterator[pa.RecordBatch]) -> Any:
    """Yield the published rows, as `_READ`, of the parts in `batches`."""
    reader = source_format(kind, options)
    for batch in batches:
        for place in batch.to_pylist():
            with opened(place["path"]) as stream:
                rows = reader.read(stream, Part(place["start"], place["stop"]))
                for read in to_batches(rows, source, place["file"], linked=not reader.joins):
                    part = pa.array([place["part"]] * read.num_rows, pa.int32())
                    yield pa.RecordBatch.from_arrays([*read.columns, part], schema=_READ)


def published(run: Run, job: Job) -> Published:
    """Read a source's files; raise InputError where there is nothing to fetch, or too much is malformed."""
    kind, options = job.config["about"]["format"], job.config["about"]["options"]
    places = _places(run, kind, options, job.local["paths"])
    rows = _read(run, job.name, kind, options, places).persist(StorageLevel.DISK_ONLY)
    malformed = F.col("problem") == MALFORMED
    counts = rows.groupBy("part").agg(
        F.count("*").alias("rows"),
        F.max("line").alias("lines"),
        F.count_if(malformed).alias("malformed"),
        F.min(F.when(malformed, F.struct("line", "detail"))).alias("first"),
    )
    by_part = {count["part"]: count for count in counts.collect()}
    lines, before, first = Counter[str](), [], ""
    for part, place in enumerate(places):
        before.append(lines[place.file])
        if (count := by_part.get(part)) is not None:  # a part without a row has none
            if count["first"] and not first:
                first = f"{place.file} line {lines[place.file] + count['first']['line']}: {count['first']['detail']}"
            lines[place.file] += count["lines"]
    total, faulty = (sum(count[name] for count in by_part.values()) for name in ("rows", "malformed"))
    found = Published(rows, tuple(before), total, faulty, first)
    try:
        _check(run, job, found)
    except InputError:
        found.close()
        raise
    return found


def _check(run: Run, job: Job, found: Published) -> None:
    paths = list(job.local["paths"])
    files = ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
    if found.rows == 0:
        raise InputError(f"sources.{job.name}: {files}: no rows; expected at least one")
    if found.rows == found.malformed:
        kind = job.config["about"]["format"]
        raise InputError(f"sources.{job.name}: {files}: expected {kind}, found {found.summary}")
    allowed = run.experiment.file.ingest.malformed_rows
    if allowed is not None and found.malformed > allowed:
        limit = f"at most {allowed} (ingest.malformed_rows)"
        raise InputError(f"sources.{job.name}: expected {limit}, found {found.summary}")


def _places(run: Run, kind: str, options: dict[str, Any], paths: dict[str, str]) -> list[Place]:
    """Return the parts of files (path to the name they are known by), in the order of names and places."""
    work = partial(find_parts, kind, options, run.experiment.file.ingest.part_bytes)
    files = list(paths.items())
    found = run.spark.sparkContext.parallelize(files, max(1, len(files))).mapPartitions(work).collect()
    return sorted(found, key=lambda place: (place.file, place.start))


def _read(run: Run, source: str, kind: str, options: dict[str, Any], places: Sequence[Place]) -> DataFrame:
    """Return the rows of places as `_READ`, a partition for each place."""
    rows = [(part, *vars(place).values()) for part, place in enumerate(places)]
    frame = run.spark.createDataFrame(run.spark.sparkContext.parallelize(rows, max(1, len(rows))), _ddl(_PLACE))
    return frame.mapInArrow(partial(read_parts, source, kind, options), _ddl(_READ))


def _ddl(schema: pa.Schema) -> str:
    kinds = {pa.string(): "string", pa.int64(): "bigint", pa.int32(): "int"}
    return ", ".join(f"{field.name} {kinds[field.type]}" for field in schema)


def _rows(run: Run, job: Job, published: Published) -> DataFrame:
    """Return a source's published rows with their uids."""
    about = job.config["about"]
    rows = placed_lines(run.spark, published.read, published.before)
    if kind := source_format(about["format"], about["options"]).joins:
        places = _places(run, kind, {}, job.local["joined"])
        others = _read(run, job.name, kind, {}, places).select(*ROW_SCHEMA.names)
        rows = joined(rows, others, kind)
    return rows.withColumn("uid", F.expr(uid_sql("source", "record_id", "url", "caption")))


def placed_lines(spark: SparkSession, read: DataFrame, before: Sequence[int]) -> DataFrame:
    """Return rows as `ROW_SCHEMA`: their lines are those of the file, of which so many come before each part.

    A row that could not be read has no identity of its own but its place.
    """
    known = spark.createDataFrame(list(enumerate(before)), "part int, before bigint")
    rows = read.join(F.broadcast(known), "part").withColumn("line", F.col("line") + F.col("before"))
    place = F.concat_ws("#", "file", F.col("line").cast("string"))
    named = F.when(F.col("problem") == MALFORMED, place).otherwise(F.col("record_id"))
    return rows.withColumn("record_id", named).select(*ROW_SCHEMA.names)


def joined(rows: DataFrame, others: DataFrame, kind: str) -> DataFrame:
    """Return the rows of a list with what `others`, rows of format `kind`, say of the same record ids.

    A record that is not there is malformed; of one that is there twice, the first file and line count.
    """
    order = F.struct("file", "line")
    taken = ["url", "caption", "problem", "detail", "published", "licence", "hashes", "faces", "place"]
    first = others.groupBy("record_id").agg(*(F.min_by(name, order).alias(f"its_{name}") for name in taken))
    missing = F.col("its_url").isNull()
    detail = F.concat(F.lit(f"expected the record in the {kind} files, found no "), F.col("record_id"))
    both = rows.join(first, "record_id", "left")
    own = F.col("problem") != ""
    columns = {
        "problem": F.when(own, F.col("problem")).when(missing, F.lit(MALFORMED)).otherwise(F.col("its_problem")),
        "detail": F.when(own, F.col("detail")).when(missing, detail).otherwise(F.col("its_detail")),
        **{name: F.coalesce(f"its_{name}", name) for name in taken if name not in ("problem", "detail")},
    }
    return both.withColumns(columns).select(*ROW_SCHEMA.names)


def write_pairs(run: Run, job: Job, published: Published, tombstones: Tombstones) -> None:
    """Write a source's published rows as `pairs`, a unit for each shard that is not written yet.

    Of rows that the tombstones name, no more is written than that they are there.
    """
    rows = _rows(run, job, published)
    if source_format(job.config["about"]["format"], job.config["about"]["options"]).joins:
        rows = rows.persist(StorageLevel.DISK_ONLY)  # else they are joined once more
    try:
        rows = rows.withColumn("bucket", F.expr(bucket_sql("url", "uid")))
        counts = {row["bucket"]: row["count"] for row in rows.groupBy("bucket").count().collect()}
        made = lanes(counts, job.config["fetch"]["pairs_per_shard"])
        places = [
            (bucket, lane.number, lane.first, lane.shards) for lane in made for bucket in range(lane.start, lane.end)
        ]
        table = run.spark.createDataFrame(places, "bucket int, lane int, first int, shards int")
        placed = rows.join(F.broadcast(table), "bucket").withColumn(
            "shard", F.expr(shard_sql("uid", "first", "shards"))
        )
        store, job_id, licence = run.store, job.id, job.config["about"]["licence"]

        def write(key: tuple[Any, ...], shard: pa.Table) -> pa.Table:  # Spark reads the type hints
            return _write(store, job_id, licence, tombstones, int(key[0].as_py()), shard)

        placed.drop("bucket", "first", "shards").groupBy("shard").applyInArrow(write, "unit string").collect()
    finally:
        rows.unpersist()


def _write(store: Store, job: str, licence: str, tombstones: Tombstones, number: int, rows: pa.Table) -> pa.Table:
    """Write one shard's published rows; called by Spark with the rows of one shard number."""
    lane = rows["lane"][0].as_py()

    def work() -> Output:
        pairs = blanked(shard_rows(rows, licence), tombstones)
        hosts = {host_of(url) for url in pairs["url"].to_pylist()}
        return Output({job: {"pairs": pairs}}, {"lane": lane, "hosts": sorted(hosts)[: FEW_HOSTS + 1]})

    return pa.table({"unit": [run_unit(store, job, f"pairs-{number:08d}", work).unit]})


def shard_rows(rows: pa.Table, licence: str) -> pa.Table:
    """Return a shard's rows as `pairs`, sorted by uid, file and line; a uid's later rows are marked as repeated.

    A row that has a problem of its own keeps it. `licence` is the source's, for rows that have none of their own.
    """
    rows = rows.sort_by([("uid", "ascending"), ("file", "ascending"), ("line", "ascending")])
    uids = rows["uid"].to_pylist()
    repeated = pa.array([before == uid for before, uid in zip([None, *uids[:-1]], uids, strict=True)], pa.bool_())
    fresh = pc.equal(rows["problem"], "")
    problem = pc.if_else(pc.and_(repeated, fresh), REPEATED_ROW, rows["problem"])
    own = pc.if_else(pc.equal(rows["licence"], ""), licence, rows["licence"])
    for name, column in (("problem", problem), ("licence", own)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows.select(TABLES["pairs"].names).cast(TABLES["pairs"])
