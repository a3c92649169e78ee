"""Ingest: published rows into `pairs`, attempts into `fetches`, images into shards and `samples`.

`jobs.ingest.read_sources` reads the files and assigns each row to a shard. This stage fetches the shards: those of a
host partition one after another in one task, so that only one task requests from a host. Each shard leaves a completion
record; after a kill only the missing ones are fetched. A retry is a separate job: it fetches again what failed for
transient reasons.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.ingest.read_sources import MAX_NAMED_HOSTS, PublishedRows, read_published, write_pairs
from jobs.spark.tasks import Unit, Work, run_partitions
from jobs.workflow.demo_web import serve
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.config.ingest import HostLimitConfig, IngestConfig
from pipeline.errors import StageFailed
from pipeline.fetch.addresses import AddressRules
from pipeline.fetch.client import FetchRules
from pipeline.fetch.opt_out import OptOutRules
from pipeline.fetch.rate_limit import HostLimit, HostLimits
from pipeline.images.normalize import ImageRules
from pipeline.ingest.shard_fetcher import HostPartitionFetcher, PartitionRules, count_mismatch, unfetched_rows
from pipeline.ingest.tombstones import Tombstones
from pipeline.ingest.tombstones import read_tombstones as read_tombstones
from pipeline.ledger.work_units import UnitOutput, UnitRecord, finished_units
from pipeline.provenance.funnel import transient_failures
from pipeline.shards.tar_format import ShardWriter
from pipeline.storage.object_store import open_source
from pipeline.storage.store import Store

CONCURRENT_SOURCES = 3
"""Sources that are ingested in parallel, so that the last shard of one does not leave cores idle."""


@dataclass(frozen=True)
class ShardToFetch:
    """A shard to fetch: its number, the files of `pairs` that hold its rows, its host partition.

    `again` maps the uids to retry to the number of earlier attempts; None fetches every row.
    """

    number: int
    pairs: tuple[str, ...]
    lane: int
    again: Mapping[str, int] | None = None


@dataclass(frozen=True)
class FetchWork:
    """What a task needs to fetch a job's shards; picklable. `files` maps a published file's name to its path."""

    store: Store
    job: str
    folder: str
    rules: PartitionRules
    files: Mapping[str, str]
    tombstones: Tombstones

    @contextmanager
    def open(self) -> Iterator[Work]:
        """Open a host partition's client; yield the function that fetches one of its shards."""
        streams: dict[str, Any] = {}

        def local(file: str, offset: int, size: int) -> bytes:
            if file not in streams:
                streams[file] = open_source(self.files[file]).open()
            streams[file].seek(offset)
            return bytes(streams[file].read(size))

        try:
            with HostPartitionFetcher(self.rules, local, self.tombstones) as fetcher:
                yield partial(self._fetch, fetcher)
        finally:
            for stream in streams.values():
                stream.close()

    def _fetch(self, lane: HostPartitionFetcher, shard: ShardToFetch) -> UnitOutput:
        started = time.time()
        pairs = pa.concat_tables([self._pairs(path) for path in shard.pairs])
        if shard.again is not None:
            pairs = pairs.filter(pc.is_in(pairs["uid"], pa.array(list(shard.again), pa.string())))
            pairs = pairs.filter(pc.equal(pairs["problem"], "")).sort_by("uid")
        fresh = pc.equal(pairs["problem"], "")
        rows = pairs.filter(fresh).to_pylist()
        if shard.again is not None:
            rows = [row | {"attempts": shard.again[row["uid"]]} for row in rows]
        path = f"{self.folder}/{shard.number:08d}.tar"
        # named by a digest of its content: attempts with equal results share a file, others never collide
        with self.store.create(path, lambda: f"{self.folder}/{shard.number:08d}-{sha256[:12]}.tar") as stream:
            writer = ShardWriter(stream)
            tables = lane.fetch(rows, writer)
            sha256 = writer.close()
        path = f"{self.folder}/{shard.number:08d}-{sha256[:12]}.tar"
        fetches = pa.concat_tables([unfetched_rows(pairs.filter(pc.invert(fresh)).to_pylist()), tables["fetches"]])
        samples = _with_shard(tables["samples"], path)
        if fault := count_mismatch(pairs, fetches, samples):
            raise StageFailed(f"{path}: the counts do not add up: {fault}")
        facts = {"shard": path, "sha256": sha256, "bytes": writer.bytes, "pairs": samples.num_rows}
        facts |= {"lane": shard.lane, "rows": list(shard.pairs), "published": pairs.num_rows}
        facts |= {"started": round(started, 3), "seconds": round(time.time() - started, 3)}
        verdicts = Counter(samples["verdict"].to_pylist())
        return UnitOutput({self.job: {"fetches": fetches, "samples": samples}}, facts | {"verdicts": dict(verdicts)})

    def _pairs(self, path: str) -> pa.Table:
        with self.store.arrow(path) as stream:
            return pq.read_table(stream)


def _with_shard(samples: pa.Table, shard: str) -> pa.Table:
    column = pa.array([shard] * samples.num_rows, pa.string())
    return samples.set_column(samples.schema.get_field_index("shard"), "shard", column)


def fetch_rules(given: IngestConfig, hosts: Mapping[str, str], tasks: int) -> PartitionRules:
    """Return a task's rules from the experiment file and the hosts that are mapped to an address.

    `tasks` sources are ingested in parallel: a host may be in each of them, so each takes its share of the limit.
    """
    limits = HostLimits(
        _host_limit(given.per_host), {name: _host_limit(limit) for name, limit in given.host_limits.items()}
    )
    web = FetchRules(
        permissions=OptOutRules(
            given.user_agent,
            frozenset(value.lower() for value in given.refuse),
            given.tdm_reservation,
            tuple(value.lower() for value in given.content_usage),
        ),
        timeout=given.timeout,
        attempts=given.attempts,
        max_bytes=given.max_bytes,
        max_redirects=given.max_redirects,
        concurrency=given.concurrency,
        back_off=given.back_off,
        addresses=AddressRules({**given.hosts, **hosts}, given.allow),
        limits=limits.shared(tasks),
        robots_txt=given.robots_txt,
        max_wait=given.max_wait,
        max_in_flight=given.max_in_flight,
    )
    resize = given.resize
    image = ImageRules(resize.mode, resize.size, resize.quality, resize.min_side, given.max_pixels)
    return PartitionRules(web, image, given.shard_seconds)


def _host_limit(setting: HostLimitConfig) -> HostLimit:
    return HostLimit(setting.at_once, setting.per_second)


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Ingest sources, `CONCURRENT_SOURCES` at a time; all that are new are read and counted before any is written."""
    sources = {job.id: read_published(run, job) for job in jobs if not job.config.get("retry")}
    for job in jobs:
        if job.id in sources and (summary := sources[job.id].summary):
            run.display.say(f"  {job.name}: {summary}")
    tombstones = read_tombstones(run.ledger)
    side_by_side = min(CONCURRENT_SOURCES, len(jobs))
    with serve(run.experiment.file.web) as hosts, ThreadPoolExecutor(side_by_side) as pool:
        rules = fetch_rules(run.experiment.file.ingest, hosts, side_by_side)
        futures = []
        for job in jobs:
            if job.id in sources:
                futures.append(pool.submit(_ingest, run, job, sources[job.id], rules, tombstones))
            else:
                futures.append(pool.submit(_retry, run, job, rules, tombstones))
        for future in futures:
            future.result()


def _ingest(run: Run, job: Job, source: PublishedRows, rules: PartitionRules, tombstones: Tombstones) -> None:
    started = datetime.now(UTC)
    records = _pair_records(run, job)
    try:
        if sum(record.files[job.id][0].rows for record in records) != source.rows:
            write_pairs(run, job, source, tombstones)
            records = _pair_records(run, job)
    finally:
        source.close()
    is_unlimited = _unlimited_test(rules.web.limits)
    shards = []
    for record in records:
        number = int(record.unit.removeprefix("pairs-"))
        # a partition of its own where none of its hosts has a limit that would have to hold across tasks
        partition = -1 - number if is_unlimited(record.facts["hosts"]) else record.facts["lane"]
        shards.append(ShardToFetch(number, (f"tables/pairs/{record.files[job.id][0].path}",), partition))
    fetched = _fetch(run, job, shards, rules, tombstones)
    partition_of = {int(record.unit.removeprefix("pairs-")): record.facts["lane"] for record in records}
    _finish(run, job, started, records, fetched, source.rows, partition_of)


def _unlimited_test(limits: HostLimits) -> Any:
    def free(hosts: Sequence[str]) -> bool:
        if len(hosts) > MAX_NAMED_HOSTS:
            return not limits.default.limited and not any(limit.limited for limit in limits.named.values())
        return not any(limits.of(host).limited for host in hosts)

    return free


def _fetch(
    run: Run, job: Job, shards: Sequence[ShardToFetch], rules: PartitionRules, tombstones: Tombstones
) -> dict[str, UnitRecord]:
    lanes: dict[int, list[Unit]] = {}
    for shard in shards:
        lanes.setdefault(shard.lane, []).append((f"fetch-{shard.number:08d}", shard))
    ordered = sorted(lanes.values(), key=len, reverse=True)  # the longest first, as it bounds the total time
    folder = f"shards/{job.config['source']}/{job.short}"
    names = {name: path for path, name in job.local["paths"].items()}
    fetching = FetchWork(run.store, job.id, folder, rules, names, tombstones)
    task = run.task(f"fetching {job.name}", "shards")
    return run_partitions(run.spark, run.store, job.id, ordered, fetching.open, task, alone=True)


def _finish(
    run: Run,
    job: Job,
    started: datetime,
    pairs: Sequence[UnitRecord],
    fetched: Mapping[str, UnitRecord],
    published: int,
    lane_of: Mapping[int, int],
) -> None:
    """Add up the shards' results and commit; raise StageFailed where a published row has no outcome."""
    files = [file for record in (*pairs, *fetched.values()) for file in record.files[job.id]]
    shards = []
    for name, record in fetched.items():
        shards.append(record.facts | {"lane": lane_of[int(name.removeprefix("fetch-"))]})
    if (accounted := sum(shard["published"] for shard in shards)) != published:
        message = f"expected an outcome for {published} rows, found {accounted}"
        raise StageFailed(f"ingest of {job.name}: the counts do not add up: {message}")
    verdicts = sum((Counter(shard.pop("verdicts")) for shard in shards), Counter())
    verdicts.pop("", None)
    run.finish([(job, files, {"shards": shards, "verdicts": dict(verdicts)})], started, [job.id])


def _pair_records(run: Run, job: Job) -> list[UnitRecord]:
    finished = finished_units(run.store, job.id).items()
    return [record for name, record in sorted(finished) if name.startswith("pairs-")]


def _retry(run: Run, job: Job, rules: PartitionRules, tombstones: Tombstones) -> None:
    """Fetch again what failed for transient reasons: a host partition's rows together, in new shards."""
    started = datetime.now(UTC)
    failed = transient_failures(run.ledger, [needed.id for needed in job.needs])
    shards = retry_shards(run, job, failed)
    fetched = _fetch(run, job, shards, rules, tombstones)
    _finish(run, job, started, [], fetched, len(failed), {shard.number: shard.lane for shard in shards})


def retry_shards(run: Run, job: Job, failed: Mapping[str, int]) -> list[ShardToFetch]:
    """Return the shards of a retry: the rows of each host partition that `failed` maps to their number of attempts."""
    base = run.ledger.finished(job.needs[0].id)
    assert base is not None
    by_lane: dict[int, tuple[list[str], dict[str, int]]] = {}
    for fetched in base.facts["shards"]:
        paths, again = by_lane.setdefault(fetched["lane"], ([], {}))
        for path in fetched["rows"]:
            with run.store.arrow(path) as stream:
                uids = pq.read_table(stream, columns=["uid"])["uid"].to_pylist()
            if failed_rows := {uid: failed[uid] for uid in uids if uid in failed}:
                paths.append(path)
                again |= failed_rows
    size = run.experiment.file.ingest.pairs_per_shard
    shards: list[ShardToFetch] = []
    for lane, (paths, again) in sorted(by_lane.items()):
        ordered = sorted(again.items())
        for start in range(0, len(ordered), size):
            shards.append(ShardToFetch(len(shards), tuple(paths), lane, dict(ordered[start : start + size])))
    return shards
