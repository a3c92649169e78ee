"""Byte ranges gathered in the order in which they are wanted: read in place here, by few requests from elsewhere.

Both work through windows of the result. In each, the ranges are read in the order of their shards and offsets. Of a
folder each is read straight into its place. Of an object store, ranges of a shard that lie near each other are asked
for at once: a request takes tens of milliseconds, in which a connection carries a megabyte or more.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.core.uid_arrays import Keys
from pipeline.errors import StageFailed
from pipeline.storage.object_store import failures, told
from pipeline.storage.store import Store

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Byte ranges of tars in the order in which they are wanted: `sizes[i]` bytes of `shards[of[i]]` at `offsets[i]`.

    `keys` are the uids of the pairs whose members they hold. All columns have the length n.
    """

    shards: tuple[str, ...]
    keys: Keys
    of: npt.NDArray[np.int32]
    offsets: Whole
    sizes: Whole

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: npt.NDArray[np.intp]) -> "Pieces":
        """Return the pieces at these places, with only the shards that they need."""
        used, of = np.unique(self.of[places], return_inverse=True)
        shards = tuple(self.shards[number] for number in used)
        return Pieces(shards, self.keys[places], of.astype(np.int32), self.offsets[places], self.sizes[places])


HERE, ELSEWHERE = 1 << 20, 64 << 20
"""Bytes of a window: what stays in a core's cache, and what makes neighbours likely."""


GAP = 256 << 10
"""Bytes between two ranges that are asked for at once; they are thrown away."""


REQUEST, AT_ONCE = 16 << 20, 64 << 20
"""Bytes that a request may ask for, beyond a range that is larger, and that requests under way may have together."""


def short(shard: str, found: int, offset: int, size: int) -> OSError:
    """Return the error of a range that its shard does not hold."""
    return OSError(f"{shard}: {found} bytes at {offset}, the ledger says {size}")


@dataclass(frozen=True)
class Requests:
    """Stretches of shards: bytes `starts[i]` to `ends[i]` of shard `of[i]` hold ranges `first[i]` to `first[i + 1]`."""

    of: npt.NDArray[np.int32]
    starts: Whole
    ends: Whole
    first: npt.NDArray[np.intp]


def merged(of: npt.NDArray[np.int32], offsets: Whole, sizes: Whole, gap: int = GAP, most: int = REQUEST) -> Requests:
    """Return the requests for ranges that are sorted by shard and offset and do not overlap.

    Two neighbours are asked for at once where at most `gap` bytes lie between them, until a request has `most` bytes.
    """
    ends = offsets + sizes
    near = np.zeros(len(of), np.bool_)
    near[1:] = (of[1:] == of[:-1]) & (offsets[1:] - ends[:-1] <= gap)
    stretches = [*np.flatnonzero(~near).tolist(), len(of)]
    first: list[int] = []
    for start, end in pairwise(stretches):
        while start < end:  # a stretch that is too long is cut where the next range would go beyond
            first.append(start)
            start = max(start + 1, start + int(np.searchsorted(ends[start:end], offsets[start] + most, "right")))
    at = np.array([*first, len(of)], np.intp)
    return Requests(of[at[:-1]], offsets[at[:-1]], ends[at[1:] - 1], at)


def gathered(store: Store, pieces: Pieces, window: int = 0) -> Iterator[memoryview]:
    """Yield the pieces' bytes, one behind the other, in stretches of at most `window` bytes or of one larger piece.

    The stretches lie in two buffers in turn: each is overwritten by the next but one. Raises OSError where a shard
    does not hold a range, FileNotFoundError where it is not there, StageFailed for what an object store refuses.
    """
    if len(pieces) and (int(pieces.sizes.min()) <= 0 or int(pieces.offsets.min()) < 0):
        wrong = int(np.flatnonzero((pieces.sizes <= 0) | (pieces.offsets < 0))[0])
        raise short(pieces.shards[pieces.of[wrong]], 0, int(pieces.offsets[wrong]), int(pieces.sizes[wrong]))
    with ExitStack() as stack:
        reader = _Here(store, pieces.shards, stack) if store.local else _Elsewhere(store, pieces.shards)
        window = max(window or reader.window, int(pieces.sizes.max(initial=0)))
        buffers = [memoryview(bytearray(min(window, int(pieces.sizes.sum())))) for _ in range(2)]
        ends = np.cumsum(pieces.sizes)
        start = number = base = 0
        while start < len(pieces):
            stop = int(np.searchsorted(ends, base + window, "right"))
            part = slice(start, stop)
            order = np.lexsort((pieces.offsets[part], pieces.of[part]))
            offsets, sizes = pieces.offsets[part][order], pieces.sizes[part][order]
            at = ends[part][order] - sizes - base
            reader.fill(buffers[number % 2], at, pieces.of[part][order], offsets, sizes)
            yield buffers[number % 2][: int(ends[stop - 1]) - base]
            start, base, number = stop, int(ends[stop - 1]), number + 1


class _Here:
    """Reads ranges of local files, each straight to its place."""

    window = HERE

    def __init__(self, store: Store, shards: tuple[str, ...], stack: ExitStack) -> None:
        self._shards = shards
        self._files = []
        for shard in shards:
            self._files.append(os.open(store.path(shard), os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, self._files[-1])

    def fill(self, buffer: memoryview, at: Whole, of: npt.NDArray[np.int32], offsets: Whole, sizes: Whole) -> None:
        """Read the ranges into `buffer`, each to its place `at`."""
        files = self._files
        columns = (column.tolist() for column in (at, of, offsets, sizes))
        for place, shard, offset, size in zip(*columns, strict=True):
            found = os.preadv(files[shard], (buffer[place : place + size],), offset)
            while found < size:  # a signal cuts a read short, and so does the end of the file
                more = os.preadv(files[shard], (buffer[place + found : place + size],), offset + found)
                if not more:
                    raise short(self._shards[shard], found, offset, size)
                found += more


class _Elsewhere:
    """Reads ranges of objects, those of a shard that lie near each other by one request, several requests at once."""

    window = ELSEWHERE

    def __init__(self, store: Store, shards: tuple[str, ...]) -> None:
        self._store, self._shards = store, shards

    def fill(self, buffer: memoryview, at: Whole, of: npt.NDArray[np.int32], offsets: Whole, sizes: Whole) -> None:
        """Read the ranges, sorted by shard and offset, into `buffer`, each to its place `at`."""
        wanted = merged(of, offsets, sizes)
        lengths = np.cumsum(wanted.ends - wanted.starts)
        start = 0
        while start < len(wanted.of):
            before = int(lengths[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(lengths, before + AT_ONCE, "right")))
            bodies = self._ask(wanted, slice(start, stop))
            for number, body in enumerate(bodies, start):
                for one in range(int(wanted.first[number]), int(wanted.first[number + 1])):
                    offset, size, place = int(offsets[one]), int(sizes[one]), int(at[one])
                    piece = body[offset - int(wanted.starts[number]) :][:size]
                    if len(piece) != size:
                        raise short(self._shards[of[one]], len(piece), offset, size)
                    buffer[place : place + size] = piece
            start = stop

    def _ask(self, wanted: Requests, part: slice) -> list[memoryview]:
        paths = [self._store.path(self._shards[number]) for number in wanted.of[part]]
        starts, ends = wanted.starts[part].tolist(), wanted.ends[part].tolist()
        try:
            found = self._store.fs.cat_ranges(paths, starts, ends, on_error="raise")
        except FileNotFoundError:
            raise
        except failures() as error:
            raise StageFailed(f"{self._store.uri(self._shards[wanted.of[part][0]])}: {told(error)}") from error
        return [memoryview(body) for body in found]
