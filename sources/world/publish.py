"""Publishes the generated web: draws all pictures, writes the site, sources' metadata, evaluation sets and truth."""

import contextlib
import json
import multiprocessing
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from sources.world.evaluation import TEMPLATES, evaluation_pictures, write_evaluation_set
from sources.world.formats import WRITERS, Sizes, write_truth
from sources.world.pictures import Alteration, Picture, alter, render_file
from sources.world.planning import PlannedRow, plan_rows, site_key
from sources.world.shapes import CLASSES

Progress = Callable[[int, int], None]


# Increase it when anything published changes: webs of another version are rebuilt.
FORMAT_VERSION = 2


_PARTS = ("published", "evaluation", "site", "site.json", "truth.parquet")


_CHUNK = 32


_TRUNCATED_SHARE = 0.3


_UNKNOWN_SIZE = (400, 300)  # the published size of an image that cannot be fetched


def pixel_bomb(side: int = 20_000) -> bytes:
    """A valid PNG of `side` x `side` px in about 50 kB: one bit a pixel, all black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(9)
    line = bytes(1 + (side + 7) // 8)
    pixels = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def is_published(folder: Path, arguments: Mapping[str, object]) -> bool:
    """Whether a finished web with exactly these arguments exists."""
    file = folder / "web.json"
    if not file.is_file():
        return False
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return bool(record == {"version": FORMAT_VERSION, "arguments": dict(arguments)})


@contextlib.contextmanager
def replace_web(folder: Path, arguments: Mapping[str, object]) -> Iterator[None]:
    """Delete an earlier web in `folder`; write `web.json` when the block has ended without an error."""
    folder.mkdir(parents=True, exist_ok=True)
    # The record is deleted first, so that a partly deleted web is never taken for a finished one.
    (folder / "web.json").unlink(missing_ok=True)
    for name in _PARTS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    yield
    record = {"version": FORMAT_VERSION, "arguments": dict(arguments)}
    (folder / "web.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_metadata(folder: Path, rows: Sequence[PlannedRow], sizes: Sizes) -> None:
    """Write `published/`, `site.json` and `truth.parquet` for rows in published order and their (width, height) in
    px.
    """
    for source in dict.fromkeys(row.source for row in rows):
        indices = [index for index, row in enumerate(rows) if row.source == source]
        (folder / "published" / source).mkdir(parents=True)
        WRITERS[source](
            folder / "published" / source, [rows[index] for index in indices], [sizes[index] for index in indices]
        )
    site = {
        "hosts": sorted({site_key(row.url).partition("/")[0] for row in rows}),
        "paths": {site_key(row.url): row.response for row in rows if row.response},
    }
    (folder / "site.json").write_text(json.dumps(site, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_truth(folder / "truth.parquet", rows)


def store_file(folder: Path, stored_at: str, content: bytes) -> None:
    """Write bytes to the site under "host/path"."""
    file = folder / "site" / stored_at
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _publish_picture(
    folder: Path, stored_at: str, picture: Picture, alteration: Alteration | None, truncated: bool
) -> tuple[int, int]:
    content, width, height = render_file(picture)
    if alteration is not None:
        content, width, height = alter(content, alteration)
    if truncated:
        content = content[: int(len(content) * _TRUNCATED_SHARE)]
    store_file(folder, stored_at, content)
    return width, height


_Task = tuple[Path, str, Picture, Alteration | None, bool]


def _publish_chunk(tasks: Sequence[_Task]) -> list[tuple[int, int]]:
    return [_publish_picture(*task) for task in tasks]


def _draw_chunk(pictures: Sequence[Picture]) -> list[bytes]:
    return [render_file(picture)[0] for picture in pictures]


@contextlib.contextmanager
def _workers(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of spawned processes, or None where one process is enough."""
    if processes <= 1:
        yield None
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


_Item = TypeVar("_Item")


_Result = TypeVar("_Result")


def _in_chunks(
    pool: ProcessPoolExecutor | None,
    work: Callable[[Sequence[_Item]], list[_Result]],
    items: Sequence[_Item],
    report: Callable[[int], None],
) -> Iterator[_Result]:
    """Results in the order of the items; `report` is called with each chunk's length when it is done."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    for results in pool.map(work, chunks) if pool else map(work, chunks):
        report(len(results))
        yield from results


def publish_world(
    folder: Path,
    *,
    seed: int,
    pairs: int,
    evaluation_images: int,
    sizes: Mapping[str, int] | None = None,
    processes: int = 2,
    on_progress: Progress | None = None,
) -> None:
    """Publish the web into `folder`: `pairs` rows for each of the six sources except those that `sizes` names, and
    `evaluation_images` for each evaluation set.

    The same arguments give the same bytes, for any number of `processes`. Does nothing if that web already exists; any
    other web in `folder` is replaced. `on_progress` is called with the number of pictures done and their total. Raises
    ValueError if the web would be too small for its plants.
    """
    sizes = dict(sizes or {})
    arguments = {"kind": "world", "seed": seed, "pairs": pairs, "sizes": sizes, "evaluation_images": evaluation_images}
    if is_published(folder, arguments):
        return
    rows = plan_rows(seed, pairs, evaluation_images, sizes)
    sets = evaluation_pictures(seed, evaluation_images)
    drawn = [index for index, row in enumerate(rows) if row.picture is not None]
    total, done = len(drawn) + sum(len(items) for items in sets.values()), 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    with replace_web(folder, arguments), _workers(processes) as pool:
        tasks: list[_Task] = []
        for index in drawn:
            row = rows[index]
            assert row.picture is not None
            tasks.append((folder, row.stored_at, row.picture, row.alteration, row.behaviour == "truncated"))
        drawn_sizes = [_UNKNOWN_SIZE] * len(rows)
        for index, size in zip(drawn, _in_chunks(pool, _publish_chunk, tasks, report), strict=True):
            drawn_sizes[index] = size
        bomb = pixel_bomb()
        for row in rows:
            if row.behaviour == "pixels":
                store_file(folder, row.stored_at, bomb)
        write_metadata(folder, rows, drawn_sizes)
        for style, items in sets.items():
            files = _in_chunks(pool, _draw_chunk, [picture for _, picture in items], report)
            images = (
                (key, picture.form, content, CLASSES.index(picture.class_name))
                for (key, picture), content in zip(items, files, strict=True)
            )
            write_evaluation_set(folder / "evaluation" / style, CLASSES, TEMPLATES[style], images)
