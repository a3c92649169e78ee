"""Near a reference: pairs whose image embedding is in a cluster that also contains an image of a reference set.

DataComp's image-based filter (Gadre et al. 2023, arXiv 2304.14108, section 3.2; `image_based_clustering.md`): the
pool's embeddings are clustered into 100,000 groups, each training image of ImageNet is assigned to its nearest centre,
and a pair is kept where one was assigned to the pair's own cluster.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.cosine import Halves, exact_cosines, nearest_unordered, unit_vectors
from filters.signals.clusters import Centres
from pipeline.errors import InputError

BATCH_ROWS = 1024
"""Rows that are compared at once; it does not affect results."""


@dataclass(frozen=True)
class NearReferenceSignal:
    """Settings: the CLIP signal, its clusters, and a folder of reference images in CLIP_benchmark's layout.

    `near_reference` says whether the pair's cluster contains a reference image. `reference_key` is the key of the
    cluster's reference image with the largest cosine (the smallest key in a tie), and `reference_cosine` that cosine;
    both are null where the cluster contains none. Images of other clusters are not compared, so the cost does not grow
    with the set. Where an embedding has no direction all three are null.
    """

    clip: str
    clusters: str
    images: str

    columns: ClassVar[pa.Schema] = pa.schema(
        [("near_reference", pa.bool_()), ("reference_cosine", pa.float32()), ("reference_key", pa.string())]
    )

    def __post_init__(self) -> None:
        if not isinstance(self.images, str) or not self.images:
            raise InputError(f"images: expected a folder in CLIP_benchmark's layout, found {self.images!r}")


@dataclass(frozen=True)
class ReferenceImages:
    """Reference images by cluster, then key: clusters (n,) int32 ascending, embeddings (n, d) float16, keys."""

    clusters: npt.NDArray[np.int32]
    embeddings: Halves
    keys: pa.Array

    @classmethod
    def of(cls, keys: list[str], embeddings: npt.NDArray[np.float32], centres: Centres) -> "ReferenceImages":
        """Return the images with their clusters; embeddings are rounded to float16, as the pairs' are in the store."""
        halves = embeddings.astype("<f2")
        clusters = centres.assign(halves)[0]
        order = np.lexsort((np.array(keys), clusters))
        return cls(clusters[order], halves[order], pa.array(keys, pa.string()).take(pa.array(order)))

    def nearest(
        self, vectors: Halves, clusters: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return for embeddings (n, d) of clusters (n,) the cluster's image with the largest cosine, -1 for none.

        The cosines, (n,) float32, are 0 where there is none.
        """
        image_of_row, cosines = np.full(len(vectors), -1), np.zeros(len(vectors), np.float32)
        starts, stops = (np.searchsorted(self.clusters, clusters, side=side) for side in ("left", "right"))
        for cluster in np.unique(clusters[starts < stops]):
            rows = np.flatnonzero(clusters == cluster)
            start, stop = starts[rows[0]], stops[rows[0]]
            images = unit_vectors(self.embeddings[start:stop])
            for first in range(0, len(rows), BATCH_ROWS):
                part = rows[first : first + BATCH_ROWS]
                image_of_row[part] = start + nearest_unordered(unit_vectors(vectors[part]), images, 1)[:, 0]
        has_image = image_of_row >= 0
        cosines[has_image] = exact_cosines(vectors[has_image], self.embeddings[image_of_row[has_image]])
        return image_of_row, cosines


def reference_columns(
    images: ReferenceImages, centres: Centres, vectors: Halves, mask: npt.NDArray[np.bool_]
) -> pa.Table:
    """Return the signal's columns, (n,) rows, from the embeddings, (m, d), of the rows that `mask`, (n,), selects."""
    nearest_images, cosines = images.nearest(vectors, centres.assign(vectors)[0])
    vector_of_row = np.full(len(mask), -1)
    vector_of_row[mask] = np.arange(len(vectors))
    indices = pa.array(vector_of_row, mask=vector_of_row < 0)
    missing = nearest_images < 0
    return pa.table(
        {
            "near_reference": pa.array(~missing).take(indices),
            "reference_cosine": pa.array(cosines, mask=missing).take(indices),
            "reference_key": images.keys.take(pa.array(nearest_images, mask=missing)).take(indices),
        }
    )
