"""Clusters of image embeddings: spherical k-means by FAISS, and the nearest centre of each embedding.

The cost of one level grows with rows times clusters, so above `MAX_ONE_LEVEL_CLUSTERS` clusters two levels are used:
first about the square root of k coarse cells are found, each gets a share of the k clusters in proportion to its rows,
and k-means runs within each. An embedding is then compared only with the centres of its `PROBED_CELLS` nearest cells.
How often this misses the nearest of all centres is measured, and recorded in the job's facts as `recall`.
"""

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.cosine import Halves, Vectors, exact_cosines, float32_margin, nearest_unordered, unit_vectors
from pipeline.errors import InputError, StageFailed

RESULT_VERSION = 1
"""Version of the results of FAISS's k-means: increased where a new version gives other centres."""


MAX_ONE_LEVEL_CLUSTERS = 256
"""Clusters up to which one level is used."""


PROBED_CELLS = 8
"""Cells that are searched for the nearest centre: `benchmarks.dedup` measures the loss of recall."""


MAX_SAMPLE_ROWS_PER_CENTRE = 256
"""The most rows of the sample per centre that k-means uses, the default of FAISS's own Clustering."""


BATCH_ROWS = 2048
"""Rows that are assigned at once; it does not affect results."""


ARRAY_NAMES = ("centroids", "cells", "starts")


@dataclass(frozen=True)
class ClustersSignal:
    """Settings: the CLIP signal; the number of clusters; the iterations of k-means, its largest sample, and its seed.

    The sample are the rows with the smallest SHA-256 of seed and uid. DataComp (Gadre et al. 2023, arXiv 2304.14108,
    `image_based_clustering.md`) uses 100,000 clusters of 30 % of its pool; SemDeDup (Abbas et al. 2023,
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
        """The most rows that k-means is trained on."""
        return min(self.sample, MAX_SAMPLE_ROWS_PER_CENTRE * self.clusters)


@dataclass(frozen=True)
class Centres:
    """Centres, (k, d) float32 unit vectors, grouped by cell: those of cell i are rows starts[i] to starts[i + 1].

    `cells` are the coarse centres, (c, d) float32; `starts` is (c + 1,) int64. With one level there is one cell.
    """

    centroids: Vectors
    cells: Vectors
    starts: npt.NDArray[np.int64]

    def files(self) -> dict[str, bytes]:
        """Return the arrays as `.npy` files, by name."""
        return {f"{part}.npy": _npy_bytes(getattr(self, part)) for part in ARRAY_NAMES}

    @classmethod
    def open(cls, folder: str) -> "Centres":
        """Return the centres from the files of `files`, mapped into memory; nothing is unpickled."""
        return cls(*(np.load(f"{folder}/{part}.npy", mmap_mode="r", allow_pickle=False) for part in ARRAY_NAMES))

    def assign(self, vectors: Halves) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return the cluster, (n,) int32, of embeddings (n, d), and their cosine to its centre, (n,) float32.

        Ties go to the smaller cluster. The result has the same bits in any batch and order.
        """
        if len(vectors) and vectors.shape[1] != self.centroids.shape[1]:
            raise StageFailed(
                f"clusters: expected embeddings of {self.centroids.shape[1]} numbers, found {vectors.shape[1]}"
            )
        assigned = np.empty(len(vectors), np.int32)
        for first in range(0, len(vectors), BATCH_ROWS):
            assigned[first : first + BATCH_ROWS] = self._nearest(unit_vectors(vectors[first : first + BATCH_ROWS]))
        return assigned, exact_cosines(vectors, self.centroids[assigned]).astype(np.float32)

    def _nearest(self, queries: Vectors) -> npt.NDArray[np.int64]:
        probes = nearest_unordered(queries, self.cells, PROBED_CELLS)
        sizes = np.diff(self.starts)
        scores = np.full((*probes.shape, sizes.max()), -2, np.float32)
        for cell in np.unique(probes):
            rows, slots = np.nonzero(probes == cell)
            cell_centres = self.centroids[self.starts[cell] : self.starts[cell + 1]]
            scores[rows, slots, : len(cell_centres)] = queries[rows] @ cell_centres.T
        close = scores >= scores.max(axis=(1, 2), keepdims=True) - float32_margin(queries.shape[1])
        rows, slots, offsets = np.nonzero(close)
        centres: npt.NDArray[np.int64] = self.starts[probes[rows, slots]] + offsets
        cosines = exact_cosines(queries[rows], self.centroids[centres])
        order = np.lexsort((centres, -cosines, rows))
        best: npt.NDArray[np.int64] = centres[order][np.unique(rows[order], return_index=True)[1]]
        return best

    def recall(self, vectors: Halves) -> float:
        """Return the share of embeddings (n, d), n >= 1, whose cluster is that of the nearest of all centres."""
        return float((_nearest_centres(vectors, self.centroids) == self.assign(vectors)[0]).mean())


def _nearest_centres(vectors: Halves, centres: Vectors) -> npt.NDArray[np.int64]:
    """Return the nearest of all centres, (n,), for each of (n, d), n >= 1."""
    starts = range(0, len(vectors), BATCH_ROWS)
    return np.concatenate(
        [nearest_unordered(unit_vectors(vectors[first : first + BATCH_ROWS]), centres, 1)[:, 0] for first in starts]
    )


def _npy_bytes(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def train_centres(sample: Halves, signal: ClustersSignal) -> Centres:
    """Return the centres of a sample, (n, d), n >= clusters, in an order that the sample determines.

    FAISS runs on one thread: the sums of k-means then have one order, and the same sample gives the same bits on the
    same kind of processor.
    """
    faiss.omp_set_num_threads(1)
    count = round(signal.clusters**0.5) if signal.clusters > MAX_ONE_LEVEL_CLUSTERS else 1
    cells = _kmeans(sample[: MAX_SAMPLE_ROWS_PER_CENTRE * count], count, signal)
    cell_of = _nearest_centres(sample, cells)
    nonempty, sizes = np.unique(cell_of, return_counts=True)
    shares = _shares(sizes, signal.clusters)
    centroids = [
        _kmeans(sample[cell_of == cell], int(share), signal) for cell, share in zip(nonempty, shares, strict=True)
    ]
    return Centres(np.concatenate(centroids), cells[nonempty], np.cumsum([0, *shares]))


def _shares(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Return how many of `total` clusters each cell gets: in proportion to its rows, at least 1, at most all.

    The largest remainders are rounded up, ties to the first cell. Expects cells <= total <= all rows.
    """
    quotas = sizes * total / sizes.sum()
    shares: npt.NDArray[np.int64] = np.clip(np.floor(quotas).astype(np.int64), 1, sizes)
    while (remainder := total - shares.sum()) != 0:
        adjustable = np.flatnonzero(shares < sizes) if remainder > 0 else np.flatnonzero(shares > 1)
        order = adjustable[np.argsort((shares - quotas)[adjustable] * np.sign(remainder), kind="stable")]
        shares[order[: abs(remainder)]] += np.sign(remainder)
    return shares


def _kmeans(rows: Halves, count: int, signal: ClustersSignal) -> Vectors:
    """Return (count, d) unit centres of (n, d) embeddings, n >= count; the rows themselves where n = count."""
    units = unit_vectors(rows)
    if count == len(units):
        return units
    kmeans = faiss.Kmeans(
        units.shape[1],
        count,
        niter=signal.iterations,
        seed=signal.seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(units),
    )
    kmeans.train(units)
    centres: npt.NDArray[np.float64] = np.asarray(kmeans.centroids, np.float64)
    invalid = ~np.isfinite(centres).all(axis=1) | ~(centres != 0).any(axis=1)  # the mean of opposite vectors
    centres[invalid] = units[np.flatnonzero(invalid)]
    return unit_vectors(centres)
