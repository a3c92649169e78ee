"""Cosines that do not depend on batching: float32 products propose candidates, float64 sums of each row decide."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import StageFailed

Vectors = npt.NDArray[np.float32]


Halves = npt.NDArray[np.float16]


EXACT_BATCH_ROWS = 1 << 12
"""Pairs whose cosines are computed at once; it does not affect results."""


def float32_margin(width: int) -> float:
    """Return how far apart two float32 products of unit vectors can be and still be in the wrong order.

    Each is off by at most width x 2^-24 in any order of summation (Higham 2002, section 3.1), and slightly more for
    the rounding of the vectors themselves.
    """
    return (width + 8) * 2.0**-23


def exact_cosines(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the cosine, (n,) float64, of each row of (n, d) with the same row of the other; no row may be zero.

    Each row is summed separately, so a cosine has the same bits in any batch.
    """
    cosines = np.empty(len(left), np.float64)
    for first in range(0, len(left), EXACT_BATCH_ROWS):
        x, y = (side[first : first + EXACT_BATCH_ROWS].astype(np.float64, order="C") for side in (left, right))
        scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        cosines[first : first + EXACT_BATCH_ROWS] = (x * y).sum(axis=1) / scale
    return cosines.clip(-1, 1)


def unit_vectors(vectors: npt.NDArray[Any]) -> Vectors:
    """Return (n, d) float32 unit vectors of the same directions; no row may be zero."""
    wide = vectors.astype(np.float64, order="C")  # a row is summed in its memory order
    scaled: Vectors = (wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))).astype(np.float32)
    return scaled


def usable_embeddings(column: pa.ChunkedArray | pa.Array, where: str) -> tuple[npt.NDArray[np.bool_], Halves]:
    """Return which embeddings of a column have a direction, (n,) bool, and these, (m, d) little-endian float16.

    An embedding that is null, zero, or contains NaN or an infinity has none. Raises StageFailed, prefixed by `where`,
    for embeddings of different lengths.
    """
    binaries = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).cast(pa.binary())
    mask = binaries.is_valid().to_numpy(zero_copy_only=False).astype(bool)
    present = pa.concat_arrays([binaries.drop_null()])  # a copy starts at the beginning of its buffers, a slice may not
    if not len(present):
        return mask, np.zeros((0, 0), "<f2")
    offsets = np.frombuffer(present.buffers()[1], np.int32)[present.offset : present.offset + len(present) + 1]
    widths = np.unique(np.diff(offsets))
    if len(widths) > 1 or widths[0] % 2:
        raise StageFailed(f"{where}: expected embeddings of one length, found {widths[0]} and {widths[-1]} bytes")
    data = np.frombuffer(present.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    vectors = data.view("<f2").reshape(len(present), -1)
    valid = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    mask[mask] = valid
    return mask, vectors[valid]


def nearest_unordered(queries: Vectors, corpus: Vectors, count: int) -> npt.NDArray[np.int64]:
    """Return the `count` rows of (m, d) with the largest cosines to each of (n, d), both unit: (n, count), unordered.

    Exact, ties to the smaller row: where float32 does not determine them, the query's cosines are recomputed exactly.
    """
    if count >= len(corpus):
        return np.tile(np.arange(len(corpus)), (len(queries), 1))
    scores = queries @ corpus.T
    places = np.argpartition(scores, -count, axis=1)[:, -count:].astype(np.int64)
    least = np.take_along_axis(scores, places, axis=1).min(axis=1)
    ambiguous = np.flatnonzero((scores >= least[:, None] - float32_margin(queries.shape[1])).sum(axis=1) > count)
    for row in ambiguous:
        close = np.flatnonzero(scores[row] >= least[row] - float32_margin(queries.shape[1]))
        cosines = exact_cosines(np.broadcast_to(queries[row], (len(close), queries.shape[1])), corpus[close])
        places[row] = close[np.lexsort((close, -cosines))[:count]]
    return places
