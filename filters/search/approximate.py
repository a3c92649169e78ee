"""Approximate cosine search for sets too large for an exact one: FAISS's inverted lists, re-ranked exactly.

The cells are chosen by the exact search of `filters.search.exact`, which also recomputes and ranks the candidates that
FAISS finds in them: so a result does not depend on the batch, as FAISS's own choice would, by a product's last bit.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from filters.search.exact import Halves, Neighbours, RoundedCorpus, RowNumbers, Singles, nearest, rerank
from pipeline.core.sampling import sample_rows
from pipeline.errors import InputError, StageFailed

RESULT_VERSION = 1
"""Version of the results of FAISS with an index: increased where a new version gives other results."""


MAX_EXACT_ELEMENTS = 1 << 28
"""Rows times dimensions up to which a search is exact (524,288 rows of 512): a query then costs 2 * EXACT = 0.54 GFLOP,
a sixteenth of the 8.8 GFLOP of the ViT-B/32 that embeds it (4.4 G multiply-adds, open_clip's model_profile.csv), so
approximating it would save little, and miss copies."""


CELLS_PER_SQRT_ROWS = 4
"""Number of cells as a multiple of the square root of the rows: the least of FAISS's guideline, 4 to 16 (its wiki,
"Guidelines to choose an index"), as the time to build them and to choose among them is proportional to it."""


TRAINING_ROWS_PER_CELL = 40
"""Rows per cell that k-means is trained on; the same guideline recommends 30 to 256."""


KMEANS_ITERATIONS = 6
"""Iterations of k-means; on 100,000 rows, 6 more changed the recall with 2 and 4 cells probed by less than 0.001."""


DIMENSIONS_PER_CODE_BYTE = 8
"""Dimensions that one byte of a product quantiser encodes: 64 bytes for 512, as for DEEP1B (Johnson et al. 2017)."""


MIN_PROBED_CELLS, MAX_PROBED_CELLS = 4, 256
"""Cells that are probed: doubled from the fewest until the recall is sufficient."""


RERANKED_ROWS = 8
"""Rows beyond the k requested that are taken from the inverted lists and re-ranked."""


RERANKED_ROWS_PER_CELL = 16
"""Rows that are taken from the lists of product codes and re-ranked, for each probed cell."""


RECALL_SAMPLE_ROWS = 1000
"""Rows on which the recall of an index is measured."""


CODE_TRAINING_ROWS = 1 << 16
"""Rows that product codes are trained on: 256 for each of a byte's values, the most that FAISS uses."""


_BLOCK = 1 << 14


@dataclass(frozen=True)
class IndexPlan:
    """A kind of index (exact, ivf or ivfpq), its cells, the bytes of a row's code, and the bytes that are mapped."""

    kind: str
    cells: int
    code: int
    bytes: int


def plan_index(rows: int, dimensions: int, memory: int) -> IndexPlan:
    """Return the kind of index for so many rows, of which at most `memory` bytes are to be mapped.

    Exact where rows * dimensions <= `MAX_EXACT_ELEMENTS` and both forms of a row, float16 and bfloat16, fit the memory.
    Otherwise inverted lists of float16 rows; where these do not fit, of product codes, with the rows themselves read
    from disk. HNSW is not used: measured on 50,000 rows, it took 1.8 times as long to build and as long to search at
    the same recall, and its graph has to be read whole. Raises InputError where even the codes do not fit.
    """
    exact = IndexPlan("exact", 0, 0, 4 * rows * dimensions)
    if rows * dimensions <= MAX_EXACT_ELEMENTS and exact.bytes <= memory:
        return exact
    cells = 1 << max(0, round(np.log2(CELLS_PER_SQRT_ROWS * max(rows, 1) ** 0.5)))
    plans = []
    for kind, code in (("ivf", 2 * dimensions), ("ivfpq", max(1, dimensions // DIMENSIONS_PER_CODE_BYTE))):
        plans.append(IndexPlan(kind, cells, code, rows * (code + 8) + 4 * cells * dimensions))
        if plans[-1].bytes <= memory:
            return plans[-1]
    least_mb = -(-plans[-1].bytes >> 20)
    raise InputError(f"index_mb: expected {least_mb} or more for {rows} rows of {dimensions}, found {memory >> 20}")


class Searcher(Protocol):
    """Finds the nearest rows of `vectors`, (m, d) float16 unit vectors; `rounded` is what it searches first."""

    vectors: Halves
    rounded: RoundedCorpus

    def search(self, queries: Halves, k: int) -> Neighbours:
        """Return the k nearest of each of (n, d) float16 unit vectors."""
        ...


@dataclass
class ExactSearcher:
    """Compares a query with every row."""

    vectors: Halves
    rounded: RoundedCorpus

    @classmethod
    def of(cls, vectors: Halves) -> "ExactSearcher":
        """Return a searcher of (m, d) float16 unit vectors."""
        return cls(vectors, RoundedCorpus.of(vectors))

    def search(self, queries: Halves, k: int) -> Neighbours:
        """Return the k nearest, exact."""
        return nearest(queries, self.vectors, self.rounded, k)


@dataclass
class ApproximateSearcher:
    """Compares a query with the rows of the `probed` cells nearest to it, in FAISS's inverted `lists`.

    `centroids` are (cells, d) float16 unit vectors; `taken` more rows than requested are re-ranked.
    """

    vectors: Halves
    centroids: Halves
    rounded: RoundedCorpus
    lists: Any
    probed: int
    taken: int

    def search(self, queries: Halves, k: int) -> Neighbours:
        """Return the k nearest of the rows found; cosines are exact."""
        if not len(queries):
            return rerank(queries, self.vectors, np.zeros((0, 1), np.int64), k)
        cells, cosines = nearest(queries, self.centroids, self.rounded, self.probed)
        self.lists.nprobe = self.probed
        count = min(k + self.taken, len(self.vectors))
        places = self.lists.search_preassigned(queries.astype(np.float32), count, cells, cosines)[1]
        return rerank(queries, self.vectors, places, k)


def save_searcher(searcher: Searcher, folder: Path, name: str) -> None:
    """Write a searcher as files of that name into `folder`: arrays as `.npy`, FAISS's lists in its own format."""
    arrays = {"vectors": searcher.vectors, **searcher.rounded.arrays()}
    if isinstance(searcher, ApproximateSearcher):
        arrays["centroids"] = searcher.centroids
        faiss.write_index(searcher.lists, str(folder / f"{name}.faiss"))
        (folder / f"{name}.json").write_text(json.dumps({"probed": searcher.probed, "taken": searcher.taken}), "utf-8")
    for part, array in arrays.items():
        np.save(folder / f"{name}.{part}.npy", array, allow_pickle=False)


def memory_map(path: Path) -> Any:
    """Map an array that was written as `.npy` into memory; nothing is unpickled, and the file is never changed.

    It is mapped copy-on-write, as torch warns about arrays that are not writable.
    """
    return np.load(path, mmap_mode="c", allow_pickle=False)


def load_searcher(folder: Path, name: str) -> Searcher:
    """Return the searcher that `save` wrote, mapped into memory."""
    vectors = memory_map(folder / f"{name}.vectors.npy")
    rounded = RoundedCorpus(*(memory_map(folder / f"{name}.{part}.npy") for part in ("bits", "mean", "bounds")))
    if not (folder / f"{name}.faiss").exists():
        return ExactSearcher(vectors, rounded)
    lists = faiss.read_index(str(folder / f"{name}.faiss"), faiss.IO_FLAG_MMAP)
    settings = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return ApproximateSearcher(vectors, memory_map(folder / f"{name}.centroids.npy"), rounded, lists, **settings)


def train_cells(vectors: Halves, plan: IndexPlan) -> tuple[Halves, RoundedCorpus]:
    """Return the centroids of a plan's cells, (cells, d) float16 unit vectors, by FAISS's spherical k-means."""
    count = min(plan.cells, len(vectors))
    rows = vectors[sample_rows(TRAINING_ROWS_PER_CELL * count, len(vectors))].astype(np.float32)
    kmeans = faiss.Kmeans(
        rows.shape[1],
        count,
        niter=KMEANS_ITERATIONS,
        spherical=True,
        max_points_per_centroid=TRAINING_ROWS_PER_CELL,
        min_points_per_centroid=1,
    )
    kmeans.train(rows)
    means = np.asarray(kmeans.centroids)
    centroids = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float16)
    return centroids, RoundedCorpus.of(centroids)


def build_lists(vectors: Halves, plan: IndexPlan) -> ApproximateSearcher:
    """Build the inverted lists of (m, d) float16 unit vectors by a plan of kind ivf or ivfpq."""
    width = vectors.shape[1]
    centroids, rounded = train_cells(vectors, plan)
    flat = faiss.IndexFlatIP(width)
    flat.add(centroids.astype(np.float32))
    lists: Any
    if plan.kind == "ivf":
        half, product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        lists = faiss.IndexIVFScalarQuantizer(flat, width, len(centroids), half, product, False)
        taken = RERANKED_ROWS
    else:
        lists = faiss.IndexIVFPQ(flat, width, len(centroids), plan.code, 8, faiss.METRIC_INNER_PRODUCT)
        lists.pq.cp.min_points_per_centroid = 1  # otherwise it warns about few rows
        taken = RERANKED_ROWS_PER_CELL * MIN_PROBED_CELLS
    lists.train(vectors[sample_rows(CODE_TRAINING_ROWS, len(vectors))].astype(np.float32))
    for start in range(0, len(vectors), _BLOCK):
        part = vectors[start : start + _BLOCK]
        cells, rows = nearest(part, centroids, rounded)[0][:, 0].copy(), part.astype(np.float32)
        lists.add_core(len(part), faiss.swig_ptr(rows), None, faiss.swig_ptr(cells))
    return ApproximateSearcher(vectors, centroids, rounded, lists, min(MIN_PROBED_CELLS, len(centroids)), taken)


def nearest_other_cosines(vectors: Halves, sample: RowNumbers) -> Singles:
    """Return the cosine of the nearest other row of each row in the sample, (s,) float32, by FAISS's exact search."""
    queries = vectors[sample].astype(np.float32)
    candidates = [np.full((len(sample), 1), -1, np.int64)]
    for start in range(0, len(vectors) if len(sample) else 0, _BLOCK):
        part = vectors[start : start + _BLOCK].astype(np.float32)
        near = faiss.knn(queries, part, min(3, len(part)), metric=faiss.METRIC_INNER_PRODUCT)[1]
        candidates.append(np.where(near + start == sample[:, None], -1, near + start))
    cosines: Singles = rerank(vectors[sample], vectors, np.concatenate(candidates, axis=1), 1)[1][:, 0]
    return cosines


def measure_recall(index: Searcher, sample: RowNumbers, truth: Singles) -> float:
    """Return the share of the sample's rows for which the index finds another row as near as the nearest one."""
    places, cosines = index.search(index.vectors[sample], 2)
    other_cosines = np.where(places == sample[:, None], -np.inf, cosines)
    return float(np.mean(np.nan_to_num(other_cosines, nan=-np.inf).max(axis=1) >= truth)) if len(sample) else 1.0


def tune_probes(index: ApproximateSearcher, sample: RowNumbers, least: float) -> float:
    """Double the cells that `index` probes until its recall on the sample is at least `least`; return the recall.

    Raises StageFailed where it is still below at `MAX_PROBED_CELLS` cells, or at all cells of the index.
    """
    truth = nearest_other_cosines(index.vectors, sample)
    most = min(MAX_PROBED_CELLS, len(index.centroids))
    while (actual := measure_recall(index, sample, truth)) < least:
        if index.probed >= most:
            raise StageFailed(
                f"min_recall: expected {least}, found {actual:.4f} with {index.probed} of {len(index.centroids)} cells "
                f"probed, on {len(sample)} of {len(index.vectors)} rows"
            )
        index.taken *= 2 if index.taken > RERANKED_ROWS else 1
        index.probed = min(2 * index.probed, most)
    return actual


def build_searcher(vectors: Halves, plan: IndexPlan, least: float) -> tuple[Searcher, float, int]:
    """Return the searcher of (m, d) float16 unit vectors by a plan, its recall, and how many rows measured it.

    The recall is that of the nearest other row, against FAISS's exact search. Raises StageFailed where the recall of an
    approximate search stays below `least`.
    """
    sample = sample_rows(RECALL_SAMPLE_ROWS, len(vectors)) if len(vectors) > 1 else np.zeros(0, np.int64)
    if plan.kind == "exact":
        exact = ExactSearcher.of(vectors)
        return exact, measure_recall(exact, sample, nearest_other_cosines(vectors, sample)), len(sample)
    index = build_lists(vectors, plan)
    return index, tune_probes(index, sample, least), len(sample)
