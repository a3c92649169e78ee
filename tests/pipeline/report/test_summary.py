"""The answer's sentences: mixtures over their seeds, what is undecided said so, models at chance named or counted."""

from dataclasses import replace

import pytest

from pipeline.analysis.ranking import rank_mixtures
from pipeline.analysis.results import FilterEffect, RankingRow
from pipeline.analysis.trends import ModelAnswers, ShiftedSet
from pipeline.report.schema import AccuracyResult, EvaluationResults
from pipeline.report.summary import MAX_NAMED_MODELS, summary_sentences
from tests.support.sample_report import grid

SHIFTS = (ShiftedSet("photo", "reference", True), ShiftedSet("clipart", "natural"), ShiftedSet("sketch", "natural"))


def evaluated(at_chance: int = 0, models: int = 20, shifts: tuple[str, ...] = ("sketch",)) -> EvaluationResults:
    """Return so many models on a reference, all above chance there, the first of them not on the shift."""
    results: list[AccuracyResult] = []
    for number in range(models):
        for name in ("photo", *shifts):
            top1 = 0.1 if name == "sketch" and number < at_chance else 0.5
            one: AccuracyResult = {
                "mixture": f"m{number}",
                "set": name,
                "n": 100,
                "correct": int(100 * top1),
                "top1": top1,
                "low": top1 - 0.05,
                "high": top1 + 0.05,
            }
            results.append(one)
    sets = [{"name": name, "images": 100, "classes": 10, "chance": 0.1} for name in ("photo", *shifts)]
    return {"reference": "photo", "sets": sets, "results": results}  # type: ignore[typeddict-item]


def told(
    models: list[ModelAnswers], baseline: tuple[str, ...] = (), filters: tuple[tuple[str, str], ...] = ()
) -> list[str]:
    """Return the answer about made-up models."""
    standings, filtered = list[RankingRow](), list[FilterEffect]()
    for shift in SHIFTS:
        rows, more = rank_mixtures(models, "photo", shift, baseline, filters)
        standings += rows
        filtered += more if shift.name != "photo" else []
    return summary_sentences(evaluated(shifts=("clipart", "sketch")), standings, filtered, [], baseline)


@pytest.mark.parametrize(
    ("at_chance", "said"),
    [
        (0, "Every model is above chance on every evaluation set: its 95 % interval lies above chance."),
        (2, "Not above chance, as the 95 % interval reaches down to it: m0 on sketch, m1 on sketch."),
        (
            MAX_NAMED_MODELS + 1,
            "Not above chance, as the 95 % interval reaches down to it: "
            f"{MAX_NAMED_MODELS + 1} of 20 models on sketch.",
        ),
    ],
)
def test_models_at_chance_are_named_or_counted(at_chance: int, said: str) -> None:
    standings, _ = rank_mixtures(grid(), "photo", SHIFTS[2])
    assert said in summary_sentences(evaluated(at_chance), standings, [], [])


def test_mixtures_are_compared_in_their_largest_sizes_over_their_seeds() -> None:
    sentences = told(grid())
    on_clipart = next(one for one in sentences if one.startswith("On the shift clipart"))
    assert "yfcc is the most accurate (4,000 pairs, the mean of 3 seeds)" in on_clipart
    assert "points [" in on_clipart
    assert "undecided" not in on_clipart
    on_sketch = next(one for one in sentences if one.startswith("On the shift sketch"))
    assert on_sketch.endswith("; the interval includes 0, so the order of these two is undecided.")
    assert not any("seed 0" in one or "between seeds" in one for one in sentences)


def test_robustness_is_measured_from_the_baseline_that_is_named() -> None:
    [said] = [one for one in told(grid(), ("laion",)) if one.startswith("Relative to")]
    assert said.startswith("Relative to the line of laion: yfcc is more robust on clipart, undecided on 1; ")
    assert "laion is" not in said.replace("line of laion", "")
    [said] = [one for one in told(grid()) if one.startswith("Relative to")]
    assert said.startswith("Relative to the line through all models: laion is less robust on clipart")


def test_a_filter_is_told_by_its_gain_and_by_the_line_of_what_it_was_put_on() -> None:
    models = [replace(one, mixture="filtered") if one.mixture == "yfcc-laion-half" else one for one in grid()]
    [said] = [one for one in told(models, filters=(("filtered", "laion"),)) if one.startswith("The filter")]
    assert "changes laion's accuracy by " in said
    assert " points [" in said
    assert "accuracy rises on 1 of 2 shifts and falls on none" in said
    assert said.endswith("; the filtered models lie off laion's line on clipart (above).")


def test_single_models_have_the_exact_interval_and_no_line_of_their_own() -> None:
    single = [one for one in grid() if one.size == 4000 and one.seed == 0]
    rows, [row] = rank_mixtures(single, "photo", SHIFTS[1], (), [("yfcc", "laion")])
    assert row["moved"] is None
    assert [one["seeds"] for one in rows] == [1, 1, 1]
    assert rows[0]["behind"] is None
    assert rows[0]["accuracy"]["low"] < rows[0]["accuracy"]["estimate"] < rows[0]["accuracy"]["high"]
    sentences = told(single)
    assert "pairs" not in " ".join(one for one in sentences if one.startswith("On the"))
    assert "Each mixture was trained once: these intervals do not include the variation between seeds." in sentences
