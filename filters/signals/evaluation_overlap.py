"""The nearest evaluation image of each pair, in each set: by PDQ (Hamming), by embedding (cosine) and by alignment.

The first two are exact, unless a set is very large (`filters.search.approximate.plan_index`). The third compares
pixels: the candidates of the first two, and of a search by layout, are aligned with the pair's own image by
`filters.search.image_alignment`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.search.exact import Neighbours, RowNumbers, are_unit, top_k
from filters.search.image_alignment import (
    EMBEDDING_CANDIDATES,
    MAX_CANDIDATE_DISTANCE_BITS,
    THUMBNAIL_SHAPE,
    ImageArray,
    best_alignment_scores,
    edge_layouts,
    query_views,
    thumbnail,
)
from filters.signals.evaluation_index import EvaluationIndex, nearest_by_pdq
from pipeline.errors import InputError
from pipeline.images.pdq import PDQ_BYTES, pdq_fingerprint

Bytes = npt.NDArray[np.uint8]


Flags = npt.NDArray[np.bool_]


ImageReader = Callable[[RowNumbers], Iterable[ImageArray]]
"""Returns the stored images, RGB (height, width, 3) uint8, of rows by their number, in that order."""


BySet = tuple[RowNumbers, npt.NDArray[Any]]
"""For each row and set, (n, sets): the number of the image found, -1 for none, and its distance or score."""


CandidatePairs = tuple[RowNumbers, RowNumbers]
"""(c,) rows, and images to compare them with, each encoded as one number for the set and the image in it."""


PER_SET = pa.struct(
    [
        ("set", pa.string()),
        ("pdq_distance", pa.int32()),
        ("pdq_quality", pa.int32()),
        ("pdq_key", pa.string()),
        ("cosine", pa.float32()),
        ("cosine_key", pa.string()),
        ("aligned", pa.float32()),
        ("aligned_key", pa.string()),
    ]
)
"""An entry of `per_set`, which has one entry for each evaluation set, in the order of the experiment file."""


_COLUMNS_OF_SEARCH = {
    "pdq": ("pdq_distance", "pdq_key", "pdq_quality"),
    "cosine": ("cosine", "cosine_key"),
    "aligned": ("aligned", "aligned_key"),
}


@dataclass(frozen=True)
class EvaluationOverlapSignal:
    """Settings: the names of the PDQ and the CLIP signal to search by; whether to `align`, and with how many
    `candidates` of each search; for an approximate index, the least recall and the largest memory, in MiB.
    """

    pdq: str
    clip: str
    align: bool = True
    candidates: int = EMBEDDING_CANDIDATES
    min_recall: float = 0.95
    index_mb: int = 4096

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("pdq_distance", pa.int32()),
            ("pdq_set", pa.string()),
            ("pdq_key", pa.string()),
            ("pdq_quality", pa.int32()),
            ("cosine", pa.float32()),
            ("cosine_set", pa.string()),
            ("cosine_key", pa.string()),
            ("aligned", pa.float32()),
            ("aligned_set", pa.string()),
            ("aligned_key", pa.string()),
            ("per_set", pa.list_(pa.field("element", PER_SET))),
        ]
    )

    def __post_init__(self) -> None:
        if not isinstance(self.align, bool):
            raise InputError(f"align: expected true or false, found {self.align!r}")
        for key, most in (("candidates", 256), ("index_mb", 1 << 20)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise InputError(f"{key}: expected a whole number from 1 to {most}, found {value!r}")
        share = self.min_recall
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InputError(f"min_recall: expected a number above 0, at most 1, found {share!r}")

    def compute(self, rows: pa.Table, indexes: Sequence[EvaluationIndex], pictures: ImageReader) -> pa.Table:
        """Return for each row of (uid, source, pdq, image_embedding) the nearest image over all sets and in each.

        `pdq_quality` is that of the evaluation image: below 50 a small distance means little. Ties between sets go to
        the first set, ties within a set to the first image. A row without a fingerprint has no distance, one whose
        embedding is not a unit vector no cosine, and one without a candidate no alignment; a set without images gives
        none of them.
        """
        count = rows.num_rows
        fingerprints, has_fingerprint = fixed_width_rows(rows["pdq"], PDQ_BYTES)
        width = max((index.searcher.vectors.shape[1] for index in indexes), default=0)
        vectors, has_embedding = unit_embeddings(rows["image_embedding"], width)
        by_pdq = [
            _to_all_rows(has_fingerprint, nearest_by_pdq(fingerprints[has_fingerprint], index.pdq)) for index in indexes
        ]
        queries, k = vectors[has_embedding], self.candidates if self.align else 1
        by_cosine = [_to_all_rows(has_embedding, index.searcher.search(queries, k)) for index in indexes]
        aligned = np.full((count, len(indexes)), -1, np.int64), np.zeros((count, len(indexes)), np.float32)
        if self.align and indexes and count:
            proposed = [
                _over_sets(indexes, by_cosine, k),
                *self._by_fingerprint(indexes, np.flatnonzero(has_fingerprint), fingerprints[has_fingerprint]),
            ]
            aligned = self._aligned(count, indexes, proposed, pictures)
        return _signal_rows(
            rows,
            indexes,
            {"pdq": _side_by_side(count, by_pdq), "cosine": _side_by_side(count, by_cosine), "aligned": aligned},
        )

    def _by_fingerprint(
        self, indexes: Sequence[EvaluationIndex], rows: RowNumbers, fingerprints: Bytes
    ) -> Iterator[CandidatePairs]:
        """Yield each set's candidates for rows by fingerprint, (n, 32): images with a guise that is near enough."""
        for number, index in enumerate(indexes):
            places, distances = nearest_by_pdq(fingerprints, index.guises, self.candidates)
            queries, ranks = np.nonzero((places >= 0) & (distances <= MAX_CANDIDATE_DISTANCE_BITS))
            yield rows[queries], _codes(indexes, number, index.shown[places[queries, ranks]])

    def _by_layout(self, indexes: Sequence[EvaluationIndex], thumbnails: ImageArray) -> CandidatePairs:
        """Return the candidates of all sets together for thumbnails, (n, 64, 64), by the layouts of their guises."""
        queries = edge_layouts(thumbnails).astype(np.float16)
        known = are_unit(queries)
        results = []
        for index in indexes:
            places, cosines = _to_all_rows(known, index.layouts.search(queries[known], self.candidates))
            results.append((np.where(places < 0, -1, index.laid[places]) if len(index.laid) else places, cosines))
        return _over_sets(indexes, results, self.candidates)

    def _aligned(
        self, count: int, indexes: Sequence[EvaluationIndex], proposed: list[CandidatePairs], pictures: ImageReader
    ) -> BySet:
        """Return which candidate of each set aligns best with each row's image, and the score."""
        thumbnails, row_views = np.empty((count, *THUMBNAIL_SHAPE), np.uint8), list[list[ImageArray]]()
        owners, views = list[int](), list[bytes]()
        for row, image in zip(range(count), pictures(np.arange(count)), strict=True):
            row_views.append([thumbnail(image)])
            thumbnails[row] = row_views[row][0]
            for view in query_views(image):
                row_views[row].append(thumbnail(view))
                owners.append(row)
                views.append(pdq_fingerprint(view)[0])
        view_fingerprints = np.frombuffer(b"".join(views), np.uint8).reshape(-1, PDQ_BYTES)
        proposed += [
            self._by_layout(indexes, thumbnails),
            *self._by_fingerprint(indexes, np.array(owners, np.int64), view_fingerprints),
        ]
        rows, codes = _distinct(proposed)
        sets, places = np.divmod(codes, _largest_set(indexes))
        scores = np.empty(len(rows), np.float32)
        ends = np.searchsorted(rows, np.arange(count), "right").tolist()
        for views_of_row, first, last in zip(row_views, [0, *ends[:-1]], ends, strict=True):
            row_sets, row_places = sets[first:last], places[first:last]
            candidates = [index.thumbnails[row_places[row_sets == number]] for number, index in enumerate(indexes)]
            scores[first:last] = best_alignment_scores(views_of_row, np.concatenate(candidates))
        shape = count, len(indexes)
        best_places, values = top_k(count * len(indexes), rows * len(indexes) + sets, places, scores, 1)
        return best_places.reshape(shape), values.reshape(shape)


def _largest_set(indexes: Sequence[EvaluationIndex]) -> int:
    return max(1, *(len(index.keys) for index in indexes))


def _codes(indexes: Sequence[EvaluationIndex], number: int, places: RowNumbers) -> RowNumbers:
    """Return one number for the set and the image in it, ordered by set first."""
    return number * _largest_set(indexes) + places


def _over_sets(indexes: Sequence[EvaluationIndex], results: Sequence[Neighbours], k: int) -> CandidatePairs:
    """Return the k images with the largest cosine over all sets, for each row, from the (n, k) of each set."""
    rows, codes, scores = list[RowNumbers](), list[RowNumbers](), list[npt.NDArray[np.float32]]()
    for number, (places, cosines) in enumerate(results):
        result_rows, ranks = np.nonzero(places >= 0)
        rows.append(result_rows)
        codes.append(_codes(indexes, number, places[result_rows, ranks]))
        scores.append(cosines[result_rows, ranks])
    count = len(results[0][0])
    chosen = top_k(count, np.concatenate(rows), np.concatenate(codes), np.concatenate(scores), k)[0]
    result_rows, ranks = np.nonzero(chosen >= 0)
    return result_rows, chosen[result_rows, ranks]


def _distinct(proposed: Sequence[CandidatePairs]) -> CandidatePairs:
    """Return the distinct candidates, sorted by row, set and image."""
    rows, codes = (np.concatenate(column) for column in zip(*proposed, strict=True))
    order = np.lexsort((codes, rows))
    rows, codes = rows[order], codes[order]
    is_new = (np.diff(rows, prepend=-1) != 0) | (np.diff(codes, prepend=-1) != 0)
    return rows[is_new], codes[is_new]


def _to_all_rows(known: Flags, results: tuple[RowNumbers, npt.NDArray[Any]]) -> tuple[RowNumbers, npt.NDArray[Any]]:
    """Return the (n, k) results of all rows from the (m, k) of the known rows; image -1 for the others."""
    places = np.full((len(known), results[0].shape[1]), -1, np.int64)
    values = np.zeros(places.shape, results[1].dtype)
    places[known], values[known] = results
    return places, values


def _side_by_side(count: int, parts: Sequence[tuple[RowNumbers, npt.NDArray[Any]]]) -> BySet:
    """Return the nearest of each set's (n, k) results side by side, (n, sets)."""
    if not parts:
        return np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32)
    places, values = zip(*parts, strict=True)
    return np.stack([array[:, 0] for array in places], axis=1), np.stack([array[:, 0] for array in values], axis=1)


def _signal_rows(rows: pa.Table, indexes: Sequence[EvaluationIndex], results: dict[str, BySet]) -> pa.Table:
    """Return the signal's rows from the results of each search."""
    count, sets = rows.num_rows, len(indexes)
    columns_per_set = {
        name: values
        for kind, by_set in results.items()
        for name, values in _search_columns(kind, indexes, by_set).items()
    }
    numbers = pa.array(np.tile(np.arange(sets), count))
    columns_per_set["set"] = pa.array([index.name for index in indexes], pa.string()).take(numbers)
    struct = pa.StructArray.from_arrays([columns_per_set[field.name] for field in PER_SET], fields=list(PER_SET))
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * sets)
    columns: dict[str, Any] = {
        "uid": rows["uid"],
        "source": rows["source"],
        "per_set": pa.ListArray.from_arrays(offsets, struct),
    }
    for kind, (places, values) in results.items():
        rank = np.where(places < 0, -np.inf, -values.astype(np.float64) if kind == "pdq" else values)
        first = rank.argmax(axis=1) if sets else np.zeros(count, np.int64)
        indices = pa.array(np.arange(count) * sets + first, pa.int64(), mask=(places < 0).all(axis=1))
        columns[f"{kind}_set"] = columns_per_set["set"].take(indices)
        columns |= {name: columns_per_set[name].take(indices) for name in _COLUMNS_OF_SEARCH[kind]}
    schema = pa.schema([("uid", pa.string()), ("source", pa.string()), *EvaluationOverlapSignal.columns])
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _search_columns(kind: str, indexes: Sequence[EvaluationIndex], results: BySet) -> dict[str, pa.Array]:
    """Return the columns of one search by name, with an entry for each row and set."""
    keys = pa.concat_arrays([pa.array([], pa.string()), *(index.named for index in indexes)])
    quality = np.concatenate([np.zeros(0, np.int32), *(index.quality for index in indexes)])
    first = np.cumsum([0, *(len(index.keys) for index in indexes)])[:-1]
    places, values = results
    missing = (places < 0).ravel()
    indices = pa.array((places + first).ravel(), pa.int64(), mask=missing)
    arrays = (pa.array(values.ravel(), mask=missing), keys.take(indices), pa.array(quality, pa.int32()).take(indices))
    columns = dict(zip(_COLUMNS_OF_SEARCH[kind], arrays, strict=False))
    return {name: column.cast(PER_SET.field(name).type) for name, column in columns.items()}


def fixed_width_rows(column: pa.ChunkedArray, width: int) -> tuple[Bytes, Flags]:
    """Return binaries as (n, width) uint8, and which of them have `width` bytes; the others are null or damaged."""
    array = column.combine_chunks()
    sizes = pc.fill_null(pc.binary_length(array), -1)
    known: Flags = pc.equal(sizes, width).to_numpy(zero_copy_only=False)
    out = np.zeros((len(array), width), np.uint8)
    known_binaries = array if known.all() else array.filter(pa.array(known))
    if len(known_binaries) and width:
        offsets = np.frombuffer(known_binaries.buffers()[1], np.int32)[known_binaries.offset :]
        data = np.frombuffer(known_binaries.buffers()[2], np.uint8)[
            offsets[0] : offsets[0] + len(known_binaries) * width
        ]
        out[known] = data.reshape(-1, width)
    return out, known


def unit_embeddings(column: pa.ChunkedArray, width: int) -> tuple[npt.NDArray[np.float16], Flags]:
    """Return embeddings as (n, width) float16, and which of them are unit vectors."""
    data, known = fixed_width_rows(column, 2 * width)
    vectors = data.view("<f2").reshape(-1, width) if width else np.zeros((len(data), 0), np.float16)
    return vectors, known & are_unit(vectors)
