"""Clusters of image embeddings: spherical k-means by FAISS, and to which of its centres each embedding is nearest.

Above `FLAT` clusters the work would grow with rows times clusters, so it is done on two levels: about the square root
of k coarse cells are found first, each is given its share of the k clusters by the rows in it, and k-means runs within
each. An embedding is then compared with the centres of its `PROBES` nearest cells alone. What that misses of the truly
nearest centre is measured against all centres, and stands in the job's facts as `recall`.
"""

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.cosine import Halves, Vectors, exact, margin, nearest, unit
from pipeline.errors import InputError, StageFailed

RESULT_VERSION = 1
"""What FAISS's k-means makes of a sample: raised where a new version gives other centres."""


FLAT = 256
"""Clusters up to which one level is enough."""


PROBES = 8
"""Cells in which the nearest centre is looked for: `benchmarks.dedup` measures what it costs in recall."""


PER_CENTRE = 256
"""Rows of the sample that k-means is given for each centre at most, as FAISS's own Clustering does by default."""


BATCH = 2048
"""Rows that are assigned at once; it changes no result."""


PARTS = ("centroids", "cells", "starts")


@dataclass(frozen=True)
class Clusters:
    """Settings: the CLIP signal; how many clusters; k-means' iterations, the rows it sees at most, and its seed.

    The rows are those of the smallest SHA-256 over seed and uid. DataComp (Gadre et al. 2023, arXiv 2304.14108,
    `image_based_clustering.md`) takes 100,000 clusters of 30 % of its pool; SemDeDup (Abbas et al. 2023,
    arXiv 2303.09540) 50,000 of LAION-440M.

    `cluster` is 0 to clusters - 1, `centre_cosine` the cosine to the cluster's centre, -1 to 1; both are null where the
    embedding has no direction (NaN, zero or null).
    """

    clip: str
    clusters: int
    iterations: int = 20
    sample: int = 1_000_000
    seed: int = 0

    columns: ClassVar[pa.Schema] = pa.schema([("cluster", pa.int32()), ("centre_cosine", pa.float32())])

    def __post_init__(self) -> None:
        for key, least, most in (
            ("clusters", 1, 1 << 30),
            ("iterations", 1, 10_000),
            ("sample", 1, 1 << 30),
            ("seed", 0, (1 << 31) - 1),
        ):
            value: Any = getattr(self, key)
            if type(value) is not int or not least <= value <= most:
                raise InputError(f"{key}: expected a whole number from {least} to {most}, found {value!r}")
        if self.sample < self.clusters:
            raise InputError(
                f"sample: expected at least as many rows as clusters ({self.clusters}), found {self.sample}"
            )

    @property
    def training_rows(self) -> int:
        """How many rows k-means is given at most."""
        return min(self.sample, PER_CENTRE * self.clusters)


@dataclass(frozen=True)
class Centres:
    """Centres, (k, d) float32 unit vectors, those of a cell together: cell i's are rows starts[i] to starts[i + 1].

    `cells` are the coarse centres, (c, d) float32; `starts` is (c + 1,) int64. On one level there is one cell.
    """

    centroids: Vectors
    cells: Vectors
    starts: npt.NDArray[np.int64]

    def files(self) -> dict[str, bytes]:
        """Return the arrays as `.npy` files, by name."""
        return {f"{part}.npy": _npy(getattr(self, part)) for part in PARTS}

    @classmethod
    def open(cls, folder: str) -> "Centres":
        """Map what `files` gave into memory; nothing is unpickled."""
        return cls(*(np.load(f"{folder}/{part}.npy", mmap_mode="r", allow_pickle=False) for part in PARTS))

    def assign(self, vectors: Halves) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return the cluster, (n,) int32, of embeddings (n, d), and their cosine to its centre, (n,) float32.

        Ties go to the smaller cluster. The result has the same bits in any batch and order.
        """
        if len(vectors) and vectors.shape[1] != self.centroids.shape[1]:
            raise StageFailed(f"clusters of {self.centroids.shape[1]} numbers, embeddings of {vectors.shape[1]}")
        found = np.empty(len(vectors), np.int32)
        for first in range(0, len(vectors), BATCH):
            found[first : first + BATCH] = self._nearest(unit(vectors[first : first + BATCH]))
        return found, exact(vectors, self.centroids[found]).astype(np.float32)

    def _nearest(self, queries: Vectors) -> npt.NDArray[np.int64]:
        probes = nearest(queries, self.cells, PROBES)
        sizes = np.diff(self.starts)
        scores = np.full((*probes.shape, sizes.max()), -2, np.float32)
        for cell in np.unique(probes):
            rows, slots = np.nonzero(probes == cell)
            own = self.centroids[self.starts[cell] : self.starts[cell + 1]]
            scores[rows, slots, : len(own)] = queries[rows] @ own.T
        close = scores >= scores.max(axis=(1, 2), keepdims=True) - margin(queries.shape[1])
        rows, slots, places = np.nonzero(close)
        centres: npt.NDArray[np.int64] = self.starts[probes[rows, slots]] + places
        cosines = exact(queries[rows], self.centroids[centres])
        order = np.lexsort((centres, -cosines, rows))
        best: npt.NDArray[np.int64] = centres[order][np.unique(rows[order], return_index=True)[1]]
        return best

    def recall(self, vectors: Halves) -> float:
        """Return the share of embeddings (n, d), at least one, whose cluster is that of the nearest of all centres."""
        return float((_owners(vectors, self.centroids) == self.assign(vectors)[0]).mean())


def _owners(vectors: Halves, centres: Vectors) -> npt.NDArray[np.int64]:
    """Return the nearest of all centres, (n,), for each of (n, d), n >= 1."""
    starts = range(0, len(vectors), BATCH)
    return np.concatenate([nearest(unit(vectors[first : first + BATCH]), centres, 1)[:, 0] for first in starts])


def _npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def train(sample: Halves, signal: Clusters) -> Centres:
    """Return the centres of a sample, (n, d), n >= clusters, in an order that its choice fixes.

    One FAISS thread: the sums of k-means are then made in one order, and the same sample gives the same bits on the
    same kind of processor.
    """
    faiss.omp_set_num_threads(1)
    count = round(signal.clusters**0.5) if signal.clusters > FLAT else 1
    cells = _kmeans(sample[: PER_CENTRE * count], count, signal)
    owner = _owners(sample, cells)
    kept, sizes = np.unique(owner, return_counts=True)
    shares = _shares(sizes, signal.clusters)
    centroids = [_kmeans(sample[owner == cell], int(share), signal) for cell, share in zip(kept, shares, strict=True)]
    return Centres(np.concatenate(centroids), cells[kept], np.cumsum([0, *shares]))


def _shares(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Return how many of `total` clusters each cell gets: in proportion to its rows, at least 1, at most its rows.

    The largest remainders are rounded up, ties to the first cell. Expects cells <= total <= all rows.
    """
    quotas = sizes * total / sizes.sum()
    shares: npt.NDArray[np.int64] = np.clip(np.floor(quotas).astype(np.int64), 1, sizes)
    while (left := total - shares.sum()) != 0:
        room = np.flatnonzero(shares < sizes) if left > 0 else np.flatnonzero(shares > 1)
        order = room[np.argsort((shares - quotas)[room] * np.sign(left), kind="stable")]
        shares[order[: abs(left)]] += np.sign(left)
    return shares


def _kmeans(rows: Halves, count: int, signal: Clusters) -> Vectors:
    """Return (count, d) unit centres of (n, d) embeddings, n >= count; the rows themselves where they are no more."""
    units = unit(rows)
    if count == len(units):
        return units
    trained = faiss.Kmeans(
        units.shape[1],
        count,
        niter=signal.iterations,
        seed=signal.seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(units),
    )
    trained.train(units)
    centres: npt.NDArray[np.float64] = np.asarray(trained.centroids, np.float64)
    faulty = ~np.isfinite(centres).all(axis=1) | ~(centres != 0).any(axis=1)  # the mean of opposite vectors
    centres[faulty] = units[np.flatnonzero(faulty)]
    return unit(centres)
