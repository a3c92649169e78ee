"""One model of each mixture, looked at closely: its bins, its classes, its mistakes, and how the page shows them."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.analysis.error_analysis import (
    MAX_EXAMPLES,
    MAX_THUMBNAILS,
    SetPredictions,
    calibration,
    class_drops,
    examples_per_model,
    misclassified_positions,
    shared_classes,
)
from pipeline.evaluation.metrics import BINS, all_metrics, calibration_error, image_results
from pipeline.report.error_section import largest_drops, reliability_diagrams
from pipeline.report.page import render_page
from pipeline.report.trends_section import trend_positions
from tests.pipeline.report.test_page import BAD_THUMBNAILS, Page, assert_harmless
from tests.support.sample_errors import answers, sample_closeup
from tests.support.sample_report import empty_report, grid_report, sample_report, thumbnail

SETS = ("photo", "sketch")


def said(labels: list[int], predicted: list[int], classes: int, mixture: str = "half") -> SetPredictions:
    """Return what a model says that is rather sure of each of its answers."""
    logits = np.zeros((len(labels), classes))
    logits[np.arange(len(labels)), predicted] = 3.0
    keys = [f"k{place}" for place in range(len(labels))]
    return SetPredictions(mixture, f"{mixture}@400/0", keys, image_results(logits, np.array(labels)))


def many(count: int) -> Any:
    """Return a report of so many mixtures, each in the sample's place."""
    names = tuple(f"mixture-{number:03d}" for number in range(count))
    return sample_report() | sample_closeup(names, SETS, thumbnail) | {"ladder": []}


def test_bins_hold_every_image_once_and_give_the_calibration_error() -> None:
    seen = answers("half", "photo", 2.0, 5)
    found = calibration("photo", seen, {"ece": 0.5, "nll": 2.5, "brier": 1.5})
    bins = found["bins"]
    assert (len(bins), bins[0]["low"], bins[-1]["high"]) == (BINS, 0.0, 1.0)
    assert sum(one["images"] for one in bins) == found["images"] == 600
    assert sum(one["share"] for one in bins) == pytest.approx(1)
    gaps = [one["share"] * abs(one["accuracy"] - one["confidence"]) for one in bins if one["accuracy"] is not None]
    assert sum(gaps) == pytest.approx(calibration_error(seen.images))
    assert [one["accuracy"] for one in bins if not one["images"]] == [None] * sum(not one["images"] for one in bins)
    assert (found["ece"], found["nll"], found["brier"]) == (0.5, 2.5, 1.5)  # the table's, not computed anew


def test_classes_are_told_by_their_names_where_the_sets_hold_other_ones() -> None:
    assert shared_classes(["a", "b", "c"], ["a", "b", "c"]) == [(0, 0), (1, 1), (2, 2)]
    assert shared_classes(["a", "b", "c"], ["c", "d", "a"]) == [(2, 0), (0, 2)]
    assert shared_classes(["crane", "b", "crane"], ["b", "crane"]) == [(1, 0)]
    assert shared_classes(["crane", "b"], ["b", "crane", "crane"]) == [(1, 0)]
    assert shared_classes(["crane", "crane"], ["crane", "crane"]) == [(0, 0), (1, 1)]


def test_drops_are_of_the_classes_that_have_images_on_both_sets() -> None:
    reference = said([0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 0, 2, 2, 2, 0], 4)
    shift = said([0, 0, 0, 1, 2], [0, 1, 1, 1, 2], 4)
    found = class_drops("sketch", ["a", "b", "c", "d"], ["c", "b", "e", "d"], [(reference, shift)])
    assert (found["classes"], found["left_out"]) == (["c", "b"], ["e", "d"])
    assert (found["reference_images"], found["shift_images"]) == ([4, 2], [3, 1])
    [model] = found["mixtures"]
    assert (model["mixture"], model["model"]) == ("half", "half@400/0")
    assert model["reference"] == pytest.approx([3 / 4, 1 / 2])
    assert model["shift"] == pytest.approx([1 / 3, 1])


def test_the_page_has_at_most_twelve_classes_a_shift_the_largest_mean_drop_first_and_no_gain() -> None:
    names = [f"c{number:02d}" for number in range(30)]
    drops: Any = {
        **{"set": "sketch", "classes": names, "left_out": [], "reference_images": [9] * 30, "shift_images": [9] * 30},
        "mixtures": [
            {"mixture": "one", "model": "", "reference": [0.5] * 30, "shift": [0.5] * 30},
            {
                "mixture": "two",
                "model": "",
                "reference": [0.5] * 30,
                "shift": [0.5 + at / 100 for at in range(-20, 10)],
            },
        ],
    }
    found = largest_drops(drops)
    assert [row.name for row in found.rows] == names[:12]
    assert found.rows[0].accuracies == [(0.5, 0.5), (0.5, pytest.approx(0.3))]
    drops["mixtures"][0]["shift"] = [0.75] * 30
    assert largest_drops(drops).rows == []


def test_mistakes_are_the_same_ones_for_models_that_are_wrong_about_the_same_images() -> None:
    seen = said([0] * 40, [1, 0, 1, 1] * 10, 2)
    chosen = misclassified_positions(seen, 4)
    assert len(chosen) == 4
    assert all(place % 4 != 1 for place in chosen)
    turned = replace(
        said([0] * 40, [1, 1, 0, 1] * 10, 2), keys=list(reversed(seen.keys))
    )  # the same images in another order
    assert [turned.keys[place] for place in misclassified_positions(turned, 4)] == [
        seen.keys[place] for place in chosen
    ]
    assert [seen.keys[place] for place in chosen] != [seen.keys[place] for place in (0, 2, 3, 4)]
    assert len(misclassified_positions(seen, 100)) == 30
    assert misclassified_positions(said([0, 1], [0, 1], 2), 4) == []


@pytest.mark.parametrize("models", [0, 1, 30, 31, 60, 119, 120, 121, 1000])
def test_no_page_has_more_thumbnails_than_it_may(models: int) -> None:
    each = examples_per_model(models)
    assert len(each) == models
    assert sum(each) <= MAX_THUMBNAILS
    assert set(each) <= ({1, 0} if models > MAX_THUMBNAILS else set(range(1, MAX_EXAMPLES + 1)))
    assert sum(each) >= min(models, MAX_THUMBNAILS)
    assert each == sorted(each, reverse=True)


def test_the_page_shows_diagrams_drops_and_mistakes() -> None:
    report = grid_report()
    page = assert_harmless(render_page(report))
    words = " ".join("".join(page.text).split())
    labels = [attributes.get("aria-label", "") for tag, attributes in page.elements if tag == "svg"]
    for name in ("photo", "clipart", "sketch"):
        assert f"Accuracy on {name} by confidence, a line for each mixture" in labels
    [row] = [one for one in report["calibration"] if (one["mixture"], one["set"]) == ("laion", "clipart")]
    assert f"{100 * row['ece']:.1f}{row['nll']:.2f} · {row['brier']:.3f}" in words
    assert "12 of the 14 classes that have images in both sets" in words
    some = report["mistakes"][0]
    assert f"{some['wrong']} of 600 wrong" in words
    assert f"{some['examples'][0]['label']}predicted: {some['examples'][0]['predicted']}" in words
    shown = [attributes["src"] for tag, attributes in page.elements if tag == "img" and "title" in attributes]
    held = [image["thumbnail"] for one in report["mistakes"] for image in one["examples"]]
    assert shown == [one for one in held if one is not None]
    assert json.loads(json.dumps(report)) == report


def test_an_image_that_was_refused_is_said_to_be() -> None:
    report: Any = sample_report()
    report["mistakes"][0]["examples"][0] |= {"thumbnail": None, "refused": "not_an_image: <b>"}
    page = assert_harmless(render_page(report))
    assert "not shown: not_an_image: <b>" in "".join(page.text)


@pytest.mark.parametrize("bad", BAD_THUMBNAILS)
def test_only_jpeg_data_urls_are_shown_of_mistakes(bad: str) -> None:
    report: Any = sample_report()
    report["mistakes"][3]["examples"][0] |= {"thumbnail": bad, "refused": ""}
    with pytest.raises(ValueError, match=r"mistake six-unfiltered, clipart/clipart.*expected data:image/jpeg;base64"):
        render_page(report)


def test_nothing_evaluated_is_said_in_each_section() -> None:
    words = "".join(Page(render_page(empty_report())).text)
    assert "there is no calibration to show" in words
    assert "class drops require a model" in words
    assert "mistakes require a model" in words


def test_models_without_a_mistake_or_a_drop_or_a_common_class_have_none_to_show() -> None:
    report: Any = sample_report()
    perfect = said([0, 1], [0, 1], 2)
    report["mistakes"] = [one | {"wrong": 0, "examples": []} for one in report["mistakes"]]
    report["classes"] = [
        class_drops("clipart", ["a", "b"], ["a", "b"], [(perfect, perfect)]),
        class_drops("sketch", ["a", "b"], ["c", "d"], [(perfect, perfect)]),
    ]
    report["calibration"].append(report["calibration"][0] | {"mixture": "half"})
    words = "".join(Page(render_page(report)).text)
    assert "No image of a shift was classified wrongly." in words
    assert "None of the 2 classes that have images in both sets loses accuracy" in words
    assert "This shift has no class in common with the reference." in words


def test_many_mixtures_stand_in_several_diagrams_and_very_many_in_the_table_alone() -> None:
    report = many(11)
    place = trend_positions(report)
    sets = {name: [one for one in report["calibration"] if one["set"] == name] for name in SETS}
    drawn = reliability_diagrams(sets, place)
    assert [(one.set, len(one.curves)) for one in drawn] == [("photo", 8), ("photo", 3), ("sketch", 8), ("sketch", 3)]
    assert all(len({curve.position % 8 for curve in one.curves}) == len(one.curves) for one in drawn)
    assert "mixture-008, mixture-009, mixture-010" in render_page(report)
    words = " ".join("".join(Page(render_page(many(125))).text).split())
    assert "The diagrams of 125 mixtures are too many to show" in words
    assert "The first 24 mixtures are shown" in words
    assert "For 5 of 125 combinations of a mixture and a shift no mistakes are shown" in words


def test_the_sample_is_scored_as_its_bins_say() -> None:
    for one in sample_closeup(("half",), SETS, thumbnail)["calibration"]:
        gaps = [row["share"] * abs((row["accuracy"] or 0) - (row["confidence"] or 0)) for row in one["bins"]]
        assert sum(gaps) == pytest.approx(one["ece"])
    assert (
        all_metrics(answers("half", "photo", 2.4, 0).images)["ece"]
        == sample_closeup(("half",), SETS, thumbnail)["calibration"][0]["ece"]
    )
