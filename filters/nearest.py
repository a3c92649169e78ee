"""The nearest evaluation image of each pair, in each evaluation set: by PDQ (Hamming) and by embedding (cosine).

Exact search by FAISS. The index is a folder of plain arrays that tasks map into memory; faiss runs on one thread in
a task, as Spark already uses every core.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.contract import binary_to_embeddings

METHODS = ("pdq", "clip")


@dataclass(frozen=True)
class EvaluationIndex:
    """One evaluation set's images: keys, PDQ as (n, 32) uint8 with qualities (n,), unit embeddings (n, d) float32."""

    name: str
    keys: Sequence[str]
    pdq: npt.NDArray[np.uint8]
    quality: npt.NDArray[np.int32]
    embeddings: npt.NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write the arrays as `.npy` files into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.keys.json").write_text(json.dumps(list(self.keys)))
        for part in ("pdq", "quality", "embeddings"):
            np.save(folder / f"{self.name}.{part}.npy", getattr(self, part))

    @classmethod
    def open(cls, folder: Path, name: str) -> "EvaluationIndex":
        """Map what `save` wrote into memory; nothing is unpickled."""
        arrays = {
            part: np.load(folder / f"{name}.{part}.npy", mmap_mode="r", allow_pickle=False)
            for part in ("pdq", "quality", "embeddings")
        }
        return cls(name, json.loads((folder / f"{name}.keys.json").read_text()), **arrays)


def nearest_by_pdq(
    queries: npt.NDArray[np.uint8], corpus: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return (index into `corpus`, Hamming distance 0 to 256) of the nearest of (m, 32) for each of (n, 32) uint8."""
    index = faiss.IndexBinaryFlat(corpus.shape[1] * 8)
    index.add(np.ascontiguousarray(corpus))
    distances, places = index.search(np.ascontiguousarray(queries), 1)
    return places[:, 0], distances[:, 0]


def nearest_by_cosine(
    queries: npt.NDArray[np.float32], corpus: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return (index into `corpus`, cosine) of the nearest of (m, d) for each of (n, d) unit vectors, float32.

    FAISS's own score varies in its last bit with the batch that a query is in; the cosine is computed anew, in float64.
    """
    index = faiss.IndexFlatIP(corpus.shape[1])
    index.add(np.ascontiguousarray(corpus, dtype=np.float32))
    places = index.search(np.ascontiguousarray(queries), 1)[1][:, 0]
    return places, np.einsum("nd,nd->n", queries.astype(np.float64), corpus[places]).astype(np.float32)


@dataclass(frozen=True)
class Nearest:
    """Settings: the names of the PDQ and the CLIP signal to search by."""

    pdq: str
    clip: str

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("pdq_distance", pa.int32()),
            ("pdq_set", pa.string()),
            ("pdq_key", pa.string()),
            ("pdq_quality", pa.int32()),
            ("cosine", pa.float32()),
            ("cosine_set", pa.string()),
            ("cosine_key", pa.string()),
        ]
    )

    def compute(self, rows: pa.Table, indexes: Sequence[EvaluationIndex]) -> pa.Table:
        """Return for each row of (uid, source, pdq, image_embedding) its nearest image over all sets, by either method.

        `pdq_quality` is the evaluation image's: below 50 a small distance says little. Ties go to the first set.
        """
        faiss.omp_set_num_threads(1)
        pdqs = np.frombuffer(b"".join(rows["pdq"].to_pylist()), np.uint8).reshape(rows.num_rows, -1)
        embeddings = binary_to_embeddings(rows["image_embedding"])
        best: list[dict[str, Any]] = [{} for _ in range(rows.num_rows)]
        for index in indexes:
            places, distances = nearest_by_pdq(pdqs, index.pdq)
            near, cosines = nearest_by_cosine(embeddings, index.embeddings)
            for row, place, distance, other, cosine in zip(best, places, distances, near, cosines, strict=True):
                _keep_nearer(row, index, int(place), int(distance), int(other), float(cosine))
        columns = [pa.array([row.get(name) for row in best], kind) for name, kind in _fields(self.columns)]
        return pa.Table.from_arrays(
            [rows["uid"].combine_chunks(), rows["source"].combine_chunks(), *columns],
            schema=pa.schema([("uid", pa.string()), ("source", pa.string()), *_fields(self.columns)]),
        )


def _fields(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


def _keep_nearer(
    row: dict[str, Any], index: EvaluationIndex, place: int, distance: int, other: int, cosine: float
) -> None:
    """Put this set's nearest images into `row` where they are nearer than what it holds."""
    if distance < row.get("pdq_distance", 257):
        row |= {"pdq_distance": distance, "pdq_set": index.name, "pdq_key": index.keys[place]}
        row["pdq_quality"] = int(index.quality[place])
    if cosine > row.get("cosine", -2.0):
        row |= {"cosine": cosine, "cosine_set": index.name, "cosine_key": index.keys[other]}
