"""Finds fingerprints within a Hamming distance of each other: an exact self-join of a set.

Bands (pigeonhole; Norouzi et al. 2012, arXiv 1307.2982; Qin et al. 2018, "GPH"): 256 bits are cut into m bands with
3 m > distance, so two fingerprints within the distance differ in at most 2 bits of some band. Both then have a common
neighbour in that band, a value at most one bit from each: so each row is entered under its band's value and under every
value one bit from it, and only rows under the same value are compared. No pair is missed.

The result is not every pair but a forest with the same connected components, at most one edge fewer than rows: that is
enough for groups, and the number of pairs of a cluster of near copies is the square of its size. Values with many rows
are therefore traversed outward from one row (a row that is reached is not compared again with those reached before):
the cost of a cluster of near copies is about its size. Only rows that share a band's value and are far apart cost the
square of their number (1 ns a pair); `NearPairs` counts the comparisons.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from filters.search.connected_components import Forest
from pipeline.images.pdq_search import filter_within, fingerprint_words

FINGERPRINT_BITS = 256


MIN_BANDS = 11
"""With so many bands a value is at most 24 bits wide, so that it and a row number fit one 64-bit word."""


MAX_BAND_DISTANCE_BITS = 47
"""Above it bands are narrower than 16 bits and most rows share some value: `join_blocks` compares all with all."""


SLICE_ROWS = 1 << 16
"""Rows whose entries are sorted at once, so that they fit a core's cache; it does not affect results."""


CROWD_ROWS = 128
"""Rows of one value, in addition to four times the mean, up to which all are compared; larger sets are traversed.

It does not affect components; at about this size both methods cost the same."""


MAX_TRAVERSALS, BLOCK_ROWS = 16, 256
"""Traversals of a crowd before the remaining rows count as scattered; rows of a block when all are compared."""


SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


Codes = npt.NDArray[np.uint8]


Rows = npt.NDArray[np.uint32]


Edges = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NearPairs:
    """Edges of a forest, (m, 2) int64 row numbers; pairs compared; the largest number of rows of one value."""

    edges: Edges
    compared: int
    most: int


def bands(distance: int) -> list[npt.NDArray[np.int64]]:
    """Return the bit positions of each band.

    A band takes every m-th bit: PDQ's bits are a 16 x 16 grid of frequencies in which neighbours agree more often than
    not. On the 6,957 images of PACS, bands of neighbouring bits give 5.4 times as many pairs to compare as these.
    """
    count = max(MIN_BANDS, -(-(distance + 1) // 3))
    return [np.arange(first, FINGERPRINT_BITS, count) for first in range(count)]


def band_values(codes: Codes, places: npt.NDArray[np.int64]) -> Rows:
    """Return the value of a band, (n,) uint32, of each fingerprint, (n, 32) uint8."""
    values = np.empty(len(codes), np.uint32)
    for first in range(0, len(codes), SLICE_ROWS):
        chosen = np.unpackbits(codes[first : first + SLICE_ROWS], axis=1)[:, places]
        padded = np.zeros((len(chosen), 32), np.uint8)
        padded[:, 32 - len(places) :] = chosen
        values[first : first + SLICE_ROWS] = np.packbits(padded, axis=1).view(">u4")[:, 0]
    return values


def _slices(values: Rows, width: int, part: int, parts: int) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield the entries (value << 32 | row) of this part, sorted; those of equal leading bits come together."""
    leading = min(width - 1, (len(values) // SLICE_ROWS).bit_length())
    low_bits = 32 + width - leading
    base = values.astype(np.uint64) << np.uint64(32) | np.arange(len(values), dtype=np.uint64)
    base.sort()
    starts = np.searchsorted(base, np.arange((1 << leading) + 1, dtype=np.uint64) << np.uint64(low_bits))
    for top in range(part, 1 << leading, parts):
        neighbours = [
            base[starts[other] : starts[other + 1]] for other in (top, *(top ^ 1 << bit for bit in range(leading)))
        ]
        entries = [neighbours[0], *(neighbours[0] ^ np.uint64(1 << bit) for bit in range(32, low_bits))]
        entries += [rows ^ np.uint64(1 << low_bits + bit) for bit, rows in enumerate(neighbours[1:])]
        merged = np.concatenate(entries)
        merged.sort()
        yield merged


def join_band(codes: Codes, places: npt.NDArray[np.int64], distance: int, part: int = 0, parts: int = 1) -> NearPairs:
    """Return a forest of the pairs within `distance` that differ in at most 2 bits of a band.

    `codes` are distinct fingerprints, (n, 32) uint8. The band is split into `parts` parts, whose forests together are
    the band's. The forests of all bands have the components of all pairs within the distance.
    """
    faiss.omp_set_num_threads(1)
    words, forest = fingerprint_words(codes), Forest(len(codes))
    crowd_rows = CROWD_ROWS + 4 * len(codes) * (len(places) + 1) // (1 << len(places))
    compared = most = 0
    for entries in _slices(band_values(codes, places), len(places), part, parts):
        values, rows = (entries >> np.uint64(32)).astype(np.uint32), entries.astype(np.uint32)
        crowds = np.unique(values[crowd_rows:][values[crowd_rows:] == values[:-crowd_rows]])
        is_small = np.ones(len(values), bool)
        for start, stop in zip(*(np.searchsorted(values, crowds, side=side) for side in SIDES), strict=True):
            compared += _traverse(codes, rows[start:stop], distance, forest)
            most = max(most, int(stop - start))
            is_small[start:stop] = False
        values, rows = values[is_small], rows[is_small]
        first = np.flatnonzero(values[1:] == values[:-1])
        offset = 1
        while len(first):
            most = max(most, offset + 1)
            compared += len(first)
            forest.add(*filter_within(words, words, rows[first], rows[first + offset], distance)[:2])
            offset += 1
            first = first[first + offset < len(values)]
            first = first[values[first] == values[first + offset]]
    return NearPairs(forest.edges(), compared, most)


def _traverse(codes: Codes, crowd: Rows, distance: int, forest: Forest) -> int:
    """Add a forest of the rows of `crowd` within `distance` of each other; return the number of pairs compared.

    A traversal goes outward from one row; rows that are known to be connected are reached together. Rows that no
    traversal reaches are scattered, and are all compared with each other.
    """
    compared, remaining = 0, crowd
    for _ in range(MAX_TRAVERSALS):
        reached = forest.known[remaining] == forest.known[remaining[:1]]
        while reached.any() and not reached.all():
            visited, remaining = remaining[reached], remaining[~reached]
            compared += len(visited) * len(remaining)
            distances, places = _flat_index(codes, visited).search(np.ascontiguousarray(codes[remaining]), 1)
            near = distances[:, 0] <= distance
            forest.add(visited[places[near, 0]], remaining[near])
            reached = np.isin(forest.known[remaining], forest.known[remaining[near]])
        remaining = remaining[~reached]
    for start in range(0, len(remaining), BLOCK_ROWS):
        compared += _compare(codes, remaining[start : start + BLOCK_ROWS], remaining[start:], distance, forest)
    return compared


def _flat_index(codes: Codes, rows: npt.NDArray[Any]) -> Any:
    index = faiss.IndexBinaryFlat(FINGERPRINT_BITS)
    index.add(np.ascontiguousarray(codes[rows]))
    return index


def _compare(codes: Codes, few: npt.NDArray[Any], many: npt.NDArray[Any], distance: int, forest: Forest) -> int:
    """Add the pairs within `distance` of a row of `few` and a row of `many`; return the number compared."""
    index = _flat_index(codes, few)
    for start in range(0, len(many), SLICE_ROWS):
        part = many[start : start + SLICE_ROWS]
        limits, _, places = index.range_search(
            np.ascontiguousarray(codes[part]), distance + 1
        )  # the radius is exclusive
        forest.add(few[places], np.repeat(part, np.diff(limits).astype(np.int64)))
    return len(few) * len(many)


def join_blocks(codes: Codes, first: int, stop: int, distance: int) -> NearPairs:
    """Return a forest of the pairs within `distance` with one row in [first, stop) and the other not before that row.

    `codes` are fingerprints, (n, 32) uint8. The forests of adjoining blocks have the components of all pairs.
    """
    faiss.omp_set_num_threads(1)
    forest, rows = Forest(len(codes)), np.arange(len(codes))
    compared = 0
    for start in range(first, stop, BLOCK_ROWS):
        compared += _compare(codes, rows[start : min(start + BLOCK_ROWS, stop)], rows[start:], distance, forest)
    return NearPairs(forest.edges(), compared, 0)
