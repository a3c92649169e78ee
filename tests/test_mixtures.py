"""Shares are apportioned exactly, shortages end as declared, and a smaller sample is a part of a larger one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.mixtures import Quota, apportion, quotas, rank_key

SHARES = st.dictionaries(
    st.sampled_from(["cc12m", "laion", "redcaps", "wit", "yfcc"]),
    st.floats(0.01, 100, allow_nan=False).map(lambda value: round(value, 2)),
    min_size=1,
)


@given(SHARES, st.integers(0, 10**7))
def test_counts_sum_to_the_total_and_lie_within_one_of_their_quotas(shares: dict[str, float], total: int) -> None:
    counts = apportion(shares, total)
    assert sum(counts.values()) == total
    whole = sum(shares.values())
    assert all(abs(counts[name] - total * share / whole) < 1.000001 for name, share in shares.items())


@given(SHARES, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_the_shares_changes_nothing(shares: dict[str, float], total: int, random: object) -> None:
    names = list(shares)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert apportion({name: shares[name] for name in names}, total) == apportion(shares, total)


def test_hamiltons_method_gives_what_is_left_to_the_largest_remainders() -> None:
    assert apportion({"a": 0.43, "b": 0.33, "c": 0.24}, 10) == {"a": 4, "b": 3, "c": 3}
    assert apportion({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}


@given(st.integers(1, 500), st.integers(1, 200))
def test_ranks_take_their_quota_in_all(pairs: int, available: int) -> None:
    quota = Quota(pairs, available)
    times = [quota.times(rank) for rank in range(available)]
    assert sum(times) == pairs
    assert max(times) - min(times) <= 1
    assert times == sorted(times, reverse=True)


@given(st.sets(st.text("0123456789abcdef", min_size=4, max_size=4), min_size=2), st.integers(0, 5))
def test_a_smaller_sample_is_a_part_of_a_larger_one(uids: set[str], seed: int) -> None:
    ranked = sorted(uids, key=lambda uid: rank_key(seed, uid))
    taken = [
        {uid for rank, uid in enumerate(ranked) if Quota(size, len(uids)).times(rank)} for size in range(1, len(uids))
    ]
    assert all(small < large for small, large in pairwise(taken))


def test_as_many_as_there_are_is_the_most_that_the_shares_allow() -> None:
    found = quotas("half", {"yfcc": 1, "wit": 1}, None, {"yfcc": 100, "wit": 30}, "shrink", 1)
    assert {name: quota.pairs for name, quota in found.items()} == {"yfcc": 30, "wit": 30}


def test_without_shares_every_source_gives_all_it_has() -> None:
    found = quotas("all", {}, None, {"yfcc": 100, "wit": 30, "laion": 0}, "fail", 1)
    assert {name: quota.pairs for name, quota in found.items()} == {"yfcc": 100, "wit": 30}


def test_a_shortage_fails_shrinks_or_repeats_as_declared() -> None:
    shares, available = {"yfcc": 3.0, "wit": 1.0}, {"yfcc": 30, "wit": 100}
    with pytest.raises(InputError, match=r"mixtures\.m\.total: found 80, expected at most 40 .*yfcc 30, wit 100"):
        quotas("m", shares, 80, available, "fail", 1)
    shrunk = quotas("m", shares, 80, available, "shrink", 1)
    assert {name: quota.pairs for name, quota in shrunk.items()} == {"yfcc": 30, "wit": 10}
    repeated = quotas("m", shares, 80, available, "repeat", 2)
    assert {name: quota.pairs for name, quota in repeated.items()} == {"yfcc": 60, "wit": 20}
    with pytest.raises(InputError, match="expected at most 80"):
        quotas("m", shares, 81, available, "repeat", 2)


def test_a_source_with_nothing_left_is_named() -> None:
    with pytest.raises(InputError, match=r"mixtures\.m: no pair is left of wit"):
        quotas("m", {"yfcc": 1, "wit": 1}, None, {"yfcc": 5, "wit": 0}, "shrink", 1)
