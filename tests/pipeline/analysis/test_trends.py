"""What the report says of a grid: lines where they can be, verdicts as planted, and nothing that is not known."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.analysis.trends import (
    MixtureShares,
    ModelAnswers,
    ShiftedSet,
    accuracy_by_size,
    analyse_dilution,
    analyse_shift,
)
from pipeline.report import accuracy_section, trends_section
from pipeline.report.page import render_page
from tests.pipeline.report.test_page import assert_harmless
from tests.support.sample_report import grid, grid_report

RECIPE = MixtureShares("yfcc-laion-half", {"yfcc": 0.5, "laion": 0.5})


CLIPART, SKETCH = ShiftedSet("clipart", "natural"), ShiftedSet("sketch", "natural")


MODELS = grid()


def judged(models: list[ModelAnswers], shift: ShiftedSet = CLIPART, **more: Any) -> Any:
    return analyse_dilution(models, "photo", shift, RECIPE, more.get("labels", {}), 0.1)


def test_a_mixture_between_unlike_sources_is_diluted_and_one_of_like_sources_is_not() -> None:
    found = judged(MODELS)
    assert (found["best"], found["verdict"], found["span"]) == ("yfcc", "diluted", "inside")
    assert found["effective"]["high"] < 0
    assert found["forecast"]["within"]
    assert judged(MODELS, SKETCH)["verdict"] == "undecided"


def test_effective_robustness_is_measured_from_the_baseline_that_is_named() -> None:
    everything, own = analyse_shift(MODELS, "photo", CLIPART), analyse_shift(MODELS, "photo", CLIPART, ["yfcc"])
    assert own["baseline"] is not None
    assert own["baseline"]["fitted_on"] == [one.name for one in MODELS if one.mixture == "yfcc"]
    mean = {
        name: [
            np.mean([one["effective"]["estimate"] for one in told["models"] if one["mixture"] == name])
            for told in (everything, own)
        ]  # type: ignore[index]
        for name in ("yfcc", "laion")
    }
    assert mean["yfcc"][0] > 0.05 > abs(mean["yfcc"][1])
    assert mean["laion"][1] < mean["laion"][0] < -0.05
    assert {one["mixture"] for one in everything["groups"]} == {"yfcc", "laion", "yfcc-laion-half"}
    for group in everything["groups"]:
        assert all(point["low"] <= point["line"] <= point["high"] for point in group["band"])


def test_the_order_of_the_models_changes_nothing() -> None:
    turned = list(reversed(MODELS))
    assert judged(turned) == judged(MODELS)
    told, other = (analyse_shift(models, "photo", CLIPART) for models in (MODELS, turned))
    slopes, others = ({one["mixture"]: one["slope"] for one in each["groups"]} for each in (told, other))
    for name, slope in slopes.items():
        assert slope == pytest.approx(others[name], rel=1e-9)
    by_name = {one["model"]: one["effective"] for one in other["models"]}
    for one in told["models"]:
        assert one["effective"] == pytest.approx(by_name[one["model"]], abs=1e-9)


def test_without_sizes_there_are_no_lines_and_with_few_models_no_baseline_and_it_is_said() -> None:
    single = [one for one in MODELS if one.size == 500 and one.seed == 0]
    told = analyse_shift(single[:2], "photo", CLIPART)
    assert told["baseline"] is None
    assert "expected at least three baseline models" in told["why"]
    assert (told["groups"], told["without"]) == ([], ["laion", "yfcc"])
    assert [one["effective"] for one in told["models"]] == [None, None]
    assert judged(single) is None


def test_a_source_in_one_size_alone_has_no_line_and_no_verdict_rests_on_it() -> None:
    models = [one for one in MODELS if one.mixture != "laion" or (one.size, one.seed) in ((500, 0), (1000, 0))]
    told = analyse_shift(models, "photo", CLIPART)
    assert told["without"] == ["laion"]
    assert judged(models) is None


def test_a_ladder_has_the_mean_and_the_range_of_the_seeds() -> None:
    rows = accuracy_by_size(MODELS, "photo")
    assert [row["size"] for row in rows if row["mixture"] == "yfcc"] == [500, 1000, 2000, 4000]
    accuracies = [float(one.right["photo"].mean()) for one in MODELS if (one.mixture, one.size) == ("laion", 1000)]
    [row] = [row for row in rows if (row["mixture"], row["size"]) == ("laion", 1000)]
    assert row["mean"] == pytest.approx(np.mean(accuracies))
    assert (row["least"], row["most"], row["seeds"]) == (min(accuracies), max(accuracies), 3)


def test_where_logits_are_there_the_ensemble_of_the_sources_stands_beside_the_mixture() -> None:
    """Models that give the right class 0 a logit above 0 where they are right; of two, the surer one has its way."""
    rng = np.random.default_rng(0)
    labels = {name: np.zeros(600, np.int32) for name in ("photo", "clipart")}

    def surer(one: ModelAnswers) -> ModelAnswers:
        sure = 3.0 if one.mixture == "yfcc" else 1.0
        logits = {}
        for name in labels:
            first = np.where(one.right[name], 1, -1) * sure * rng.uniform(0.9, 1, 600)
            logits[name] = np.stack([first, np.zeros(600)], 1).astype(np.float32)
        return replace(one, logits=logits)

    found = judged([surer(one) for one in MODELS], labels=labels)
    assert found["ensemble"]["verdict"] == "undecided"  # it answers as yfcc does
    assert abs(found["ensemble"]["effective"]["estimate"]) < 0.02
    assert found["ensemble"]["gain"]["low"] > 0.05
    assert {key: found[key] for key in found if key != "ensemble"} == {
        key: value for key, value in judged(MODELS).items() if key != "ensemble"
    }


def test_a_mixture_has_one_colour_on_the_whole_page() -> None:
    report = grid_report()
    place = accuracy_section.mixture_positions(report)
    assert trends_section.trend_positions(report) == {
        name: place[name] for name in ("yfcc", "laion", "yfcc-laion-half")
    }
    report["mixtures"] = report["mixtures"][1:]
    report["evaluation"]["results"], report["robustness"] = [], []
    assert trends_section.trend_positions(report)["laion"] == 0
    assert trends_section.trend_positions(report)["yfcc"] >= len(report["mixtures"])


def test_the_page_shows_a_line_for_each_mixture_and_the_verdicts() -> None:
    report = grid_report()
    page = assert_harmless(render_page(report))
    words = " ".join("".join(page.text).split())
    assert "No mixture to judge" not in words
    assert "diluted" in words
    assert "natural shift · 36 models · baseline slope" in words
    labels = [attributes.get("aria-label", "") for tag, attributes in page.elements if tag == "svg"]
    assert "Accuracy on clipart against accuracy on the reference, a line for each mixture" in labels
    assert "Accuracy on photo by training pairs" in labels
    assert json.loads(json.dumps(report)) == report  # what lies beside the page
