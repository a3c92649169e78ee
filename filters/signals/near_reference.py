"""Near a reference: the pairs whose image embedding lies in a cluster in which an image of a reference set lies too.

DataComp's image-based filter (Gadre et al. 2023, arXiv 2304.14108, section 3.2; `image_based_clustering.md`): the
pool's embeddings are clustered into 100,000 groups, each training image of ImageNet is given to its nearest centre, and
a pair is kept where one was given to the pair's own.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.cosine import Halves, exact, nearest, unit
from filters.signals.clusters import Centres
from pipeline.errors import InputError

BATCH = 1024
"""Rows that are compared at once; it changes no result."""


@dataclass(frozen=True)
class Reference:
    """Settings: the CLIP signal, its clusters, and a folder of reference images in CLIP_benchmark's layout.

    `near_reference` says whether the pair's cluster holds a reference image. Of those that it holds, `reference_key` is
    the key of the one with the largest cosine, the smallest of several, and `reference_cosine` that cosine; both are
    null where it holds none. Images of other clusters are not compared, so the cost does not grow with the set. Where
    an embedding has no direction all three are null.
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
    """Images by cluster, then key: clusters (n,) int32 ascending, embeddings (n, d) float16, keys."""

    clusters: npt.NDArray[np.int32]
    embeddings: Halves
    keys: pa.Array

    @classmethod
    def of(cls, keys: list[str], embeddings: npt.NDArray[np.float32], centres: Centres) -> "ReferenceImages":
        """Return the images with their clusters; they are rounded as the pairs' embeddings are in the store."""
        halves = embeddings.astype("<f2")
        clusters = centres.assign(halves)[0]
        order = np.lexsort((np.array(keys), clusters))
        return cls(clusters[order], halves[order], pa.array(keys, pa.string()).take(pa.array(order)))

    def nearest(
        self, vectors: Halves, clusters: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return for embeddings (n, d) of clusters (n,) the image of the largest cosine in it, -1 where it has none.

        The cosines, (n,) float32, are 0 where there is none.
        """
        found, cosines = np.full(len(vectors), -1), np.zeros(len(vectors), np.float32)
        starts, stops = (np.searchsorted(self.clusters, clusters, side=side) for side in ("left", "right"))
        for cluster in np.unique(clusters[starts < stops]):
            rows = np.flatnonzero(clusters == cluster)
            start, stop = starts[rows[0]], stops[rows[0]]
            images = unit(self.embeddings[start:stop])
            for first in range(0, len(rows), BATCH):
                part = rows[first : first + BATCH]
                found[part] = start + nearest(unit(vectors[part]), images, 1)[:, 0]
        near = found >= 0
        cosines[near] = exact(vectors[near], self.embeddings[found[near]])
        return found, cosines


def reference_columns(
    images: ReferenceImages, centres: Centres, vectors: Halves, there: npt.NDArray[np.bool_]
) -> pa.Table:
    """Return the signal's columns, (n,) rows, of the embeddings, (m, d), of those rows that `there`, (n,), marks."""
    found, cosines = images.nearest(vectors, centres.assign(vectors)[0])
    places = np.full(len(there), -1)
    places[there] = np.arange(len(vectors))
    of = pa.array(places, mask=places < 0)
    missing = found < 0
    return pa.table(
        {
            "near_reference": pa.array(~missing).take(of),
            "reference_cosine": pa.array(cosines, mask=missing).take(of),
            "reference_key": images.keys.take(pa.array(found, mask=missing)).take(of),
        }
    )
