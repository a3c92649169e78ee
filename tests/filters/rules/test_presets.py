"""Presets: rows on both sides of each published threshold, on a real Spark session; and how they find their signals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from pyspark.sql import SparkSession

from filters.rules.composite import PresetRule
from filters.rules.parser import RuleContext, parse_rule
from filters.rules.presets import PRESETS, describe_presets
from filters.rules.sql import reason_sql
from filters.signals.registry import SignalSpec
from pipeline.core.sampling import uniform_hash
from pipeline.errors import InputError
from tests.support.rule_statistics import measured, quick


@dataclass(frozen=True)
class Declared:
    """A signal as a preset sees it."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)


SIGNALS = {
    "caption_v1": Declared("caption"),
    "image_v1": Declared("image"),
    "clip_v1": Declared("clip"),
    "reference_v1": Declared("reference"),
    "repeats_v1": Declared("repeats"),
    "concepts_v1": Declared("concepts"),
    "semantic_v1": Declared("semantic", {"cosine": 0.95}),
}


COLUMNS = {
    "caption_v1": "chars int, words int, language string",
    "image_v1": "short_side int, aspect float, raw_bytes bigint",
    "clip_v1": "similarity float",
    "reference_v1": "near_reference boolean",
    "repeats_v1": "caption_pairs bigint",
    "concepts_v1": "concepts array<int>",
    "semantic_v1": "max_cosine float",
}


NAMES = {name: [column.split()[0] for column in text.split(", ")] for name, text in COLUMNS.items()}


SCHEMA = ", ".join(f"{name} struct<{text.replace(' ', ': ').replace(',:', ',')}>" for name, text in COLUMNS.items())


GOOD: dict[str, Any] = {
    "chars": 20,
    "words": 4,
    "language": "en",
    "short_side": 400,
    "aspect": 1.5,
    "raw_bytes": 50_000,
    "similarity": 0.35,
    "near_reference": True,
    "caption_pairs": 1,
    "concepts": [0],
    "max_cosine": 0.2,
}


SEED = 5


Reasons = Callable[[str, Sequence[dict[str, Any]]], list[str]]


@pytest.fixture(scope="module")
def spark(spark: SparkSession) -> SparkSession:
    return quick(spark)


@pytest.fixture
def reasons(spark: SparkSession) -> Reasons:
    """Return a preset's reasons for good rows with some columns changed; `None` for a signal takes its row away."""

    def run(name: str, changes: Sequence[dict[str, Any]]) -> list[str]:
        rows = []
        for number, change in enumerate(changes):
            values = GOOD | change
            signals = [
                None if change.get(signal, 0) is None else tuple(values[column] for column in columns)
                for signal, columns in NAMES.items()
            ]
            rows.append((f"{number:032x}", "s", *signals))
        spark.createDataFrame(rows, f"uid string, source string, {SCHEMA}").createOrReplaceTempView("pairs")
        rule = parse_rule("mine", {"preset": name}, RuleContext(SEED, SIGNALS))
        query = reason_sql(rule, "pairs", measured(spark, rule, "pairs"))
        found = {row["uid"]: row["reason"] for row in spark.sql(query).collect()}
        assert len(found) == len(rows)
        return [found[f"{number:032x}"] for number in range(len(rows))]

    return run


ENGLISH = [("language", "en", ""), ("language", "de", "not_english"), ("language", "und", "not_english")]


CAPTION = [*ENGLISH, ("chars", 6, ""), ("chars", 5, "caption_too_short"), ("language", None, "not_english")]


LAION = [
    *[("chars", 5, ""), ("chars", 4, "caption_too_short"), ("chars", 0, "caption_too_short")],
    *[("raw_bytes", 5000, ""), ("raw_bytes", 4999, "image_too_few_bytes"), ("image_v1", None, "image_too_few_bytes")],
    *[("similarity", None, "no_score"), ("similarity", float("nan"), "no_score"), ("clip_v1", None, "no_score")],
]


BOTH_SIDES: dict[str, list[tuple[str, Any, str]]] = {
    "datacomp_basic": [
        *CAPTION,
        *[("words", 3, ""), ("words", 2, "caption_too_few_words"), ("caption_v1", None, "not_english")],
        *[("short_side", 200, ""), ("short_side", 199, "image_too_small"), ("image_v1", None, "image_too_small")],
        *[("aspect", 3.0, ""), ("aspect", 3.01, "image_too_long"), ("aspect", None, "image_too_long")],
    ],
    "datacomp_image_based": [
        *CAPTION,
        *[("words", 2, ""), ("words", 1, "caption_too_few_words")],
        *[("near_reference", False, "not_near_reference"), ("reference_v1", None, "not_compared")],
    ],
    "laion_400m": [*LAION, ("similarity", 0.3, ""), ("similarity", 0.2999, "similarity_too_low")],
    "laion_2b_en": [*LAION, *ENGLISH, ("similarity", 0.28, ""), ("similarity", 0.2799, "similarity_too_low")],
    "coyo_700m": [
        *CAPTION,
        *[("chars", 1000, ""), ("chars", 1001, "caption_too_long")],
        *[("words", 3, ""), ("words", 2, "caption_too_few_words")],
        *[("words", 256, ""), ("words", 257, "caption_too_many_words")],
        *[("raw_bytes", 5000, ""), ("raw_bytes", 4999, "image_too_few_bytes")],
        *[("short_side", 200, ""), ("short_side", 199, "image_too_small")],
        *[("aspect", 3.0, ""), ("aspect", 3.01, "image_too_long")],
        *[("caption_pairs", 10, ""), ("caption_pairs", 11, "caption_repeated")],
        ("repeats_v1", None, "caption_repeated"),
    ],
    "semdedup": [
        *[("max_cosine", 0.95, ""), ("max_cosine", 0.9501, "semantic_duplicate"), ("max_cosine", -1.0, "")],
        *[("max_cosine", None, "no_score"), ("semantic_v1", None, "no_score")],
    ],
}


@pytest.mark.parametrize("name", sorted(BOTH_SIDES))
def test_each_threshold_has_its_two_sides(name: str, reasons: Reasons) -> None:
    found = reasons(name, [{}, *({column: value} for column, value, _ in BOTH_SIDES[name])])
    assert found[0] == ""
    said = [(column, value, reason) for (column, value, _), reason in zip(BOTH_SIDES[name], found[1:], strict=True)]
    assert [repr(one) for one in said] == [repr(one) for one in BOTH_SIDES[name]]


SCORES = [{"similarity": number / 100} for number in range(40)]


def test_clip_l14_keeps_three_of_ten_of_those_with_a_score(reasons: Reasons) -> None:
    found = reasons("datacomp_clip_l14_30", [*SCORES, {"similarity": None}, {"clip_v1": None}])
    assert found == ["below_top_fraction"] * 28 + [""] * 12 + ["no_score"] * 2


def test_datacomp_1b_takes_its_fraction_of_the_whole_pool(reasons: Reasons) -> None:
    far = [{**one, "near_reference": False} for one in SCORES[30:]]
    spoken = [{**SCORES[39], "language": "de"}, {**SCORES[39], "words": 1}, {**SCORES[39], "words": 2}]
    found = reasons("datacomp_1b", [*SCORES[:30], *far, *spoken])
    # of 43 with a score, 13 are kept: the ten that are far, and the three behind them, two of which are not said well
    assert found[:30] == ["below_top_fraction"] * 30
    assert found[30:40] == ["not_near_reference"] * 10
    assert found[40:] == ["not_english", "caption_too_few_words", ""]


def test_metaclip_balances_english_captions_at_20_000(reasons: Reasons) -> None:
    count = 20_400
    head = [{"concepts": [1]}] * count
    others = [
        {"concepts": [1, 2]},
        {"concepts": [1], "language": "de"},
        {"concepts": [2], "language": None},
        {"concepts": []},
        {"concepts_v1": None},
    ]
    found = reasons("metaclip_400m", head + others)
    assert found[count:] == ["", "not_english", "not_english", "no_concept", "no_concept"]
    chance = 20_000 / (count + 1)  # the foreign one is not counted
    drawn = ["" if uniform_hash(SEED, f"{number:032x}", 1) < chance else "balanced_out" for number in range(count)]
    assert found[:count] == drawn
    assert 0 < drawn.count("balanced_out") < 1000


def expanded(given: dict[str, Any], signals: dict[str, Declared] | None = None) -> PresetRule:
    rule = parse_rule("mine", given, RuleContext(SEED, SIGNALS if signals is None else signals))
    assert isinstance(rule, PresetRule)
    return rule


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_tells_its_source_and_what_it_expands_to(name: str) -> None:
    rule = expanded({"preset": name})
    assert rule.text().startswith(f"{name} ({PRESETS[name].source}): ")
    assert rule.rule.text() in rule.text()
    assert "arXiv" in PRESETS[name].source or "README" in PRESETS[name].source
    assert name in describe_presets() and PRESETS[name].source in describe_presets()  # noqa: PT018
    assert PRESETS[name].summary.endswith(".")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_reads_columns_that_signals_of_its_kinds_have(name: str) -> None:
    signals = expanded({"preset": name}).signals()
    assert signals
    for signal, columns in signals.items():
        target = SignalSpec(signal, SIGNALS[signal].kind, {}).target()
        assert columns <= set(target.columns.names), signal


def test_a_role_goes_to_the_signal_that_the_file_names() -> None:
    signals = SIGNALS | {"clip_l14_v1": Declared("clip")}
    rule = expanded({"preset": "datacomp_1b", "signals": {"clip": "clip_l14_v1"}}, signals)
    assert rule.signals()["clip_l14_v1"] == {"similarity"}
    assert "clip_v1" not in rule.signals()
    inner = parse_rule("both", {"all": ["a", {"preset": "datacomp_basic"}]}, RuleContext(SEED, SIGNALS))
    assert inner.signals()["image_v1"] == {"short_side", "aspect"}


@pytest.mark.parametrize(
    ("given", "signals", "said"),
    [
        ({"preset": "datacomp_basic"}, {}, "expected one signal of kind caption, found none"),
        ({"preset": "semdedup"}, {"caption_v1": Declared("caption")}, "found none among caption_v1"),
        (
            {"preset": "datacomp_clip_l14_30"},
            {"b32_v1": Declared("clip"), "l14_v1": Declared("clip")},
            "found b32_v1, l14_v1; name one, as in signals: {clip: b32_v1}",
        ),
        (
            {"preset": "datacomp_clip_l14_30", "signals": {"clip": "l15_v1"}},
            {"l14_v1": Declared("clip")},
            "signals.clip: unknown signal 'l15_v1' (did you mean 'l14_v1'?)",
        ),
        ({"preset": "semdedup", "signals": {"clip": "clip_v1"}}, SIGNALS, "signals.clip: unknown role 'clip'"),
        ({"preset": "semdedup", "top": 1}, SIGNALS, "unknown key 'top'"),
    ],
)
def test_a_signal_that_is_not_there_or_not_the_only_one_is_said(
    given: dict[str, Any], signals: dict[str, Declared], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        expanded(given, signals)
    assert str(caught.value).startswith("filters.mine")
    assert said in str(caught.value)
