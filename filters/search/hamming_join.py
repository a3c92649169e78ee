"""Which fingerprints lie within a Hamming distance of each other: an exact join of a set with itself.

Bands (pigeonhole; Norouzi et al. 2012, arXiv 1307.2982; Qin et al. 2018, "GPH"): 256 bits are cut into m bands with
3 m > distance, so two fingerprints within the distance differ in at most 2 bits of some band. Both then have a common
neighbour in that band, a value at most one bit from each: so each row is entered under its band's value and under every
value one bit from it, and only rows under the same value are compared. No pair is lost.

What is returned is not every pair but a forest with the same connected components, at most one edge fewer than rows:
for groups no more is needed, and a crowd of near copies has as many pairs as the square of its size. Values under which
many rows lie are therefore walked outward from one row (each row reached is not compared again with those reached
before): a crowd of near copies costs about its size. Only rows that share a band's value and are far apart cost the
square of their number (1 ns a pair); `Found` counts what was compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from filters.search.connected_components import Forest
from pipeline.images.pdq_search import within, words_of

BITS = 256


LEAST_BANDS = 11
"""A band's value is at most 24 bits wide, so that it and a row's number fit one 64-bit word."""


MOST_DISTANCE = 47
"""Beyond it bands are narrower than 16 bits and most rows share some value: `in_blocks` compares all with all."""


SLICE_ROWS = 1 << 16
"""Rows whose entries are sorted at once, so that they fit a core's cache; it changes no result."""


CROWD = 128
"""Rows under one value, beyond four times the mean, up to which each is compared with each; more are walked.

It changes no component; at about this size one costs as much as the other."""


WALKS, BLOCK = 16, 256
"""How often a crowd is walked before what is left is taken as scattered; rows of one block when all are compared."""


SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


Codes = npt.NDArray[np.uint8]


Rows = npt.NDArray[np.uint32]


Edges = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Edges of a forest, (m, 2) int64 row numbers; pairs compared; the most rows that lay under one value."""

    edges: Edges
    compared: int
    most: int


def bands(distance: int) -> list[npt.NDArray[np.int64]]:
    """Return the places of each band's bits.

    A band takes every m-th bit: PDQ's bits are a 16 x 16 grid of frequencies of which neighbours agree more often than
    not. On the 6,957 pictures of PACS, bands of neighbouring bits give 5.4 times as many pairs to compare as these do.
    """
    count = max(LEAST_BANDS, -(-(distance + 1) // 3))
    return [np.arange(first, BITS, count) for first in range(count)]


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
    """Yield the entries (value << 32 | row) of this part, sorted, those of equal leading bits together."""
    leading = min(width - 1, (len(values) // SLICE_ROWS).bit_length())
    rest = 32 + width - leading
    own = values.astype(np.uint64) << np.uint64(32) | np.arange(len(values), dtype=np.uint64)
    own.sort()
    starts = np.searchsorted(own, np.arange((1 << leading) + 1, dtype=np.uint64) << np.uint64(rest))
    for top in range(part, 1 << leading, parts):
        beside = [
            own[starts[other] : starts[other + 1]] for other in (top, *(top ^ 1 << bit for bit in range(leading)))
        ]
        entries = [beside[0], *(beside[0] ^ np.uint64(1 << bit) for bit in range(32, rest))]
        entries += [rows ^ np.uint64(1 << rest + bit) for bit, rows in enumerate(beside[1:])]
        whole = np.concatenate(entries)
        whole.sort()
        yield whole


def in_band(codes: Codes, places: npt.NDArray[np.int64], distance: int, part: int = 0, parts: int = 1) -> Found:
    """Return a forest of the pairs within `distance` that differ in at most 2 bits of a band.

    `codes` are distinct fingerprints, (n, 32) uint8. Of `parts` parts this is one: their forests together are the
    band's. The forests of all bands have the components of all pairs within the distance.
    """
    faiss.omp_set_num_threads(1)
    words, forest = words_of(codes), Forest(len(codes))
    crowded = CROWD + 4 * len(codes) * (len(places) + 1) // (1 << len(places))
    compared = most = 0
    for entries in _slices(band_values(codes, places), len(places), part, parts):
        values, rows = (entries >> np.uint64(32)).astype(np.uint32), entries.astype(np.uint32)
        crowds = np.unique(values[crowded:][values[crowded:] == values[:-crowded]])
        few = np.ones(len(values), bool)
        for start, stop in zip(*(np.searchsorted(values, crowds, side=side) for side in SIDES), strict=True):
            compared += _walk(codes, rows[start:stop], distance, forest)
            most = max(most, int(stop - start))
            few[start:stop] = False
        values, rows = values[few], rows[few]
        first = np.flatnonzero(values[1:] == values[:-1])
        ahead = 1
        while len(first):
            most = max(most, ahead + 1)
            compared += len(first)
            forest.add(*within(words, words, rows[first], rows[first + ahead], distance)[:2])
            ahead += 1
            first = first[first + ahead < len(values)]
            first = first[values[first] == values[first + ahead]]
    return Found(forest.edges(), compared, most)


def _walk(codes: Codes, crowd: Rows, distance: int, forest: Forest) -> int:
    """Add a forest of the rows of `crowd` within `distance` of each other; return the number of pairs compared.

    A walk goes outward from one row; rows that are known to be connected are reached together. What some walks do not
    reach is scattered, and is compared each with each.
    """
    compared, left = 0, crowd
    for _ in range(WALKS):
        reached = forest.known[left] == forest.known[left[:1]]
        while reached.any() and not reached.all():
            seen, left = left[reached], left[~reached]
            compared += len(seen) * len(left)
            distances, places = _flat(codes, seen).search(np.ascontiguousarray(codes[left]), 1)
            near = distances[:, 0] <= distance
            forest.add(seen[places[near, 0]], left[near])
            reached = np.isin(forest.known[left], forest.known[left[near]])
        left = left[~reached]
    for start in range(0, len(left), BLOCK):
        compared += _compare(codes, left[start : start + BLOCK], left[start:], distance, forest)
    return compared


def _flat(codes: Codes, rows: npt.NDArray[Any]) -> Any:
    index = faiss.IndexBinaryFlat(BITS)
    index.add(np.ascontiguousarray(codes[rows]))
    return index


def _compare(codes: Codes, few: npt.NDArray[Any], many: npt.NDArray[Any], distance: int, forest: Forest) -> int:
    """Add the pairs within `distance` of one row of `few` and one of `many`; return how many were compared."""
    index = _flat(codes, few)
    for start in range(0, len(many), SLICE_ROWS):
        part = many[start : start + SLICE_ROWS]
        limits, _, places = index.range_search(np.ascontiguousarray(codes[part]), distance + 1)  # it is exclusive
        forest.add(few[places], np.repeat(part, np.diff(limits).astype(np.int64)))
    return len(few) * len(many)


def in_blocks(codes: Codes, first: int, stop: int, distance: int) -> Found:
    """Return a forest of the pairs within `distance` of which one row is in [first, stop) and the other not before it.

    `codes` are fingerprints, (n, 32) uint8. The forests of adjoining blocks have the components of all pairs.
    """
    faiss.omp_set_num_threads(1)
    forest, rows = Forest(len(codes)), np.arange(len(codes))
    compared = 0
    for start in range(first, stop, BLOCK):
        compared += _compare(codes, rows[start : min(start + BLOCK, stop)], rows[start:], distance, forest)
    return Found(forest.edges(), compared, 0)
