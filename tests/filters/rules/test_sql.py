"""Decisions: the queries of the rules on a real Spark session; every pair gets exactly one outcome from each."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from filters.rules.base import Rule
from filters.rules.parser import RuleContext, parse_rule
from filters.rules.sql import decision_column, reason_sql, subset_column
from jobs.blend import times_sql
from pipeline.core.sampling import rank_key, rank_sql, uniform_hash, uniform_hash_sql
from pipeline.mixtures.apportionment import Quota
from tests.support.rule_statistics import measured, quick

Row = tuple[Any, ...]


Decide = Callable[..., dict[str, str]]


NAN = float("nan")


SEED = RuleContext(seed=7)


@pytest.fixture(scope="module")
def spark(spark: SparkSession) -> SparkSession:
    return quick(spark)


@pytest.fixture(scope="module")
def decide(spark: SparkSession) -> Decide:
    """Return each uid's reason under a filter of the experiment file, over rows of the given schema."""

    def run(schema: str, rows: Sequence[Row], given: dict[str, Any], parts: int = 0) -> dict[str, str]:
        frame = spark.createDataFrame(list(rows), f"uid string, source string, {schema}")
        (frame.repartition(parts) if parts else frame).createOrReplaceTempView("pairs")
        rule = parse_rule("mine", given, SEED)
        answers = spark.sql(reason_sql(rule, "pairs", measured(spark, rule, "pairs"))).collect()
        sources = {row[0]: row[1] for row in rows}
        assert [tuple(row.asDict()) for row in answers] == [("uid", "source", "reason")] * len(rows)
        assert {row["uid"]: row["source"] for row in answers} == sources
        return {row["uid"]: row["reason"] for row in answers}

    return run


def kept(reasons: dict[str, str]) -> list[str]:
    return sorted(uid for uid, reason in reasons.items() if not reason)


CAPTION = "caption_v1 struct<words: int, is_url: boolean>"


SCORE = "clip_v1 struct<similarity: double>"


GROUP = "duplicates_v1 struct<exact_group: string>, clip_v1 struct<similarity: double>"


NEAREST = "nearest_v1 struct<pdq_distance: int, pdq_quality: int, cosine: double>"


def test_the_first_reason_that_holds_drops_a_pair_and_what_is_unknown_drops_it_too(decide: Decide) -> None:
    rows = [
        ("a", "s", (5, False)),
        ("b", "s", (1, True)),
        ("c", "s", (5, True)),
        ("d", "t", (None, False)),
        ("e", "t", (5, None)),
        ("f", "t", None),
    ]
    reasons = {"too_short": "caption_v1.words < 2", "is_url": "caption_v1.is_url"}
    expected = {"a": "", "b": "too_short", "c": "is_url", "d": "too_short", "e": "is_url", "f": "too_short"}
    assert decide(CAPTION, rows, {"drop_when": reasons}) == expected
    turned = dict(reversed(reasons.items()))
    assert decide(CAPTION, rows, {"drop_when": turned}) == expected | {"b": "is_url", "f": "is_url"}


def test_a_quote_in_a_predicate_stays_within_its_string(decide: Decide) -> None:
    schema = "caption_v1 struct<language: string>"
    rows = [("a", "s", ("it's",)), ("b", "s", ("') or (true",)), ("c", "s", ("en",)), ("d", "s", ("x\\",))]
    reasons = {
        "quote": r"caption_v1.language = 'it\'s'",
        "slash": r"caption_v1.language = 'x\\'",
        "parenthesis": r"caption_v1.language = '\') or (true'",
    }
    expected = {"a": "quote", "b": "parenthesis", "c": "", "d": "slash"}
    assert decide(schema, rows, {"drop_when": reasons}) == expected


SCORES = [("s", 0.9), ("s", 0.5), ("s", 0.5), ("s", 0.5), ("s", 0.1), ("t", 0.8), ("t", 0.2), ("t", -0.3), ("t", 0.7)]


SCORED: list[Row] = [(f"u{number}", source, (score,)) for number, (source, score) in enumerate(SCORES)]


UNSCORED: list[Row] = [("n0", "s", None), ("n1", "t", (None,)), ("n2", "s", (NAN,)), ("n3", "o", (NAN,))]


@pytest.mark.parametrize("fraction", [0, 0.07, 0.1, 1 / 3, 0.5, 0.7, 0.999, 1])
def test_a_top_fraction_keeps_the_ceiling_of_those_with_a_score(decide: Decide, fraction: float) -> None:
    given = {"top_fraction": fraction, "by": "clip_v1.similarity"}
    reasons = decide(SCORE, SCORED + UNSCORED, given)
    number = math.ceil(Fraction(str(float(fraction))) * len(SCORED))
    by_rank = [uid for uid, _, _ in sorted(SCORED, key=lambda row: (-row[2][0], row[0]))]
    assert kept(reasons) == sorted(by_rank[:number])
    assert Counter(reasons.values())["below_top_fraction"] == len(SCORED) - number
    assert {uid for uid, reason in reasons.items() if reason == "no_score"} == {row[0] for row in UNSCORED}


@pytest.mark.parametrize("fraction", [0.07, 0.14, 0.28, 0.29, 0.55, 0.57, 0.58])
def test_a_fraction_of_a_hundred_is_counted_in_decimals_and_not_in_floats(decide: Decide, fraction: float) -> None:
    rows = [(f"{number:03d}", "s", (float(number),)) for number in range(100)]
    reasons = decide(SCORE, rows, {"top_fraction": fraction, "by": "clip_v1.similarity"})
    assert len(kept(reasons)) == round(fraction * 100)


def test_ties_go_to_the_smaller_uid_whatever_the_order_of_the_rows(decide: Decide) -> None:
    given = {"top_fraction": 0.4, "by": "clip_v1.similarity"}
    for rows in (SCORED, SCORED[::-1]):
        assert kept(decide(SCORE, rows, given)) == ["u0", "u1", "u5", "u8"]  # u1 to u3 have the same score


def test_a_top_fraction_of_each_source_counts_each_by_itself(decide: Decide) -> None:
    given = {"top_fraction": 0.5, "by": "clip_v1.similarity", "per_source": True}
    reasons = decide(SCORE, SCORED + UNSCORED, given)
    assert kept(reasons) == ["u0", "u1", "u2", "u5", "u8"]  # three of five, two of four
    assert reasons["n3"] == "no_score"


def test_one_stays_of_each_group_the_preferred_one_then_the_smaller_uid(decide: Decide) -> None:
    rows = [
        ("a", "s", ("g",), (0.1,)),
        ("b", "t", ("g",), (0.3,)),
        ("c", "s", ("g",), (0.3,)),
        ("d", "s", ("h",), None),
        ("e", "s", ("h",), (-0.9,)),
        ("f", "s", ("i",), None),
        ("g2", "s", ("i",), (None,)),
        ("x", "s", (None,), (0.2,)),
        ("y", "s", (None,), (0.2,)),
        ("z", "s", None, (0.2,)),
    ]
    preferring = {"unique_by": "duplicates_v1.exact_group", "prefer": "clip_v1.similarity"}
    for order in (rows, rows[::-1]):
        reasons = decide(GROUP, order, preferring)
        assert kept(reasons) == ["b", "e", "f", "x", "y", "z"]  # those without a group are alone
        assert {reasons[uid] for uid in "acd"} == {"exact_duplicate"}
        plain = decide(GROUP, order, {"unique_by": "duplicates_v1.exact_group"})
        assert kept(plain) == ["a", "d", "f", "x", "y", "z"]


def test_a_score_that_is_no_number_is_not_preferred(decide: Decide) -> None:
    rows = [("a", "s", ("g",), (NAN,)), ("b", "s", ("g",), (-0.5,)), ("c", "s", ("g",), None)]
    given = {"unique_by": "duplicates_v1.exact_group", "prefer": "clip_v1.similarity"}
    assert kept(decide(GROUP, rows, given)) == ["b"]


def test_the_preferred_column_may_be_a_whole_number(decide: Decide) -> None:
    schema = "duplicates_v1 struct<near_group: string>, image_v1 struct<short_side: int>"
    rows = [("a", "s", ("g",), (64,)), ("b", "s", ("g",), (256,)), ("c", "s", ("g",), (None,))]
    given = {"unique_by": "duplicates_v1.near_group", "prefer": "image_v1.short_side"}
    assert decide(schema, rows, given) == {"a": "near_duplicate", "b": "", "c": "near_duplicate"}


def test_what_is_near_an_evaluation_image_goes_by_one_of_three_reasons(decide: Decide) -> None:
    rows = [
        ("copy", "s", (31, 50, 0.2)),
        ("too far", "s", (32, 100, 0.2)),
        ("flat", "s", (0, 49, 0.2)),
        ("lookalike", "s", (32, 50, 0.95)),
        ("just not", "s", (None, None, 0.9499)),
        ("flat lookalike", "s", (0, 49, 0.99)),
        ("both", "s", (0, 50, 1.0)),
        ("no cosine", "s", (200, 90, None)),
        ("unseen", "s", None),
    ]
    given = {"not_in_evaluation": "nearest_v1", "pdq_distance": 31, "cosine": 0.95, "min_quality": 50}
    assert decide(NEAREST, rows, given) == {
        "copy": "evaluation_copy",
        "too far": "",
        "flat": "",
        "lookalike": "evaluation_lookalike",
        "just not": "",
        "flat lookalike": "evaluation_lookalike",
        "both": "evaluation_copy",
        "no cosine": "",
        "unseen": "not_compared",
    }
    assert decide(NEAREST, rows, given | {"min_quality": 49})["flat"] == "evaluation_copy"


def test_each_search_is_asked_for_by_itself_and_what_found_nothing_drops_nothing(decide: Decide) -> None:
    schema = "nearest_v1 struct<pdq_distance: int, pdq_quality: int, cosine: float, aligned: float>"
    rows = [
        ("copy", "s", (0, 100, 0.2, 0.1)),
        ("lookalike", "s", (99, 100, 0.97, 0.1)),
        ("aligned", "s", (99, 100, 0.2, 0.7)),
        ("below", "s", (99, 100, 0.2, 0.69)),
        ("nothing", "s", (None, None, None, None)),
        ("no number", "s", (99, 100, NAN, NAN)),
        ("unseen", "s", None),
    ]
    off = {"not_in_evaluation": "nearest_v1", "pdq_distance": None, "cosine": None}
    every = {"copy": "evaluation_copy", "lookalike": "evaluation_lookalike", "aligned": "evaluation_aligned"}
    for asked, drops in (
        ({"pdq_distance": 31}, ["copy"]),
        ({"cosine": 0.95}, ["lookalike"]),
        ({"aligned": 0.7}, ["aligned"]),  # the float32 nearest to 0.7 lies below it
        ({"pdq_distance": 31, "cosine": 0.95, "aligned": 0.7}, list(every)),
    ):
        expected = {uid: every[uid] if uid in drops else "" for uid, _, _ in rows} | {"unseen": "not_compared"}
        assert decide(schema, rows, {**off, **asked}) == expected


@pytest.mark.parametrize("kind", ["float", "double", "int"])
def test_a_threshold_says_on_which_side_an_equal_value_stands(decide: Decide, kind: str) -> None:
    values: list[Any] = [6, 7, 8] if kind == "int" else [0.6, 0.7, 0.8]
    rows: list[Row] = [(f"{value}", "s", (value,)) for value in values]
    unknown: list[Row] = [("none", "s", (None,)), ("unseen", "s", None)]
    unknown += [] if kind == "int" else [("nan", "s", (NAN,))]
    low, middle, high = (f"{value}" for value in values)
    for comparison, keeps in (
        ("at_least", [middle, high]),
        ("above", [high]),
        ("at_most", [low, middle]),
        ("below", [low]),
    ):
        given = {"threshold": {comparison: values[1], "by": "clip_v1.similarity"}}
        reasons = decide(f"clip_v1 struct<similarity: {kind}>", rows + unknown, given)
        assert kept(reasons) == sorted(keeps)
        assert {reasons[uid] for uid, _, _ in unknown} == {"no_score"}
        reason = "below_threshold" if comparison in ("at_least", "above") else "above_threshold"
        assert set(reasons.values()) == {"", "no_score", reason}


def test_a_threshold_may_differ_by_source(decide: Decide) -> None:
    rows: list[Row] = [(f"{source}{value}", source, (value,)) for source in "stu" for value in (0.1, 0.2, 0.3)]
    sources = {"s": 0.3, "t": 0.1}
    given = {"threshold": {"at_least": 0.2, "by": "clip_v1.similarity", "per_source": sources, "reason": "far"}}
    reasons = decide(SCORE, rows, given)
    assert kept(reasons) == ["s0.3", "t0.1", "t0.2", "t0.3", "u0.2", "u0.3"]
    assert reasons["u0.1"] == "far"


CONCEPTS = "concepts_v1 struct<concepts: array<int>, concept_count: int>"


def test_a_caption_passes_by_any_concept_or_by_one_of_those_asked_for(decide: Decide) -> None:
    rows: list[Row] = [
        ("both", "s", ([1, 4], 2)),
        ("other", "s", ([2], 1)),
        ("none", "s", ([], 0)),
        ("null", "s", (None, None)),
        ("unseen", "s", None),
    ]
    nothing = dict.fromkeys(("none", "null", "unseen"), "no_concept")
    assert decide(CONCEPTS, rows, {"concepts": "concepts_v1"}) == {"both": "", "other": ""} | nothing
    some = {"concepts": "concepts_v1", "any_of": [4, 9]}
    assert decide(CONCEPTS, rows, some) == {"both": "", "other": "other_concept"} | nothing


def test_what_is_near_a_reference_stays(decide: Decide) -> None:
    rows: list[Row] = [("a", "s", (True,)), ("b", "s", (False,)), ("c", "s", (None,)), ("d", "s", None)]
    reasons = decide("reference_v1 struct<near_reference: boolean>", rows, {"near_reference": "reference_v1"})
    assert reasons == {"a": "", "b": "not_near_reference", "c": "not_compared", "d": "not_compared"}


def balanced(rows: Sequence[Row], t: int) -> set[str]:
    """Return what MetaCLIP's balancing keeps, pair by pair in Python."""
    counts = Counter(one for _, _, signal in rows for one in (signal[0] if signal else None) or [])
    chance = {one: min(1.0, t / count) for one, count in counts.items()}
    found = set()
    for uid, _, signal in rows:
        if signal and any(uniform_hash(SEED.seed, uid, one) < chance[one] for one in signal[0] or []):
            found.add(uid)
    return found


def test_balancing_draws_each_concept_down_to_about_t_pairs(decide: Decide) -> None:
    head: list[Row] = [(f"h{number:04d}", "s", ([3], 1)) for number in range(2000)]
    both: list[Row] = [(f"b{number}", "s", ([3, 1_000_000], 2)) for number in range(5)]
    rows = [*head, *both, ("tail", "s", ([0], 1)), ("empty", "s", ([], 0)), ("unseen", "s", None)]
    reasons = decide(CONCEPTS, rows, {"balanced": "concepts_v1", "t": 200})
    assert set(kept(reasons)) == balanced(rows, 200)
    assert Counter(reasons.values())["no_concept"] == 2
    drawn = sum(not reasons[row[0]] for row in head)
    assert 140 <= drawn <= 260  # of 2000 at 200 / 2005: the mean within 4.5 standard deviations
    assert [reasons[row[0]] for row in [*both, ("tail",)]] == [""] * 6
    small = set(kept(decide(CONCEPTS, rows, {"balanced": "concepts_v1", "t": 20})))
    assert small < set(kept(reasons))
    everything = decide(CONCEPTS, rows, {"balanced": "concepts_v1", "t": 5000})
    assert Counter(everything.values()) == {"": 2006, "no_concept": 2}


def test_a_random_fraction_is_drawn_by_hash_and_a_smaller_one_is_a_part_of_a_larger(decide: Decide) -> None:
    rows: list[Row] = [(f"{number:032x}", "s", (0.0,)) for number in range(2000)]
    found = {}
    for fraction in (0, 0.1, 0.5, 1):
        reasons = decide(SCORE, rows, {"random_fraction": fraction})
        assert set(reasons.values()) <= {"", "not_drawn"}
        found[fraction] = set(kept(reasons))
        assert found[fraction] == {row[0] for row in rows if uniform_hash(SEED.seed, row[0], "fraction") < fraction}
    assert found[0] == set() and len(found[1]) == 2000  # noqa: PT018
    assert found[0.1] < found[0.5]
    assert 150 <= len(found[0.1]) <= 250


def test_spark_draws_as_python_does(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(f"{number:032x}", number) for number in range(200)], "uid string, one int")
    frame.createOrReplaceTempView("drawn")
    for seed in (0, 7, 2**63):
        rows = spark.sql(f"select uid, one, {uniform_hash_sql(seed, 'uid', 'one')} as draw from drawn").collect()
        assert {row["uid"]: row["draw"] for row in rows} == {
            row["uid"]: uniform_hash(seed, row["uid"], row["one"]) for row in rows
        }
        assert all(0 <= row["draw"] < 1 for row in rows)


def test_a_subset_keeps_what_it_lists(decide: Decide) -> None:
    column = subset_column("some.npy")
    rows: list[Row] = [("a", "s", True), ("b", "s", False), ("c", "s", None)]
    assert decide(f"`{column}` boolean", rows, {"subset": "some.npy"}) == {
        "a": "",
        "b": "not_in_subset",
        "c": "not_in_subset",
    }


SAID = {
    "a": {"first": "", "second": "", "third": ""},
    "b": {"first": "", "second": "x", "third": "y"},
    "c": {"first": "z", "second": "x", "third": ""},
    "d": {"first": "", "second": "", "third": "a"},
}


DECIDED = ", ".join(f"`{decision_column(name)}` struct<reason: string>" for name in ("first", "second", "third"))


SPOKEN: list[Row] = [(uid, "s", *((reason,) for reason in said.values())) for uid, said in SAID.items()]


def test_all_gives_the_reason_of_its_first_part_that_drops(decide: Decide) -> None:
    for parts in (["first", "second", "third"], ["third", "second", "first"]):
        expected = {uid: next((one[part] for part in parts if one[part]), "") for uid, one in SAID.items()}
        assert decide(DECIDED, SPOKEN, {"all": parts}) == expected


def test_any_keeps_what_one_part_keeps_and_gives_the_first_parts_reason(decide: Decide) -> None:
    assert decide(DECIDED, SPOKEN, {"any": ["second", "third"]}) == {"a": "", "b": "x", "c": "", "d": ""}
    assert decide(DECIDED, SPOKEN, {"any": ["second"]}) == {"a": "", "b": "x", "c": "x", "d": ""}


def test_not_keeps_what_its_part_drops(decide: Decide) -> None:
    expected = {"a": "second_keeps", "b": "", "c": "", "d": "second_keeps"}
    assert decide(DECIDED, SPOKEN, {"not": "second"}) == expected
    assert decide(DECIDED, SPOKEN, {"not": {"not": "second"}}) == {
        uid: "not_keeps" if reason == "" else "" for uid, reason in expected.items()
    }


def test_what_another_filter_has_no_row_of_is_dropped(decide: Decide) -> None:
    rows: list[Row] = [("a", "s", ("",)), ("b", "s", None)]
    assert decide(f"`{decision_column('first')}` struct<reason: string>", rows, {"all": ["first"]}) == {
        "a": "",
        "b": "not_decided",
    }


def test_a_fraction_is_taken_of_what_another_rule_keeps(decide: Decide) -> None:
    schema = "caption_v1 struct<words: int>, clip_v1 struct<similarity: double>"
    rows: list[Row] = [(f"u{number}", "st"[number % 2], (number // 4,), (number / 20,)) for number in range(20)]
    rows.append(("none", "s", (4,), (None,)))
    among = {"drop_when": {"short": "caption_v1.words < 3"}}
    for per_source in (False, True):
        top = {"top_fraction": 0.5, "by": "clip_v1.similarity", "per_source": per_source}
        reasons = decide(schema, rows, {**top, "among": among})
        long = [row for row in rows if row[2][0] >= 3 and row[3][0] is not None]
        expected = set()
        for scope in ("s", "t") if per_source else ("st",):
            mine = sorted((row for row in long if row[1] in scope), key=lambda row: -row[3][0])
            expected |= {row[0] for row in mine[: math.ceil(len(mine) / 2)]}
        assert set(kept(reasons)) == expected
        assert {reasons[row[0]] for row in rows if row[2][0] < 3} == {"short"}
        assert reasons["none"] == "no_score"
        assert reasons != decide(schema, rows, {"all": [among, top]})


def test_a_group_keeps_one_of_those_that_another_rule_keeps(decide: Decide) -> None:
    schema = f"{CAPTION}, {GROUP}"
    rows: list[Row] = [
        ("a", "s", (1, False), ("g",), (0.9,)),  # the preferred one of its group is dropped before
        ("b", "s", (5, False), ("g",), (0.2,)),
        ("c", "s", (5, False), ("g",), (0.1,)),
        ("d", "s", (1, False), ("h",), (0.9,)),
    ]
    unique = {"unique_by": "duplicates_v1.exact_group", "prefer": "clip_v1.similarity"}
    short = {"drop_when": {"short": "caption_v1.words < 3"}}
    assert decide(schema, rows, {**unique, "among": short}) == {
        "a": "short",
        "b": "",
        "c": "exact_duplicate",
        "d": "short",
    }
    assert decide(schema, rows, {"all": [short, unique]})["b"] == "exact_duplicate"
    top = {"top_fraction": 0.5, "by": "clip_v1.similarity", "among": {**unique, "among": short}}
    assert kept(decide(schema, rows, top)) == ["b"]


def test_the_smallest_may_be_preferred(decide: Decide) -> None:
    rows: list[Row] = [("a", "s", ("g",), (0.3,)), ("b", "s", ("g",), (0.1,)), ("c", "s", ("g",), (NAN,))]
    given = {"unique_by": "duplicates_v1.exact_group", "prefer_smallest": "clip_v1.similarity"}
    assert kept(decide(GROUP, rows, given)) == ["b"]


def test_a_group_may_be_a_number_and_pairs_without_one_are_alone(decide: Decide) -> None:
    rows: list[Row] = [("a", "s", (7,)), ("b", "s", (7,)), ("7", "s", (None,)), ("c", "s", None)]
    reasons = decide("clusters_v1 struct<cluster: int>", rows, {"unique_by": "clusters_v1.cluster"})
    assert reasons == {"a": "", "b": "cluster_duplicate", "7": "", "c": ""}


def test_a_rule_of_no_kind_has_no_query() -> None:
    with pytest.raises(TypeError, match="Rule"):
        reason_sql(Rule("bare"), "pairs", {})


WHOLE = (
    "caption_v1 struct<words: int, language: string>, clip_v1 struct<similarity: float>, "
    "duplicates_v1 struct<exact_group: string>, concepts_v1 struct<concepts: array<int>, concept_count: int>"
)


PARTS: list[dict[str, Any]] = [
    {"drop_when": {"short": "caption_v1.words < 3", "foreign": "caption_v1.language <> 'en'"}},
    {"top_fraction": 0.5, "by": "clip_v1.similarity"},
    {"top_fraction": 0.4, "by": "clip_v1.similarity", "per_source": True, "among": {"concepts": "concepts_v1"}},
    {"threshold": {"above": 0.25, "by": "clip_v1.similarity"}},
    {"unique_by": "duplicates_v1.exact_group", "prefer": "clip_v1.similarity"},
    {"balanced": "concepts_v1", "t": 3},
    {"random_fraction": 0.7},
    {"any": [{"concepts": "concepts_v1", "any_of": [1]}, {"not": {"random_fraction": 0.5}}]},
]


MAYBE_CAPTION = st.none() | st.tuples(st.none() | st.integers(0, 5), st.none() | st.sampled_from(["en", "de", ""]))


MAYBE_SCORE = st.none() | st.tuples(st.none() | st.sampled_from([NAN, -1.0, 0.0, 0.25, 0.5, 1.0]))


MAYBE_GROUP = st.none() | st.tuples(st.none() | st.sampled_from("ab"))


MAYBE_CONCEPTS = st.none() | st.lists(st.integers(0, 3), unique=True).map(lambda found: (found, len(found)))


DRAWN_ROWS = st.lists(
    st.tuples(st.sampled_from("st"), MAYBE_CAPTION, MAYBE_SCORE, MAYBE_GROUP, MAYBE_CONCEPTS), min_size=1, max_size=12
).map(lambda rows: [(f"{number * 7919 % 1000:032x}", *row) for number, row in enumerate(rows)])


@settings(deadline=None, max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=DRAWN_ROWS, order=st.randoms(use_true_random=False), parts=st.integers(1, 5), left=st.integers(0, 7))
def test_every_pair_has_an_outcome_that_depends_on_no_order_and_a_part_less_never_drops_more(
    decide: Decide, rows: list[Row], order: Any, parts: int, left: int
) -> None:
    reasons = decide(WHOLE, rows, {"all": PARTS})
    order.shuffle(rows)
    assert decide(WHOLE, rows, {"all": PARTS}, parts) == reasons
    fewer = decide(WHOLE, rows, {"all": [*PARTS[:left], *PARTS[left + 1 :]]})
    assert set(kept(reasons)) <= set(kept(fewer))


def test_spark_ranks_pairs_as_python_does(spark: SparkSession) -> None:
    uids = [f"{number:032x}" for number in range(50)]
    spark.createDataFrame([(uid,) for uid in uids], "uid string").createOrReplaceTempView("uids")
    for seed in (0, 7, 2**63):
        rows = spark.sql(f"select uid, {rank_sql(seed)} as rank from uids").collect()
        assert {row["uid"]: row["rank"] for row in rows} == {uid: rank_key(seed, uid) for uid in uids}
    assert rank_key(1, uids[0]) != rank_key(2, uids[0])


def test_spark_takes_a_pair_as_often_as_its_quota_says(spark: SparkSession) -> None:
    chosen = {"s": Quota(3, 5), "t": Quota(13, 5), "u": Quota(10, 5), "v": Quota(1, 1)}
    frame = spark.createDataFrame(
        [(source, rank) for source in (*chosen, "other") for rank in range(5)], "source string, rank bigint"
    )
    rows = frame.selectExpr("source", "rank", f"{times_sql(chosen)} as times").collect()
    assert len(rows) == 25
    for row in rows:
        expected = chosen[row["source"]].times(row["rank"]) if row["source"] in chosen else 0
        assert row["times"] == expected, row
