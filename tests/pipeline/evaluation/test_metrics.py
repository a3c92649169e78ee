"""Metrics against values computed by hand and by plain loops, and what must not change them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics import (
    METRICS,
    RestSums,
    SubsetAccuracy,
    accuracy_among,
    all_metrics,
    area_under_risk_coverage,
    brier_score,
    calibration_error,
    image_results,
    mean_per_class,
    negative_log_likelihood,
    per_class,
    reliability,
    selective_risk,
    top_k,
)

Array = npt.NDArray[Any]


LOG = np.log


PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.3, 0.6], [0.6, 0.3, 0.1]])


LABELS = np.array([0, 0, 2, 1], np.int32)


def drawn(seed: int, n: int, classes: int, distinct: int) -> tuple[Array, Array]:
    """Return logits of which many are equal where `distinct` is small, and labels."""
    random = np.random.default_rng(seed)
    return 4 * random.integers(0, distinct, (n, classes)) / distinct, random.integers(0, classes, n).astype(np.int32)


def in_loops(logits: Array, labels: Array, scale: float) -> dict[str, float]:
    """Return the metrics as their definitions read, one image after another."""
    n, classes = logits.shape
    rows = [[math.exp(scale * (value - max(row))) for value in row] for row in logits.tolist()]
    rows = [[weight / sum(row) for weight in row] for row in rows]
    order = [sorted(range(classes), key=lambda c, row=row: (-row[c], c)) for row in logits.tolist()]  # type: ignore[misc]
    right = [order[i][0] == labels[i] for i in range(n)]
    sure = [rows[i][order[i][0]] for i in range(n)]
    by_class = [[right[i] for i in range(n) if labels[i] == c] for c in sorted(set(labels.tolist()))]
    ece = 0.0
    for m in range(15):
        inside = [i for i in range(n) if m / 15 < sure[i] <= (m + 1) / 15]
        ece += abs(sum(right[i] for i in inside) - sum(sure[i] for i in inside)) / n
    return {
        "top1": sum(right) / n,
        "top5": sum(int(labels[i]) in order[i][:5] for i in range(n)) / n,
        "mean_per_class": sum(sum(one) / len(one) for one in by_class) / len(by_class),
        "nll": -sum(math.log(rows[i][labels[i]]) for i in range(n)) / n,
        "brier": sum((rows[i][c] - (labels[i] == c)) ** 2 for i in range(n) for c in range(classes)) / n,
        "ece": ece,
    }


def test_metrics_of_four_images_as_computed_by_hand() -> None:
    images = image_results(LOG(PROBABILITIES), LABELS)
    assert images.predicted.tolist() == [0, 1, 2, 0]
    assert images.rank.tolist() == [0, 1, 0, 1]
    assert images.confidence == pytest.approx([0.7, 0.5, 0.6, 0.6])
    assert [top_k(images, k) for k in (1, 2, 3, 5)] == [0.5, 1, 1, 1]
    assert mean_per_class(images) == pytest.approx((0.5 + 0 + 1) / 3)
    assert negative_log_likelihood(images) == pytest.approx(-math.log(0.7 * 0.4 * 0.6 * 0.3) / 4)
    assert brier_score(images) == pytest.approx((0.14 + 0.62 + 0.26 + 0.86) / 4)
    # bins of a fifteenth: 0.7 in the 11th, 0.5 in the 8th, and both of 0.6 in one
    assert calibration_error(images) == pytest.approx((0.3 + 0.5 + 2 * 0.1) / 4)
    # by confidence: right; then half an error of the two of 0.6, and another half; then wrong
    assert selective_risk(images) == pytest.approx([0, 0.5 / 2, 1 / 3, 2 / 4])
    assert area_under_risk_coverage(images) == pytest.approx((0.25 + 1 / 3 + 0.5) / 4)
    assert tuple(all_metrics(images)) == METRICS


def test_accuracy_of_each_class_is_no_number_where_it_has_no_images() -> None:
    images = image_results(LOG(PROBABILITIES), np.array([0, 0, 2, 0], np.int32))
    assert per_class(images, 5)[[0, 2]].tolist() == [2 / 3, 1]
    assert np.isnan(per_class(images, 5)[[1, 3, 4]]).all()
    with pytest.raises(ValueError, match="below 2, found 2"):
        per_class(images, 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 9), st.integers(2, 60), st.sampled_from([0.3, 1, 7.0]))
def test_metrics_are_as_their_definitions_read(seed: int, n: int, classes: int, distinct: int, scale: float) -> None:
    logits, labels = drawn(seed, n, classes, distinct)
    found, expected = all_metrics(image_results(logits, labels, scale)), in_loops(logits, labels, scale)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 9))
def test_the_order_of_images_and_of_classes_changes_nothing(seed: int, n: int, classes: int) -> None:
    logits, labels = drawn(seed, n, classes, 10**9)  # so that hardly two classes are equal
    random = np.random.default_rng(seed + 1)
    images, order = random.permutation(n), random.permutation(classes)
    before = all_metrics(image_results(logits, labels, 2.0))
    assert all_metrics(image_results(logits[images], labels[images], 2.0)) == pytest.approx(before, abs=1e-12)
    renamed = np.argsort(order)[labels].astype(np.int32)
    assert all_metrics(image_results(logits[:, order], renamed, 2.0)) == pytest.approx(before, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_keeps_the_order_of_classes_and_what_is_added_to_all_logits_changes_nothing(
    seed: int, scale: float, added: float
) -> None:
    logits, labels = drawn(seed, 20, 6, 8)
    one, other = image_results(logits, labels), image_results(logits, labels, scale)
    assert (one.predicted == other.predicted).all()
    assert (one.rank == other.rank).all()
    moved = image_results(logits + round(added * 8) / 8, labels, scale)  # eighths, so that nothing is rounded
    assert all_metrics(moved) == pytest.approx(all_metrics(other), abs=1e-9)


def test_a_calibrated_model_has_little_calibration_error_and_a_bold_one_much() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(40_000, 5)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) < random.random((40_000, 1))).sum(axis=1).astype(np.int32)
    calibrated, bold = image_results(logits, labels), image_results(logits, labels, 4.0)
    assert calibration_error(calibrated) < 0.01
    assert calibration_error(bold) > 0.1
    assert negative_log_likelihood(bold) > negative_log_likelihood(calibrated)
    assert brier_score(bold) > brier_score(calibrated)
    assert sum(one.n for one in reliability(calibrated)) == 40_000


def test_reliability_has_empty_bins_and_sure_images_in_the_last() -> None:
    bins = reliability(image_results(np.array([[0.0, -1e4], [0.0, -1e4]]), np.array([0, 1], np.int32)))
    assert [one.n for one in bins] == [0] * 14 + [2]
    assert (bins[0].accuracy, bins[0].confidence) == (None, None)
    assert (bins[14].accuracy, bins[14].confidence) == (0.5, 1)
    assert (bins[0].low, bins[14].high) == (0, 1)


def test_selective_risk_is_least_where_errors_come_last_and_greatest_where_they_come_first() -> None:
    sure = np.array([3.0, 2, 1, 0.5])
    logits = np.stack([sure, np.zeros(4)], axis=1)
    best = image_results(logits, np.array([0, 0, 1, 1], np.int32))
    worst = image_results(logits, np.array([1, 1, 0, 0], np.int32))
    assert area_under_risk_coverage(best) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert area_under_risk_coverage(worst) == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)
    even = image_results(np.zeros((4, 2)), np.array([0, 1, 1, 0], np.int32))
    assert selective_risk(even) == pytest.approx([0.5] * 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_the_rest_stands_for_the_classes_that_are_left_out(seed: int, kept: int) -> None:
    logits, labels = drawn(seed, 12, 12, 10**9)
    order = np.argsort(-logits, axis=1, kind="stable")
    held = order[:, :kept].copy()
    outside = ~(held == labels[:, None]).any(axis=1)
    held[outside, -1] = labels[outside]
    values = np.take_along_axis(logits, held, axis=1)
    left = np.ones_like(logits, bool)
    np.put_along_axis(left, held, False, axis=1)
    weights = np.where(left, np.exp(2 * (logits - logits.max(axis=1, keepdims=True))), 0)
    found = image_results(values, labels, 2.0, held, RestSums(weights.sum(axis=1), (weights**2).sum(axis=1)))
    whole = image_results(logits, labels, 2.0)
    assert (found.predicted == whole.predicted).all()
    for name in ("confidence", "log_likelihood", "squares"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name))


@pytest.mark.parametrize(
    ("logits", "labels", "scale", "said"),
    [
        (np.zeros((0, 3)), [], 1, "at least one image"),
        (np.zeros((2, 0)), [0, 0], 1, "at least one image and class"),
        (np.zeros((2, 3)), [0], 1, "at least one image"),
        (np.zeros(3), [0, 0, 0], 1, "at least one image"),
        (np.array([[0, np.nan]]), [0], 1, "finite logits, found 1 that"),
        (np.array([[0, np.inf]]), [0], 1, "finite logits"),
        (np.zeros((1, 3)), [3], 1, r"found \[3\]"),
        (np.zeros((1, 3)), [-1], 1, r"found \[-1\]"),
        (np.zeros((1, 3)), [0], 0, "above 0, found 0"),
        (np.zeros((1, 3)), [0], float("nan"), "above 0, found nan"),
    ],
)
def test_what_cannot_be_judged_is_refused(logits: Array, labels: list[int], scale: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        image_results(logits, np.array(labels, np.int32), scale)


def test_accuracy_among_some_classes_leaves_the_others_out() -> None:
    logits = np.array([[3.0, 1, 2, 0], [3, 2, 1, 0], [0, 1, 2, 3], [0, 2, 2, 9]])
    labels = np.array([2, 2, 3, 1], np.int32)
    assert accuracy_among(logits, labels, np.array([1, 2])) == SubsetAccuracy(
        3, 2
    )  # 2 before 1; 1 before 2; equal, so 1
    assert accuracy_among(logits, labels, np.arange(4)) == SubsetAccuracy(4, 1)
    assert top_k(image_results(logits, labels), 1) == 1 / 4
    with pytest.raises(ValueError, match="images of the 1 classes, found none"):
        accuracy_among(logits, labels, np.array([0]))


def test_accuracy_among_some_classes_says_of_how_many_images_it_cannot_tell() -> None:
    classes = np.array([[0, 1, 2], [3, 0, 2], [0, 1, 2], [0, 1, 2]])
    logits = np.array([[0, -1, -3.0]] * 4)
    labels = np.array([2, 2, 2, 0], np.int32)
    # 1 stands before the label 2; only the label is left of the next two's classes but it is their last; 0 is first
    found = accuracy_among(logits, labels, np.array([1, 2, 0]), classes)
    assert found == SubsetAccuracy(4, 1)
    assert accuracy_among(logits, labels, np.array([1, 2]), classes) == SubsetAccuracy(3, 0, 1)
    assert accuracy_among(logits[3:], labels[3:], np.array([0, 3]), classes[3:]) == SubsetAccuracy(1, 1)
