"""From a shard's published rows to its tar: fetch, check, resize by img2dataset's Resizer, write in uid order."""

import asyncio
import hashlib
import io
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.schemas import TABLES
from pipeline.shards import ShardWriter, pair_bytes
from pipeline.web import STORED, Attempt, WebRules, fetch, session


@dataclass(frozen=True)
class ImageRules:
    """What is stored: `mode` and `size` are img2dataset's resize modes and pixels, `quality` is JPEG's (1 to 100)."""

    mode: str
    size: int
    quality: int
    min_side: int
    max_pixels: int


@dataclass(frozen=True)
class Picture:
    """An image as stored (JPEG bytes) with its size and the original's, in pixels."""

    jpg: bytes
    width: int
    height: int
    original_width: int
    original_height: int


@cache
def _resizer(rules: ImageRules) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks the network for a newer version
    from img2dataset.resizer import Resizer

    return Resizer(
        image_size=rules.size,
        resize_mode=rules.mode,
        resize_only_if_bigger=True,
        encode_quality=rules.quality,
        encode_format="jpg",
        min_image_size=rules.min_side,
    )


def _cut(body: bytes) -> bool:
    """Tell whether a JPEG's last scan has no end: decoders fill such an image with grey and say nothing.

    In scan data 0xFF is always stuffed, so the last start of scan (FFDA) must come before the last end of image (FFD9).
    """
    return body.startswith(b"\xff\xd8") and body.rfind(b"\xff\xd9") < body.rfind(b"\xff\xda")


_EIGHT_BIT = frozenset({"JPEG", "MPO", "WEBP", "GIF", "BMP"})
"""Formats, by Pillow's name, whose samples are never deeper than 8 bits."""


def _eight_bit(body: bytes, kind: str) -> bytes:
    """Return `body`, or a PNG of it with 8 bits a sample: the Resizer's encoder turns what is deeper to white."""
    if kind in _EIGHT_BIT or (kind == "PNG" and body[24:25] != b"\x10"):  # a PNG's depth is the header's 9th byte
        return body
    data = np.frombuffer(body, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype == np.uint8:
            return body
        # a PNG's range is all of 16 bits; of other formats OpenCV alone knows it, and says so only without alpha
        image = (image >> 8).astype(np.uint8) if kind == "PNG" else cv2.imdecode(data, cv2.IMREAD_ANYCOLOR)
        return bytes(cv2.imencode(".png", image)[1])
    except cv2.error:
        return body


def to_picture(body: bytes, rules: ImageRules) -> Picture | Attempt:
    """Return the image to store, or the outcome where the body is none; pixels are checked by header first."""
    try:
        with Image.open(io.BytesIO(body)) as header:
            (width, height), kind = header.size, header.format or ""
    except Exception as error:  # noqa: BLE001 - Pillow's parsers raise anything, and one image must not end a shard
        outcome = "too_many_pixels" if isinstance(error, Image.DecompressionBombError) else "not_an_image"
        return Attempt(outcome, 200, str(error)[:200] if outcome == "too_many_pixels" else type(error).__name__)
    if width * height > rules.max_pixels:
        return Attempt("too_many_pixels", 200, f"{width} x {height}, expected at most {rules.max_pixels} pixels")
    if _cut(body):
        return Attempt("truncated_image", 200, f"{len(body)} bytes without an end of image")
    jpg, new_width, new_height, old_width, old_height, fault = _resizer(rules)(io.BytesIO(_eight_bit(body, kind)))
    if fault is not None:
        outcome = "image_too_small" if fault == "image too small" else "undecodable_image"
        return Attempt(outcome, 200, str(fault)[:200])
    return Picture(jpg, new_width, new_height, old_width, old_height)


@dataclass
class _Columns:
    """Rows of the two tables that a shard's fetching fills."""

    fetches: list[dict[str, Any]]
    samples: list[dict[str, Any]]

    def attempts(self, row: dict[str, Any], attempts: Sequence[Attempt]) -> None:
        """Add a pair's attempts; the last one is final."""
        for number, attempt in enumerate(attempts, start=1):
            self.fetches.append(
                {
                    "uid": row["uid"],
                    "source": row["source"],
                    "attempt": number,
                    "final": number == len(attempts),
                    "outcome": attempt.outcome,
                    "status": attempt.status,
                    "detail": attempt.detail,
                    "bytes": len(attempt.body),
                    "seconds": attempt.seconds,
                }
            )


def _store(row: dict[str, Any], body: bytes, picture: Picture, writer: ShardWriter, shard: str) -> dict[str, Any]:
    """Append one pair to the tar; return its row of `samples`."""
    sizes = {
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
    }
    raw = hashlib.sha256(body).hexdigest()
    meta = {key: row[key] for key in ("uid", "source", "record_id", "url", "caption")} | {"sha256": raw} | sizes
    members = pair_bytes(row["uid"], picture.jpg, row["caption"], meta)
    return {
        "uid": row["uid"],
        "source": row["source"],
        "shard": shard,
        "offset": writer.append(members),
        "size": len(members),
        "jpg_bytes": len(picture.jpg),
        "jpg_sha256": hashlib.sha256(picture.jpg).hexdigest(),
        "raw_bytes": len(body),
        "raw_sha256": raw,
        **sizes,
    }


async def _in_order(
    client: aiohttp.ClientSession, rules: WebRules, rows: Iterator[dict[str, Any]]
) -> AsyncIterator[tuple[dict[str, Any], list[Attempt]]]:
    """Yield rows with their attempts in the rows' order, at most `concurrency` in flight and as many waiting."""
    gate = asyncio.Semaphore(rules.concurrency)  # not the connector's limit: aiohttp's clock runs while one waits there

    async def attempts(url: str) -> list[Attempt]:
        async with gate:
            return await fetch(client, rules, url)

    waiting: deque[tuple[dict[str, Any], asyncio.Task[list[Attempt]]]] = deque()
    try:
        for row in rows:
            waiting.append((row, asyncio.create_task(attempts(row["url"]))))
            if len(waiting) >= 2 * rules.concurrency:
                first, task = waiting.popleft()
                yield first, await task
        while waiting:
            first, task = waiting.popleft()
            yield first, await task
    finally:
        for _, task in waiting:
            task.cancel()


async def _fill(
    rows: Sequence[dict[str, Any]], web: WebRules, image: ImageRules, writer: ShardWriter, shard: str
) -> _Columns:
    columns = _Columns([], [])
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as decoder:  # one: img2dataset's Resizer redirects the process's output while it works
        async with session(web) as client:
            async for row, attempts in _in_order(client, web, iter(rows)):
                last = attempts[-1]
                if last.outcome == STORED:
                    picture = await loop.run_in_executor(decoder, to_picture, last.body, image)
                    if isinstance(picture, Attempt):
                        attempts[-1] = Attempt(picture.outcome, 200, picture.detail, last.body, last.seconds)
                    else:
                        columns.samples.append(_store(row, last.body, picture, writer, shard))
                columns.attempts(row, attempts)
    return columns


def fetch_shard(
    rows: Sequence[dict[str, Any]], web: WebRules, image: ImageRules, writer: ShardWriter, shard: str
) -> dict[str, pa.Table]:
    """Fetch one shard's rows into `writer` in their order; return its rows of `fetches` and `samples`.

    `rows` have uid, source, record_id, url and caption. Every row gets at least one attempt, whatever happens to it.
    """
    columns = asyncio.run(_fill(rows, web, image, writer, shard))
    return {
        "fetches": pa.Table.from_pylist(columns.fetches, TABLES["fetches"]),
        "samples": pa.Table.from_pylist(columns.samples, TABLES["samples"]),
    }
