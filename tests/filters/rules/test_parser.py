"""Rules: what a filter of the experiment file may say, and that a predicate holds columns and plain functions alone."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filters.rules.base import (
    ConceptsRule,
    DropWhen,
    FilterReference,
    NearReferenceRule,
    NotInEvaluation,
    RandomFraction,
    Subset,
    Threshold,
)
from filters.rules.composite import AllOf, AnyOf, Not
from filters.rules.corpus import Balanced, TopFraction, Unique
from filters.rules.parser import RuleContext, parse_rule
from filters.rules.predicates import _FUNCTIONS, _WORDS, predicate_columns
from pipeline.errors import InputError

SHORT = "caption_v1.words < 2"


def columns(text: str) -> dict[str, set[str]]:
    return predicate_columns(text, "here")


def refusal(given: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        parse_rule("mine", given)
    message = str(caught.value)
    assert message.startswith("filters.mine")
    assert "\n" not in message
    return message


def test_drop_when_reads_the_columns_of_all_its_predicates() -> None:
    rule = parse_rule("basic", {"drop_when": {"short": SHORT, "ad": "caption_v1.has_url or image_v1.aspect > 3"}})
    assert rule == DropWhen("basic", {"short": SHORT, "ad": "caption_v1.has_url or image_v1.aspect > 3"})
    assert rule.signals() == {"caption_v1": {"words", "has_url"}, "image_v1": {"aspect"}}
    assert rule.text() == f"drop as short when {SHORT}; drop as ad when caption_v1.has_url or image_v1.aspect > 3"
    assert rule.filters() == []


@pytest.mark.parametrize("per_source", [True, False])
def test_top_fraction_ranks_one_column(per_source: bool) -> None:
    rule = parse_rule("top", {"top_fraction": 0.3, "by": "clip_v1.similarity", "per_source": per_source})
    assert rule == TopFraction("top", 0.3, ("clip_v1", "similarity"), per_source)
    assert rule.signals() == {"clip_v1": {"similarity"}}
    assert ("of each source" in rule.text()) == per_source
    assert "30%" in rule.text()


def test_a_top_fraction_is_counted_among_what_another_filter_keeps() -> None:
    rule = parse_rule("top", {**TOP, "among": "basic"})
    assert rule == TopFraction("top", 0.5, ("clip_v1", "similarity"), among=FilterReference("basic"))
    assert rule.filters() == ["basic"]
    assert rule.text().endswith("among the pairs that this keeps: basic")
    written = parse_rule("top", {**TOP, "among": {"drop_when": {"short": SHORT}}})
    assert written.signals() == {"clip_v1": {"similarity"}, "caption_v1": {"words"}}
    assert written.filters() == []


def test_unique_names_its_reason_by_its_group() -> None:
    rule = parse_rule("one", {"unique_by": "duplicates_v1.exact_group", "prefer": "clip_v1.similarity"})
    assert rule == Unique("one", ("duplicates_v1", "exact_group"), ("clip_v1", "similarity"))
    assert rule.signals() == {"duplicates_v1": {"exact_group"}, "clip_v1": {"similarity"}}
    same = parse_rule("one", {"unique_by": "duplicates_v1.near_group", "prefer": "duplicates_v1.near_size"})
    assert same.signals() == {"duplicates_v1": {"near_group", "near_size"}}
    assert parse_rule("one", {"unique_by": "duplicates_v1.near_group"}).signals() == {"duplicates_v1": {"near_group"}}
    reasons = {}
    for column in ("exact_group", "near_group", "semantic_group", "cluster"):
        given = {"unique_by": f"duplicates_v1.{column}", "prefer_smallest": "clusters_v1.centre_cosine"}
        found = parse_rule("one", given)
        assert isinstance(found, Unique)
        assert found.smallest
        reasons[column] = found.reason
    assert set(reasons.values()) == {"exact_duplicate", "near_duplicate", "semantic_duplicate", "cluster_duplicate"}


def test_not_in_evaluation_has_the_thresholds_of_pdq() -> None:
    assert parse_rule("e", {"not_in_evaluation": "nearest_v1"}) == NotInEvaluation("e", "nearest_v1", 31, 1.0, None, 50)
    given = {"not_in_evaluation": "nearest_v2", "pdq_distance": 0, "cosine": 0.9, "min_quality": 100}
    rule = parse_rule("e", given)
    assert rule == NotInEvaluation("e", "nearest_v2", 0, 0.9, None, 100)
    assert rule.signals() == {"nearest_v2": {"pdq_distance", "pdq_quality", "cosine"}}
    one = parse_rule("e", {**NEAR, "pdq_distance": None, "cosine": None, "aligned": 0.8})
    assert one == NotInEvaluation("e", "nearest_v1", None, None, 0.8, 50)
    assert one.signals() == {"nearest_v1": {"aligned"}}
    assert "an alignment of 0.8" in one.text()
    assert "(PDQ)" not in one.text()


def test_all_any_and_not_are_made_of_names_and_of_rules_written_out() -> None:
    rule = parse_rule("both", {"all": ["b", "a"]})
    assert rule == AllOf("both", (FilterReference("b"), FilterReference("a")))
    assert (rule.filters(), rule.signals()) == (["b", "a"], {})
    assert rule.text().endswith("b, a")
    deep = parse_rule("deep", {"any": [TOP, {"not": "a"}, {"all": ["b", TOP, TOP]}]})
    assert isinstance(deep, AnyOf)
    assert [part.name for part in deep.walk()] == [
        *("deep", "deep.top_fraction", "deep.not", "a"),
        *("deep.all", "b", "deep.all.top_fraction", "deep.all.top_fraction_2"),
    ]
    assert deep.filters() == ["a", "b"]
    assert deep.signals() == {"clip_v1": {"similarity"}}
    assert parse_rule("n", {"not": TOP}).text() == "keep pairs that this drops: keep the top 50% by clip_v1.similarity"


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"not": "basic"}, "basic_keeps"), ({"not": {"near_reference": "r_v1"}}, "near_reference_keeps")],
)
def test_a_negation_names_its_reason_by_what_it_negates(given: dict[str, Any], reason: str) -> None:
    rule = parse_rule("mine", given)
    assert isinstance(rule, Not)
    assert rule.reason == reason


def test_a_threshold_compares_one_column_with_numbers() -> None:
    by = {"by": "clip_v1.similarity"}
    rule = parse_rule("t", {"threshold": {"at_least": 0.28, **by, "per_source": {"yfcc": 0.25}}})
    assert rule == Threshold("t", ("clip_v1", "similarity"), "at_least", 0.28, {"yfcc": 0.25}, "below_threshold")
    assert rule.sources() == ["yfcc"]
    assert rule.text() == "keep where clip_v1.similarity is at least 0.28, at least 0.25 for yfcc"
    reasons = {key: getattr(parse_rule("t", {"threshold": {key: 1, **by}}), "reason", "") for key in COMPARED}
    assert reasons == {"at_least": "below_threshold", "above": "below_threshold"} | dict.fromkeys(
        ("at_most", "below"), "above_threshold"
    )
    named = parse_rule("t", {"threshold": {"below": 0.5, "by": "nsfw_v1.score", "reason": "unsafe"}})
    assert getattr(named, "reason", "") == "unsafe"


def test_the_other_rules_hold_what_they_were_given() -> None:
    assert parse_rule("r", {"near_reference": "reference_v1"}) == NearReferenceRule("r", "reference_v1")
    assert parse_rule("c", {"concepts": "concepts_v1"}) == ConceptsRule("c", "concepts_v1")
    some = parse_rule("c", {"concepts": "concepts_v1", "any_of": [7, 0, 7]})
    assert some == ConceptsRule("c", "concepts_v1", (0, 7))
    assert some.signals() == {"concepts_v1": {"concepts"}}
    assert parse_rule("s", {"subset": "a.npy"}) == Subset("s", "a.npy")
    assert parse_rule("s", {"all": [{"subset": "a.npy"}, {"subset": "b.npy"}]}).files() == ["a.npy", "b.npy"]


def test_the_experiments_seed_reaches_what_draws() -> None:
    setting = RuleContext(seed=2022)
    assert parse_rule("r", {"random_fraction": 0.1}, setting) == RandomFraction("r", 0.1, 2022)
    balanced = parse_rule("b", {"balanced": "concepts_v1", "t": 20_000}, setting)
    assert balanced == Balanced("b", "concepts_v1", 20_000, 2022)
    assert parse_rule("a", {"all": ["x", {"random_fraction": 0.1}]}, setting).seeded()
    assert not parse_rule("a", {"all": ["x", TOP]}, setting).seeded()


TOP = {"top_fraction": 0.5, "by": "clip_v1.similarity"}


NEAR = {"not_in_evaluation": "nearest_v1"}


COMPARED = ("at_least", "above", "at_most", "below")


NO_DROP: list[Any] = ["caption_v1.words < 2", {}, [], None, 3, True]


NO_FRACTION: list[Any] = [-0.1, 1.1, "0.5", None, True, float("nan"), float("inf"), [0.5]]


NO_COLUMN: list[Any] = [None, "", "similarity", "clip.similarity", "clip_v1", "clip_v1.a.b", "clip_v1.a; x", 3, "*", []]


def test_a_filter_is_of_exactly_one_kind() -> None:
    assert "found nothing" in refusal({})
    assert "found by" in refusal({"by": "clip_v1.similarity"})
    both = refusal({**TOP, "unique_by": "duplicates_v1.exact_group"})
    assert all(kind in both for kind in ("drop_when", "top_fraction", "unique_by", "not_in_evaluation", "all"))


@pytest.mark.parametrize(
    ("rule", "key", "meant"),
    [
        (TOP, "per_sorce", "per_source"),
        (NEAR, "pdq_distanc", "pdq_distance"),
        ({"unique_by": "duplicates_v1.exact_group"}, "preferr", "prefer"),
        ({"drop_when": {"short": SHORT}}, "drop_wen", "drop_when"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(rule: dict[str, Any], key: str, meant: str) -> None:
    message = refusal({**rule, key: 1})
    assert message.startswith(f"filters.mine.{key}: ")
    assert f"did you mean '{meant}'?" in message


def test_a_key_of_another_kind_is_refused() -> None:
    assert refusal({**NEAR, "by": "clip_v1.similarity"}).startswith("filters.mine.by: unknown key")


@pytest.mark.parametrize("value", NO_FRACTION)
def test_a_fraction_lies_between_none_and_all(value: Any) -> None:
    assert refusal({**TOP, "top_fraction": value}).startswith("filters.mine.top_fraction: expected a number from 0")


@pytest.mark.parametrize("value", NO_COLUMN)
def test_a_column_is_a_signals_and_nothing_else(value: Any) -> None:
    assert refusal({**TOP, "by": value}).startswith("filters.mine.by: ")
    assert refusal({"unique_by": value}).startswith("filters.mine.unique_by: ")
    prefer = {"unique_by": "duplicates_v1.exact_group", "prefer": value}
    assert refusal(prefer).startswith("filters.mine.prefer: ")


@pytest.mark.parametrize("value", ["false", "no", 0, 1, None, []])
def test_per_source_is_true_or_false(value: Any) -> None:
    assert refusal({**TOP, "per_source": value}).startswith("filters.mine.per_source: expected true or false")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pdq_distance", -1),
        ("pdq_distance", 257),
        ("pdq_distance", 30.5),
        ("pdq_distance", "31"),
        ("min_quality", 101),
        ("min_quality", True),
        ("min_quality", 49.9),
        ("cosine", -1.1),
        ("cosine", 2.1),
        ("cosine", float("nan")),
        ("aligned", 1.1),
        ("aligned", "0.5"),
    ],
)
def test_a_threshold_out_of_its_range_is_refused(key: str, value: Any) -> None:
    assert refusal({**NEAR, key: value}).startswith(f"filters.mine.{key}: expected a ")


@pytest.mark.parametrize("value", NO_DROP)
def test_drop_when_wants_reasons_with_predicates(value: Any) -> None:
    assert refusal({"drop_when": value}).startswith("filters.mine.drop_when: expected reason: predicate")


@pytest.mark.parametrize("reason", ["", " ", "Too short", "x'", "a\nb", "x; y", "é", 3, None, True])
def test_a_reason_is_a_name_as_an_empty_one_would_keep_what_it_drops(reason: Any) -> None:
    assert "expected a reason such as" in refusal({"drop_when": {reason: SHORT}})


@pytest.mark.parametrize("value", [[], "basic", {}, None, 1])
@pytest.mark.parametrize("key", ["all", "any"])
def test_all_and_any_want_a_list(key: str, value: Any) -> None:
    assert refusal({key: value}).startswith(f"filters.mine.{key}: expected a list of filters")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"all": ["a", 3]}, ".all.1: expected a filter's name or a rule"),
    ({"all": ["a", {"top_fraction": 2, "by": "clip_v1.similarity"}]}, ".all.1.top_fraction: expected a number from 0"),
    ({"any": [{"all": [{"subset": ""}]}]}, ".any.0.all.0.subset: expected the path"),
    ({"not": None}, ".not: expected a filter's name or a rule"),
    ({"not": {}}, ".not: expected exactly one of"),
    ({**TOP, "among": []}, ".among: expected a filter's name or a rule"),
    ({**TOP, "among": {"by": "x"}}, ".among: expected exactly one of"),
    ({"threshold": 0.3}, ".threshold: expected by and one of"),
    ({"threshold": {"by": "clip_v1.similarity"}}, ".threshold: expected exactly one of"),
    ({"threshold": {"at_least": 1, "below": 2, "by": "c_v1.a"}}, ".threshold: expected exactly one of"),
    ({"threshold": {"at_least": 1}}, ".threshold.by: expected a signal's column"),
    ({"threshold": {"at_least": float("nan"), "by": "c_v1.a"}}, ".threshold.at_least: expected a number"),
    ({"threshold": {"at_least": float("inf"), "by": "c_v1.a"}}, ".threshold.at_least: expected a number"),
    ({"threshold": {"at_leest": 1, "by": "c_v1.a"}}, ".threshold.at_leest: unknown key"),
    (
        {"threshold": {"below": 1, "by": "c_v1.a", "per_source": {"s": "x"}}},
        ".threshold.per_source.s: expected a number",
    ),
    ({"threshold": {"below": 1, "by": "c_v1.a", "per_source": []}}, ".threshold.per_source: expected source: number"),
    ({"threshold": {"below": 1, "by": "c_v1.a", "reason": "x'"}}, ".threshold.reason: expected a reason"),
    ({"near_reference": "reference"}, ".near_reference: expected a signal"),
    ({"near_reference": "r_v1' or true"}, ".near_reference: expected a signal"),
    ({"not_in_evaluation": ["nearest_v1"]}, ".not_in_evaluation: expected a signal"),
    ({**NEAR, "pdq_distance": None, "cosine": None}, ": expected one of pdq_distance, cosine, aligned"),
    ({"concepts": "concepts_v1", "any_of": []}, ".any_of: expected a list of lines"),
    ({"concepts": "concepts_v1", "any_of": [1, -1]}, ".any_of.1: expected a number from 0"),
    ({"concepts": "concepts_v1", "any_of": [1.5]}, ".any_of.0: expected a whole number"),
    ({"balanced": "concepts_v1"}, ".t: expected a number from 1"),
    ({"balanced": "concepts_v1", "t": 0}, ".t: expected a number from 1"),
    ({"subset": 3}, ".subset: expected the path"),
    ({"random_fraction": -1}, ".random_fraction: expected a number from 0"),
    ({"preset": "datacomp_2b"}, ".preset: unknown preset 'datacomp_2b' (did you mean 'datacomp_1b'?)"),
    ({"preset": ["datacomp_1b"]}, ".preset: unknown preset"),
    ({"preset": "semdedup", "signals": ["semantic_v1"]}, ".signals: expected role: signal"),
    ({"unique_by": "d_v1.a", "prefer": "c_v1.a", "prefer_smallest": "c_v1.a"}, ": expected prefer or prefer_smallest"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_a_rule_cannot_be_is_refused_at_its_key(given: dict[str, Any], said: str) -> None:
    assert refusal(given).startswith(f"filters.mine{said}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SHORT, {"caption_v1": {"words"}}),
        ("not image_v1.grey", {"image_v1": {"grey"}}),
        ("clip_v1.similarity < 1e-3 or clip_v1.similarity >= .5E2", {"clip_v1": {"similarity"}}),
        ("caption_v1.language NOT IN ('en', 'de')", {"caption_v1": {"language"}}),
        (r"caption_v1.language = 'it\'s ; reflect(1) -- `x`'", {"caption_v1": {"language"}}),
        ("caption_v1.language = 'it''s'", {"caption_v1": {"language"}}),
        ("caption_v1.a = 'sources_v1.b'", {"caption_v1": {"a"}}),
        ("coalesce(clip_v1.a, 0) < LEAST(image_v10.b, abs (clip_v1.c))", {"clip_v1": {"a", "c"}, "image_v10": {"b"}}),
        ("case when image_v1.side > 3 then true else false end", {"image_v1": {"side"}}),
        ("image_v1.side\n  between 3\n  and 4", {"image_v1": {"side"}}),
        ("array_contains(caption_v1.tags, 'x') or caption_v1.tags[0] = 'y'", {"caption_v1": {"tags"}}),
    ],
)
def test_a_plain_predicate_gives_its_columns(text: str, found: dict[str, set[str]]) -> None:
    assert columns(text) == found


# each stands behind the column caption_v1.words
CALLS = ["= reflect('java.lang.Runtime', 'x')", "= java_method('a', 'b', 1)", "= ReFlect ('a')", "= reflect\n('a')"]


CALLS += ["= reflect/**/('a')", "= `reflect`('a')", "= try_reflect('a')", "= builtin.reflect('a')", "= éreflect('a')"]


CALLS += ["= identifier('reflect')('a')", "in (reflect('a'))", "+ (reflect)('a')", "= lenght('a')"]


QUERIES = ["in (select 1)", "in (table x)", "> 1 union values 1", "> 1 limit 1", "> current_user", "\u017felect 1"]


BREAKS = ["> 1; drop table x", "> 1;", "> 1 -- and", "> 1 --", "> /* 2 */ 1", "< 2), (true", "< 2)", "> 1 and (true"]


MARKS = ['= "x"', "> ${spark.x}", "> $1", "> :x", "> ?", "> @x", "::int", "> 1\u037e drop", "> 1\0", "> \uff11"]


QUOTES = ["= 'x", "= '", r"= '\'", r"= 'x\\' or reflect('a')", r"= r'\' or reflect('a') = ''", r"= \'x'", "= 'a' '"]


QUOTES += ["= 'a\\\n' or reflect('a') = ''", "= 'a''' or reflect('a') = ''", "= '''", "\u0131like 'x'"]


NAMES = ["< uid", "and source = 'x'", "> e", "> e5", "> 1d", "E > 1", ".bytes > 1", "> caption.words", "> X_v1.a"]


BEHIND = [f"caption_v1.words {tail}" for tail in CALLS + QUERIES + BREAKS + MARKS + QUOTES + NAMES]


ALONE = ["", "true", "'caption_v1.words' = ''", "caption_v1.reflect('a')", "exists(select 1) and caption_v1.words > 1"]


ALONE += ["caption_v1.wördsE > 1", "caption_v1.* > 1", "caption_v1.words.bytes > 1", "x.caption_v1.words > 1"]


ALONE += ["CAPTION_v1.words > 1", "(caption_v1.words < 2", ") caption_v1.words (", "`caption_v1`.words > 1"]


@pytest.mark.parametrize("text", BEHIND + ALONE)
def test_what_is_more_than_a_predicate_over_columns_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        columns(text)
    assert str(caught.value).startswith("here: ")
    assert "\n" not in str(caught.value)
    assert refusal({"drop_when": {"bad": text}}).startswith("filters.mine.drop_when.bad: ")


def test_a_refused_function_names_the_one_that_was_meant() -> None:
    with pytest.raises(InputError, match=r"unknown function 'lenght' \(did you mean 'length'\?\)"):
        columns("lenght(caption_v1.text) > 1")


NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True) | st.sampled_from(
    ["reflect", "java_method", "try_reflect", "assert_true", "raise_error", "read_files", "from_json", "transform"]
)


SPACE = st.sampled_from(["", " ", "\n", "\t ", "\r\n"])


AROUND = st.sampled_from(
    ["{} = caption_v1.words", "caption_v1.words > 1 and ({})", "abs({}) < image_v1.a", "caption_v1.words in (1, {})"]
)


@given(name=NAME, space=SPACE, around=AROUND, arguments=st.sampled_from(["", "'a', 'b'", "caption_v1.words", "1"]))
@example("REFLECT", "", "{} = caption_v1.words", "'a'")
def test_no_call_outside_the_list_passes(name: str, space: str, around: str, arguments: str) -> None:
    text = around.format(f"{name}{space}({arguments})")
    if name.lower() in _FUNCTIONS | _WORDS:
        assert "caption_v1" in columns(text) or "image_v1" in columns(text)
    else:
        with pytest.raises(InputError):
            columns(text)


PIECES = [
    "'",
    "\\",
    "''",
    "\\'",
    "reflect(",
    "(",
    ")",
    "caption_v1.words",
    " ",
    "=",
    "r",
    "1",
    "e",
    ",",
    "\n",
    "--",
    "/*",
]


def code_outside_strings(text: str) -> str | None:
    """Return what Spark's lexer sees outside string literals, read letter by letter; None where one stays open."""
    outside, inside, place = "", False, 0
    while place < len(text):
        char = text[place]
        if inside and char == "\\":
            place += 1
        elif char == "'":
            inside = not inside
        elif not inside:
            outside += char
        place += 1
    return None if inside else outside


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example("caption_v1.words='\\'reflect('")
def test_no_trick_with_quotes_hides_a_call(text: str) -> None:
    try:
        columns(text)
    except InputError:
        return
    outside = code_outside_strings(text)
    assert outside is not None
    assert "reflect" not in outside
    assert outside.count("(") == outside.count(")")
    assert not re.search(r"--|/\*|\\", outside)
