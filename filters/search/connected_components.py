"""Connected components: a forest that is updated as edges arrive, and groups named by their smallest member."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

MIN_PENDING_EDGES = 1 << 16
"""Edges that are collected, or an eighth of the rows where that is more, before they are merged together."""


Edges = npt.NDArray[np.int64]


def component_labels(size: int, edges: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return the connected component, (size,) int32, of each of `size` rows under (m, 2) edges."""
    if not len(edges):
        return np.arange(size, dtype=np.int32)
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def smallest_rows(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return for each row the first row that has its label, (n,) int64."""
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    rows: npt.NDArray[np.int64] = first[place]
    return rows


class Forest:
    """The connected components of `size` rows, updated as edges arrive. Memory is bounded by `size`.

    `known` names each row's component by its smallest row, (size,) int64, as far as edges have been merged.
    """

    def __init__(self, size: int) -> None:
        self.known = np.arange(size, dtype=np.int64)
        self._waiting: list[Edges] = []
        self._count = 0

    def add(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        """Add edges between the rows of `left` and those of `right`, (m,) integers each."""
        edges = np.stack([self.known[left], self.known[right]], axis=1)
        edges = edges[edges[:, 0] != edges[:, 1]]
        if len(edges):
            self._waiting.append(edges)
            self._count += len(edges)
            if self._count > max(MIN_PENDING_EDGES, len(self.known) // 8):
                self._settle()

    def _settle(self) -> None:
        if self._waiting:
            roots, places = np.unique(np.concatenate(self._waiting), return_inverse=True)
            parent = np.arange(len(self.known))
            parent[roots] = roots[smallest_rows(component_labels(len(roots), places.reshape(-1, 2)))]
            self.known = parent[self.known]
            self._waiting, self._count = [], 0

    def components(self) -> npt.NDArray[np.int64]:
        """Return the smallest row of each row's component, (size,) int64."""
        self._settle()
        return self.known

    def edges(self) -> Edges:
        """Return (m, 2) int64 edges: a component's smallest row and each of its other rows, sorted by the latter."""
        least = self.components()
        others = np.flatnonzero(least != np.arange(len(least)))
        return np.stack([least[others], others], axis=1)


def string_components(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Table:
    """Return (member, group) for each distinct string in edges (left, right): group is its component's least string."""
    ends = pa.chunked_array([*left.chunks, *right.chunks], pa.string()).combine_chunks().dictionary_encode()
    order = pc.sort_indices(ends.dictionary).to_numpy()
    members = ends.dictionary.take(pa.array(order))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    edges = rank[ends.indices.to_numpy()].reshape(2, -1).T
    first_rows = smallest_rows(component_labels(len(order), edges))
    return pa.table({"member": members, "group": members.take(pa.array(first_rows))})
