"""From a shard's published rows to its tar: fetch politely, check, resize, write in uid order.

A `Lane` is one task's way through its shards: one event loop and one client, so that what it learns of a host (its
turns, its pauses, its robots.txt, its open connections) lasts from shard to shard. Answers come in any order; bodies
become pairs that are laid in a spool, from which the tar is written in the rows' order.
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

from pipeline.fetch.byte_budget import Claim
from pipeline.fetch.client import Client, WebRules
from pipeline.fetch.urls import host_of
from pipeline.images.normalize import ImageRules, ready
from pipeline.ingest.shard_builder import FilledShard, Row
from pipeline.ingest.tombstones import NONE, Tombstones
from pipeline.ledger.schemas import TABLES
from pipeline.outcomes import STORED, Attempt
from pipeline.shards.tar_format import ShardWriter

LocalBytes = Callable[[str, int, int], bytes]
"""(published file, offset, size) to the bytes there: how images are had that a source brings along."""


MANY = 32
"""Rows of one host in a shard from which on its connections are kept: the lane's next shard will have some too."""


@dataclass(frozen=True)
class LaneRules:
    """How a lane works: the web's rules, what is stored of an image, and the seconds that a shard may take.

    What the hosts' own limits ask for comes on top of `shard_seconds`.
    """

    web: WebRules
    image: ImageRules
    shard_seconds: float


class Lane:
    """Fetches shard after shard; a context manager. `local` reads the images that a source brings along.

    An image that one of the `tombstones` stands for is not stored; rows that they name must not be given.
    """

    def __init__(self, rules: LaneRules, local: LocalBytes | None = None, tombstones: Tombstones = NONE) -> None:
        self._rules = rules
        self._local = local
        self._tombstones = tombstones
        self._runner = asyncio.Runner()
        self._client: Client

    def __enter__(self) -> "Lane":
        async def opened() -> Client:
            # names are resolved in its threads, and asyncio's few would be held up by a few dead name servers
            names = ThreadPoolExecutor(self._rules.web.concurrency, "names")
            asyncio.get_running_loop().set_default_executor(names)
            return Client(self._rules.web, forbidden=lambda url: self._tombstones.names("", url))

        ready(self._rules.image)
        self._client = self._runner.run(opened())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.close()

    def fetch(self, rows: Sequence[Row], writer: ShardWriter) -> dict[str, pa.Table]:
        """Fetch one shard's rows into `writer` in their order; return its rows of `fetches` and `samples`.

        `rows` have uid, source, record_id, url and caption, and may have `hashes` and `faces` (JSON), `place` and
        `file` (bytes that the source brings along), and `attempts` (how many were made before). Every row gets at
        least one attempt, whatever happens to it. The tar has no name yet: `samples.shard` is "".
        """
        made = FilledShard(rows, self._rules.image, self._client.budget.give_from_thread, self._tombstones)
        try:
            self._runner.run(self._fill(made))
            made.decoded()
            return made.write(writer)
        finally:
            made.close()

    async def _fill(self, shard: FilledShard) -> None:
        by_host: dict[str, deque[int]] = {}
        for index, row in enumerate(shard.rows):
            if row.get("place"):
                await self._from_file(shard, index, row)
            else:
                by_host.setdefault(host_of(row["url"]), deque()).append(index)
        deadline = time.monotonic() + self._rules.shard_seconds + self._polite_seconds(by_host)
        hosts = deque(sorted(by_host, key=lambda host: (-len(by_host[host]), host)))  # the longest first

        async def serve() -> None:
            while hosts:
                host = hosts.popleft()
                await self._serve(shard, by_host[host], deadline)

        await _together([serve() for _ in range(min(len(hosts), self._rules.web.concurrency))])

    async def _serve(self, shard: FilledShard, queue: deque[int], deadline: float) -> None:
        """Fetch one host's rows, as many at once as its limit allows."""
        many = len(queue) > MANY
        workers = min(len(queue), self._client.host(shard.rows[queue[0]]["url"]).workers, self._rules.web.concurrency)

        async def work() -> None:
            while queue:
                index = queue.popleft()
                last = not many and len(queue) < workers  # no row is left for this worker's connection
                shard.answered(index, await self._client.fetch(shard.rows[index]["url"], deadline, last))

        await _together([work() for _ in range(workers)])

    async def _from_file(self, shard: FilledShard, index: int, row: Row) -> None:
        offset, size = map(int, row["place"].split(":"))
        limit = self._rules.web.max_bytes
        if size > limit:
            shard.answered(index, [Attempt("body_too_large", 0, f"{size} bytes, expected at most {limit}")])
            return
        assert self._local is not None
        claim, body = Claim(self._client.budget), b""
        await claim.hold(size)
        try:
            body = await asyncio.to_thread(self._local, row["file"], offset, size)
        finally:
            claim.settle(len(body))
        shard.answered(index, [Attempt(STORED, 0, f"{row['file']} at byte {offset}", body)])

    def _polite_seconds(self, by_host: dict[str, deque[int]]) -> float:
        """Return the seconds that the hosts' own limits ask for, the slowest host's."""
        rates = ((len(queue), self._rules.web.limits.of(host).per_second) for host, queue in by_host.items())
        return max((count / rate for count, rate in rates if rate), default=0.0)


async def _together(jobs: Iterable[Any]) -> None:
    """Await all; an error of one ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what they hold is given back before a shard ends


def without_fetch(rows: Iterable[Row]) -> pa.Table:
    """Return the rows of `fetches` of published rows that are no pair: attempt 0, and the problem as the outcome."""
    made = [
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
    return pa.Table.from_pylist(made, TABLES["fetches"])


def unaccounted(pairs: pa.Table, fetches: pa.Table, samples: pa.Table) -> str:
    """Return how a shard's counts fail to add up, or "": each published row has one outcome, each stored one a place.

    Compared as multisets of uids, since a uid that was published twice has two rows and two outcomes.
    """
    final = fetches.filter(fetches["final"])
    asked, answered = Counter(pairs["uid"].to_pylist()), Counter(final["uid"].to_pylist())
    if asked != answered:
        return f"{asked.total()} published rows, {answered.total()} have an outcome, not all the same"
    said = zip(final["uid"].to_pylist(), final["outcome"].to_pylist(), strict=True)
    stored, kept = Counter(uid for uid, outcome in said if outcome == STORED), Counter(samples["uid"].to_pylist())
    if stored != kept:
        return f"{stored.total()} pairs were stored, {kept.total()} lie in the shard, not all the same"
    return ""
