"""Groups of duplicates over the whole corpus: exact by SHA-256 of the fetched bytes, near by PDQ within a distance."""

from dataclasses import dataclass
from typing import ClassVar

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Duplicates:
    """Settings: the PDQ signal, the largest Hamming distance within a group, the least quality that is compared."""

    pdq: str
    distance: int = 31
    min_quality: int = 50

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("exact_group", pa.string()),
            ("exact_size", pa.int64()),
            ("near_group", pa.string()),
            ("near_size", pa.int64()),
        ]
    )


def near_edges(
    queries: npt.NDArray[np.uint8], first: int, corpus: npt.NDArray[np.uint8], distance: int
) -> npt.NDArray[np.int64]:
    """Return (m, 2) int64 pairs i < j of corpus rows within `distance` bits, i among the rows of `queries`.

    `queries` (n, 32) uint8 are the corpus rows from `first` on. Exact: FAISS's binary range search, one thread.
    """
    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(corpus.shape[1] * 8)
    index.add(np.ascontiguousarray(corpus))
    limits, _, places = index.range_search(np.ascontiguousarray(queries), distance + 1)  # FAISS's radius is exclusive
    left = np.repeat(np.arange(len(queries), dtype=np.int64), np.diff(limits).astype(np.int64)) + first
    edges = np.stack([left, places.astype(np.int64)], axis=1)
    return edges[edges[:, 0] < edges[:, 1]]


def groups(size: int, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return the connected component, (size,) int32, of each of `size` rows under (m, 2) edges."""
    if not len(edges):
        return np.arange(size, dtype=np.int32)
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def name_groups(uids: list[str], labels: npt.NDArray[np.int32]) -> tuple[list[str], list[int]]:
    """Return each row's group, named by its smallest uid, and the group's size."""
    smallest: dict[int, str] = {}
    for uid, label in zip(uids, labels.tolist(), strict=True):
        smallest[label] = min(uid, smallest.get(label, uid))
    sizes = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    return [smallest[label] for label in labels.tolist()], [int(sizes[label]) for label in labels.tolist()]
