"""Builds a shard: response bodies become pairs, which are spooled until the tar is written.

A small image is decoded at once, in the thread that received it: to hand it to another thread would cost about a fifth
of the decoding time. All others are decoded in a separate thread, so that fetching never waits for them.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from typing import IO, Any

import pyarrow as pa
from PIL import Image

from pipeline.images.normalize import ImageRules, RefusedImage, StoredImage, open_image, store_image
from pipeline.ingest.hash_check import compare_hashes
from pipeline.ingest.tombstones import Tombstones
from pipeline.ledger.schemas import TABLES
from pipeline.outcomes import STORED, TAKEN_DOWN, Attempt
from pipeline.shards.tar_format import ShardWriter, pair_bytes

SPOOL_BYTES = 64 << 20
"""Bytes of a shard's pairs that are held in memory before they are spooled to a temporary file."""


SMALL_BYTES, SMALL_PIXELS = 1 << 16, 1 << 18
"""Bytes and pixels up to which an image is decoded at once: that takes some milliseconds, whatever its content."""


PairRow = dict[str, Any]


OpenedImage = Image.Image | RefusedImage


class ShardBuilder:
    """Builds a shard. `answered` is called in the event loop's thread, `_decode` runs in its own thread; a lock guards
    what both write.
    """

    def __init__(
        self, rows: Sequence[PairRow], image: ImageRules, give: Callable[[int], None], tombstones: Tombstones
    ) -> None:
        self.rows, self._image, self._release_bytes, self._tombstones = rows, image, give, tombstones
        self._attempts: list[list[Attempt]] = [[] for _ in rows]
        self._sizes: dict[int, int] = {}
        self._refused: dict[int, RefusedImage] = {}
        self._samples: dict[int, tuple[PairRow, int, int]] = {}
        self._queue: SimpleQueue[tuple[int, bytes, OpenedImage | None] | None] = SimpleQueue()
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - closed by `close`
        self._end = 0
        self._lock = Lock()
        self._failure: Exception | None = None
        self._thread = ThreadPoolExecutor(1)
        self._decoding: Future[None] = self._thread.submit(self._decode)

    def answered(self, index: int, attempts: list[Attempt]) -> None:
        """Take a row's attempts; the body of the last one is decoded.

        Raises what the decoding of an earlier body raised.
        """
        last = attempts[-1]
        self._sizes[index] = len(last.body)
        if last.outcome == STORED:
            attempts[-1] = Attempt(STORED, last.status, last.detail, seconds=last.seconds)
            self._accept_body(index, last.body)
        self._attempts[index] = attempts
        if self._failure is not None:
            raise self._failure

    def _accept_body(self, index: int, body: bytes) -> None:
        image = open_image(body) if len(body) <= SMALL_BYTES else None
        if image is None or (isinstance(image, Image.Image) and image.width * image.height > SMALL_PIXELS):
            self._queue.put((index, body, image))
            return
        try:
            self._store(index, body, image)
        finally:
            self._release_bytes(len(body))

    def decoded(self) -> None:
        """Wait until every body is decoded."""
        self._queue.put(None)
        self._decoding.result()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the thread and remove the spool."""
        self._queue.put(None)
        self._thread.shutdown()
        self._spool.close()

    def _decode(self) -> None:
        while (item := self._queue.get()) is not None:
            index, body, image = item
            try:
                if self._failure is None:
                    self._store(index, body, image or open_image(body))
            except Exception as error:  # noqa: BLE001 - raised by `answered`; fetches that wait for memory must not hang
                self._failure = error
            finally:
                self._release_bytes(len(body))

    def _store(self, index: int, body: bytes, image: OpenedImage) -> None:
        row = self.rows[index]
        faces = json.loads(row["faces"]) if row.get("faces") else ()
        stored = store_image(image, body, self._image, faces)
        if isinstance(stored, StoredImage) and self._tombstones and self._is_taken_down(body, stored):
            stored = RefusedImage(TAKEN_DOWN, "")
        if isinstance(stored, RefusedImage):
            self._refused[index] = stored
            return
        sample, members = _pair(row, body, stored)
        with self._lock:
            self._spool.write(members)
            self._samples[index] = (sample, self._end, len(members))
            self._end += len(members)

    def _is_taken_down(self, body: bytes, stored: StoredImage) -> bool:
        return self._tombstones.refuses_bytes(body, stored.jpg) or self._tombstones.is_near_removed(stored)

    def write(self, writer: ShardWriter) -> dict[str, pa.Table]:
        """Write the pairs in the rows' order; return the shard's rows of `fetches` and `samples`."""
        samples = []
        for index in sorted(self._samples):
            sample, position, size = self._samples[index]
            self._spool.seek(position)
            samples.append(sample | {"offset": writer.append(self._spool.read(size)), "size": size})
        return {
            "fetches": self._fetches(),
            "samples": pa.Table.from_pylist(samples, TABLES["samples"]),
        }

    def _fetches(self) -> pa.Table:
        columns: dict[str, list[Any]] = {name: [] for name in TABLES["fetches"].names}
        for index, (row, attempts) in enumerate(zip(self.rows, self._attempts, strict=True)):
            previous = row.get("attempts", 0)
            for number, attempt in enumerate(attempts, start=1):
                final = number == len(attempts)
                refused = self._refused.get(index) if final else None
                values = (
                    row["uid"],
                    row["source"],
                    previous + number,
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


def _pair(row: PairRow, body: bytes, stored: StoredImage) -> tuple[PairRow, bytes]:
    """Return a pair's row of `samples`, without its shard and place, and its members as written to the tar."""
    raw = hashlib.sha256(body).hexdigest()
    hashes = json.loads(row["hashes"]) if row.get("hashes") else {}
    if row.get("place"):  # a downloader may have re-encoded it: only its PDQ can be compared
        hashes = {name: value for name, value in hashes.items() if name == "pdq"}
    comparison = compare_hashes(hashes, body, stored, raw)
    sizes = {
        "width": stored.width,
        "height": stored.height,
        "original_width": stored.original_width,
        "original_height": stored.original_height,
    }
    meta = {key: row[key] for key in ("uid", "source", "record_id", "url", "caption")} | {"sha256": raw} | sizes
    if stored.blurred:
        meta["blurred_faces"] = stored.blurred
    if comparison.verdict:
        meta["verdict"] = comparison.verdict
    bits, quality = stored.computed_fingerprint
    sample = {
        "uid": row["uid"],
        "source": row["source"],
        "shard": "",
        "jpg_bytes": len(stored.jpg),
        "jpg_sha256": raw if stored.jpg is body else hashlib.sha256(stored.jpg).hexdigest(),
        "raw_bytes": len(body),
        "raw_sha256": raw,
        **sizes,
        "format": stored.format,
        "frames": stored.frames,
        "blurred_faces": stored.blurred,
        "verdict": comparison.verdict,
        "verdict_detail": comparison.detail,
        "pdq": bits,
        "pdq_quality": quality,
    }
    return sample, pair_bytes(row["uid"], stored.jpg, row["caption"], meta)
