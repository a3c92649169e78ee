"""Ingest: published rows into `pairs`, attempts into `fetches`, images into shards and `samples`.

Two passes over Spark for each source. The first reads the published files, computes uids, and puts each row into the
shard that its uid falls in, so that neither the split of the work nor the order of the files matters. The second
fetches a shard at a time. Each unit leaves a completion record; a run that was killed does only what is missing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.plan import Job
from jobs.run import Run
from jobs.spark import run_units
from jobs.web import served
from pipeline.config import Ingest
from pipeline.errors import InputError, StageFailed
from pipeline.fetching import ImageRules, fetch_shard
from pipeline.identity import uid_sql
from pipeline.ledger import DataFile
from pipeline.records import MALFORMED, REPEATED_ROW, ROW_SCHEMA, to_batches
from pipeline.schemas import TABLES
from pipeline.shards import ShardWriter
from pipeline.store import Store
from pipeline.units import Output, Record, finished_units, run_unit
from pipeline.web import STORED, WebRules
from sources.registry import source_format

AT_ONCE = 3
"""Sources that are ingested side by side."""


def read_files(source: str, kind: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the published rows of the files named in `batches` (one column, `path`), as `ROW_SCHEMA`."""
    import fsspec

    reader = source_format(kind)
    for batch in batches:
        for path in batch.column(0).to_pylist():
            with fsspec.open(path, "rb") as stream:
                yield from to_batches(reader.read(stream), source, path.rpartition("/")[2])


def shard_rows(rows: pa.Table) -> pa.Table:
    """Return a shard's rows as `pairs`, sorted by uid, file and line; a uid's later rows are marked as repeated.

    A row that has a problem of its own keeps it.
    """
    rows = rows.sort_by([("uid", "ascending"), ("file", "ascending"), ("line", "ascending")])
    uids = rows["uid"].to_pylist()
    repeated = pa.array([before == uid for before, uid in zip([None, *uids[:-1]], uids, strict=True)], pa.bool_())
    fresh = pc.equal(rows["problem"], "")
    problem = pc.if_else(pc.and_(repeated, fresh), REPEATED_ROW, rows["problem"])
    marked = rows.set_column(rows.schema.get_field_index("problem"), "problem", problem)
    return marked.select(TABLES["pairs"].names).cast(TABLES["pairs"])


def _write_pairs(store: Store, job: str, key: tuple[Any, ...], rows: pa.Table) -> pa.Table:
    """Write one shard's published rows; called by Spark with the rows of one shard number."""
    number = int(key[0].as_py())
    pairs = shard_rows(rows)
    record = run_unit(store, job, f"pairs-{number:08d}", lambda: Output({job: {"pairs": pairs}}))
    return pa.table({"unit": [record.unit]})


def _fetch(
    store: Store, job: str, source: str, web: WebRules, image: ImageRules, payload: tuple[int, str, str]
) -> Output:
    """Fetch one shard: `payload` is its number, its file of `pairs`, and the path of its tar."""
    _, pairs_path, shard = payload
    with store.arrow(pairs_path) as stream:
        pairs = pq.read_table(stream)
    rows = pairs.filter(pc.equal(pairs["problem"], "")).to_pylist()
    with store.create(shard) as stream:
        writer = ShardWriter(stream)
        tables = fetch_shard(rows, web, image, writer, shard)
        sha256 = writer.close()
    facts = {"shard": shard, "sha256": sha256, "bytes": writer.bytes, "pairs": tables["samples"].num_rows}
    return Output({job: tables}, facts)


def web_rules(given: Ingest, hosts: dict[str, str]) -> WebRules:
    """Return the fetcher's rules from the experiment file and the hosts that are mapped to an address."""
    return WebRules(
        user_agent=given.user_agent,
        timeout=given.timeout,
        attempts=given.attempts,
        max_bytes=given.max_bytes,
        max_redirects=given.max_redirects,
        concurrency=given.concurrency,
        back_off=given.back_off,
        refuse=frozenset(word.lower() for word in given.refuse),
        hosts=given.hosts | hosts,
    )


def image_rules(given: Ingest) -> ImageRules:
    """Return what is stored of an image."""
    resize = given.resize
    return ImageRules(resize.mode, resize.size, resize.quality, resize.min_side, given.max_pixels)


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Ingest sources, `AT_ONCE` at a time, so that one's last shard does not leave cores idle."""
    counts = {job.id: _counted(run, job) for job in jobs}  # all of them before anything is written
    with served(run.experiment.file.web) as hosts, ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(_ingest, run, job, counts[job.id], hosts) for job in jobs]:
            future.result()


def _ingest(run: Run, job: Job, count: int, hosts: dict[str, str]) -> None:
    started = datetime.now(UTC)
    given = run.experiment.file.ingest
    pair_records = _read(run, job, count)
    image, web = image_rules(given), web_rules(given, hosts)
    units = []
    for record in pair_records:
        number = int(record.unit.removeprefix("pairs-"))
        file = record.files[job.id][0]
        shard = f"shards/{job.name}/{job.short}/{number:08d}.tar"
        units.append((f"fetch-{number:08d}", (number, f"tables/pairs/{file.path}", shard)))
    task = run.task(f"fetching {job.name}", "shards")
    work = partial(_fetch, run.store, job.id, job.name, web, image)
    fetched = run_units(run.spark, run.store, job.id, units, work, task)
    files = [file for record in (*pair_records, *fetched.values()) for file in record.files[job.id]]
    shards = [record.facts for record in fetched.values()]
    reconcile(run.store, job.name, files)
    run.finish([(job, files, {"shards": shards})], started, [job.id])


def _rows(run: Run, job: Job) -> DataFrame:
    """Return a source's published rows, read by Spark, with their uids."""
    kind = job.config["about"]["format"]
    paths = run.spark.createDataFrame([(path,) for path in job.local["paths"]], "path string")
    rows = paths.repartition(len(job.local["paths"])).mapInArrow(partial(read_files, job.name, kind), _ddl())
    return rows.withColumn("uid", F.expr(uid_sql("source", "record_id", "url", "caption")))


def _counted(run: Run, job: Job) -> int:
    """Return how many rows a source publishes; raise InputError if there are none, or too many that are malformed."""
    rows = _rows(run, job)  # starts Spark, which F.col needs
    bad = F.col("problem") == MALFORMED
    counted = rows.agg(
        F.count("*").alias("rows"),
        F.count(F.when(bad, 1)).alias("bad"),
        F.min(F.when(bad, F.struct("file", "line", "detail"))).alias("first"),
    ).collect()[0]
    if counted["rows"] == 0:
        raise InputError(f"sources.{job.name}: {', '.join(job.local['paths'])}: no rows; expected at least one")
    allowed = run.experiment.file.ingest.malformed_rows
    if counted["bad"] > allowed:
        first = counted["first"]
        raise InputError(
            f"sources.{job.name}: {counted['bad']} malformed rows, expected at most {allowed} (ingest.malformed_rows); "
            f"the first: {first['file']} line {first['line']}: {first['detail']}"
        )
    return int(counted["rows"])


def _read(run: Run, job: Job, count: int) -> list[Record]:
    """Read a source's published files into `pairs`, a file of it for each shard; return the units' records."""
    done = _pair_records(run, job)
    if sum(record.files[job.id][0].rows for record in done) != count:
        shards = -(-count // run.experiment.file.ingest.pairs_per_shard)
        place = F.expr(f"floor(conv(substr(uid, 1, 8), 16, 10) * {shards} / 4294967296L)")
        store, job_id = run.store, job.id

        def write(key: tuple[Any, ...], rows: pa.Table) -> pa.Table:  # Spark reads the type hints
            return _write_pairs(store, job_id, key, rows)

        _rows(run, job).withColumn("shard", place).groupBy("shard").applyInArrow(write, "unit string").collect()
        done = _pair_records(run, job)
    return sorted(done, key=lambda record: record.unit)


def _pair_records(run: Run, job: Job) -> list[Record]:
    return [record for name, record in finished_units(run.store, job.id).items() if name.startswith("pairs-")]


def _ddl() -> str:
    kinds = {pa.string(): "string", pa.int64(): "bigint"}
    return ", ".join(f"{field.name} {kinds[field.type]}" for field in ROW_SCHEMA)


def reconcile(store: Store, source: str, files: Sequence[DataFile]) -> None:
    """Raise StageFailed unless each published row has one outcome and each stored one lies in a shard."""
    columns = {"pairs": ["uid", "problem"], "fetches": ["uid", "final", "outcome"], "samples": ["uid"]}
    asked, answered, stored, kept = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for file in files:
        with store.arrow(f"tables/{file.table}/{file.path}") as stream:
            rows = pq.read_table(stream, columns=columns[file.table])
        if file.table == "pairs":
            asked.update(rows.filter(pc.equal(rows["problem"], ""))["uid"].to_pylist())
        elif file.table == "samples":
            kept.update(rows["uid"].to_pylist())
        else:
            final = rows.filter(rows["final"])
            answered.update(final["uid"].to_pylist())
            stored.update(final.filter(pc.equal(final["outcome"], STORED))["uid"].to_pylist())
    if asked != answered:
        found = f"{asked.total()} pairs were to be fetched, {answered.total()} have an outcome"
        raise StageFailed(f"ingest of {source}: the counts do not add up: {found}")
    if stored != kept:
        found = f"{stored.total()} pairs were stored, {kept.total()} are in samples"
        raise StageFailed(f"ingest of {source}: the counts do not add up: {found}")
