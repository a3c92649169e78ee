"""Exact nearest-neighbour search among PDQ fingerprints, to find copies; on one thread.

Few fingerprints are compared with all queries by FAISS, 2 ns a pair. The takedown of a site has tens of thousands, for
which this would be quadratic in the size of the store. Many are searched by bands (pigeonhole principle; Norouzi et al.
2012, arXiv 1307.2982): 256 bits are split into 16 bands of 16, so two fingerprints that differ in at most 31 bits, the
distance of PDQ's authors, differ in at most one bit of some band. Each fingerprint is entered in the table of each band
under its value and under the 16 values one bit from it; only fingerprints under the query's value are compared, one in
240 of random ones.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.images.pdq import PDQ_BYTES

BAND_COUNT, BAND_BITS = 16, 16


MAX_BAND_DISTANCE_BITS = 2 * BAND_COUNT - 1
"""The largest distance, in bits, at which the bands miss no pair."""


FLAT_SEARCH_MAX = 1024
"""Number of fingerprints up to which a comparison with all is as fast; it changes no result."""


TABLE_FINGERPRINTS = 1 << 16
"""Number of fingerprints in one table, of 70 MB."""


MAX_PAIRS = 1 << 22
"""Most pairs in memory at once, where many are similar; it changes no result."""


Codes = npt.NDArray[np.uint8]


Int64Array = npt.NDArray[np.int64]


Int32Array = npt.NDArray[np.int32]


Uint64Array = npt.NDArray[np.uint64]


IndexPairs = tuple[Int64Array, Int64Array, Int64Array]
"""Near pairs, three arrays (n,): index of the query, index among the others, distance in bits."""


class PdqIndex:
    """Search index over fingerprints `others`, (k, 32) uint8, each with a distance limit, (k,) int64 in bits.

    `one_by_one` says that few queries come at a time, for which building the bands never pays off.
    """

    def __init__(self, others: Codes, limits: Int64Array, one_by_one: bool = False) -> None:
        self._limits = limits
        banded = limits <= MAX_BAND_DISTANCE_BITS
        if one_by_one or np.count_nonzero(banded) <= FLAT_SEARCH_MAX:
            banded[:] = False
        near, far = np.flatnonzero(banded), np.flatnonzero(~banded)
        self._tables: list[_Flat | _Banded] = [
            _Banded(others, near[first : first + TABLE_FINGERPRINTS])
            for first in range(0, len(near), TABLE_FINGERPRINTS)
        ]
        if len(far):
            self._tables.append(_Flat(others, far, int(limits[far].max())))

    def closest(self, prints: Codes) -> Int64Array:
        """Return for each of `prints`, (n, 32) uint8, the index of the nearest of the others, (n,) int64.

        -1 where none is within its limit. The nearest has the largest limit minus distance; ties go to the first.
        """
        best, slack = np.full((2, len(prints)), -1, np.int64)
        prints = np.ascontiguousarray(prints)
        for table in self._tables:
            for rows, places, distances in table.near(prints):
                margins = self._limits[places] - distances
                within = margins >= 0
                _keep_best(best, slack, rows[within], places[within], margins[within])
        return best


def _keep_best(best: Int64Array, slack: Int64Array, rows: Int64Array, places: Int64Array, margins: Int64Array) -> None:
    """Store the best of these pairs of each row, and its margin in `slack`, where it beats the best so far."""
    order = np.lexsort((places, -margins, rows))
    rows, first = np.unique(rows[order], return_index=True)
    places, margins = places[order][first], margins[order][first]
    better = (margins > slack[rows]) | (margins == slack[rows]) & (places < best[rows])
    best[rows[better]], slack[rows[better]] = places[better], margins[better]


class _Flat:
    """Some of the others, compared with every query by FAISS's binary range search."""

    def __init__(self, others: Codes, places: Int64Array, reach: int) -> None:
        import faiss

        self._places, self._reach = places, reach
        self._index: Any = faiss.IndexBinaryFlat(8 * PDQ_BYTES)
        self._index.add(np.ascontiguousarray(others[places]))

    def near(self, prints: Codes) -> Iterator[IndexPairs]:
        """Yield the pairs within `reach` bits, some rows at a time."""
        import faiss

        faiss.omp_set_num_threads(1)
        step = max(1, MAX_PAIRS // len(self._places))
        for start in range(0, len(prints), step):
            part = prints[start : start + step]
            ends, distances, indices = self._index.range_search(part, self._reach + 1)  # FAISS's radius is exclusive
            rows = np.repeat(np.arange(start, start + len(part)), np.diff(ends).astype(np.int64))
            yield rows, self._places[indices], distances.astype(np.int64)


class _Banded:
    """Some of the others, entered in each band under the values at most one bit from their own."""

    def __init__(self, others: Codes, places: Int64Array) -> None:
        self._places, codes = places, np.ascontiguousarray(others[places])
        self._words = fingerprint_words(codes)
        flips = np.array([0, *(1 << bit for bit in range(BAND_BITS))], np.uint16)
        self._bands: list[tuple[Int32Array, Int32Array]] = []
        for values in _values(codes):
            keys = (flips[:, None] ^ values).ravel()
            starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << BAND_BITS))])
            entries = np.argsort(keys, kind="stable") % len(codes)
            self._bands.append((starts.astype(np.int32), entries.astype(np.int32)))

    def near(self, prints: Codes) -> Iterator[IndexPairs]:
        """Yield the pairs within REACH, some rows at a time; a pair may be yielded for several bands."""
        words = fingerprint_words(prints)
        for values, (starts, entries) in zip(_values(prints), self._bands, strict=True):
            first = starts[values]
            counts = starts[1:][values] - first
            for rows in _portions(counts):
                row_counts = counts[rows]
                queries = np.repeat(np.arange(len(prints), dtype=np.int32)[rows], row_counts)
                positions = np.repeat(first[rows] - np.cumsum(row_counts, dtype=np.int32) + row_counts, row_counts)
                positions += np.arange(len(queries), dtype=np.int32)
                near_rows, others, distances = filter_within(
                    words, self._words, queries, entries[positions], MAX_BAND_DISTANCE_BITS
                )
                yield near_rows.astype(np.int64), self._places[others], distances.astype(np.int64)


def filter_within(
    left: Uint64Array, right: Uint64Array, rows: npt.NDArray[Any], others: npt.NDArray[Any], distance: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.uint16]]:
    """Return the pairs (a row of `left`, one of `right`) within `distance` bits, and their distances, uint16.

    `left` and `right` are results of `fingerprint_words`. Few pairs that pass the first two words fail at the others.
    """
    distances = np.zeros(len(rows), np.uint16)
    for first in (0, 2):
        for left_word, right_word in zip(left[first : first + 2], right[first : first + 2], strict=True):
            distances += np.bitwise_count(left_word[rows] ^ right_word[others])
        passed = np.flatnonzero(distances <= distance)
        rows, others, distances = rows[passed], others[passed], distances[passed]
    return rows, others, distances


def _portions(counts: Int32Array) -> Iterator[slice]:
    """Yield slices of rows with at most MOST pairs together, or of a single row that has more."""
    ends, start = np.cumsum(counts, dtype=np.int64), 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + MAX_PAIRS, side="right")))
        yield slice(start, stop)
        start = stop


def fingerprint_words(codes: Codes) -> Uint64Array:
    """Return fingerprints, (n, 32) uint8, as four columns of 64 bits, (4, n)."""
    return np.ascontiguousarray(codes.view(np.uint64).T)


def _values(codes: Codes) -> npt.NDArray[np.uint16]:
    """Return the value of each fingerprint in each band, (16, n) uint16.

    A band takes every 16th bit, as PDQ's neighbouring bits are correlated: the bands are the columns of a matrix of 16
    rows of 16 bits. It is transposed as in Warren, Hacker's Delight, section 7-3: in four steps, blocks of half the
    previous size are swapped.
    """
    rows = np.ascontiguousarray(codes.view(">u2").T.astype(np.uint16))
    size, mask = BAND_BITS // 2, 0x00FF
    while size:
        upper, lower = rows.reshape(-1, 2, size, len(codes)).swapaxes(0, 1)
        change = (upper ^ lower >> size) & np.uint16(mask)
        upper ^= change
        lower ^= change << size
        size //= 2
        mask ^= mask << size & 0xFFFF
    return rows
