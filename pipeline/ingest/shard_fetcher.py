"""From a shard's published rows to its tar: fetch within the rate limits, check, resize, write in uid order.

A `HostPartitionFetcher` fetches a task's shards one after another with one event loop and one client, so that a host's
state (its rate limit, its pauses, its robots.txt, its open connections) lasts from shard to shard. Responses come in
any order; bodies become pairs that are spooled, and the tar is written from the spool in the rows' order.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pyarrow as pa

from pipeline.fetch.byte_budget import BudgetClaim
from pipeline.fetch.client import FetchRules, HttpClient
from pipeline.fetch.urls import host_of
from pipeline.images.normalize import ImageRules, load_resizer
from pipeline.ingest.shard_builder import PairRow, ShardBuilder
from pipeline.ingest.tombstones import NO_TOMBSTONES, Tombstones
from pipeline.ledger.schemas import TABLES
from pipeline.outcomes import STORED, Attempt
from pipeline.shards.tar_format import ShardWriter

ReadLocalBytes = Callable[[str, int, int], bytes]
"""(published file, offset, size) to the bytes there: reads the images that are part of a source's files."""


KEEP_ALIVE_ROWS = 32
"""A host with more rows than this in a shard keeps its connections: the partition's next shard will need them."""


@dataclass(frozen=True)
class PartitionRules:
    """Settings of the fetches: the web's rules, what is stored of an image, and the seconds that a shard may take.

    The time that the hosts' rate limits need is added to `shard_seconds`.
    """

    web: FetchRules
    image: ImageRules
    shard_seconds: float


class HostPartitionFetcher:
    """Fetches shard after shard; a context manager. `local` reads the images that are part of a source's files.

    An image that matches one of the `tombstones` is not stored; rows that they name must not be passed.
    """

    def __init__(
        self, rules: PartitionRules, local: ReadLocalBytes | None = None, tombstones: Tombstones = NO_TOMBSTONES
    ) -> None:
        self._rules = rules
        self._local = local
        self._tombstones = tombstones
        self._runner = asyncio.Runner()
        self._client: HttpClient

    def __enter__(self) -> "HostPartitionFetcher":
        async def open_client() -> HttpClient:
            # host names are resolved in these threads: a few dead name servers would block asyncio's few
            resolver_threads = ThreadPoolExecutor(self._rules.web.concurrency, "names")
            asyncio.get_running_loop().set_default_executor(resolver_threads)
            return HttpClient(self._rules.web, forbidden=lambda url: self._tombstones.names("", url))

        load_resizer(self._rules.image)
        self._client = self._runner.run(open_client())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.close()

    def fetch(self, rows: Sequence[PairRow], writer: ShardWriter) -> dict[str, pa.Table]:
        """Fetch one shard's rows into `writer` in their order; return its rows of `fetches` and `samples`.

        `rows` have uid, source, record_id, url and caption, and may have `hashes` and `faces` (JSON), `place` and
        `file` (bytes in a file of the source), and `attempts` (how many were made before). Every row gets at least
        one attempt, whatever happens to it. The tar has no name yet: `samples.shard` is "".
        """
        shard = ShardBuilder(rows, self._rules.image, self._client.budget.return_from_thread, self._tombstones)
        try:
            self._runner.run(self._fill(shard))
            shard.decoded()
            return shard.write(writer)
        finally:
            shard.close()

    async def _fill(self, shard: ShardBuilder) -> None:
        by_host: dict[str, deque[int]] = {}
        for index, row in enumerate(shard.rows):
            if row.get("place"):
                await self._from_file(shard, index, row)
            else:
                by_host.setdefault(host_of(row["url"]), deque()).append(index)
        deadline = time.monotonic() + self._rules.shard_seconds + self._rate_limit_seconds(by_host)
        hosts = deque(sorted(by_host, key=lambda host: (-len(by_host[host]), host)))  # the most rows first

        async def serve() -> None:
            while hosts:
                host = hosts.popleft()
                await self._serve(shard, by_host[host], deadline)

        await _gather([serve() for _ in range(min(len(hosts), self._rules.web.concurrency))])

    async def _serve(self, shard: ShardBuilder, queue: deque[int], deadline: float) -> None:
        """Fetch one host's rows, as many concurrently as its limit allows."""
        keep_connections = len(queue) > KEEP_ALIVE_ROWS
        workers = min(len(queue), self._client.host(shard.rows[queue[0]]["url"]).workers, self._rules.web.concurrency)

        async def work() -> None:
            while queue:
                index = queue.popleft()
                last = not keep_connections and len(queue) < workers  # no row is left for this worker's connection
                shard.answered(index, await self._client.fetch(shard.rows[index]["url"], deadline, last))

        await _gather([work() for _ in range(workers)])

    async def _from_file(self, shard: ShardBuilder, index: int, row: PairRow) -> None:
        offset, size = map(int, row["place"].split(":"))
        limit = self._rules.web.max_bytes
        if size > limit:
            shard.answered(index, [Attempt("body_too_large", 0, f"{size} bytes, expected at most {limit}")])
            return
        assert self._local is not None
        claim, body = BudgetClaim(self._client.budget), b""
        await claim.hold(size)
        try:
            body = await asyncio.to_thread(self._local, row["file"], offset, size)
        finally:
            claim.settle(len(body))
        shard.answered(index, [Attempt(STORED, 0, f"{row['file']} at byte {offset}", body)])

    def _rate_limit_seconds(self, by_host: dict[str, deque[int]]) -> float:
        """Return the seconds that the rate limit of the slowest host needs for its rows."""
        rates = ((len(queue), self._rules.web.limits.of(host).per_second) for host, queue in by_host.items())
        return max((count / rate for count, rate in rates if rate), default=0.0)


async def _gather(jobs: Iterable[Any]) -> None:
    """Await all; an error in one cancels the others and is raised unchanged."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what they hold is released before the shard ends


def unfetched_rows(rows: Iterable[PairRow]) -> pa.Table:
    """Return the rows of `fetches` of published rows that are no pairs: attempt 0, with the problem as the outcome."""
    attempts = [
        {
            "uid": row["uid"],
            "source": row["source"],
            "attempt": 0,
            "final": True,
            "outcome": row["problem"],
            "status": 0,
            "detail": row["detail"],
            "bytes": 0,
            "seconds": 0.0,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(attempts, TABLES["fetches"])


def count_mismatch(pairs: pa.Table, fetches: pa.Table, samples: pa.Table) -> str:
    """Return how a shard's counts do not add up, or "": each published row has one outcome, each stored one a place.

    Compared as multisets of uids, since a uid that was published twice has two rows and two outcomes.
    """
    final = fetches.filter(fetches["final"])
    published, finished = Counter(pairs["uid"].to_pylist()), Counter(final["uid"].to_pylist())
    if published != finished:
        return f"{published.total()} published rows, {finished.total()} have an outcome, not all the same"
    outcomes = zip(final["uid"].to_pylist(), final["outcome"].to_pylist(), strict=True)
    stored, in_shard = (
        Counter(uid for uid, outcome in outcomes if outcome == STORED),
        Counter(samples["uid"].to_pylist()),
    )
    if stored != in_shard:
        return f"{stored.total()} pairs were stored, {in_shard.total()} lie in the shard, not all the same"
    return ""
