"""Exact intervals, axes and lines agree with published values, with scipy and with themselves."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, linregress, norm

from pipeline.robustness.axes import AXES, LINEAR, LOGIT, PROBIT, Axis, to_axis
from pipeline.robustness.intervals import clopper_pearson
from pipeline.robustness.lines import fit_line, fit_lines

axes = pytest.mark.parametrize("axis", AXES.values(), ids=list(AXES))


places = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=3, max_size=12)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),  # Clopper and Pearson's own table
        (5, 10, 0.1871, 0.8129),
        (1879, 2021, 0.917711, 0.940498),  # CIFAR-10.1, Recht et al. 2019
        (10, 10, 0.6915, 1.0),
    ],
)
def test_intervals_are_the_published_ones(correct: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(correct, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 400), st.data())
def test_intervals_are_scipys_exact_ones(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = clopper_pearson(correct, n)
    expected = binomtest(correct, n).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize(("correct", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_a_share_that_is_none_is_refused(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= correct <= n"):
        clopper_pearson(correct, n)


@pytest.mark.parametrize(
    ("axis", "expected"), [(PROBIT, norm.ppf(0.8)), (LOGIT, math.log(0.8 / 0.2)), (LINEAR, 0.8)], ids=list(AXES)
)
def test_an_axis_is_the_named_transform(axis: Axis, expected: float) -> None:
    assert to_axis(axis, 0.8, 100).values == pytest.approx(expected)


@axes
@given(accuracies=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=9))
def test_an_axis_and_its_inverse_undo_each_other_and_keep_order(axis: Axis, accuracies: list[float]) -> None:
    placed = to_axis(axis, accuracies, 1000)
    assert axis.inverse(placed.values) == pytest.approx(accuracies, abs=1e-9)
    assert placed.moved == 0
    assert (np.diff(axis.forward(sorted(accuracies))) >= 0).all()


@pytest.mark.parametrize("axis", [PROBIT, LOGIT], ids=["probit", "logit"])
def test_accuracies_of_nothing_and_of_all_are_moved_inside_and_counted(axis: Axis) -> None:
    placed = to_axis(axis, [[0, 0.5], [1, 0.001]], 100)
    assert axis.inverse(placed.values) == pytest.approx(np.array([[0.005, 0.5], [0.995, 0.005]]))
    assert placed.moved == 3


def test_the_linear_axis_has_a_place_for_all() -> None:
    placed = to_axis(LINEAR, [0, 0.5, 1], 100)
    assert placed.values.tolist() == [0, 0.5, 1]
    assert placed.moved == 0


@axes
@pytest.mark.parametrize("wrong", [-0.01, 1.01, math.nan, 63.3])
def test_what_is_no_fraction_is_refused(axis: Axis, wrong: float) -> None:
    with pytest.raises(ValueError, match="expected accuracies between 0 and 1, found"):
        to_axis(axis, [0.5, wrong], 100)
    with pytest.raises(ValueError, match="expected n >= 1 images, found 0"):
        to_axis(axis, [0.5], 0)


@given(places)
def test_a_line_is_scipys(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    assume(np.ptp(x) > 1e-3)
    line, expected = fit_line(PROBIT, x, y), linregress(x, y)
    assert line is not None
    assert (line.slope, line.intercept) == pytest.approx((expected.slope, expected.intercept), abs=1e-6, rel=1e-6)
    if np.ptp(y) > 1e-3:
        assert line.r2 == pytest.approx(expected.rvalue**2, abs=1e-6)
    assert line.models == len(points)
    assert line.predict(0.5) == pytest.approx(norm.cdf(line.slope * 0.5 + line.intercept))


@given(places, st.data(), st.floats(0.1, 3), st.floats(-2, 2))
def test_a_line_knows_no_order_and_follows_its_axes(
    points: list[tuple[float, float]], data: st.DataObject, scale: float, offset: float
) -> None:
    x, y = np.array(points).T
    assume(np.ptp(x) > 1e-3)
    order = data.draw(st.permutations(range(len(points))))
    line, again = fit_line(LOGIT, x, y), fit_line(LOGIT, x[order], y[order])
    moved = fit_line(LOGIT, scale * x + offset, 2 * y + 1)
    assert line is not None
    assert again is not None
    assert moved is not None
    assert (again.slope, again.intercept) == pytest.approx((line.slope, line.intercept), abs=1e-6, rel=1e-6)
    assert moved.slope == pytest.approx(2 * line.slope / scale, abs=1e-6, rel=1e-6)
    assert moved.intercept == pytest.approx(2 * line.intercept + 1 - moved.slope * offset, abs=1e-5, rel=1e-6)


def test_a_weight_is_as_good_as_a_repetition() -> None:
    x, y, weights = np.array([0.0, 1, 3]), np.array([1.0, 0, 2]), np.array([1.0, 3, 2])
    line = fit_line(LINEAR, np.repeat(x, [1, 3, 2]), np.repeat(y, [1, 3, 2]))
    assert line is not None
    assert [float(one) for one in fit_lines(x, y, weights)] == pytest.approx([line.slope, line.intercept])


def test_what_makes_no_line() -> None:
    assert fit_line(PROBIT, [0.1, 0.2], [0.1, 0.2]) is None
    assert fit_line(PROBIT, [0.1, 0.1, 0.1], [0.1, 0.2, 0.3]) is None
    assert np.isnan(fit_lines(np.ones(3), np.arange(3.0), np.ones(3))).all()
    with pytest.raises(ValueError, match=r"expected two arrays \(models,\), found shapes"):
        fit_line(PROBIT, [1, 2, 3], [1, 2])


def test_a_flat_line_explains_all_there_is() -> None:
    line = fit_line(PROBIT, [-1.0, 0.0, 1.0], [0.3, 0.3, 0.3])
    assert line is not None
    assert line.r2 == 1.0
