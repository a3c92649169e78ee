"""Connected components: a forest that keeps them while edges come in, and groups named by their smallest member."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

LEAST_WAITING = 1 << 16
"""Edges that wait, or an eighth of the rows where that is more, before they are looked at together."""


Edges = npt.NDArray[np.int64]


def groups(size: int, edges: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return the connected component, (size,) int32, of each of `size` rows under (m, 2) edges."""
    if not len(edges):
        return np.arange(size, dtype=np.int32)
    graph = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def smallest(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return for each row the first row that has its label, (n,) int64."""
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    rows: npt.NDArray[np.int64] = first[place]
    return rows


class Forest:
    """The components of edges between `size` rows, as they come in. Memory is bounded by `size`.

    `known` names each row's component by its smallest row, (size,) int64, as far as the edges have been looked at.
    """

    def __init__(self, size: int) -> None:
        self.known = np.arange(size, dtype=np.int64)
        self._waiting: list[Edges] = []
        self._count = 0

    def add(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        """Take edges between the rows of `left` and those of `right`, (m,) whole numbers each."""
        edges = np.stack([self.known[left], self.known[right]], axis=1)
        edges = edges[edges[:, 0] != edges[:, 1]]
        if len(edges):
            self._waiting.append(edges)
            self._count += len(edges)
            if self._count > max(LEAST_WAITING, len(self.known) // 8):
                self._settle()

    def _settle(self) -> None:
        if self._waiting:
            roots, places = np.unique(np.concatenate(self._waiting), return_inverse=True)
            below = np.arange(len(self.known))
            below[roots] = roots[smallest(groups(len(roots), places.reshape(-1, 2)))]
            self.known = below[self.known]
            self._waiting, self._count = [], 0

    def components(self) -> npt.NDArray[np.int64]:
        """Return the smallest row of each row's component, (size,) int64."""
        self._settle()
        return self.known

    def edges(self) -> Edges:
        """Return (m, 2) int64 edges: the smallest row of a component and each of its others, sorted by the latter."""
        least = self.components()
        others = np.flatnonzero(least != np.arange(len(least)))
        return np.stack([least[others], others], axis=1)


def components(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Table:
    """Return (member, group) for each distinct string in edges (left, right): the smallest string of its component."""
    both = pa.chunked_array([*left.chunks, *right.chunks], pa.string()).combine_chunks().dictionary_encode()
    order = pc.sort_indices(both.dictionary).to_numpy()
    members = both.dictionary.take(pa.array(order))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    edges = place[both.indices.to_numpy()].reshape(2, -1).T
    least = smallest(groups(len(order), edges))
    return pa.table({"member": members, "group": members.take(pa.array(least))})
