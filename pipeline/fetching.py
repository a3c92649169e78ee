"""From a shard's published rows to its tar: fetch politely, check, resize, write in uid order.

A `Lane` is one task's way through its shards: one event loop and one client, so that what it learns of a host (its
turns, its pauses, its robots.txt, its open connections) lasts from shard to shard. Answers come in any order; a thread
of its own turns bodies into pairs and lays them in a spool, from which the tar is written in the rows' order.
"""

import asyncio
import hashlib
import json
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any

import pyarrow as pa

from pipeline.integrity import verdict
from pipeline.outcomes import STORED, Attempt
from pipeline.pictures import ImageRules, Picture, Refused, ready, to_picture
from pipeline.politeness import host_of
from pipeline.schemas import TABLES
from pipeline.shards import ShardWriter, pair_bytes
from pipeline.web import Client, WebRules

SPOOL = 64 << 20
"""Bytes of a shard's pairs that are held in memory before they go to a temporary file."""

Row = dict[str, Any]
LocalBytes = Callable[[str, int, int], bytes]
"""(published file, offset, size) to the bytes there: how images are had that a source brings along."""


@dataclass(frozen=True)
class LaneRules:
    """How a lane works: the web's rules, what is stored of an image, and the seconds that a shard may take.

    What the hosts' own limits ask for comes on top of `shard_seconds`.
    """

    web: WebRules
    image: ImageRules
    shard_seconds: float


class _Shard:
    """A shard in the making. `answered` is called in the loop's thread, `_decode` works in a thread of its own."""

    def __init__(self, rows: Sequence[Row], image: ImageRules, give: Callable[[int], None]) -> None:
        self.rows, self._image, self._give = rows, image, give
        self._attempts: list[list[Attempt]] = [[] for _ in rows]
        self._sizes: dict[int, int] = {}
        self._refused: dict[int, Refused] = {}
        self._samples: dict[int, tuple[Row, int, int]] = {}
        self._queue: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL)  # noqa: SIM115 - closed by `close`
        self._end = 0
        self._thread = ThreadPoolExecutor(1)
        self._decoding: Future[None] = self._thread.submit(self._decode)

    def answered(self, index: int, attempts: list[Attempt]) -> None:
        """Take a row's attempts; the last one's body is decoded."""
        last = attempts[-1]
        self._sizes[index] = len(last.body)
        if last.outcome == STORED:
            attempts[-1] = Attempt(STORED, last.status, last.detail, seconds=last.seconds)
            self._queue.put((index, last.body))
        self._attempts[index] = attempts
        if self._decoding.done():
            self._decoding.result()  # it only ends by itself when it failed

    def decoded(self) -> None:
        """Wait until every body is decoded."""
        self._queue.put(None)
        self._decoding.result()

    def close(self) -> None:
        """End the thread and remove the spool."""
        self._queue.put(None)
        self._thread.shutdown()
        self._spool.close()

    def _decode(self) -> None:
        while (item := self._queue.get()) is not None:
            index, body = item
            self._keep(index, body)
            self._give(len(body))

    def _keep(self, index: int, body: bytes) -> None:
        row = self.rows[index]
        faces = json.loads(row["faces"]) if row.get("faces") else ()
        picture = to_picture(body, self._image, faces)
        if isinstance(picture, Refused):
            self._refused[index] = picture
            return
        sample, members = _pair(row, body, picture)
        self._spool.write(members)
        self._samples[index] = (sample, self._end, len(members))
        self._end += len(members)

    def write(self, writer: ShardWriter) -> dict[str, pa.Table]:
        """Write the pairs in the rows' order; return the shard's rows of `fetches` and `samples`."""
        samples = []
        for index in sorted(self._samples):
            sample, place, size = self._samples[index]
            self._spool.seek(place)
            samples.append(sample | {"offset": writer.append(self._spool.read(size)), "size": size})
        return {
            "fetches": self._fetches(),
            "samples": pa.Table.from_pylist(samples, TABLES["samples"]),
        }

    def _fetches(self) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in TABLES["fetches"].names}
        for index, (row, attempts) in enumerate(zip(self.rows, self._attempts, strict=True)):
            before = row.get("attempts", 0)
            for number, attempt in enumerate(attempts, start=1):
                final = number == len(attempts)
                refused = self._refused.get(index) if final else None
                values = (
                    row["uid"],
                    row["source"],
                    before + number,
                    final,
                    refused.outcome if refused else attempt.outcome,
                    attempt.status,
                    refused.detail if refused else attempt.detail,
                    self._sizes[index] if final else 0,
                    attempt.seconds,
                )
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        return pa.Table.from_pydict(columns, TABLES["fetches"])


def _pair(row: Row, body: bytes, picture: Picture) -> tuple[Row, bytes]:
    """Return a pair's row of `samples`, but for shard and place, and its members as they stand in the tar."""
    raw = hashlib.sha256(body).hexdigest()
    hashes = json.loads(row["hashes"]) if row.get("hashes") else {}
    if row.get("place"):  # whoever downloaded it may have re-encoded it: only its look can be compared
        hashes = {name: value for name, value in hashes.items() if name == "pdq"}
    checked = verdict(hashes, body, picture, raw)
    sizes = {
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
    }
    meta = {key: row[key] for key in ("uid", "source", "record_id", "url", "caption")} | {"sha256": raw} | sizes
    if picture.blurred:
        meta["blurred_faces"] = picture.blurred
    if checked.verdict:
        meta["verdict"] = checked.verdict
    sample = {
        "uid": row["uid"],
        "source": row["source"],
        "shard": "",
        "jpg_bytes": len(picture.jpg),
        "jpg_sha256": raw if picture.jpg is body else hashlib.sha256(picture.jpg).hexdigest(),
        "raw_bytes": len(body),
        "raw_sha256": raw,
        **sizes,
        "blurred_faces": picture.blurred,
        "verdict": checked.verdict,
        "verdict_detail": checked.detail,
    }
    return sample, pair_bytes(row["uid"], picture.jpg, row["caption"], meta)


class Lane:
    """Fetches shard after shard; a context manager. `local` reads the images that a source brings along."""

    def __init__(self, rules: LaneRules, local: LocalBytes | None = None) -> None:
        self._rules = rules
        self._local = local
        self._runner = asyncio.Runner()
        self._client: Client

    def __enter__(self) -> "Lane":
        async def opened() -> Client:
            return Client(self._rules.web)

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
        made = _Shard(rows, self._rules.image, self._client.budget.give_from_thread)
        try:
            self._runner.run(self._fill(made))
            made.decoded()
            return made.write(writer)
        finally:
            made.close()

    async def _fill(self, shard: _Shard) -> None:
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

    async def _serve(self, shard: _Shard, queue: deque[int], deadline: float) -> None:
        """Fetch one host's rows, as many at once as its limit allows."""
        alone = len(queue) == 1
        workers = min(len(queue), self._client.host(shard.rows[queue[0]]["url"]).workers, self._rules.web.concurrency)

        async def work() -> None:
            while queue:
                index = queue.popleft()
                shard.answered(index, await self._client.fetch(shard.rows[index]["url"], deadline, alone))

        await _together([work() for _ in range(workers)])

    async def _from_file(self, shard: _Shard, index: int, row: Row) -> None:
        offset, size = map(int, row["place"].split(":"))
        limit = self._rules.web.max_bytes
        if size > limit:
            shard.answered(index, [Attempt("body_too_large", 0, f"{size} bytes, expected at most {limit}")])
            return
        assert self._local is not None
        await self._client.budget.take(size)
        body = await asyncio.to_thread(self._local, row["file"], offset, size)
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
