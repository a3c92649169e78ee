"""The exact search and the approximate one against brute force."""

from collections.abc import Iterator

import faiss
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from filters.search import approximate, exact
from filters.search.approximate import (
    ApproximateSearcher,
    IndexPlan,
    build_lists,
    build_searcher,
    measure_recall,
    nearest_other_cosines,
    plan_index,
    tune_probes,
)
from filters.search.exact import Halves, Neighbours, RoundedCorpus, are_unit, nearest, rerank
from filters.signals.evaluation_index import nearest_by_pdq
from pipeline.core.sampling import sample_rows
from pipeline.errors import InputError, StageFailed

Bits = npt.NDArray[np.uint8]


SEEDS = st.integers(0, 2**32 - 1)


QUICK = settings(max_examples=60, deadline=None)


def prints(seed: int, size: int) -> Bits:
    """Return (size, 32) uint8: a few centres and rows that differ from one of them by 0 to 40 bits."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (3, 256), dtype=np.uint8)[rng.integers(0, 3, size)]
    for row in bits:
        row[rng.choice(256, rng.integers(0, 41), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def distances(left: Bits, right: Bits) -> npt.NDArray[np.int64]:
    """Return (n, m) Hamming distances by counting bits one by one."""
    return np.unpackbits(left[:, None] ^ right[None], axis=2).sum(axis=2, dtype=np.int64)


def vectors(seed: int, size: int, width: int, spread: float = 1.0) -> Halves:
    """Return (size, width) float16 unit vectors around three centres, near to or far from them; some are equal."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(3, width))
    found = centres[rng.integers(0, 3, size)] + spread * rng.normal(size=(size, width)) * rng.choice(
        [0, 0.01, 1], (size, 1)
    )
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def clustered(seed: int, size: int, width: int = 32) -> Halves:
    """Return (size, width) float16 unit vectors around 60 centres."""
    rng = np.random.default_rng(seed)
    found = np.random.default_rng(0).normal(size=(60, width))[rng.integers(0, 60, size)]
    found = found + rng.normal(size=(size, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def brute(queries: Halves, corpus: Halves, k: int) -> Neighbours:
    """Return the k nearest by comparing all with all, one by one."""
    places, cosines = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.nan, np.float32)
    for row, query in enumerate(queries.astype(np.float64)):
        scores = []
        for place, other in enumerate(corpus.astype(np.float64)):
            dot, left, right = (float(sum(a * b)) for a, b in ((query, other), (query, query), (other, other)))
            scores.append((-np.float32(dot / (np.sqrt(left) * np.sqrt(right))), place))
        for rank, (score, place) in enumerate(sorted(scores)[:k]):
            places[row, rank], cosines[row, rank] = place, -score
    return places, cosines


def same(found: Neighbours, expected: Neighbours) -> bool:
    return bool((found[0] == expected[0]).all() and np.array_equal(found[1], expected[1], equal_nan=True))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Search on one thread, as tasks do: a second one only waits, in cases as small as these."""
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search as on a processor with, and on one without, a product of bfloat16; with blocks that small cases fill."""
    monkeypatch.setattr(exact, "has_bf16", lambda: request.param)
    monkeypatch.setattr(exact, "BLOCK_ROWS", 64)


@pytest.mark.usefixtures("product")
@QUICK
@given(SEEDS, st.integers(1, 9), st.integers(0, 150), st.sampled_from([2, 7, 64, 200]), st.integers(1, 40))
def test_the_exact_search_finds_what_brute_force_finds(seed: int, count: int, size: int, width: int, k: int) -> None:
    queries, corpus = vectors(seed, count, width), vectors(seed + 1, size, width)
    assume(are_unit(queries).all() and are_unit(corpus).all())
    assert same(nearest(queries, corpus, RoundedCorpus.of(corpus), k), brute(queries, corpus, k))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(1, 6))
def test_an_answer_depends_on_no_batch_and_no_block(seed: int, size: int, k: int) -> None:
    queries, corpus = vectors(seed, 9, 16), vectors(seed + 1, size, 16, 0.1)
    assume(are_unit(queries).all() and are_unit(corpus).all())
    rounded = RoundedCorpus.of(corpus)
    whole = nearest(queries, corpus, rounded, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "BLOCK_ROWS", 32)
        patch.setattr(exact, "MAX_SCORES_AT_ONCE", 1)
        for row in range(len(queries)):
            alone = nearest(queries[row : row + 1], corpus, rounded, k)
            assert same(alone, (whole[0][row : row + 1], whole[1][row : row + 1]))


@QUICK
@given(SEEDS, st.permutations(range(40)))
def test_the_order_of_the_corpus_moves_places_and_changes_no_cosine(seed: int, order: list[int]) -> None:
    queries, corpus = vectors(seed, 5, 16), vectors(seed + 1, 40, 16)
    assume(are_unit(queries).all() and are_unit(corpus).all())
    moved = np.ascontiguousarray(corpus[order])
    places, cosines = nearest(queries, corpus, RoundedCorpus.of(corpus), 3)
    others, same_cosines = nearest(queries, moved, RoundedCorpus.of(moved), 3)
    assert (cosines == same_cosines).all()
    assert (moved[others] == corpus[places]).all() or len(np.unique(cosines)) < cosines.size


def test_a_product_of_bfloat16_is_never_off_by_more_than_the_bound() -> None:
    queries, corpus = clustered(1, 64, 512), clustered(2, 6400, 512)
    rounded = RoundedCorpus.of(corpus)
    wide, length = exact.with_lengths(queries)
    others, lengths = exact.with_lengths(corpus)
    cosines = (wide @ others.T) / (length[:, None] * lengths)
    for k in (1, 3):
        possible, floor = exact._possible(rounded, wide / length[:, None], k)
        kth = np.sort(cosines, axis=1)[:, -k]
        assert (floor <= kth).all()
        assert (floor > kth - 0.05).all()
        needed = (cosines >= kth[:, None]).reshape(64, -1, exact.GROUP_ROWS).any(axis=2)
        assert possible.T[needed].all()
        assert possible.mean() < 0.5  # or nothing would be spared


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0, 2.0, 6e4], ids=str)
def test_what_is_no_unit_vector_is_told_from_one(wrong: float) -> None:
    found = vectors(3, 4, 32)
    found[1] = wrong
    assert are_unit(found).tolist() == [True, False, True, True]
    assert are_unit(np.zeros((0, 0), np.float16)).tolist() == []


def test_equal_vectors_have_a_cosine_of_one_and_the_first_is_found() -> None:
    corpus = np.repeat(vectors(5, 3, 512), 40, axis=0)
    places, cosines = nearest(corpus, corpus, RoundedCorpus.of(corpus), 2)
    assert (cosines == 1).all()
    assert places[:, 0].tolist() == [40 * (row // 40) for row in range(120)]


@QUICK
@given(SEEDS, st.integers(1, 12), st.integers(1, 40), st.integers(1, 45))
def test_the_nearest_fingerprints_are_those_that_brute_force_finds(seed: int, count: int, size: int, k: int) -> None:
    queries, corpus = prints(seed, count), prints(seed + 1, size)
    places, found = nearest_by_pdq(queries, corpus, k)
    assert len(found) == len(places) == count
    for row, near in enumerate(distances(queries, corpus).tolist()):
        expected = sorted(zip(near, range(size), strict=True))[:k]
        assert found[row, : len(expected)].tolist() == [distance for distance, _ in expected]
        assert places[row, : len(expected)].tolist() == [place for _, place in expected]
        assert set(places[row, len(expected) :].tolist()) <= {-1}


@QUICK
@given(SEEDS, st.integers(1, 30), st.integers(1, 8))
def test_candidates_are_ranked_as_the_exact_search_ranks(seed: int, size: int, k: int) -> None:
    queries, corpus = vectors(seed, 4, 16), vectors(seed + 1, size, 16)
    assume(are_unit(queries).all() and are_unit(corpus).all())
    everything = np.tile(np.arange(size)[::-1], (4, 1))
    assert same(rerank(queries, corpus, everything, k), nearest(queries, corpus, RoundedCorpus.of(corpus), k))
    nothing = np.full((4, 3), -1)
    assert same(rerank(queries, corpus, nothing, k), brute(queries, corpus[:0], k))


PLANS = [
    ((0, 0, 1), "exact"),
    ((50_000, 512, 1 << 32), "exact"),
    ((1 << 19, 512, 1 << 32), "exact"),
    (((1 << 19) + 1, 512, 1 << 32), "ivf"),
    ((50_000, 512, 4 * 50_000 * 512 - 1), "ivf"),
    ((1_000_000, 512, 2 << 30), "ivf"),
    ((1_000_000, 512, 1 << 29), "ivfpq"),
    ((100_000_000, 512, 8 << 30), "ivfpq"),
]


@pytest.mark.parametrize(("given", "kind"), PLANS)
def test_the_kind_of_an_index_follows_from_its_size_and_the_memory(given: tuple[int, int, int], kind: str) -> None:
    plan = plan_index(*given)
    assert plan.kind == kind
    assert plan.bytes <= given[2]
    if kind != "exact":
        assert 2.8 < plan.cells / given[0] ** 0.5 < 5.7  # a power of two near 4


def test_a_memory_that_holds_no_index_is_refused() -> None:
    with pytest.raises(InputError, match=r"^index_mb: expected 77 or more for 1000000 rows of 512, found 40$"):
        plan_index(1_000_000, 512, 40 << 20)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_sample_is_the_same_for_the_same_size_and_grows_by_keeping(count: int, of: int) -> None:
    places = sample_rows(count, of).tolist()
    assert len(places) == len(set(places)) == min(count, of)
    assert places == sorted(places)
    assert set(places) <= set(sample_rows(count + 1, of).tolist())


@pytest.fixture(scope="module", params=["ivf", "ivfpq"])
def lists(request: pytest.FixtureRequest) -> ApproximateSearcher:
    return build_lists(clustered(1, 2000), IndexPlan(request.param, 64, 8, 0))


def test_recall_is_the_share_of_rows_whose_nearest_other_is_found(lists: ApproximateSearcher) -> None:
    corpus = lists.vectors
    sample = sample_rows(120, len(corpus))
    wide, length = exact.with_lengths(corpus)
    cosines = ((wide[sample] @ wide.T) / (length[sample, None] * length)).astype(np.float32)
    cosines[np.arange(len(sample)), sample] = -2
    truth = cosines.max(axis=1)
    assert (nearest_other_cosines(corpus, sample) == truth).all()
    shares = []
    for lists.probed in (1, 4, 64):
        places = lists.search(corpus[sample], 2)[0]
        others = [
            next(place for place in row if place != own) for row, own in zip(places.tolist(), sample, strict=True)
        ]
        expected = float(np.mean(cosines[np.arange(len(sample)), others] >= truth))
        shares.append(measure_recall(lists, sample, truth))
        assert shares[-1] == expected
    assert shares[0] < shares[2]


def test_more_cells_are_probed_until_the_recall_holds(lists: ApproximateSearcher) -> None:
    lists.probed, sample = 1, sample_rows(200, len(lists.vectors))
    least = 0.9
    found = tune_probes(lists, sample, least)
    assert found >= least
    assert lists.probed > 1
    assert found == measure_recall(lists, sample, nearest_other_cosines(lists.vectors, sample))
    lists.probed //= 2
    assert measure_recall(lists, sample, nearest_other_cosines(lists.vectors, sample)) < least


def test_a_recall_that_cannot_be_had_is_an_error(lists: ApproximateSearcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "MAX_PROBED_CELLS", 2)
    lists.probed = 1
    with pytest.raises(
        StageFailed, match=r"^min_recall: expected 1.0, found 0\.\d+ with 2 of 64 cells probed, on 200 of"
    ):
        tune_probes(lists, sample_rows(200, len(lists.vectors)), 1.0)


def test_with_all_cells_probed_it_is_exact_and_its_cosines_always_are(lists: ApproximateSearcher) -> None:
    queries = clustered(2, 50)
    for lists.probed, lists.taken in ((4, 30), (64, 2000)):
        places, cosines = lists.search(queries, 3)
        exact = rerank(queries, lists.vectors, places, 3)
        assert same((places, cosines), exact)
    assert same((places, cosines), nearest(queries, lists.vectors, RoundedCorpus.of(lists.vectors), 3))
    assert lists.search(queries[:0], 3)[0].shape == (0, 3)


def test_an_approximate_answer_depends_on_no_batch(lists: ApproximateSearcher) -> None:
    lists.probed, lists.taken = 4, 30
    queries = clustered(3, 40)
    whole = lists.search(queries, 2)
    for size in (1, 7):
        parts = [lists.search(queries[at : at + size], 2) for at in range(0, 40, size)]
        assert same((np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])), whole)


@pytest.mark.parametrize("size", [0, 1, 2, 50])
def test_an_exact_searcher_says_on_how_many_rows_its_recall_was_measured(size: int) -> None:
    found, share, sample = build_searcher(vectors(1, size, 8), plan_index(size, 8, 1 << 30), 0.95)
    assert (share, sample) == (1.0, size if size > 1 else 0)
    assert found.search(vectors(2, 3, 8), 1)[0].shape == (3, 1)
