"""Shares are apportioned exactly, shortages end as declared, and a smaller sample is a part of a larger one."""

from itertools import pairwise
from math import ceil
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.config.mixture import MixtureConfig
from pipeline.core.sampling import rank_key
from pipeline.errors import InputError
from pipeline.mixtures.apportionment import Quota, apportion, quotas
from pipeline.mixtures.parts import ColumnCondition, PartSpec, filters_of, parts_of, signal_columns_of

NAMES = ["cc12m", "laion", "redcaps", "wit", "yfcc"]


SHARES = st.dictionaries(
    st.sampled_from(NAMES), st.floats(0.01, 100, allow_nan=False).map(lambda value: round(value, 2)), min_size=1
)


@given(SHARES, st.integers(0, 10**7))
def test_counts_sum_to_the_total_and_are_their_quotas_rounded(shares: dict[str, float], total: int) -> None:
    counts = apportion(shares, total)
    assert sum(counts.values()) == total
    whole = sum(round(share * 100) for share in shares.values())  # in whole hundredths, as Fraction("0.1") would be
    for name, share in shares.items():
        down, rest = divmod(total * round(share * 100), whole)
        assert counts[name] in (down, down + bool(rest))


@given(SHARES, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_the_shares_changes_nothing(shares: dict[str, float], total: int, random: Any) -> None:
    names = list(shares)
    random.shuffle(names)
    assert apportion({name: shares[name] for name in names}, total) == apportion(shares, total)


def test_hamiltons_method_gives_what_is_left_to_the_largest_remainders() -> None:
    assert apportion({"a": 0.43, "b": 0.33, "c": 0.24}, 10) == {"a": 4, "b": 3, "c": 3}
    assert apportion({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}


def test_between_near_totals_a_count_may_be_one_smaller() -> None:
    shares = {"a": 6, "b": 6, "c": 2}
    assert apportion(shares, 10) == {"a": 4, "b": 4, "c": 2}
    assert apportion(shares, 11) == {"a": 5, "b": 5, "c": 1}  # the Alabama paradox, as `apportion` says


@given(SHARES, st.integers(0, 10**6), st.integers(0, 10**6))
@example({"wit": 6, "yfcc": 6, "laion": 2}, 10, 1)
def test_a_larger_total_takes_at_most_one_pair_from_a_count_and_none_where_each_quota_grows_by_one(
    shares: dict[str, float], total: int, more: int
) -> None:
    counts, larger = apportion(shares, total), apportion(shares, total + more)
    assert all(larger[name] >= counts[name] - 1 for name in shares)
    whole = sum(shares.values())
    if len(shares) < 3 or all(more * share >= whole * 1.000001 for share in shares.values()):
        assert all(larger[name] >= counts[name] for name in shares)


@given(st.integers(1, 500), st.integers(1, 200))
def test_ranks_take_their_quota_in_all(pairs: int, available: int) -> None:
    quota = Quota(pairs, available)
    times = [quota.times(rank) for rank in range(available)]
    assert sum(times) == pairs
    assert max(times) - min(times) <= 1
    assert times == sorted(times, reverse=True)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_a_larger_quota_takes_no_pair_less_often(pairs: int, more: int, available: int) -> None:
    small, large = Quota(pairs, available), Quota(pairs + more, available)
    assert all(small.times(rank) <= large.times(rank) for rank in range(available))


@given(st.sets(st.text("0123456789abcdef", min_size=4, max_size=4), min_size=2), st.integers(0, 5))
def test_a_smaller_sample_is_a_part_of_a_larger_one(uids: set[str], seed: int) -> None:
    ranked = sorted(uids, key=lambda uid: rank_key(seed, uid))
    taken = [
        {uid for rank, uid in enumerate(ranked) if Quota(size, len(uids)).times(rank)} for size in range(1, len(uids))
    ]
    assert all(small < large for small, large in pairwise(taken))


@given(
    SHARES,
    st.lists(st.integers(1, 400), min_size=5, max_size=5),
    st.integers(1, 600),
    st.integers(1, 4),
    st.sampled_from(["fail", "shrink", "repeat"]),
)
def test_samples_are_nested_under_every_policy(
    shares: dict[str, float], counts: list[int], total: int, factor: int, shortage: str
) -> None:
    available = dict(zip(NAMES, counts, strict=True))
    least = ceil(sum(shares.values()) / min(shares.values()) * 1.000001)  # from there on every quota is one or more

    def drawn(pairs: int) -> dict[str, Quota]:
        return quotas("m", shares, pairs, available, shortage, 3)

    try:
        small, large = drawn(total), drawn(total * factor + least)
    except InputError:
        assume(False)
    assert sum(quota.pairs for quota in large.values()) >= sum(quota.pairs for quota in small.values())
    if sum(quota.pairs for quota in large.values()) < total + least:  # shrunk: the two may be nearer than that
        assume(len(shares) < 3)
    for name, quota in small.items():
        assert all(quota.times(rank) <= large[name].times(rank) for rank in range(available[name]))


def test_as_many_as_there_are_is_the_most_that_the_shares_allow() -> None:
    found = quotas("half", {"yfcc": 1, "wit": 1}, None, {"yfcc": 100, "wit": 30}, "shrink", 1)
    assert {name: quota.pairs for name, quota in found.items()} == {"yfcc": 30, "wit": 30}


@given(SHARES, st.lists(st.integers(1, 400), min_size=5, max_size=5), st.integers(1, 5))
def test_the_most_that_the_shares_allow_is_there_and_one_more_is_not(
    shares: dict[str, float], counts: list[int], repeat: int
) -> None:
    available = dict(zip(NAMES, counts, strict=True))
    found = quotas("m", shares, None, available, "repeat", repeat)
    assert all(quota.pairs <= repeat * available[name] for name, quota in found.items())
    with pytest.raises(InputError, match=r"mixtures\.m\.total: found"):
        quotas("m", shares, sum(quota.pairs for quota in found.values()) + 1, available, "repeat", repeat)


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
    with pytest.raises(InputError, match=r"mixtures\.m: found no pairs of wit"):
        quotas("m", {"yfcc": 1, "wit": 1}, None, {"yfcc": 5, "wit": 0}, "shrink", 1)


SOURCES = ("yfcc", "wit")


def parts(**given_: Any) -> list[PartSpec]:
    return parts_of("m", MixtureConfig.model_validate(given_), SOURCES)


def test_every_way_to_share_is_a_list_of_parts() -> None:
    assert parts() == [PartSpec("yfcc", None, ("yfcc",)), PartSpec("wit", None, ("wit",))]
    by_source = parts_of("m", MixtureConfig.model_validate({"shares": {"wit": 3, "yfcc": 1}}), ("wit", "yfcc"))
    assert by_source == [PartSpec("wit", 3, ("wit",)), PartSpec("yfcc", 1, ("yfcc",))]
    language = parts(by="caption_v1.language", shares={"en": 2, "de": 1})
    assert [(one.name, one.share, one.sources) for one in language] == [("en", 2, SOURCES), ("de", 1, SOURCES)]
    assert language[0].condition == ColumnCondition("caption_v1", "language", ("en",))
    cut = parts(by="clip_v1.similarity", buckets=[0.2, 0.3], shares=[1, 2, 3])
    names = ["clip_v1.similarity < 0.2", "0.2 <= clip_v1.similarity < 0.3", "0.3 <= clip_v1.similarity"]
    assert [one.name for one in cut] == names
    assert [(one.condition.least, one.condition.below) for one in cut if one.condition] == [
        (float("-inf"), 0.2),
        (0.2, 0.3),
        (0.3, float("inf")),
    ]
    listed = parts(
        filter="safe",
        parts=[
            {"share": 0.7, "filter": "good"},
            {"share": 0.2, "sources": ["wit"], "filter": "basic"},
            {"share": 0.1, "dropped_by": "basic", "by": "clip_v1.similarity", "least": 0.3, "name": "rest"},
        ],
    )
    assert [one.name for one in listed] == ["good", "wit, basic", "rest"]
    assert [one.sources for one in listed] == [SOURCES, ("wit",), SOURCES]
    assert signal_columns_of(listed) == {"clip_v1": ["similarity"]}
    given_ = MixtureConfig.model_validate(
        {"filter": "b", "parts": [{"filter": "a", "dropped_by": "b"}, {"filter": "c"}]}
    )
    assert filters_of(given_) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"parts": [{"share": 1}], "shares": {"wit": 1}}, ": expected parts or shares, found both"),
        ({"parts": [{"share": 1}], "by": "clip_v1.similarity"}, ": expected parts or shares, found both"),
        ({"parts": [{"share": 1}, {}]}, ".parts: expected a share for each part or for none"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, ".parts: found two parts named 'a'"),
        ({"parts": [{"filter": "a"}, {"filter": "a"}]}, ".parts: found two parts named 'a'"),
        ({"parts": [{"by": "clip_v1.similarity"}]}, ".parts.0: expected by with values, or by with least, below"),
        ({"parts": [{"values": ["en"]}]}, ".parts.0: expected by with values"),
        ({"parts": [{"by": "a_v1.b", "values": ["en"], "least": 1}]}, ".parts.0: expected by with values"),
        ({"parts": [{"by": "a_v1.b", "least": 2, "below": 2}]}, ".parts.0: expected least smaller than below"),
        ({"parts": [{"by": "language", "values": ["en"]}]}, ".parts.0.by: expected a signal's column"),
        ({"by": "a_v1.b"}, ": expected by with shares by value"),
        ({"buckets": [1]}, ": expected by with shares by value"),
        ({"shares": [1, 2]}, ": expected by with shares by value"),
        ({"by": "a_v1.b", "shares": [1, 2]}, ": expected by with shares by value"),
        ({"by": "a_v1.b", "buckets": [1], "shares": {"x": 1}}, ": expected by with shares by value"),
        ({"by": "a_v1.b", "buckets": [1], "shares": [1]}, ".buckets: expected increasing numbers, and one share"),
        ({"by": "a_v1.b", "buckets": [1, 1], "shares": [1, 1, 1]}, ".buckets: expected increasing numbers"),
        ({"missing": 3}, ".missing: expected with uids only"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parts(**given_)
    assert str(caught.value).startswith(f"mixtures.m{said}")
