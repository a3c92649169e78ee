"""Ingest: published rows into `pairs`, attempts into `fetches`, images into shards and `samples`.

`jobs.ingest.read_sources` reads the files and puts each row into a shard. Here the shards are fetched: a lane of them
after one another in one task, so that a host is asked by one task alone. Each shard leaves a completion record; a run
that was killed does only what is missing. A retry is a job of its own beside the first: it tries again what failed for
reasons that pass.
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

from jobs.ingest.read_sources import FEW_HOSTS, Published, published, write_pairs
from jobs.spark.tasks import Unit, Work, run_lanes
from jobs.workflow.demo_web import served
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.config.ingest import Ingest, PerHost
from pipeline.errors import StageFailed
from pipeline.fetch.addresses import AddressRules
from pipeline.fetch.client import WebRules
from pipeline.fetch.opt_out import Permissions
from pipeline.fetch.rate_limit import HostLimit, HostLimits
from pipeline.images.normalize import ImageRules
from pipeline.ingest.shard_fetcher import Lane, LaneRules, unaccounted, without_fetch
from pipeline.ingest.tombstones import Tombstones
from pipeline.ingest.tombstones import read as read_tombstones
from pipeline.ledger.work_units import Output, Record, finished_units
from pipeline.provenance.funnel import failed_for_now
from pipeline.shards.tar_format import ShardWriter
from pipeline.storage.object_store import opened
from pipeline.storage.store import Store

AT_ONCE = 3
"""Sources that are ingested side by side, so that one's last shard does not leave cores idle."""


@dataclass(frozen=True)
class Shard:
    """A shard to fetch: its number, the files of `pairs` that its rows stand in, its lane.

    `again` maps the uids that are tried again to how often they were tried; None takes every row.
    """

    number: int
    pairs: tuple[str, ...]
    lane: int
    again: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Fetching:
    """What a task needs to fetch a job's shards; picklable. `files` leads from a published file's name to its path."""

    store: Store
    job: str
    folder: str
    rules: LaneRules
    files: Mapping[str, str]
    tombstones: Tombstones

    @contextmanager
    def open(self) -> Iterator[Work]:
        """Open a lane; yield what fetches one of its shards."""
        streams: dict[str, Any] = {}

        def local(file: str, offset: int, size: int) -> bytes:
            if file not in streams:
                streams[file] = opened(self.files[file]).open()
            streams[file].seek(offset)
            return bytes(streams[file].read(size))

        try:
            with Lane(self.rules, local, self.tombstones) as lane:
                yield partial(self._fetch, lane)
        finally:
            for stream in streams.values():
                stream.close()

    def _fetch(self, lane: Lane, shard: Shard) -> Output:
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
        # what it holds is in its name: attempts that come to the same share it, and others never meet
        with self.store.create(path, lambda: f"{self.folder}/{shard.number:08d}-{sha256[:12]}.tar") as stream:
            writer = ShardWriter(stream)
            tables = lane.fetch(rows, writer)
            sha256 = writer.close()
        path = f"{self.folder}/{shard.number:08d}-{sha256[:12]}.tar"
        fetches = pa.concat_tables([without_fetch(pairs.filter(pc.invert(fresh)).to_pylist()), tables["fetches"]])
        samples = _named(tables["samples"], path)
        if fault := unaccounted(pairs, fetches, samples):
            raise StageFailed(f"{path}: the counts do not add up: {fault}")
        facts = {"shard": path, "sha256": sha256, "bytes": writer.bytes, "pairs": samples.num_rows}
        facts |= {"lane": shard.lane, "rows": list(shard.pairs), "published": pairs.num_rows}
        facts |= {"started": round(started, 3), "seconds": round(time.time() - started, 3)}
        verdicts = Counter(samples["verdict"].to_pylist())
        return Output({self.job: {"fetches": fetches, "samples": samples}}, facts | {"verdicts": dict(verdicts)})

    def _pairs(self, path: str) -> pa.Table:
        with self.store.arrow(path) as stream:
            return pq.read_table(stream)


def _named(samples: pa.Table, shard: str) -> pa.Table:
    column = pa.array([shard] * samples.num_rows, pa.string())
    return samples.set_column(samples.schema.get_field_index("shard"), "shard", column)


def lane_rules(given: Ingest, hosts: Mapping[str, str], tasks: int) -> LaneRules:
    """Return a task's rules from the experiment file, the hosts that are mapped to an address, and how many sources
    are ingested side by side: a host may be in each of them, so each takes its share of the host's limit.
    """
    limits = HostLimits(_limit(given.per_host), {name: _limit(one) for name, one in given.host_limits.items()})
    web = WebRules(
        permissions=Permissions(
            given.user_agent,
            frozenset(word.lower() for word in given.refuse),
            given.tdm_reservation,
            tuple(word.lower() for word in given.content_usage),
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
    return LaneRules(web, image, given.shard_seconds)


def _limit(given: PerHost) -> HostLimit:
    return HostLimit(given.at_once, given.per_second)


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Ingest sources, `AT_ONCE` at a time; those that are read for the first time are counted before one is written."""
    read = {job.id: published(run, job) for job in jobs if not job.config.get("retry")}
    for job in jobs:
        if job.id in read and (summary := read[job.id].summary):
            run.display.say(f"  {job.name}: {summary}")
    tombstones = read_tombstones(run.ledger)
    side_by_side = min(AT_ONCE, len(jobs))
    with served(run.experiment.file.web) as hosts, ThreadPoolExecutor(side_by_side) as pool:
        rules = lane_rules(run.experiment.file.ingest, hosts, side_by_side)
        futures = []
        for job in jobs:
            if job.id in read:
                futures.append(pool.submit(_ingest, run, job, read[job.id], rules, tombstones))
            else:
                futures.append(pool.submit(_retry, run, job, rules, tombstones))
        for future in futures:
            future.result()


def _ingest(run: Run, job: Job, read: Published, rules: LaneRules, tombstones: Tombstones) -> None:
    started = datetime.now(UTC)
    records = _pair_records(run, job)
    if sum(record.files[job.id][0].rows for record in records) != read.rows:
        write_pairs(run, job, read, tombstones)
        records = _pair_records(run, job)
    read.close()
    free = _freely(rules.web.limits)
    shards = []
    for record in records:
        number = int(record.unit.removeprefix("pairs-"))
        # a lane of its own where no host in it has a limit that would have to be kept across tasks
        lane = -1 - number if free(record.facts["hosts"]) else record.facts["lane"]
        shards.append(Shard(number, (f"tables/pairs/{record.files[job.id][0].path}",), lane))
    fetched = _fetch(run, job, shards, rules, tombstones)
    lane_of = {int(record.unit.removeprefix("pairs-")): record.facts["lane"] for record in records}
    _finish(run, job, started, records, fetched, read.rows, lane_of)


def _freely(limits: HostLimits) -> Any:
    def free(hosts: Sequence[str]) -> bool:
        if len(hosts) > FEW_HOSTS:
            return not limits.default.limited and not any(one.limited for one in limits.named.values())
        return not any(limits.of(host).limited for host in hosts)

    return free


def _fetch(run: Run, job: Job, shards: Sequence[Shard], rules: LaneRules, tombstones: Tombstones) -> dict[str, Record]:
    lanes: dict[int, list[Unit]] = {}
    for shard in shards:
        lanes.setdefault(shard.lane, []).append((f"fetch-{shard.number:08d}", shard))
    ordered = sorted(lanes.values(), key=len, reverse=True)  # the longest first, as it bounds the whole
    folder = f"shards/{job.config['source']}/{job.short}"
    names = {name: path for path, name in job.local["paths"].items()}
    fetching = Fetching(run.store, job.id, folder, rules, names, tombstones)
    task = run.task(f"fetching {job.name}", "shards")
    return run_lanes(run.spark, run.store, job.id, ordered, fetching.open, task, alone=True)


def _finish(
    run: Run,
    job: Job,
    started: datetime,
    pairs: Sequence[Record],
    fetched: Mapping[str, Record],
    published: int,
    lane_of: Mapping[int, int],
) -> None:
    """Add up what every shard came to, and commit; raise StageFailed where a published row has no outcome."""
    files = [file for record in (*pairs, *fetched.values()) for file in record.files[job.id]]
    shards = []
    for name, record in fetched.items():
        shards.append(record.facts | {"lane": lane_of[int(name.removeprefix("fetch-"))]})
    if (found := sum(shard["published"] for shard in shards)) != published:
        said = f"{published} rows to account for, {found} have an outcome"
        raise StageFailed(f"ingest of {job.name}: the counts do not add up: {said}")
    verdicts = sum((Counter(shard.pop("verdicts")) for shard in shards), Counter())
    verdicts.pop("", None)
    run.finish([(job, files, {"shards": shards, "verdicts": dict(verdicts)})], started, [job.id])


def _pair_records(run: Run, job: Job) -> list[Record]:
    found = finished_units(run.store, job.id).items()
    return [record for name, record in sorted(found) if name.startswith("pairs-")]


def _retry(run: Run, job: Job, rules: LaneRules, tombstones: Tombstones) -> None:
    """Fetch again what failed for reasons that pass: a lane's rows together, in shards of their own."""
    started = datetime.now(UTC)
    failed = failed_for_now(run.ledger, [one.id for one in job.needs])
    shards = retried_shards(run, job, failed)
    fetched = _fetch(run, job, shards, rules, tombstones)
    _finish(run, job, started, [], fetched, len(failed), {shard.number: shard.lane for shard in shards})


def retried_shards(run: Run, job: Job, failed: Mapping[str, int]) -> list[Shard]:
    """Return the shards of a retry: of each lane the rows that `failed` names, with the attempts that were made."""
    base = run.ledger.finished(job.needs[0].id)
    assert base is not None
    by_lane: dict[int, tuple[list[str], dict[str, int]]] = {}
    for one in base.facts["shards"]:
        paths, again = by_lane.setdefault(one["lane"], ([], {}))
        for path in one["rows"]:
            with run.store.arrow(path) as stream:
                uids = pq.read_table(stream, columns=["uid"])["uid"].to_pylist()
            if mine := {uid: failed[uid] for uid in uids if uid in failed}:
                paths.append(path)
                again |= mine
    size = run.experiment.file.ingest.pairs_per_shard
    shards: list[Shard] = []
    for lane, (paths, again) in sorted(by_lane.items()):
        ordered = sorted(again.items())
        for start in range(0, len(ordered), size):
            shards.append(Shard(len(shards), tuple(paths), lane, dict(ordered[start : start + size])))
    return shards
