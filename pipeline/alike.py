"""Which of some fingerprints each of many is nearest to: a search for copies, exact, one thread.

A few are compared with all by FAISS, 2 ns a pair. A takedown of a site has tens of thousands, and compared so would
cost the square of what the store holds. Many are found by bands (pigeonhole; Norouzi et al. 2012, arXiv 1307.2982):
256 bits are cut into 16 bands of 16, so two fingerprints that differ in at most 31 bits, the distance of PDQ's
authors, differ in at most one bit of some band. Each fingerprint is entered in each band under its value and under the
16 values one bit from it; only those that stand under the other's value are compared, one in 240 of random ones.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.pdq import PDQ_BYTES

BANDS, WIDTH = 16, 16
REACH = 2 * BANDS - 1
"""The largest distance, in bits, at which bands lose nothing."""
FEW = 1024
"""Fingerprints up to which comparing with all is as fast; it changes no result."""
PART = 1 << 16
"""Fingerprints that are entered in one table, of 70 MB."""

Codes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
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
        found = np.full(len(prints), -1, np.int64)
        if not len(prints) or not self._tables:
            return found
        near = [table.near(np.ascontiguousarray(prints)) for table in self._tables]
        rows, places, distances = (np.concatenate(part) for part in zip(*near, strict=True))
        slack = self._limits[places] - distances
        within = slack >= 0
        rows, places, slack = rows[within], places[within], slack[within]
        order = np.lexsort((places, -slack, rows))
        first, at = np.unique(rows[order], return_index=True)
        found[first] = places[order][at]
        return found


class _Flat:
    """Some of the others, compared with all by FAISS's binary range search."""

    def __init__(self, others: Codes, places: Numbers, reach: int) -> None:
        import faiss

        self._places, self._reach = places, reach
        self._index: Any = faiss.IndexBinaryFlat(8 * PDQ_BYTES)
        self._index.add(np.ascontiguousarray(others[places]))

    def near(self, prints: Codes) -> Pairs:
        """Return the pairs within the reach."""
        import faiss

        faiss.omp_set_num_threads(1)
        ends, distances, found = self._index.range_search(prints, self._reach + 1)  # FAISS's radius is exclusive
        rows = np.repeat(np.arange(len(prints)), np.diff(ends).astype(np.int64))
        return rows, self._places[found], distances.astype(np.int64)


class _Banded:
    """Some of the others, entered in each band under the values that they are at most one bit from."""

    def __init__(self, others: Codes, places: Numbers) -> None:
        self._places, codes = places, np.ascontiguousarray(others[places])
        self._words = codes.view(np.uint64)
        flips = np.array([0, *(1 << bit for bit in range(WIDTH))], np.uint16)
        self._bands: list[tuple[Numbers, npt.NDArray[np.uint32]]] = []
        for values in _values(codes):
            under = (flips[:, None] ^ values).ravel()
            starts = np.concatenate([[0], np.cumsum(np.bincount(under, minlength=1 << WIDTH))])
            entries = np.argsort(under, kind="stable") % len(codes)
            self._bands.append((starts, entries.astype(np.uint32)))

    def near(self, prints: Codes) -> Pairs:
        """Return the pairs within REACH, some of them more than once."""
        words, found = prints.view(np.uint64), []
        for values, (starts, entries) in zip(_values(prints), self._bands, strict=True):
            first = starts[values]
            counts = starts[values.astype(np.int64) + 1] - first
            rows = np.repeat(np.arange(len(prints)), counts)
            ends = np.cumsum(counts)
            others = entries[np.arange(len(rows)) + np.repeat(first - ends + counts, counts)]
            found.append(self._compared(words, rows, others))
        rows, others, distances = (np.concatenate(part) for part in zip(*found, strict=True))
        return rows, self._places[others], distances

    def _compared(self, words: npt.NDArray[np.uint64], rows: Numbers, others: npt.NDArray[np.uint32]) -> Pairs:
        """Return those of the pairs that are within REACH, word by word: few that are not pass the first."""
        distances = np.zeros(len(rows), np.int64)
        for word in range(words.shape[1]):
            distances += np.bitwise_count(words[rows, word] ^ self._words[others, word])
            passed = distances <= REACH
            rows, others, distances = rows[passed], others[passed], distances[passed]
        return rows, others.astype(np.int64), distances


def _values(codes: Codes) -> npt.NDArray[np.uint16]:
    """Return the value of each fingerprint in each band, (16, n).

    A band takes every 16th bit, as PDQ's neighbouring bits agree more often than not.
    """
    bits = np.unpackbits(codes, axis=1).reshape(len(codes), WIDTH, BANDS)
    packed = np.packbits(bits.transpose(2, 0, 1), axis=2)
    return np.ascontiguousarray(packed).view(np.uint16)[:, :, 0]
