"""The nearest evaluation image of each pair, in each set: by PDQ (Hamming), by embedding (cosine) and by alignment.

The first two are exact, unless a set is very large (`filters.search.approximate.plan_index`). The third looks at
pixels: what the two, and a search by layout, propose is compared with the pair's own image as
`filters.search.image_alignment` says.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.search.exact import Found, Places, are_unit, best
from filters.search.image_alignment import (
    EMBEDDING_CANDIDATES,
    PDQ_WITHIN,
    THUMBNAIL,
    Image,
    align_looks,
    layouts,
    query_views,
    thumbnail,
)
from filters.signals.evaluation_index import EvaluationIndex, nearest_by_pdq
from pipeline.errors import InputError
from pipeline.images.pdq import PDQ_BYTES, pdq

Bytes = npt.NDArray[np.uint8]


Flags = npt.NDArray[np.bool_]


Pictures = Callable[[Places], Iterable[Image]]
"""What gives the stored images, RGB (height, width, 3) uint8, of rows by their number, in that order."""


BySet = tuple[Places, npt.NDArray[Any]]
"""For each row and set, (n, sets): the place of the image that was found, -1 for none, and its distance or score."""


Proposed = tuple[Places, Places]
"""(c,) rows, and images to compare them with, each as one number for the set and the place in it."""


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
"""An entry of `per_set`, which has one for each evaluation set, in the order of the experiment file."""


_NAMES = {
    "pdq": ("pdq_distance", "pdq_key", "pdq_quality"),
    "cosine": ("cosine", "cosine_key"),
    "aligned": ("aligned", "aligned_key"),
}


@dataclass(frozen=True)
class Nearest:
    """Settings: the names of the PDQ and the CLIP signal to search by; whether to `align`, and with how many
    `candidates` of each search; and of an approximate index the least recall and the most memory, in MiB.
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

    def compute(self, rows: pa.Table, indexes: Sequence[EvaluationIndex], pictures: Pictures) -> pa.Table:
        """Return for each row of (uid, source, pdq, image_embedding) the nearest image over all sets and in each.

        `pdq_quality` is the evaluation image's: below 50 a small distance says little. Between sets, equals go to the
        first; within one, to the first image. A row without a fingerprint has no distance, one without a unit vector
        for an embedding no cosine, and one without a candidate no alignment; so it is with a set that has no images.
        """
        count = rows.num_rows
        prints, printed = fixed(rows["pdq"], PDQ_BYTES)
        width = max((index.searcher.vectors.shape[1] for index in indexes), default=0)
        vectors, embedded = embeddings(rows["image_embedding"], width)
        near = [_spread(printed, nearest_by_pdq(prints[printed], index.pdq)) for index in indexes]
        asked, k = vectors[embedded], self.candidates if self.align else 1
        likely = [_spread(embedded, index.searcher.search(asked, k)) for index in indexes]
        aligned = np.full((count, len(indexes)), -1, np.int64), np.zeros((count, len(indexes)), np.float32)
        if self.align and indexes and count:
            proposed = [
                _over_sets(indexes, likely, k),
                *self._by_print(indexes, np.flatnonzero(printed), prints[printed]),
            ]
            aligned = self._aligned(count, indexes, proposed, pictures)
        return _table(
            rows, indexes, {"pdq": _beside(count, near), "cosine": _beside(count, likely), "aligned": aligned}
        )

    def _by_print(self, indexes: Sequence[EvaluationIndex], rows: Places, prints: Bytes) -> Iterator[Proposed]:
        """Yield what each set proposes for rows by their fingerprints, (n, 32): images with a guise near enough."""
        for number, index in enumerate(indexes):
            places, distances = nearest_by_pdq(prints, index.guises, self.candidates)
            left, right = np.nonzero((places >= 0) & (distances <= PDQ_WITHIN))
            yield rows[left], _codes(indexes, number, index.shown[places[left, right]])

    def _by_layout(self, indexes: Sequence[EvaluationIndex], thumbnails: Image) -> Proposed:
        """Return what all sets together propose for thumbnails, (n, 64, 64), by the layouts of their guises."""
        queries = layouts(thumbnails).astype(np.float16)
        known = are_unit(queries)
        found = []
        for index in indexes:
            places, cosines = _spread(known, index.layouts.search(queries[known], self.candidates))
            found.append((np.where(places < 0, -1, index.laid[places]) if len(index.laid) else places, cosines))
        return _over_sets(indexes, found, self.candidates)

    def _aligned(
        self, count: int, indexes: Sequence[EvaluationIndex], proposed: list[Proposed], pictures: Pictures
    ) -> BySet:
        """Return which image of each set aligns best with each row's, and how well, among those proposed."""
        thumbnails, shown = np.empty((count, *THUMBNAIL), np.uint8), list[list[Image]]()
        owners, views = list[int](), list[bytes]()
        for row, image in zip(range(count), pictures(np.arange(count)), strict=True):
            shown.append([thumbnail(image)])
            thumbnails[row] = shown[row][0]
            for view in query_views(image):
                shown[row].append(thumbnail(view))
                owners.append(row)
                views.append(pdq(view)[0])
        seen = np.frombuffer(b"".join(views), np.uint8).reshape(-1, PDQ_BYTES)
        proposed += [self._by_layout(indexes, thumbnails), *self._by_print(indexes, np.array(owners, np.int64), seen)]
        rows, codes = _once(proposed)
        sets, places = np.divmod(codes, _most(indexes))
        scores = np.empty(len(rows), np.float32)
        ends = np.searchsorted(rows, np.arange(count), "right").tolist()
        for looks, first, last in zip(shown, [0, *ends[:-1]], ends, strict=True):
            mine, at = sets[first:last], places[first:last]
            others = [index.thumbnails[at[mine == number]] for number, index in enumerate(indexes)]
            scores[first:last] = align_looks(looks, np.concatenate(others))
        shape = count, len(indexes)
        found, values = best(count * len(indexes), rows * len(indexes) + sets, places, scores, 1)
        return found.reshape(shape), values.reshape(shape)


def _most(indexes: Sequence[EvaluationIndex]) -> int:
    return max(1, *(len(index.keys) for index in indexes))


def _codes(indexes: Sequence[EvaluationIndex], number: int, places: Places) -> Places:
    """Return one number for the set and the place in it, growing with the set first."""
    return number * _most(indexes) + places


def _over_sets(indexes: Sequence[EvaluationIndex], found: Sequence[Found], k: int) -> Proposed:
    """Return the k images with the largest cosine over all sets, for each row, from the (n, k) of each set."""
    rows, codes, scores = list[Places](), list[Places](), list[npt.NDArray[np.float32]]()
    for number, (places, cosines) in enumerate(found):
        left, right = np.nonzero(places >= 0)
        rows.append(left)
        codes.append(_codes(indexes, number, places[left, right]))
        scores.append(cosines[left, right])
    count = len(found[0][0])
    chosen = best(count, np.concatenate(rows), np.concatenate(codes), np.concatenate(scores), k)[0]
    left, right = np.nonzero(chosen >= 0)
    return left, chosen[left, right]


def _once(proposed: Sequence[Proposed]) -> Proposed:
    """Return all that is proposed, each once, by row, set and place."""
    rows, codes = (np.concatenate(column) for column in zip(*proposed, strict=True))
    order = np.lexsort((codes, rows))
    rows, codes = rows[order], codes[order]
    new = (np.diff(rows, prepend=-1) != 0) | (np.diff(codes, prepend=-1) != 0)
    return rows[new], codes[new]


def _spread(known: Flags, found: tuple[Places, npt.NDArray[Any]]) -> tuple[Places, npt.NDArray[Any]]:
    """Return the (n, k) results of all rows from the (m, k) of those that are known; place -1 for the others."""
    places = np.full((len(known), found[0].shape[1]), -1, np.int64)
    values = np.zeros(places.shape, found[1].dtype)
    places[known], values[known] = found
    return places, values


def _beside(count: int, parts: Sequence[tuple[Places, npt.NDArray[Any]]]) -> BySet:
    """Return the nearest of each set's (n, k) results side by side, (n, sets)."""
    if not parts:
        return np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32)
    places, values = zip(*parts, strict=True)
    return np.stack([one[:, 0] for one in places], axis=1), np.stack([one[:, 0] for one in values], axis=1)


def _table(rows: pa.Table, indexes: Sequence[EvaluationIndex], found: dict[str, BySet]) -> pa.Table:
    """Return the signal's rows from what each search found."""
    count, sets = rows.num_rows, len(indexes)
    each = {name: values for kind, one in found.items() for name, values in _each(kind, indexes, one).items()}
    numbers = pa.array(np.tile(np.arange(sets), count))
    each["set"] = pa.array([index.name for index in indexes], pa.string()).take(numbers)
    struct = pa.StructArray.from_arrays([each[field.name] for field in PER_SET], fields=list(PER_SET))
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * sets)
    columns: dict[str, Any] = {
        "uid": rows["uid"],
        "source": rows["source"],
        "per_set": pa.ListArray.from_arrays(offsets, struct),
    }
    for kind, (places, values) in found.items():
        rank = np.where(places < 0, -np.inf, -values.astype(np.float64) if kind == "pdq" else values)
        first = rank.argmax(axis=1) if sets else np.zeros(count, np.int64)
        at = pa.array(np.arange(count) * sets + first, pa.int64(), mask=(places < 0).all(axis=1))
        columns[f"{kind}_set"] = each["set"].take(at)
        columns |= {name: each[name].take(at) for name in _NAMES[kind]}
    full = pa.schema([("uid", pa.string()), ("source", pa.string()), *Nearest.columns])
    return pa.table([columns[field.name] for field in full], schema=full)


def _each(kind: str, indexes: Sequence[EvaluationIndex], found: BySet) -> dict[str, pa.Array]:
    """Return the columns of one search by name, with an entry for each row and set."""
    keys = pa.concat_arrays([pa.array([], pa.string()), *(index.named for index in indexes)])
    quality = np.concatenate([np.zeros(0, np.int32), *(index.quality for index in indexes)])
    first = np.cumsum([0, *(len(index.keys) for index in indexes)])[:-1]
    places, values = found
    none = (places < 0).ravel()
    at = pa.array((places + first).ravel(), pa.int64(), mask=none)
    taken = (pa.array(values.ravel(), mask=none), keys.take(at), pa.array(quality, pa.int32()).take(at))
    columns = dict(zip(_NAMES[kind], taken, strict=False))
    return {name: column.cast(PER_SET.field(name).type) for name, column in columns.items()}


def fixed(column: pa.ChunkedArray, width: int) -> tuple[Bytes, Flags]:
    """Return binaries of `width` bytes as (n, width) uint8, and which are so long; the others are null or damaged."""
    array = column.combine_chunks()
    sizes = pc.fill_null(pc.binary_length(array), -1)
    known: Flags = pc.equal(sizes, width).to_numpy(zero_copy_only=False)
    whole = np.zeros((len(array), width), np.uint8)
    kept = array if known.all() else array.filter(pa.array(known))
    if len(kept) and width:
        offsets = np.frombuffer(kept.buffers()[1], np.int32)[kept.offset :]
        data = np.frombuffer(kept.buffers()[2], np.uint8)[offsets[0] : offsets[0] + len(kept) * width]
        whole[known] = data.reshape(-1, width)
    return whole, known


def embeddings(column: pa.ChunkedArray, width: int) -> tuple[npt.NDArray[np.float16], Flags]:
    """Return embeddings as (n, width) float16, and which of them are unit vectors."""
    data, known = fixed(column, 2 * width)
    vectors = data.view("<f2").reshape(-1, width) if width else np.zeros((len(data), 0), np.float16)
    return vectors, known & are_unit(vectors)
