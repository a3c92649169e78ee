"""The exact searches by fingerprint and embedding against brute force, and the groups that duplicates form."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.contract import embeddings_to_binary
from filters.duplicates import groups, name_groups, near_edges
from filters.nearest import EvaluationIndex, Nearest, nearest_by_cosine, nearest_by_pdq

Bits = npt.NDArray[np.uint8]
SIGNAL = Nearest("pdq_v1", "clip_v1")
SEEDS = st.integers(0, 2**32 - 1)


def clustered(seed: int, size: int) -> Bits:
    """Return (size, 32) uint8: a few centres and rows that differ from one of them by 0 to 40 bits."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (3, 256), dtype=np.uint8)[rng.integers(0, 3, size)]
    for row in bits:
        row[rng.choice(256, rng.integers(0, 41), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def distances(left: Bits, right: Bits) -> npt.NDArray[np.int64]:
    """Return (n, m) Hamming distances by counting bits one by one."""
    return np.unpackbits(left[:, None] ^ right[None], axis=2).sum(axis=2, dtype=np.int64)


def flipped(base: Bits, count: int) -> Bits:
    """Return `base`, (32,) uint8, with its first `count` bits turned."""
    bits = np.unpackbits(base)
    bits[:count] ^= 1
    return np.packbits(bits)


def unit(seed: int, count: int, width: int = 8) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def index_of(name: str, bits: Bits, vectors: npt.NDArray[np.float32]) -> EvaluationIndex:
    return EvaluationIndex(
        name, [f"{name}{n}" for n in range(len(bits))], bits, np.arange(len(bits), dtype=np.int32), vectors
    )


def rows_of(bits: Bits, vectors: npt.NDArray[np.float32]) -> pa.Table:
    return pa.table(
        {
            "uid": [f"{n:032x}" for n in range(len(bits))],
            "source": ["laion"] * len(bits),
            "pdq": pa.array([row.tobytes() for row in bits], pa.binary()),
            "image_embedding": embeddings_to_binary(vectors),
        }
    )


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 40))
def test_the_nearest_fingerprint_is_the_one_brute_force_finds(seed: int, queries: int, corpus: int) -> None:
    asked, held = clustered(seed, queries), clustered(seed + 1, corpus)
    places, found = nearest_by_pdq(asked, held)
    expected = distances(asked, held)
    assert found.tolist() == expected.min(axis=1).tolist()
    assert expected[np.arange(queries), places].tolist() == found.tolist()


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 40))
def test_the_nearest_embedding_is_the_one_brute_force_finds(seed: int, queries: int, corpus: int) -> None:
    asked, held = unit(seed, queries), unit(seed + 1, corpus)
    places, found = nearest_by_cosine(asked, held)
    expected = asked.astype(np.float64) @ held.T.astype(np.float64)
    assert found == pytest.approx(expected.max(axis=1), abs=1e-5)
    assert expected[np.arange(queries), places] == pytest.approx(expected.max(axis=1), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_several_sets_answer_as_one_would_and_ties_go_to_the_first(seed: int, queries: int, sizes: list[int]) -> None:
    asked, vectors = clustered(seed, queries), unit(seed, queries)
    sets = [index_of("abc"[n], clustered(seed + 1 + n, size), unit(seed + 1 + n, size)) for n, size in enumerate(sizes)]
    found = SIGNAL.compute(rows_of(asked, vectors), sets)
    assert found.column_names == ["uid", "source", *SIGNAL.columns.names]
    for n, row in enumerate(found.to_pylist()):
        nearest = [distances(asked[n : n + 1], one.pdq)[0] for one in sets]
        least = min(int(part.min()) for part in nearest)
        first = next(one for one, part in zip(sets, nearest, strict=True) if part.min() == least)
        assert (row["pdq_distance"], row["pdq_set"]) == (least, first.name)
        place = first.keys.index(row["pdq_key"])
        assert distances(asked[n : n + 1], first.pdq)[0, place] == least
        assert row["pdq_quality"] == first.quality[place]
        exact = vectors[n].astype(np.float16).astype(np.float64)
        cosines = {key: exact @ one.embeddings[m] for one in sets for m, key in enumerate(one.keys)}
        assert row["cosine"] == pytest.approx(max(cosines.values()), abs=1e-5)
        assert cosines[row["cosine_key"]] == pytest.approx(row["cosine"], abs=1e-5)
        assert row["cosine_key"].startswith(row["cosine_set"])


def test_an_image_that_is_in_two_sets_is_the_first_ones() -> None:
    bits, vectors = clustered(4, 5), unit(4, 5)
    sets = [index_of(name, bits, vectors) for name in ("b", "a")]
    found = SIGNAL.compute(rows_of(bits, vectors), sets)
    assert found["pdq_distance"].to_pylist() == [0] * 5
    assert set(found["pdq_set"].to_pylist()) == set(found["cosine_set"].to_pylist()) == {"b"}
    assert found["cosine_key"].to_pylist() == [f"b{n}" for n in range(5)]


def test_the_two_methods_may_name_different_sets() -> None:
    bits, vectors = clustered(1, 1), unit(1, 1)
    by_pdq = index_of("a", bits, unit(2, 1))
    by_clip = index_of("b", clustered(99, 1) ^ 255, vectors)
    (row,) = SIGNAL.compute(rows_of(bits, vectors), [by_clip, by_pdq]).to_pylist()
    assert (row["pdq_key"], row["cosine_key"]) == ("a0", "b0")


def test_without_a_set_there_is_no_nearest_image() -> None:
    found = SIGNAL.compute(rows_of(clustered(1, 3), unit(1, 3)), [])
    assert found.num_rows == 3
    assert all(found[name].null_count == 3 for name in SIGNAL.columns.names)


def test_an_index_is_opened_as_it_was_saved_and_mapped_not_read(tmp_path: Path) -> None:
    saved = index_of("photo", clustered(3, 9), unit(3, 9))
    saved.save(tmp_path / "new" / "folder")
    opened = EvaluationIndex.open(tmp_path / "new" / "folder", "photo")
    assert (opened.name, list(opened.keys)) == (saved.name, list(saved.keys))
    for part in ("pdq", "quality", "embeddings"):
        assert isinstance(getattr(opened, part), np.memmap)
        assert getattr(opened, part).dtype == getattr(saved, part).dtype
        assert getattr(opened, part).tolist() == getattr(saved, part).tolist()
    rows = rows_of(clustered(8, 4), unit(8, 4))
    assert SIGNAL.compute(rows, [opened]) == SIGNAL.compute(rows, [saved])


@pytest.mark.parametrize("part", ["pdq", "quality", "embeddings"])
def test_an_index_with_a_pickle_in_it_is_refused(tmp_path: Path, part: str) -> None:
    index_of("photo", clustered(3, 2), unit(3, 2)).save(tmp_path)
    np.save(tmp_path / f"photo.{part}.npy", np.array([{"run": "me"}, None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"object|pickle"):
        EvaluationIndex.open(tmp_path, "photo")


@pytest.mark.parametrize("limit", [0, 1, 31])
def test_the_distance_of_duplicates_is_inclusive(limit: int) -> None:
    base = clustered(1, 1)[0]
    corpus = np.stack([base, flipped(base, limit), flipped(base, limit + 1)])
    expected = [[0, 1]] + ([[1, 2]] if limit >= 1 else [])  # the last two are one bit apart
    assert sorted(near_edges(corpus, 0, corpus, limit).tolist()) == expected


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 17), st.sampled_from([0, 20, 31, 60]))
def test_blocks_find_the_edges_that_one_block_and_brute_force_find(
    seed: int, size: int, block: int, limit: int
) -> None:
    corpus = clustered(seed, size)
    parts = [near_edges(corpus[first : first + block], first, corpus, limit) for first in range(0, size, block)]
    found = sorted(map(tuple, np.concatenate(parts).tolist()))
    near = distances(corpus, corpus) <= limit
    assert found == [(i, j) for i in range(size) for j in range(i + 1, size) if near[i, j]]
    assert found == sorted(map(tuple, near_edges(corpus, 0, corpus, limit).tolist()))


EDGES = st.integers(1, 14).flatmap(
    lambda size: st.tuples(
        st.just(size), st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=16)
    )
)


@given(EDGES)
def test_groups_are_the_connected_components(graph: tuple[int, list[tuple[int, int]]]) -> None:
    size, edges = graph
    label = list(range(size))
    for i, j in edges * size:  # the least label walks along every path
        label[i] = label[j] = min(label[i], label[j])
    found = groups(size, np.array(edges, np.int64).reshape(-1, 2)).tolist()
    assert len(found) == size
    for i in range(size):
        for j in range(size):
            assert (found[i] == found[j]) == (label[i] == label[j])


@given(st.lists(st.integers(0, 4), max_size=12))
def test_a_group_is_named_by_its_smallest_uid_whatever_the_labels_are_called(labels: list[int]) -> None:
    uids = [f"{n * 7919 % 1009:032x}" for n in range(len(labels))]
    names, sizes = name_groups(uids, np.array(labels, np.int32))
    for n, label in enumerate(labels):
        members = [uid for uid, other in zip(uids, labels, strict=True) if other == label]
        assert (names[n], sizes[n]) == (min(members), len(members))
    renamed = [(label * 3 + 1) % 5 for label in labels]
    assert name_groups(uids, np.array(renamed, np.int32)) == (names, sizes)


def test_a_chain_of_near_images_is_one_group_though_its_ends_are_far() -> None:
    base = clustered(1, 1)[0]
    corpus = np.stack([flipped(base, bits) for bits in (0, 30, 60, 90, 200)])
    found = groups(5, near_edges(corpus, 0, corpus, 31))
    assert name_groups(list("edcba"), found) == (["b", "b", "b", "b", "a"], [4, 4, 4, 4, 1])
