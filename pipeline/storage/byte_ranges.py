"""Byte ranges of shards, gathered in a requested order: local files directly, object stores by few requests.

Both work window by window of the result. In each window, the ranges are read in the order of shards and offsets. From
local files each range is read directly into its place. From an object store, ranges of a shard that are near each other
are read by one request: a request takes tens of milliseconds, in which a connection carries a megabyte or more.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.core.uid_arrays import UidKeys
from pipeline.errors import StageFailed
from pipeline.storage.object_store import error_message, io_errors
from pipeline.storage.store import Store

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ByteRanges:
    """Byte ranges of tars in the requested order: `sizes[i]` bytes of `shards[of[i]]` at `offsets[i]`.

    `keys` are the uids of the pairs whose members the ranges hold. All arrays have the length n.
    """

    shards: tuple[str, ...]
    keys: UidKeys
    of: npt.NDArray[np.int32]
    offsets: Int64Array
    sizes: Int64Array

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: npt.NDArray[np.intp]) -> "ByteRanges":
        """Return the pieces at these indices, (k,), with only the shards that they need."""
        used, of = np.unique(self.of[places], return_inverse=True)
        shards = tuple(self.shards[number] for number in used)
        return ByteRanges(shards, self.keys[places], of.astype(np.int32), self.offsets[places], self.sizes[places])


LOCAL_WINDOW_BYTES, REMOTE_WINDOW_BYTES = 1 << 20, 64 << 20
"""Bytes of a window, local and remote: what fits in a core's cache, and what makes neighbouring ranges likely."""


MAX_GAP_BYTES = 256 << 10
"""Most bytes between two ranges that are read by one request; these bytes are discarded."""


MAX_REQUEST_BYTES, MAX_CONCURRENT_BYTES = 16 << 20, 64 << 20
"""Most bytes of one request, except for a single larger range, and of all concurrent requests together."""


def short_read_error(shard: str, found: int, offset: int, size: int) -> OSError:
    """Return the error for a range that its shard does not hold."""
    return OSError(f"{shard}: {found} bytes at {offset}, the ledger says {size}")


@dataclass(frozen=True)
class RangeRequests:
    """Requests: bytes `starts[i]` to `ends[i]` of shard `of[i]` hold the ranges `first[i]` to `first[i + 1]`."""

    of: npt.NDArray[np.int32]
    starts: Int64Array
    ends: Int64Array
    first: npt.NDArray[np.intp]


def merge_ranges(
    of: npt.NDArray[np.int32],
    offsets: Int64Array,
    sizes: Int64Array,
    gap: int = MAX_GAP_BYTES,
    most: int = MAX_REQUEST_BYTES,
) -> RangeRequests:
    """Return the requests for ranges that are sorted by shard and offset and do not overlap.

    Neighbours are merged where at most `gap` bytes lie between them, until a request has `most` bytes.
    """
    ends = offsets + sizes
    is_near = np.zeros(len(of), np.bool_)
    is_near[1:] = (of[1:] == of[:-1]) & (offsets[1:] - ends[:-1] <= gap)
    bounds = [*np.flatnonzero(~is_near).tolist(), len(of)]
    first: list[int] = []
    for start, end in pairwise(bounds):
        while start < end:  # a request that is too long ends before the range that would exceed `most`
            first.append(start)
            start = max(start + 1, start + int(np.searchsorted(ends[start:end], offsets[start] + most, "right")))
    indices = np.array([*first, len(of)], np.intp)
    return RangeRequests(of[indices[:-1]], offsets[indices[:-1]], ends[indices[1:] - 1], indices)


def read_ranges(store: Store, pieces: ByteRanges, window: int = 0) -> Iterator[memoryview]:
    """Yield the pieces' bytes, concatenated, in chunks of at most `window` bytes or of one larger piece.

    The chunks use two buffers in turn: each chunk is overwritten by the next but one. Raises OSError where a shard
    does not hold a range, FileNotFoundError where it does not exist, StageFailed for an object store's errors.
    """
    if len(pieces) and (int(pieces.sizes.min()) <= 0 or int(pieces.offsets.min()) < 0):
        invalid = int(np.flatnonzero((pieces.sizes <= 0) | (pieces.offsets < 0))[0])
        raise short_read_error(
            pieces.shards[pieces.of[invalid]], 0, int(pieces.offsets[invalid]), int(pieces.sizes[invalid])
        )
    with ExitStack() as stack:
        reader = _LocalReader(store, pieces.shards, stack) if store.local else _RemoteReader(store, pieces.shards)
        window = max(window or reader.window, int(pieces.sizes.max(initial=0)))
        buffers = [memoryview(bytearray(min(window, int(pieces.sizes.sum())))) for _ in range(2)]
        ends = np.cumsum(pieces.sizes)
        start = chunk = base = 0
        while start < len(pieces):
            stop = int(np.searchsorted(ends, base + window, "right"))
            part = slice(start, stop)
            order = np.lexsort((pieces.offsets[part], pieces.of[part]))
            offsets, sizes = pieces.offsets[part][order], pieces.sizes[part][order]
            targets = ends[part][order] - sizes - base
            reader.fill(buffers[chunk % 2], targets, pieces.of[part][order], offsets, sizes)
            yield buffers[chunk % 2][: int(ends[stop - 1]) - base]
            start, base, chunk = stop, int(ends[stop - 1]), chunk + 1


class _LocalReader:
    """Reads ranges of local files, each directly into its place."""

    window = LOCAL_WINDOW_BYTES

    def __init__(self, store: Store, shards: tuple[str, ...], stack: ExitStack) -> None:
        self._shards = shards
        self._files = []
        for shard in shards:
            self._files.append(os.open(store.path(shard), os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, self._files[-1])

    def fill(
        self, buffer: memoryview, targets: Int64Array, of: npt.NDArray[np.int32], offsets: Int64Array, sizes: Int64Array
    ) -> None:
        """Read the ranges into `buffer`, each to its offset in `targets`."""
        files = self._files
        columns = (column.tolist() for column in (targets, of, offsets, sizes))
        for position, shard, offset, size in zip(*columns, strict=True):
            filled = os.preadv(files[shard], (buffer[position : position + size],), offset)
            while filled < size:  # a signal shortens a read, and so does the end of the file
                count = os.preadv(files[shard], (buffer[position + filled : position + size],), offset + filled)
                if not count:
                    raise short_read_error(self._shards[shard], filled, offset, size)
                filled += count


class _RemoteReader:
    """Reads ranges of objects, those of a shard that are near each other by one request, several requests at once."""

    window = REMOTE_WINDOW_BYTES

    def __init__(self, store: Store, shards: tuple[str, ...]) -> None:
        self._store, self._shards = store, shards

    def fill(
        self, buffer: memoryview, targets: Int64Array, of: npt.NDArray[np.int32], offsets: Int64Array, sizes: Int64Array
    ) -> None:
        """Read the ranges, sorted by shard and offset, into `buffer`, each to its offset in `targets`."""
        requests = merge_ranges(of, offsets, sizes)
        lengths = np.cumsum(requests.ends - requests.starts)
        start = 0
        while start < len(requests.of):
            before = int(lengths[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(lengths, before + MAX_CONCURRENT_BYTES, "right")))
            bodies = self._fetch(requests, slice(start, stop))
            for number, body in enumerate(bodies, start):
                for index in range(int(requests.first[number]), int(requests.first[number + 1])):
                    offset, size, position = int(offsets[index]), int(sizes[index]), int(targets[index])
                    piece = body[offset - int(requests.starts[number]) :][:size]
                    if len(piece) != size:
                        raise short_read_error(self._shards[of[index]], len(piece), offset, size)
                    buffer[position : position + size] = piece
            start = stop

    def _fetch(self, requests: RangeRequests, part: slice) -> list[memoryview]:
        """Return the bodies of some of the requests; raise StageFailed for an object store's errors."""
        paths = [self._store.path(self._shards[number]) for number in requests.of[part]]
        starts, ends = requests.starts[part].tolist(), requests.ends[part].tolist()
        try:
            bodies = self._store.fs.cat_ranges(paths, starts, ends, on_error="raise")
        except FileNotFoundError:
            raise
        except io_errors() as error:
            raise StageFailed(
                f"{self._store.uri(self._shards[requests.of[part][0]])}: {error_message(error)}"
            ) from error
        return [memoryview(body) for body in bodies]
