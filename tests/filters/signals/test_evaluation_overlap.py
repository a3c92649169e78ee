"""The nearest evaluation image: over all sets and in each, by three searches, with nothing lost."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.search import image_alignment
from filters.search.approximate import ExactSearcher, IndexPlan, build_lists
from filters.signals.base import embeddings_to_binary
from filters.signals.evaluation_index import EvaluationIndex, ImageDescriptors
from filters.signals.evaluation_overlap import EvaluationOverlapSignal, fixed_width_rows
from filters.signals.registry import signal_spec
from pipeline.errors import InputError, StageFailed
from sources.world.pictures import Picture, render_file
from sources.world.shapes import CLASSES
from tests.filters.search.test_search import Bits, clustered, distances, one_thread, prints

__all__ = ["one_thread"]  # a fixture of this module, too


SEEDS = st.integers(0, 2**32 - 1)


BLIND = EvaluationOverlapSignal("pdq_v1", "clip_v1", align=False)


SIGNAL = EvaluationOverlapSignal("pdq_v1", "clip_v1")


Image = npt.NDArray[np.uint8]


def drawn(number: int) -> Image:
    """Return an RGB image of the demo's world."""
    body = render_file(Picture((3, number), CLASSES[number % len(CLASSES)], "photo"))[0]
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)


def no_pictures(rows: npt.NDArray[np.int64]) -> Iterator[Image]:
    raise AssertionError("no image is to be read")


def index_of(name: str, bits: Bits, embeddings: npt.NDArray[np.float16]) -> EvaluationIndex:
    """Return an index of images whose looks nobody asks for."""
    blank = ImageDescriptors(
        b"", 0, np.zeros(image_alignment.THUMBNAIL_SHAPE, np.uint8), (), np.zeros((0, 128), np.float16)
    )
    looks = [
        ImageDescriptors(row.tobytes(), number, *list(blank.__dict__.values())[2:]) for number, row in enumerate(bits)
    ]
    return EvaluationIndex.of(name, [f"{name}{n}" for n in range(len(bits))], looks, ExactSearcher.of(embeddings))


def rows_of(bits: Sequence[Any], embeddings: Any) -> pa.Table:
    return pa.table(
        {
            "uid": [f"{n:032x}" for n in range(len(bits))],
            "source": ["laion"] * len(bits),
            "pdq": pa.array([None if row is None else bytes(row) for row in bits], pa.binary()),
            "image_embedding": embeddings if isinstance(embeddings, pa.Array) else embeddings_to_binary(embeddings),
        }
    )


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6), st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_several_sets_answer_as_one_would_and_equals_go_to_the_first(seed: int, count: int, sizes: list[int]) -> None:
    bits, embeddings = prints(seed, count), clustered(seed, count)
    sets = [index_of("abc"[n], prints(seed + n, size), clustered(seed + n, size)) for n, size in enumerate(sizes)]
    found = BLIND.compute(rows_of(list(bits), embeddings), sets, no_pictures)
    joined = index_of(
        "all",
        np.concatenate([one.pdq for one in sets]),
        np.concatenate([one.searcher.vectors for one in sets]),
    )
    keys = [(one.name, key) for one in sets for key in one.keys]
    rows = rows_of(list(bits), embeddings)
    as_one = BLIND.compute(rows, [joined], no_pictures).to_pylist()
    alone = [BLIND.compute(rows, [one], no_pictures).to_pylist() for one in sets]
    assert len(as_one) == count
    for number, (row, other) in enumerate(zip(found.to_pylist(), as_one, strict=True)):
        assert (row["pdq_distance"], row["cosine"]) == (other["pdq_distance"], other["cosine"])
        for kind in ("pdq", "cosine"):
            expected = keys[int(other[f"{kind}_key"][3:])] if keys else (None, None)
            assert (row[f"{kind}_set"], row[f"{kind}_key"]) == expected
        assert [one["set"] for one in row["per_set"]] == [one.name for one in sets]
        for each, answers in zip(row["per_set"], alone, strict=True):
            assert each == answers[number]["per_set"][0]
            assert {key: answers[number][key] for key in each if key != "set"} == {
                key: value for key, value in each.items() if key != "set"
            }


def test_the_quality_is_that_of_the_image_that_was_found() -> None:
    bits = prints(4, 7)
    found = BLIND.compute(
        rows_of(list(bits), clustered(1, 7)), [index_of("a", bits[::-1], clustered(2, 7))], no_pictures
    )
    near = distances(bits, bits[::-1])
    assert found["pdq_quality"].to_pylist() == near.argmin(axis=1).tolist()
    assert found["pdq_key"].to_pylist() == [f"a{place}" for place in near.argmin(axis=1)]


def test_an_image_that_is_in_two_sets_is_the_first_ones() -> None:
    bits, embeddings = prints(4, 5), clustered(4, 5)
    sets = [index_of(name, bits, embeddings) for name in ("b", "a")]
    found = BLIND.compute(rows_of(list(bits), embeddings), sets, no_pictures)
    assert found["pdq_distance"].to_pylist() == [0] * 5
    assert found["cosine"].to_pylist() == [1.0] * 5
    assert set(found["pdq_set"].to_pylist()) == set(found["cosine_set"].to_pylist()) == {"b"}


def test_what_cannot_be_compared_is_null_and_no_row_is_lost() -> None:
    bits, embeddings = prints(1, 6), clustered(1, 6)
    cells = embeddings_to_binary(embeddings).to_pylist()
    nan = np.frombuffer(cells[1], np.float16).copy()
    nan[3] = np.nan
    cells[1:5] = [nan.tobytes(), bytes(len(cells[0])), None, cells[4][:-2]]
    given = [bits[0], bits[1], None, None, bits[4][:-1], bits[5]]
    found = BLIND.compute(rows_of(given, pa.array(cells, pa.binary())), [index_of("a", bits, embeddings)], no_pictures)
    assert found["uid"].to_pylist() == [f"{n:032x}" for n in range(6)]
    assert found["cosine"].to_pylist() == [1.0, None, None, None, None, 1.0]
    assert found["cosine_key"].to_pylist() == ["a0", None, None, None, None, "a5"]
    assert found["pdq_distance"].to_pylist() == [0, 0, None, None, None, 0]
    assert found["pdq_set"].to_pylist() == ["a", "a", None, None, None, "a"]
    assert [one[0]["cosine"] for one in found["per_set"].to_pylist()] == [1.0, None, None, None, None, 1.0]


def empty(name: str) -> EvaluationIndex:
    return EvaluationIndex.of(name, [], [], ExactSearcher.of(np.zeros((0, 0), np.float16)))


def test_a_set_without_images_and_no_set_at_all_are_nearest_to_nothing() -> None:
    bits, embeddings = prints(1, 3), clustered(1, 3)
    rows, full = rows_of(list(bits), embeddings), index_of("full", bits, embeddings)
    for sets in ([], [empty("none")]):
        found = BLIND.compute(rows, sets, no_pictures)
        assert found.num_rows == 3
        assert all(found[name].null_count == 3 for name in SIGNAL.columns.names if name != "per_set")
        assert [len(one) for one in found["per_set"].to_pylist()] == [len(sets)] * 3
    beside = BLIND.compute(rows, [empty("none"), full], no_pictures)
    assert beside["cosine_set"].to_pylist() == beside["pdq_set"].to_pylist() == ["full"] * 3
    nothing = dict.fromkeys(beside["per_set"].type.value_type.names) | {"set": "none"}
    assert [one[0] for one in beside["per_set"].to_pylist()] == [nothing] * 3
    assert BLIND.compute(rows.slice(0, 0), [full], no_pictures).num_rows == 0


class Album:
    """Pairs and two evaluation sets of drawn images, with copies, mirrored and framed, among the pairs."""

    def __init__(self) -> None:
        pictures = [drawn(number) for number in range(12)]
        mirrored = np.ascontiguousarray(pictures[1][:, ::-1])
        framed = np.pad(pictures[7], ((20, 20), (20, 20), (0, 0)), constant_values=255)
        self.pairs = [pictures[0], mirrored, framed, drawn(30), drawn(31)]
        self.sets = [self._index("even", pictures[::2]), self._index("odd", pictures[1::2])]
        bits = [ImageDescriptors.of(image).pdq for image in self.pairs]
        self.rows = rows_of(bits, clustered(8, len(bits)))

    def _index(self, name: str, images: Sequence[Image]) -> EvaluationIndex:
        keys = [f"{name}{n}" for n in range(len(images))]
        return EvaluationIndex.of(
            name, keys, [ImageDescriptors.of(image) for image in images], ExactSearcher.of(clustered(9, len(images)))
        )

    def pictures(self, rows: npt.NDArray[np.int64]) -> Iterator[Image]:
        return (self.pairs[row] for row in rows.tolist())


@pytest.fixture(scope="module")
def album() -> Album:
    return Album()


def test_a_copy_is_found_by_its_pixels_mirrored_or_framed(album: Album) -> None:
    found = SIGNAL.compute(album.rows, album.sets, album.pictures)
    keys = list(zip(found["aligned_set"].to_pylist(), found["aligned_key"].to_pylist(), strict=True))
    assert keys[:3] == [("even", "even0"), ("odd", "odd0"), ("odd", "odd3")]
    scores = found["aligned"].to_pylist()
    assert min(scores[:3]) >= image_alignment.SAME_PICTURE_SCORE > max(scores[3:])
    assert found["pdq_distance"].to_pylist()[0] <= 31 < min(found["pdq_distance"].to_pylist()[1:])
    for row in found.to_pylist():
        each = [one["aligned"] for one in row["per_set"] if one["aligned"] is not None]
        assert row["aligned"] == max(each)


def test_no_answer_depends_on_the_batch_or_the_order_of_the_rows(album: Album) -> None:
    whole = SIGNAL.compute(album.rows, album.sets, album.pictures).to_pylist()
    for order in ([0], [3, 1], [4, 3, 2, 1, 0]):
        part = SIGNAL.compute(
            album.rows.take(order), album.sets, lambda rows, order=order: (album.pairs[order[row]] for row in rows)
        )
        assert part.to_pylist() == [whole[row] for row in order]


def test_without_alignment_no_image_is_read_and_the_rest_is_the_same(album: Album) -> None:
    seen = SIGNAL.compute(album.rows, album.sets, album.pictures)
    blind = BLIND.compute(album.rows, album.sets, no_pictures)
    for name in ("uid", "pdq_distance", "pdq_set", "pdq_key", "pdq_quality", "cosine", "cosine_set", "cosine_key"):
        assert blind[name] == seen[name]
    assert blind["aligned"].null_count == blind["aligned_key"].null_count == len(album.pairs)


def test_without_rows_there_is_nothing_to_say_and_a_picture_too_few_is_an_error(album: Album) -> None:
    nothing = SIGNAL.compute(album.rows.slice(0, 0), album.sets, album.pictures)
    assert nothing.num_rows == 0
    assert nothing.schema.names == ["uid", "source", *SIGNAL.columns.names]
    with pytest.raises(ValueError, match="shorter"):
        SIGNAL.compute(album.rows, album.sets, lambda rows: iter(album.pairs[:2]))


def test_a_flat_image_is_compared_and_has_no_likeness(album: Album) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    sets = [album._index("grey", [grey]), *album.sets]
    found = SIGNAL.compute(album.rows.slice(0, 1), sets, lambda rows: iter([grey]))
    assert found.num_rows == 1
    assert (found["aligned"].to_pylist()[0] or 0) < image_alignment.SAME_PICTURE_SCORE


def test_an_index_is_opened_as_it_was_saved_and_mapped_not_read(album: Album, tmp_path: Path) -> None:
    for index in (*album.sets, empty("none")):
        index.save(tmp_path / index.name)
        opened = EvaluationIndex.open(tmp_path / index.name)
        assert (opened.name, list(opened.keys)) == (index.name, list(index.keys))
        for part in (opened.pdq, opened.thumbnails, opened.searcher.vectors, opened.layouts.rounded.bits):
            assert isinstance(part, np.memmap)
    opened_sets = [EvaluationIndex.open(tmp_path / index.name) for index in album.sets]
    expected = SIGNAL.compute(album.rows, album.sets, album.pictures)
    assert SIGNAL.compute(album.rows, opened_sets, album.pictures) == expected


def test_inverted_lists_are_mapped_and_answer_as_they_did(tmp_path: Path) -> None:
    import faiss

    corpus, queries = clustered(1, 800), clustered(2, 20)
    searcher = build_lists(corpus, IndexPlan("ivf", 16, 64, 0))
    index = EvaluationIndex(**{**index_of("a", prints(1, 800), corpus).__dict__, "searcher": searcher})
    index.save(tmp_path)
    opened = EvaluationIndex.open(tmp_path).searcher
    assert isinstance(faiss.downcast_InvertedLists(opened.lists.invlists), faiss.OnDiskInvertedLists)
    for mine, theirs in zip(opened.search(queries, 3), searcher.search(queries, 3), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("part", ["pdq", "thumbnails", "embeddings.vectors", "layouts.bits"])
def test_an_index_with_a_pickle_in_it_is_refused(album: Album, tmp_path: Path, part: str) -> None:
    album.sets[0].save(tmp_path)
    np.save(tmp_path / f"{part}.npy", np.array([{"run": "me"}, None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"object|pickle"):
        EvaluationIndex.open(tmp_path)


def test_parts_that_do_not_belong_together_are_refused(album: Album, tmp_path: Path) -> None:
    album.sets[0].save(tmp_path)
    np.save(tmp_path / "pdq.npy", np.zeros((5, 32), np.uint8))
    with pytest.raises(StageFailed, match=r"^index of even: pdq: expected \(6, 32\), found \(5, 32\)$"):
        EvaluationIndex.open(tmp_path)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=5), st.binary(min_size=4, max_size=4)), max_size=9), st.data())
def test_binaries_become_rows_and_those_of_another_size_none(cells: list[bytes | None], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(cells)))
    array = pa.array(cells, pa.binary())
    chunked = pa.chunked_array([array.slice(0, first), array.slice(first)], pa.binary())
    for column, expected in ((chunked, cells), (chunked.slice(first), cells[first:])):
        rows, known = fixed_width_rows(column, 4)
        assert known.tolist() == [cell is not None and len(cell) == 4 for cell in expected]
        assert [row.tobytes() for row in rows[known]] == [cell for cell in expected if cell and len(cell) == 4]
        assert not rows[~known].any()


WRONG = {
    "align": [1, "yes", None],
    "candidates": [0, 257, 1.5, True, "4"],
    "index_mb": [0, "4g", False],
    "min_recall": [0, 1.01, True, "0.95", float("nan")],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values], ids=str)
def test_a_setting_that_is_none_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^signals\.nearest_v1\.{key}: expected .*, found "):
        signal_spec("nearest_v1", {"pdq": "pdq_v1", "clip": "clip_v1", key: value})


def test_the_settings_have_the_defaults_of_the_signal() -> None:
    spec = signal_spec("nearest_v1", {"pdq": "pdq_v1", "clip": "clip_v1"})
    assert spec.target()(**spec.settings) == SIGNAL
    assert spec.settings["candidates"] == image_alignment.EMBEDDING_CANDIDATES
