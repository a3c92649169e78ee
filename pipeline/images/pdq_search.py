"""Which of some fingerprints each of many is nearest to: a search for copies, exact, one thread.

A few are compared with all by FAISS, 2 ns a pair. A takedown of a site has tens of thousands, and compared so would
cost the square of what the store holds. Many are found by bands (pigeonhole; Norouzi et al. 2012, arXiv 1307.2982):
256 bits are cut into 16 bands of 16, so two fingerprints that differ in at most 31 bits, the distance of PDQ's
authors, differ in at most one bit of some band. Each fingerprint is entered in each band under its value and under the
16 values one bit from it; only those that stand under the other's value are compared, one in 240 of random ones.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.images.pdq import PDQ_BYTES

BANDS, WIDTH = 16, 16


REACH = 2 * BANDS - 1
"""The largest distance, in bits, at which bands lose nothing."""


FEW = 1024
"""Fingerprints up to which comparing with all is as fast; it changes no result."""


PART = 1 << 16
"""Fingerprints that are entered in one table, of 70 MB."""


MOST = 1 << 22
"""Pairs that are held at once, where many are alike; it changes no result."""


Codes = npt.NDArray[np.uint8]


Numbers = npt.NDArray[np.int64]


Small = npt.NDArray[np.int32]


Words = npt.NDArray[np.uint64]


Pairs = tuple[Numbers, Numbers, Numbers]
"""Pairs near each other: number of the one that is asked for, number among the others, distance in bits."""


class Alike:
    """Fingerprints `others`, (k, 32) uint8, each with its limit, (k,) int64 in bits, to look others up among.

    `one_by_one` says that few are looked up at a time, for which bands are never worth their entries.
    """

    def __init__(self, others: Codes, limits: Numbers, one_by_one: bool = False) -> None:
        self._limits = limits
        banded = limits <= REACH
        if one_by_one or np.count_nonzero(banded) <= FEW:
            banded[:] = False
        near, far = np.flatnonzero(banded), np.flatnonzero(~banded)
        self._tables: list[_Flat | _Banded] = [
            _Banded(others, near[first : first + PART]) for first in range(0, len(near), PART)
        ]
        if len(far):
            self._tables.append(_Flat(others, far, int(limits[far].max())))

    def closest(self, prints: Codes) -> Numbers:
        """Return for each of `prints`, (n, 32) uint8, which of the others it is nearest to, (n,) int64.

        -1 where none is within its limit. Nearness is the limit less the distance; ties go to the first.
        """
        found, slack = np.full((2, len(prints)), -1, np.int64)
        prints = np.ascontiguousarray(prints)
        for table in self._tables:
            for rows, places, distances in table.near(prints):
                left = self._limits[places] - distances
                within = left >= 0
                _keep_best(found, slack, rows[within], places[within], left[within])
        return found


def _keep_best(found: Numbers, slack: Numbers, rows: Numbers, places: Numbers, left: Numbers) -> None:
    """Put the best of these pairs where it is better than what was found for its row, with its slack."""
    order = np.lexsort((places, -left, rows))
    rows, at = np.unique(rows[order], return_index=True)
    places, left = places[order][at], left[order][at]
    better = (left > slack[rows]) | (left == slack[rows]) & (places < found[rows])
    found[rows[better]], slack[rows[better]] = places[better], left[better]


class _Flat:
    """Some of the others, compared with all by FAISS's binary range search."""

    def __init__(self, others: Codes, places: Numbers, reach: int) -> None:
        import faiss

        self._places, self._reach = places, reach
        self._index: Any = faiss.IndexBinaryFlat(8 * PDQ_BYTES)
        self._index.add(np.ascontiguousarray(others[places]))

    def near(self, prints: Codes) -> Iterator[Pairs]:
        """Yield the pairs within the reach, some rows at a time."""
        import faiss

        faiss.omp_set_num_threads(1)
        step = max(1, MOST // len(self._places))
        for start in range(0, len(prints), step):
            part = prints[start : start + step]
            ends, distances, found = self._index.range_search(part, self._reach + 1)  # FAISS's radius is exclusive
            rows = np.repeat(np.arange(start, start + len(part)), np.diff(ends).astype(np.int64))
            yield rows, self._places[found], distances.astype(np.int64)


class _Banded:
    """Some of the others, entered in each band under the values that they are at most one bit from."""

    def __init__(self, others: Codes, places: Numbers) -> None:
        self._places, codes = places, np.ascontiguousarray(others[places])
        self._words = words_of(codes)
        flips = np.array([0, *(1 << bit for bit in range(WIDTH))], np.uint16)
        self._bands: list[tuple[Small, Small]] = []
        for values in _values(codes):
            under = (flips[:, None] ^ values).ravel()
            starts = np.concatenate([[0], np.cumsum(np.bincount(under, minlength=1 << WIDTH))])
            entries = np.argsort(under, kind="stable") % len(codes)
            self._bands.append((starts.astype(np.int32), entries.astype(np.int32)))

    def near(self, prints: Codes) -> Iterator[Pairs]:
        """Yield the pairs within REACH, some of them in several bands, some rows at a time."""
        words = words_of(prints)
        for values, (starts, entries) in zip(_values(prints), self._bands, strict=True):
            first = starts[values]
            counts = starts[1:][values] - first
            for rows in _portions(counts):
                many, each = counts[rows], np.repeat(np.arange(len(prints), dtype=np.int32)[rows], counts[rows])
                places = np.repeat(first[rows] - np.cumsum(many, dtype=np.int32) + many, many)
                places += np.arange(len(each), dtype=np.int32)
                found, others, distances = within(words, self._words, each, entries[places], REACH)
                yield found.astype(np.int64), self._places[others], distances.astype(np.int64)


def within(
    left: Words, right: Words, rows: npt.NDArray[Any], others: npt.NDArray[Any], distance: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.uint16]]:
    """Return those of the pairs (a row of `left`, one of `right`) within `distance` bits, and how many bits those are.

    `left` and `right` are what `words_of` makes. Few pass the first two words that do not pass all.
    """
    distances = np.zeros(len(rows), np.uint16)
    for first in (0, 2):
        for mine, theirs in zip(left[first : first + 2], right[first : first + 2], strict=True):
            distances += np.bitwise_count(mine[rows] ^ theirs[others])
        passed = np.flatnonzero(distances <= distance)
        rows, others, distances = rows[passed], others[passed], distances[passed]
    return rows, others, distances


def _portions(counts: Small) -> Iterator[slice]:
    """Yield slices of rows that have at most MOST pairs, but for a single row that has more."""
    ends, start = np.cumsum(counts, dtype=np.int64), 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + MOST, side="right")))
        yield slice(start, stop)
        start = stop


def words_of(codes: Codes) -> Words:
    """Return fingerprints, (n, 32) uint8, as four columns of 64 bits, (4, n)."""
    return np.ascontiguousarray(codes.view(np.uint64).T)


def _values(codes: Codes) -> npt.NDArray[np.uint16]:
    """Return the value of each fingerprint in each band, (16, n).

    A band takes every 16th bit, as PDQ's neighbouring bits agree more often than not: so the bands are the columns of a
    matrix of 16 rows of 16 bits. It is transposed as in Warren, Hacker's Delight, section 7-3: four times, blocks of
    half the size change places.
    """
    rows = np.ascontiguousarray(codes.view(">u2").T.astype(np.uint16))
    size, mask = WIDTH // 2, 0x00FF
    while size:
        upper, lower = rows.reshape(-1, 2, size, len(codes)).swapaxes(0, 1)
        change = (upper ^ lower >> size) & np.uint16(mask)
        upper ^= change
        lower ^= change << size
        size //= 2
        mask ^= mask << size & 0xFFFF
    return rows
