"""Intervals and lines agree with published values and with scipy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from pipeline.robustness import clopper_pearson, fit_line, probit


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


def test_accuracies_of_nothing_and_of_all_have_a_place_on_probit_axes() -> None:
    assert probit(0, 100) == pytest.approx(norm.ppf(0.005))
    assert probit(1, 100) == pytest.approx(-norm.ppf(0.005))
    assert probit(0.5, 100) == pytest.approx(0)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_a_line_is_found_again(slope: float, intercept: float) -> None:
    x = [-1.0, -0.2, 0.3, 1.1]
    line = fit_line(x, [slope * one + intercept for one in x])
    assert line is not None
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept), abs=1e-9)
    assert line.r2 == pytest.approx(1)
    assert math.isclose(line.predict(0.5), norm.cdf(slope * 0.5 + intercept), abs_tol=1e-9)


def test_two_points_or_one_accuracy_make_no_line() -> None:
    assert fit_line([0.1, 0.2], [0.1, 0.2]) is None
    assert fit_line([0.1, 0.1, 0.1], [0.1, 0.2, 0.3]) is None


def test_a_flat_line_explains_all_there_is() -> None:
    line = fit_line([-1.0, 0.0, 1.0], [0.3, 0.3, 0.3])
    assert line is not None
    assert line.r2 == 1.0
