"""The search index of an evaluation set: fingerprints, embeddings and thumbnails, in files that tasks memory-map."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.approximate import ExactSearcher, Searcher, load_searcher, memory_map, save_searcher
from filters.search.exact import Halves, RowNumbers, are_unit
from filters.search.image_alignment import THUMBNAIL_SHAPE, ImageArray, edge_layouts, index_views, thumbnail
from pipeline.errors import StageFailed
from pipeline.images.pdq import PDQ_BYTES, pdq_fingerprint

ByteRows = npt.NDArray[np.uint8]


Int32Array = npt.NDArray[np.int32]


LAYOUT_DIMENSIONS = 128
"""Dimensions of a layout."""


ARRAY_NAMES = ("pdq", "quality", "guises", "shown", "thumbnails", "laid")
"""The fields that are saved as `.npy` files of the same name."""


def nearest_by_pdq(queries: ByteRows, corpus: ByteRows, k: int = 1) -> tuple[RowNumbers, Int32Array]:
    """Return the k nearest of (m, 32) for each of (n, 32) uint8 by Hamming distance, exact, by FAISS.

    Row numbers (n, k) int64, nearest first, ties in order, -1 where there is none; distances (n, k) int32, 257 there.
    """
    places, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), 257, np.int32)
    if len(queries) and len(corpus):
        index = faiss.IndexBinaryFlat(8 * PDQ_BYTES)
        index.add(np.ascontiguousarray(corpus))
        count = min(k, len(corpus))
        rows, row_distances = index.search(np.ascontiguousarray(queries), count)[::-1]
        order = np.lexsort((rows, row_distances), axis=1)
        places[:, :count] = np.take_along_axis(rows, order, axis=1)
        distances[:, :count] = np.take_along_axis(row_distances, order, axis=1)
    return places, distances


@dataclass(frozen=True)
class ImageDescriptors:
    """Descriptors of an image in an index: PDQ and quality, thumbnail, and the PDQ and layouts of its guises."""

    pdq: bytes
    quality: int
    thumbnail: ImageArray
    guises: tuple[bytes, ...]
    layouts: Halves

    @classmethod
    def of(cls, image: ImageArray) -> "ImageDescriptors":
        """Return the descriptors of an RGB image, (height, width, 3) uint8."""
        views = index_views(image)
        view_layouts = edge_layouts(np.stack([thumbnail(view) for view in views])).astype(np.float16)
        bits, quality = pdq_fingerprint(image)
        guises = tuple(bits if view is image else pdq_fingerprint(view)[0] for view in views)
        return cls(bits, quality, thumbnail(image), guises, view_layouts)


@dataclass(frozen=True)
class EvaluationIndex:
    """An evaluation set's images: keys, PDQ (n, 32) uint8 with qualities (n,) int32, thumbnails (n, 64, 64) uint8.

    `guises` (g, 32) uint8 are the fingerprints of all views under which an image is indexed
    (`image_alignment.index_views`), and `shown` (g,) int64 is the image of each; `layouts` searches their layouts,
    (l, 128) float16, and `laid` (l,) int64 is the image of each. `searcher` searches the embeddings, (n, d) float16.
    """

    name: str
    keys: Sequence[str]
    pdq: ByteRows
    quality: Int32Array
    guises: ByteRows
    shown: RowNumbers
    thumbnails: ImageArray
    laid: RowNumbers
    layouts: Searcher
    searcher: Searcher

    @classmethod
    def of(
        cls, name: str, keys: Sequence[str], looks: Sequence[ImageDescriptors], searcher: Searcher
    ) -> "EvaluationIndex":
        """Return the index from the descriptors of each image and a searcher of their embeddings."""
        owners = [row for row, image in enumerate(looks) for _ in image.guises]
        all_layouts = np.concatenate(
            [np.zeros((0, LAYOUT_DIMENSIONS), np.float16), *(image.layouts for image in looks)]
        )
        usable = are_unit(all_layouts)  # the layout of a flat image is zero
        return cls(
            name=name,
            keys=keys,
            pdq=_byte_rows(image.pdq for image in looks),
            quality=np.array([image.quality for image in looks], np.int32),
            guises=_byte_rows(bits for image in looks for bits in image.guises),
            shown=np.array(owners, np.int64),
            thumbnails=np.array([image.thumbnail for image in looks], np.uint8).reshape(-1, *THUMBNAIL_SHAPE),
            laid=np.array(owners, np.int64)[usable],
            layouts=ExactSearcher.of(all_layouts[usable]),
            searcher=searcher,
        )

    def __post_init__(self) -> None:
        count = len(self.keys)
        expected = {
            "pdq": (count, PDQ_BYTES),
            "quality": (count,),
            "guises": (len(self.shown), PDQ_BYTES),
            "thumbnails": (count, *THUMBNAIL_SHAPE),
        }
        for part, shape in expected.items():
            if getattr(self, part).shape != shape:
                raise StageFailed(f"index of {self.name}: {part}: expected {shape}, found {getattr(self, part).shape}")
        actual = len(self.searcher.vectors), len(self.layouts.vectors)
        if actual != (count, len(self.laid)):
            raise StageFailed(f"index of {self.name}: expected {(count, len(self.laid))} vectors, found {actual}")

    @cached_property
    def named(self) -> pa.Array:
        """The keys as an Arrow array."""
        return pa.array(self.keys, pa.string())

    def save(self, folder: Path) -> None:
        """Write the index as files into `folder`: arrays as `.npy`, FAISS's lists in its own format, keys as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        save_searcher(self.searcher, folder, "embeddings")
        save_searcher(self.layouts, folder, "layouts")
        for part in ARRAY_NAMES:
            np.save(folder / f"{part}.npy", getattr(self, part), allow_pickle=False)
        (folder / "keys.json").write_text(json.dumps({"name": self.name, "keys": list(self.keys)}), "utf-8")

    @classmethod
    def open(cls, folder: Path) -> "EvaluationIndex":
        """Return the index that `save` wrote, mapped into memory."""
        identity = json.loads((folder / "keys.json").read_text("utf-8"))
        arrays = {part: memory_map(folder / f"{part}.npy") for part in ARRAY_NAMES}
        return cls(
            **identity, **arrays, layouts=load_searcher(folder, "layouts"), searcher=load_searcher(folder, "embeddings")
        )


def _byte_rows(fingerprints: Iterable[bytes]) -> ByteRows:
    return np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, PDQ_BYTES)
