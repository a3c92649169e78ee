"""Decisions: the queries of the rules on a real Spark session; every pair gets exactly one outcome from each."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest
from pyspark.sql import SparkSession

from filters.decisions import composed_sql, reason_sql
from filters.rules import AllOf, parse_rule
from jobs.blend import times_column
from jobs.spark import start
from pipeline.config import Spark
from pipeline.mixtures import Quota, rank_key, rank_sql

Row = tuple[Any, ...]
Decide = Callable[[str, Sequence[Row], dict[str, Any]], dict[str, str]]
NAN = float("nan")


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    session = start(Spark(), "test")
    yield session
    session.stop()


@pytest.fixture
def decide(spark: SparkSession) -> Decide:
    """Return each uid's reason under a filter of the experiment file, over rows of the given schema."""

    def run(schema: str, rows: Sequence[Row], given: dict[str, Any]) -> dict[str, str]:
        spark.createDataFrame(list(rows), f"uid string, source string, {schema}").createOrReplaceTempView("pairs")
        answers = spark.sql(reason_sql(parse_rule("mine", given), "pairs")).collect()
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


def test_a_composed_filter_gives_the_reason_of_its_first_part_that_drops(spark: SparkSession) -> None:
    said = {
        "a": {"first": "", "second": "", "third": ""},
        "b": {"first": "", "second": "x", "third": "y"},
        "c": {"first": "z", "second": "x", "third": ""},
        "d": {"first": "", "second": "", "third": "a"},
    }
    rows = [(uid, "s", part, reason) for uid, parts in said.items() for part, reason in parts.items()]
    for order in (rows, rows[::-1]):
        frame = spark.createDataFrame(order, "uid string, source string, filter string, reason string")
        frame.repartition(3).createOrReplaceTempView("parts")
        for parts in (("first", "second", "third"), ("third", "second", "first")):
            answers = spark.sql(composed_sql("parts", parts)).collect()
            expected = {uid: next((one[part] for part in parts if one[part]), "") for uid, one in said.items()}
            assert sorted((row["uid"], row["source"], row["reason"]) for row in answers) == sorted(
                (uid, "s", reason) for uid, reason in expected.items()
            )


def test_a_composed_rule_has_no_query_of_its_own() -> None:
    with pytest.raises(TypeError, match="AllOf"):
        reason_sql(AllOf("both", ("a", "b")), "pairs")


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
    rows = frame.selectExpr("source", "rank", f"{times_column(chosen)} as times").collect()
    assert len(rows) == 25
    for row in rows:
        expected = chosen[row["source"]].times(row["rank"]) if row["source"] in chosen else 0
        assert row["times"] == expected, row
