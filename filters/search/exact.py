"""Exact search by cosine at the speed of a bfloat16 product.

Two steps. A product of vectors rounded to bfloat16 gives the largest score of each group of rows; the error of each is
bounded, which proves for all but a few groups that they do not contain the result. These few are recomputed in float64,
in which the inner product of float16 unit vectors has no rounding error: every term is a multiple of 2**-48, every
partial sum is below 2 (Cauchy-Schwarz), and 53 bits hold both. So no result depends on a batch, block or thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.hardware import has_bf16

GROUP_ROWS = 32
"""Rows of the corpus in a group; the first step keeps only the largest score of each group."""


BLOCK_ROWS = 2048
"""Rows of the corpus in one product; with a batch of 4,096 queries the result is 16 MB."""


MAX_SCORES_AT_ONCE = 1 << 22
"""Scores that the second step computes at once, 32 MB."""


UNIT_LENGTH_TOLERANCE = 0.01
"""How far from 1 the length of a unit vector may be; rounding to float16 changes it by at most 2**-11."""


Halves = npt.NDArray[np.float16]


Singles = npt.NDArray[np.float32]


Doubles = npt.NDArray[np.float64]


RowNumbers = npt.NDArray[np.int64]


Neighbours = tuple[RowNumbers, Singles]
"""For each query k row numbers of the corpus, nearest first, ties by the smaller number; and their cosines.
Where there is no such row, the number is -1 and the cosine NaN."""


_BF16 = 2.0**-9
"""Unit roundoff of bfloat16: 8 significant bits, to nearest."""


_FP32 = 2.0**-24


_SAFE = 1.01
"""Covers the second-order terms in the bounds below."""


_EQUAL = 2.0**-19
"""Scores that differ by less count as equal in the first step, for float32 rounding of a cosine and the bounds."""


def are_unit(vectors: Halves) -> npt.NDArray[np.bool_]:
    """Return for each of (n, d) float16 vectors whether its length is within `UNIT_LENGTH_TOLERANCE` of 1; with NaN it
    is not.
    """
    return np.asarray(np.abs(with_lengths(vectors)[1] - 1) <= UNIT_LENGTH_TOLERANCE)


def with_lengths(vectors: Halves) -> tuple[Doubles, Doubles]:
    """Return (n, d) float16 vectors as float64, and their lengths (n,)."""
    wide = vectors.astype(np.float64)
    return wide, np.sqrt(np.einsum("nd,nd->n", wide, wide))


@dataclass(frozen=True)
class RoundedCorpus:
    """A corpus, rounded for the first step.

    `bits` (n, d) uint16 are bfloat16: unit vectors minus `mean` (d,) float32, as the common part decides nothing and
    costs precision. No row is longer than `bounds[0]` before rounding, or moved by more than `bounds[1]` by it.
    """

    bits: npt.NDArray[np.uint16]
    mean: Singles
    bounds: Doubles

    @classmethod
    def of(cls, vectors: Halves) -> "RoundedCorpus":
        """Round (n, d) float16 unit vectors."""
        count, width = vectors.shape
        starts = range(0, count, BLOCK_ROWS)
        mean = sum(
            (_unit(vectors[start : start + BLOCK_ROWS]).sum(axis=0) for start in starts), np.zeros(width, np.float32)
        )
        mean = (mean / max(count, 1)).astype(np.float32)
        bits = np.empty((count, width), np.uint16)
        bounds = np.zeros(2)
        for start in starts:
            centred = _unit(vectors[start : start + BLOCK_ROWS]) - mean
            rounded = torch.from_numpy(centred).bfloat16()
            bits[start : start + BLOCK_ROWS] = rounded.view(torch.int16).numpy().view(np.uint16)
            moved = centred - rounded.float().numpy()
            norms = [float(np.linalg.norm(part, axis=1).max()) for part in (centred, moved)]
            bounds = np.maximum(bounds, norms)
        return cls(bits, mean, bounds * _SAFE)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name, for saving."""
        return {"bits": self.bits, "mean": self.mean, "bounds": self.bounds}


def _unit(vectors: Halves) -> Singles:
    wide = vectors.astype(np.float32)
    wide /= np.sqrt(np.einsum("nd,nd->n", wide, wide, dtype=np.float64)).astype(np.float32)[:, None]
    return wide


def _maxima(bits: npt.NDArray[np.uint16], queries: torch.Tensor) -> npt.NDArray[np.int16]:
    """Return the largest score of each group with each of (q, d) bfloat16 queries, (groups, q), as bfloat16's bits.

    They are compared as integers, ten times as fast: correct unless all scores of a group are negative, in which case
    the result is negative, too.
    """
    corpus, maxima = (
        torch.from_numpy(bits).view(torch.bfloat16),
        np.empty((-(-len(bits) // GROUP_ROWS), len(queries)), np.int16),
    )
    product = _bf16_product if has_bf16() else _fp32_product
    transposed = queries.T if has_bf16() else queries.T.float().contiguous()
    for start in range(0, len(bits), BLOCK_ROWS):
        scores = product(corpus[start : start + BLOCK_ROWS], transposed)
        full_groups, group = len(scores) // GROUP_ROWS, start // GROUP_ROWS
        grouped = scores[: full_groups * GROUP_ROWS].reshape(full_groups, GROUP_ROWS, len(queries))
        _store_as_bf16(np.max(grouped, axis=1), maxima[group : group + full_groups])
        if full_groups * GROUP_ROWS < len(scores):
            _store_as_bf16(scores[full_groups * GROUP_ROWS :].max(axis=0), maxima[group + full_groups])
    return maxima


def _bf16_product(block: torch.Tensor, transposed: torch.Tensor) -> npt.NDArray[Any]:
    scores: npt.NDArray[Any] = (block @ transposed).view(torch.int16).numpy()
    return scores


def _fp32_product(block: torch.Tensor, transposed: torch.Tensor) -> npt.NDArray[Any]:
    """Return the product in float32, for processors that do not multiply bfloat16: by NumPy, whose library is the
    faster one on some of them (116 against 208 ms for a block), and never slow.
    """
    scores: npt.NDArray[Any] = (block.float().numpy() @ transposed.numpy()).view(np.int32)
    return scores


def _store_as_bf16(largest: npt.NDArray[Any], out: npt.NDArray[np.int16]) -> None:
    """Store the largest scores as bfloat16's bits; the rounded largest float32 is the largest of the rounded ones."""
    if largest.dtype == np.int32:
        largest = torch.from_numpy(largest.view(np.float32)).bfloat16().view(torch.int16).numpy()
    out[...] = largest


def _possible(rounded: RoundedCorpus, unit: Doubles, k: int) -> tuple[npt.NDArray[np.bool_], Doubles]:
    """Return which groups may contain one of the k nearest of each of (q, d) unit queries, (groups, q), and a lower
    bound of the k-th nearest's cosine, (q,).

    For a row c, rounded to c', and a query q, rounded to q', the product's s' is off by at most
    |q - q'| |c| + |q'| |c - c'|, and (d + 2) 2**-24 |q'| |c'| for sums in float32 (Higham 2002, 3.1), and 2**-9 |s'|
    for its own rounding to bfloat16.
    """
    longest, moved = rounded.bounds
    queries = torch.from_numpy(unit.astype(np.float32)).bfloat16()
    rounded_queries = queries.float().numpy().astype(np.float64)
    length = np.linalg.norm(rounded_queries, axis=1)
    error = np.linalg.norm(unit - rounded_queries, axis=1) * longest + length * moved
    error += _SAFE * (unit.shape[1] + 2) * _FP32 * length * (longest + moved) + _EQUAL
    maxima = _maxima(rounded.bits, queries)
    share = _SAFE * _BF16
    if len(maxima) < k:
        return np.ones(maxima.shape, np.bool_), np.full(len(unit), -np.inf)
    kth = maxima.max(axis=0) if k == 1 else np.partition(np.ascontiguousarray(maxima.T), -k, axis=1)[:, -k]
    floor = np.where(kth < 0, -np.inf, _from_bf16(kth) * (1 - share) - error)
    least = np.clip((floor - error) / (1 + share), 0, None).astype(np.float32)
    least_bits = (least.view(np.uint32) >> 16).astype(np.int16)  # truncated, so not above the value that it represents
    possible = maxima >= least_bits
    possible[:, least_bits == 0] = True
    return possible, floor + unit @ rounded.mean


def _from_bf16(bits: npt.NDArray[np.int16]) -> Doubles:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _query_slices(possible: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """Yield slices of the queries; each has about `MAX_SCORES_AT_ONCE` scores to compute, and at least one query."""
    ends = np.cumsum(possible.sum(axis=0, dtype=np.int64) * GROUP_ROWS) // MAX_SCORES_AT_ONCE
    starts = np.flatnonzero(np.diff(ends, prepend=-1))
    yield from map(slice, starts, [*starts[1:], possible.shape[1]])


def nearest(queries: Halves, corpus: Halves, rounded: RoundedCorpus, k: int = 1) -> Neighbours:
    """Return the k nearest of (m, d) for each of (n, d) float16 unit vectors, exact; `rounded` is that of the corpus.

    A cosine is computed in float64 and rounded to float32; rows are compared by the rounded value.
    """
    wide, length = with_lengths(queries)
    places, cosines = _empty_result(len(queries), k)
    if not len(corpus) or not len(queries):
        return places, cosines
    possible, floor = _possible(rounded, wide / length[:, None], min(k, len(corpus)))
    for part in _query_slices(possible):
        batch = wide[part], length[part]
        places[part], cosines[part] = _exact_cosines(batch, corpus, possible[:, part], floor[part] - _EQUAL, k)
    return places, cosines


def _exact_cosines(
    batch: tuple[Doubles, Doubles], corpus: Halves, possible: npt.NDArray[np.bool_], floor: Doubles, k: int
) -> Neighbours:
    """Compute the cosines in the possible groups; return the k best of those that reach the floor."""
    wide, length = batch
    candidates = []
    for group in np.flatnonzero(possible.any(axis=1)):
        start = int(group) * GROUP_ROWS
        rows, lengths = with_lengths(corpus[start : start + GROUP_ROWS])
        members = np.flatnonzero(possible[group])
        cosines = ((wide[members] @ rows.T) / (length[members, None] * lengths)).astype(np.float32)
        query, row = np.nonzero(cosines >= floor[members, None])
        candidates.append((members[query], start + row, cosines[query, row]))
    owner, places, scores = (np.concatenate(column) for column in zip(*candidates, strict=True))
    return top_k(len(length), owner, places, scores, k)


def top_k(count: int, owner: RowNumbers, places: RowNumbers, scores: Singles, k: int) -> Neighbours:
    """Return the k best of each of `count` queries from (c,) candidates: each one's query, row number and score."""
    order = np.lexsort((places, -scores, owner))
    owner, places, scores = owner[order], places[order], scores[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    first = rank < k
    result, cosines = _empty_result(count, k)
    result[owner[first], rank[first]] = places[first]
    cosines[owner[first], rank[first]] = scores[first]
    return result, cosines


def rerank(queries: Halves, corpus: Halves, candidates: RowNumbers, k: int) -> Neighbours:
    """Return the k nearest among candidates, (n, c) row numbers of (m, d), -1 for none; cosines as in `nearest`."""
    places, cosines = _empty_result(len(queries), k)
    step = max(1, MAX_SCORES_AT_ONCE // max(1, candidates.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        chosen = candidates[start : start + step]
        owner, column = np.nonzero(chosen >= 0)
        wide, length = with_lengths(queries[start : start + step])
        rows, lengths = with_lengths(corpus[chosen[owner, column]])
        dots = np.einsum("nd,nd->n", wide[owner], rows)
        scores = (dots / (length[owner] * lengths)).astype(np.float32)
        top = top_k(len(chosen), owner, chosen[owner, column], scores, k)
        places[start : start + step], cosines[start : start + step] = top
    return places, cosines


def _empty_result(count: int, k: int) -> Neighbours:
    return np.full((count, k), -1, np.int64), np.full((count, k), np.nan, np.float32)
