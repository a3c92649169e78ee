"""Exact search by cosine at the speed of a bfloat16 product.

Two steps. A product of vectors rounded to bfloat16 gives the largest score of each group of rows; how far each can be
from the truth is bounded, so that all groups but a few are proven not to hold the answer. These few are computed anew
in float64, in which the inner product of float16 unit vectors is free of rounding: every term is a multiple of 2**-48,
every partial sum is below 2 (Cauchy-Schwarz), and 53 bits hold both. So no answer depends on a batch, block or thread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.hardware import multiplies_bf16

GROUP = 32
"""Rows of the corpus of whose scores the first step keeps only the largest."""


BLOCK = 2048
"""Rows of the corpus in one product; with a batch of 4,096 queries its result is 16 MB."""


AT_ONCE = 1 << 22
"""Scores that the second step computes at once, 32 MB."""


NOT_UNIT = 0.01
"""How far from 1 the length of a unit vector may be; rounding to float16 changes it by at most 2**-11."""


Halves = npt.NDArray[np.float16]


Singles = npt.NDArray[np.float32]


Doubles = npt.NDArray[np.float64]


Places = npt.NDArray[np.int64]


Found = tuple[Places, Singles]
"""For each query k rows of the corpus, nearest first, equals in the order of their places; and their cosines.
Where there is none, the place is -1 and the cosine NaN."""


_BF16 = 2.0**-9
"""Unit roundoff of bfloat16: 8 significant bits, to nearest."""


_FP32 = 2.0**-24


_SAFE = 1.01
"""Covers the terms of second order in the bounds below."""


_EQUAL = 2.0**-19
"""Scores this near count as equal in the first step, for the float32 roundings of a cosine and of the bounds."""


def are_unit(vectors: Halves) -> npt.NDArray[np.bool_]:
    """Tell of each of (n, d) float16 vectors whether its length is within `NOT_UNIT` of 1; a NaN's is not."""
    return np.asarray(np.abs(widened(vectors)[1] - 1) <= NOT_UNIT)


def widened(vectors: Halves) -> tuple[Doubles, Doubles]:
    """Return (n, d) float16 vectors as float64, and their lengths (n,)."""
    wide = vectors.astype(np.float64)
    return wide, np.sqrt(np.einsum("nd,nd->n", wide, wide))


@dataclass(frozen=True)
class Rounded:
    """What the first step needs of a corpus.

    `bits` (n, d) uint16 are bfloat16: unit vectors less `mean` (d,) float32, as what all have in common decides nothing
    and costs precision. No row is longer than `bounds[0]` before its rounding, or moved by more than `bounds[1]` in it.
    """

    bits: npt.NDArray[np.uint16]
    mean: Singles
    bounds: Doubles

    @classmethod
    def of(cls, vectors: Halves) -> "Rounded":
        """Round (n, d) float16 unit vectors."""
        count, width = vectors.shape
        parts = range(0, count, BLOCK)
        mean = sum((_unit(vectors[at : at + BLOCK]).sum(axis=0) for at in parts), np.zeros(width, np.float32))
        mean = (mean / max(count, 1)).astype(np.float32)
        bits = np.empty((count, width), np.uint16)
        bounds = np.zeros(2)
        for at in parts:
            centred = _unit(vectors[at : at + BLOCK]) - mean
            rounded = torch.from_numpy(centred).bfloat16()
            bits[at : at + BLOCK] = rounded.view(torch.int16).numpy().view(np.uint16)
            moved = centred - rounded.float().numpy()
            longest = [float(np.linalg.norm(part, axis=1).max()) for part in (centred, moved)]
            bounds = np.maximum(bounds, longest)
        return cls(bits, mean, bounds * _SAFE)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return its arrays by name, to be kept."""
        return {"bits": self.bits, "mean": self.mean, "bounds": self.bounds}


def _unit(vectors: Halves) -> Singles:
    wide = vectors.astype(np.float32)
    wide /= np.sqrt(np.einsum("nd,nd->n", wide, wide, dtype=np.float64)).astype(np.float32)[:, None]
    return wide


def _maxima(bits: npt.NDArray[np.uint16], queries: torch.Tensor) -> npt.NDArray[np.int16]:
    """Return the largest score of each group with each of (q, d) bfloat16 queries, (groups, q), as bfloat16's bits.

    They are compared as integers, at ten times the speed: right unless all scores of a group are negative, in which
    case the result is negative too.
    """
    corpus, found = (
        torch.from_numpy(bits).view(torch.bfloat16),
        np.empty((-(-len(bits) // GROUP), len(queries)), np.int16),
    )
    product = _halves if multiplies_bf16() else _singles
    turned = queries.T if multiplies_bf16() else queries.T.float().contiguous()
    for at in range(0, len(bits), BLOCK):
        scores = product(corpus[at : at + BLOCK], turned)
        whole, first = len(scores) // GROUP, at // GROUP
        grouped = scores[: whole * GROUP].reshape(whole, GROUP, len(queries))
        _keep(np.max(grouped, axis=1), found[first : first + whole])
        if whole * GROUP < len(scores):
            _keep(scores[whole * GROUP :].max(axis=0), found[first + whole])
    return found


def _halves(block: torch.Tensor, turned: torch.Tensor) -> npt.NDArray[Any]:
    scores: npt.NDArray[Any] = (block @ turned).view(torch.int16).numpy()
    return scores


def _singles(block: torch.Tensor, turned: torch.Tensor) -> npt.NDArray[Any]:
    """The product in float32, for processors that do not multiply bfloat16: by NumPy, whose library is the quicker one
    on some of them (116 against 208 ms for a block), and never slow.
    """
    scores: npt.NDArray[Any] = (block.float().numpy() @ turned.numpy()).view(np.int32)
    return scores


def _keep(largest: npt.NDArray[Any], found: npt.NDArray[np.int16]) -> None:
    """Keep the largest scores as bfloat16's bits; of float32, the largest rounded is the largest of the rounded."""
    if largest.dtype == np.int32:
        largest = torch.from_numpy(largest.view(np.float32)).bfloat16().view(torch.int16).numpy()
    found[...] = largest


def _possible(rounded: Rounded, unit: Doubles, k: int) -> tuple[npt.NDArray[np.bool_], Doubles]:
    """Return which groups may hold one of the k nearest of each of (q, d) unit queries, (groups, q), and a lower bound
    of the k-th nearest's cosine, (q,).

    For a row c, rounded to c', and a query q, rounded to q', the product's s' is off by at most
    |q - q'| |c| + |q'| |c - c'|, and (d + 2) 2**-24 |q'| |c'| for sums in float32 (Higham 2002, 3.1), and 2**-9 |s'|
    for its own rounding to bfloat16.
    """
    longest, moved = rounded.bounds
    queries = torch.from_numpy(unit.astype(np.float32)).bfloat16()
    near = queries.float().numpy().astype(np.float64)
    length = np.linalg.norm(near, axis=1)
    off = np.linalg.norm(unit - near, axis=1) * longest + length * moved
    off += _SAFE * (unit.shape[1] + 2) * _FP32 * length * (longest + moved) + _EQUAL
    maxima = _maxima(rounded.bits, queries)
    share = _SAFE * _BF16
    if len(maxima) < k:
        return np.ones(maxima.shape, np.bool_), np.full(len(unit), -np.inf)
    kth = maxima.max(axis=0) if k == 1 else np.partition(np.ascontiguousarray(maxima.T), -k, axis=1)[:, -k]
    floor = np.where(kth < 0, -np.inf, _decoded(kth) * (1 - share) - off)
    least = np.clip((floor - off) / (1 + share), 0, None).astype(np.float32)
    least_bits = (least.view(np.uint32) >> 16).astype(np.int16)  # cut off, so not above what it stands for
    possible = maxima >= least_bits
    possible[:, least_bits == 0] = True
    return possible, floor + unit @ rounded.mean


def _decoded(bits: npt.NDArray[np.int16]) -> Doubles:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _parts(possible: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """Yield slices of the queries so that each has about `AT_ONCE` scores to compute, and at least one query."""
    ends = np.cumsum(possible.sum(axis=0, dtype=np.int64) * GROUP) // AT_ONCE
    starts = np.flatnonzero(np.diff(ends, prepend=-1))
    yield from map(slice, starts, [*starts[1:], possible.shape[1]])


def nearest(queries: Halves, corpus: Halves, rounded: Rounded, k: int = 1) -> Found:
    """Return the k nearest of (m, d) for each of (n, d) float16 unit vectors, exact; `rounded` is the corpus's.

    A cosine is computed in float64 and rounded to float32; by that rounded value rows are compared.
    """
    wide, length = widened(queries)
    places, cosines = _nothing(len(queries), k)
    if not len(corpus) or not len(queries):
        return places, cosines
    possible, floor = _possible(rounded, wide / length[:, None], min(k, len(corpus)))
    for part in _parts(possible):
        asked = wide[part], length[part]
        places[part], cosines[part] = _computed(asked, corpus, possible[:, part], floor[part] - _EQUAL, k)
    return places, cosines


def _computed(
    asked: tuple[Doubles, Doubles], corpus: Halves, possible: npt.NDArray[np.bool_], floor: Doubles, k: int
) -> Found:
    """Compute the cosines in the possible groups; keep those that reach the floor, and of these the k best."""
    wide, length = asked
    kept = []
    for group in np.flatnonzero(possible.any(axis=1)):
        at = int(group) * GROUP
        rows, lengths = widened(corpus[at : at + GROUP])
        who = np.flatnonzero(possible[group])
        cosines = ((wide[who] @ rows.T) / (length[who, None] * lengths)).astype(np.float32)
        left, right = np.nonzero(cosines >= floor[who, None])
        kept.append((who[left], at + right, cosines[left, right]))
    owner, places, scores = (np.concatenate(column) for column in zip(*kept, strict=True))
    return best(len(length), owner, places, scores, k)


def best(count: int, owner: Places, places: Places, scores: Singles, k: int) -> Found:
    """Return the k best of each of `count` queries from (c,) candidates: whose each is, its place, its score."""
    order = np.lexsort((places, -scores, owner))
    owner, places, scores = owner[order], places[order], scores[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    first = rank < k
    found, cosines = _nothing(count, k)
    found[owner[first], rank[first]] = places[first]
    cosines[owner[first], rank[first]] = scores[first]
    return found, cosines


def ranked(queries: Halves, corpus: Halves, candidates: Places, k: int) -> Found:
    """Return the k nearest among candidates, (n, c) places of (m, d), -1 for none; cosines as `nearest` has them."""
    places, cosines = _nothing(len(queries), k)
    step = max(1, AT_ONCE // max(1, candidates.shape[1] * queries.shape[1]))
    for at in range(0, len(queries), step):
        chosen = candidates[at : at + step]
        owner, column = np.nonzero(chosen >= 0)
        wide, length = widened(queries[at : at + step])
        rows, lengths = widened(corpus[chosen[owner, column]])
        dots = np.einsum("nd,nd->n", wide[owner], rows)
        scores = (dots / (length[owner] * lengths)).astype(np.float32)
        here = best(len(chosen), owner, chosen[owner, column], scores, k)
        places[at : at + step], cosines[at : at + step] = here
    return places, cosines


def _nothing(count: int, k: int) -> Found:
    return np.full((count, k), -1, np.int64), np.full((count, k), np.nan, np.float32)
