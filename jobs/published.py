"""A source's published files, read by Spark: in parts where the format can be cut, every row in its shard.

Three passes. The first finds the parts of each file. The second counts: how many lines each part has, so that a row's
line is known, and how many rows cannot be read. The third reads the rows, computes uids and lanes, and writes each
shard's rows as one file of `pairs`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.plan import Job
from jobs.run import Run
from pipeline.errors import InputError
from pipeline.identity import uid_sql
from pipeline.lanes import bucket_sql, lanes, shard_sql
from pipeline.politeness import host_of
from pipeline.records import MALFORMED, REPEATED_ROW, ROW_SCHEMA, Part, to_batches
from pipeline.remote import opened
from pipeline.schemas import TABLES
from pipeline.store import Store
from pipeline.units import Output, run_unit
from sources.registry import source_format

FEW_HOSTS = 8
"""A shard of so few hosts or fewer says in its record which they are."""
_PART = pa.schema([("path", pa.string()), ("file", pa.string()), ("start", pa.int64()), ("stop", pa.int64())])
_PLACED = pa.schema([*_PART, ("number", pa.int64()), ("before", pa.int64())])
_COUNT = pa.schema(
    [
        *((name, pa.int64()) for name in ("number", "rows", "lines", "bad", "bad_line")),
        ("bad_detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class Published:
    """What is known of a source's files before a row of it is written."""

    parts: tuple[dict[str, Any], ...]
    rows: int
    malformed: int
    first: str  # where the first malformed row stands and what it is, "" where there is none

    @property
    def summary(self) -> str:
        """What to tell a person of the malformed rows, "" where there are none."""
        return f"{self.malformed} malformed rows of {self.rows}; the first: {self.first}" if self.malformed else ""


def find_parts(kind: str, options: dict[str, Any], size: int, batches: Iterator[pa.RecordBatch]) -> Any:
    """Yield the parts, as `_PART`, of the files named in `batches` (columns path and file)."""
    reader = source_format(kind, options)
    for batch in batches:
        for row in batch.to_pylist():
            with opened(row["path"]) as stream:
                parts = [{**row, "start": part.start, "stop": part.end} for part in reader.parts(stream, size)]
            yield pa.RecordBatch.from_pylist(parts, _PART)


def count_parts(kind: str, options: dict[str, Any], batches: Iterator[pa.RecordBatch]) -> Any:
    """Yield a row of `_COUNT` for each part in `batches`."""
    reader = source_format(kind, options)
    for batch in batches:
        for place in batch.to_pylist():
            found: dict[str, Any] = {"number": place["number"], "rows": 0, "lines": 0, "bad": 0, "bad_line": 0}
            with opened(place["path"]) as stream:
                for row in reader.read(stream, Part(place["start"], place["stop"])):
                    found["rows"] += 1
                    found["lines"] = row.line
                    if row.problem == MALFORMED:
                        found["bad"] += 1
                        if found["bad"] == 1:
                            found |= {"bad_line": row.line, "bad_detail": row.detail}
            yield pa.RecordBatch.from_pylist([found], _COUNT)


def read_parts(source: str, kind: str, options: dict[str, Any], batches: Iterator[pa.RecordBatch]) -> Any:
    """Yield the published rows, as `ROW_SCHEMA`, of the parts in `batches`."""
    reader = source_format(kind, options)
    for batch in batches:
        for place in batch.to_pylist():
            with opened(place["path"]) as stream:
                rows = reader.read(stream, Part(place["start"], place["stop"]))
                yield from to_batches(rows, source, place["file"], before=place["before"], linked=not reader.joins)


def counted(run: Run, job: Job) -> Published:
    """Return what a source's files hold; raise InputError where there is nothing to fetch, or too much is malformed."""
    kind, options = job.config["about"]["format"], job.config["about"]["options"]
    parts = _parts(run, kind, options, job.local["paths"])
    frame = _frame(run, parts, _PLACED)
    counts = sorted(
        frame.mapInArrow(partial(count_parts, kind, options), _ddl(_COUNT)).collect(), key=lambda row: row["number"]
    )
    before: dict[str, int] = {}
    first = ""
    for part, count in zip(parts, counts, strict=True):
        part["before"] = before.get(part["file"], 0)
        before[part["file"]] = part["before"] + count["lines"]
        if count["bad"] and not first:
            first = f"{part['file']} line {part['before'] + count['bad_line']}: {count['bad_detail']}"
    rows, bad = sum(count["rows"] for count in counts), sum(count["bad"] for count in counts)
    paths = list(job.local["paths"])
    files = ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
    if rows == 0:
        raise InputError(f"sources.{job.name}: {files}: no rows; expected at least one")
    if rows == bad:
        raise InputError(
            f"sources.{job.name}: {files}: expected {kind}, found {rows} malformed rows; the first: {first}"
        )
    found = Published(tuple(parts), rows, bad, first)
    allowed = run.experiment.file.ingest.malformed_rows
    if allowed is not None and bad > allowed:
        limit = f"at most {allowed} (ingest.malformed_rows)"
        raise InputError(f"sources.{job.name}: expected {limit}, found {found.summary}")
    return found


def _parts(run: Run, kind: str, options: dict[str, Any], paths: dict[str, str]) -> list[dict[str, Any]]:
    """Return the parts of files (path to the name they are known by), in the order of names and places."""
    files = pa.table({"path": list(paths), "file": list(paths.values())})
    frame = _frame(run, files.to_pylist(), files.schema)
    size = run.experiment.file.ingest.part_bytes
    found = frame.mapInArrow(partial(find_parts, kind, options, size), _ddl(_PART)).collect()
    ordered = sorted((row.asDict() for row in found), key=lambda row: (row["file"], row["start"]))
    return [row | {"number": number, "before": 0} for number, row in enumerate(ordered)]


def _frame(run: Run, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> DataFrame:
    """Return plain rows as a DataFrame with a partition for each."""
    values = [tuple(row[name] for name in schema.names) for row in rows]
    return run.spark.createDataFrame(run.spark.sparkContext.parallelize(values, max(1, len(values))), _ddl(schema))


def _ddl(schema: pa.Schema) -> str:
    kinds = {pa.string(): "string", pa.int64(): "bigint", pa.int32(): "int"}
    return ", ".join(f"{field.name} {kinds[field.type]}" for field in schema)


def _rows(run: Run, job: Job, published: Published) -> DataFrame:
    """Return a source's published rows with their uids."""
    about = job.config["about"]
    reading = partial(read_parts, job.name, about["format"], about["options"])
    rows = _frame(run, published.parts, _PLACED).mapInArrow(reading, _ddl(ROW_SCHEMA))
    if kind := source_format(about["format"], about["options"]).joins:
        parts = _parts(run, kind, {}, job.local["joined"])
        others = _frame(run, parts, _PLACED).mapInArrow(partial(read_parts, job.name, kind, {}), _ddl(ROW_SCHEMA))
        rows = joined(rows, others, kind)
    return rows.withColumn("uid", F.expr(uid_sql("source", "record_id", "url", "caption")))


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


def write_pairs(run: Run, job: Job, published: Published) -> None:
    """Write a source's published rows as `pairs`, a unit for each shard that is not written yet."""
    rows = _rows(run, job, published).persist(StorageLevel.DISK_ONLY)  # else the files are read once more
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
            return _write(store, job_id, licence, int(key[0].as_py()), shard)

        placed.drop("bucket", "first", "shards").groupBy("shard").applyInArrow(write, "unit string").collect()
    finally:
        rows.unpersist()


def _write(store: Store, job: str, licence: str, number: int, rows: pa.Table) -> pa.Table:
    """Write one shard's published rows; called by Spark with the rows of one shard number."""
    lane = rows["lane"][0].as_py()

    def work() -> Output:
        pairs = shard_rows(rows, licence)
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
