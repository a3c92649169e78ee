"""What is searched: an evaluation set's fingerprints, embeddings and thumbnails, in files that tasks map to memory."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.approximate import Exact, Searcher, mapped, opened, save
from filters.search.exact import Halves, Places, are_unit
from filters.search.image_alignment import THUMBNAIL, Image, index_views, layouts, thumbnail
from pipeline.errors import StageFailed
from pipeline.images.pdq import PDQ_BYTES, pdq

Bytes = npt.NDArray[np.uint8]


Whole = npt.NDArray[np.int32]


LAYOUT = 128


ARRAYS = ("pdq", "quality", "guises", "shown", "thumbnails", "laid")


def nearest_by_pdq(queries: Bytes, corpus: Bytes, k: int = 1) -> tuple[Places, Whole]:
    """Return the k nearest of (m, 32) for each of (n, 32) uint8 by Hamming distance, exact, by FAISS.

    Places (n, k) int64, nearest first, equals in order, -1 where there is none; distances (n, k) int32, 257 there.
    """
    places, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), 257, np.int32)
    if len(queries) and len(corpus):
        index = faiss.IndexBinaryFlat(8 * PDQ_BYTES)
        index.add(np.ascontiguousarray(corpus))
        most = min(k, len(corpus))
        found, near = index.search(np.ascontiguousarray(queries), most)[::-1]
        order = np.lexsort((found, near), axis=1)
        places[:, :most] = np.take_along_axis(found, order, axis=1)
        distances[:, :most] = np.take_along_axis(near, order, axis=1)
    return places, distances


@dataclass(frozen=True)
class Looks:
    """What an index keeps of how an image looks: PDQ and quality, thumbnail, and the PDQ and layouts of its guises."""

    pdq: bytes
    quality: int
    thumbnail: Image
    guises: tuple[bytes, ...]
    layouts: Halves

    @classmethod
    def of(cls, image: Image) -> "Looks":
        """Look at an RGB image, (height, width, 3) uint8."""
        views = index_views(image)
        drawn = layouts(np.stack([thumbnail(view) for view in views])).astype(np.float16)
        bits, quality = pdq(image)
        guises = tuple(bits if view is image else pdq(view)[0] for view in views)
        return cls(bits, quality, thumbnail(image), guises, drawn)


@dataclass(frozen=True)
class EvaluationIndex:
    """An evaluation set's images: keys, PDQ (n, 32) uint8 with qualities (n,) int32, thumbnails (n, 64, 64) uint8.

    `guises` (g, 32) uint8 are the fingerprints of every guise in which an image may return (`alignment.index_views`),
    and `shown` (g,) int64 says which image each shows; `layouts` searches their layouts, (l, 128) float16, of which
    `laid` (l,) int64 says the same. `searcher` searches the embeddings, (n, d) float16.
    """

    name: str
    keys: Sequence[str]
    pdq: Bytes
    quality: Whole
    guises: Bytes
    shown: Places
    thumbnails: Image
    laid: Places
    layouts: Searcher
    searcher: Searcher

    @classmethod
    def of(cls, name: str, keys: Sequence[str], looks: Sequence[Looks], searcher: Searcher) -> "EvaluationIndex":
        """Put together what is known of each image, and what searches their embeddings."""
        owners = [place for place, one in enumerate(looks) for _ in one.guises]
        drawn = np.concatenate([np.zeros((0, LAYOUT), np.float16), *(one.layouts for one in looks)])
        some = are_unit(drawn)  # a flat image has no layout
        return cls(
            name=name,
            keys=keys,
            pdq=_bytes(one.pdq for one in looks),
            quality=np.array([one.quality for one in looks], np.int32),
            guises=_bytes(bits for one in looks for bits in one.guises),
            shown=np.array(owners, np.int64),
            thumbnails=np.array([one.thumbnail for one in looks], np.uint8).reshape(-1, *THUMBNAIL),
            laid=np.array(owners, np.int64)[some],
            layouts=Exact.of(drawn[some]),
            searcher=searcher,
        )

    def __post_init__(self) -> None:
        count = len(self.keys)
        expected = {
            "pdq": (count, PDQ_BYTES),
            "quality": (count,),
            "guises": (len(self.shown), PDQ_BYTES),
            "thumbnails": (count, *THUMBNAIL),
        }
        for part, shape in expected.items():
            if getattr(self, part).shape != shape:
                raise StageFailed(f"index of {self.name}: {part}: expected {shape}, found {getattr(self, part).shape}")
        found = len(self.searcher.vectors), len(self.layouts.vectors)
        if found != (count, len(self.laid)):
            raise StageFailed(f"index of {self.name}: expected {(count, len(self.laid))} vectors, found {found}")

    @cached_property
    def named(self) -> pa.Array:
        """The keys as an Arrow array."""
        return pa.array(self.keys, pa.string())

    def save(self, folder: Path) -> None:
        """Write it as files into `folder`: arrays as `.npy`, FAISS's lists as it writes them, the keys as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        save(self.searcher, folder, "embeddings")
        save(self.layouts, folder, "layouts")
        for part in ARRAYS:
            np.save(folder / f"{part}.npy", getattr(self, part), allow_pickle=False)
        (folder / "keys.json").write_text(json.dumps({"name": self.name, "keys": list(self.keys)}), "utf-8")

    @classmethod
    def open(cls, folder: Path) -> "EvaluationIndex":
        """Map what `save` wrote into memory."""
        about = json.loads((folder / "keys.json").read_text("utf-8"))
        arrays = {part: mapped(folder / f"{part}.npy") for part in ARRAYS}
        return cls(**about, **arrays, layouts=opened(folder, "layouts"), searcher=opened(folder, "embeddings"))


def _bytes(prints: Iterable[bytes]) -> Bytes:
    return np.frombuffer(b"".join(prints), np.uint8).reshape(-1, PDQ_BYTES)
