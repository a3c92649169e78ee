"""Draws of images, and the intervals that come of draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from pipeline.robustness.axes import LINEAR
from pipeline.robustness.intervals import bootstrap_bounds, bootstrap_interval
from pipeline.robustness.paired_accuracy import PairedAccuracies, SetAccuracies


def test_draws_scatter_as_the_binomial_does_and_share_their_images() -> None:
    right = np.random.default_rng(3).random((2, 800)) < 0.7
    right[1] = right[0]
    right[1, :40] = ~right[1, :40]
    seed = np.random.SeedSequence(5)
    paired = SetAccuracies.from_correct(right).draw(4000, seed)
    apart = SetAccuracies.from_counts(right.sum(1), 800).draw(4000, seed)
    expected = np.sqrt(0.7 * 0.3 / 800)
    for drawn in (paired, apart):
        assert drawn.shape == (4000, 2)
        assert drawn.std(0) == pytest.approx(expected, rel=0.05)
        assert drawn.mean(0) == pytest.approx(right.mean(1), abs=4 * expected / np.sqrt(4000))
    # The two models differ on 40 images: only those make their difference scatter.
    assert (paired[:, 0] - paired[:, 1]).std() == pytest.approx(np.sqrt(40) / 800, rel=0.1)
    assert (apart[:, 0] - apart[:, 1]).std() == pytest.approx(np.sqrt(2) * expected, rel=0.05)


def test_draws_follow_their_seed_and_not_the_order_or_company_of_models() -> None:
    right = np.random.default_rng(4).random((5, 60)) < 0.5
    drawn = SetAccuracies.from_correct(right).draw(50, np.random.SeedSequence(1))
    assert (drawn == SetAccuracies.from_correct(right).draw(50, np.random.SeedSequence(1))).all()
    assert (drawn != SetAccuracies.from_correct(right).draw(50, np.random.SeedSequence(2))).any()
    assert (drawn[:, [3, 1]] == SetAccuracies.from_correct(right[[3, 1]]).draw(50, np.random.SeedSequence(1))).all()


def test_a_synthetic_shift_is_drawn_with_its_images() -> None:
    right = SetAccuracies.from_correct(np.random.default_rng(4).random((2, 60)) < 0.5)
    x, y = PairedAccuracies(right, right, same_images=True).draw(LINEAR, 30, seed=1)
    assert (x == y).all()
    x, y = PairedAccuracies(right, right).draw(LINEAR, 30, seed=1)
    assert (x != y).any()


def test_evidence_that_fits_nothing_is_refused() -> None:
    counts, answers = SetAccuracies.from_counts([3, 4], 10), SetAccuracies.from_correct([[1, 0, 1], [0, 0, 1]])
    with pytest.raises(ValueError, match="expected the same models on both sets, found 2 and 1"):
        PairedAccuracies(counts, SetAccuracies.from_counts([3], 10))
    with pytest.raises(ValueError, match="expected a matrix of answers on the same images"):
        PairedAccuracies(answers, counts, same_images=True)
    with pytest.raises(ValueError, match="expected counts between 0 and 10, found 3 to 11"):
        SetAccuracies.from_counts([3, 11], 10)
    with pytest.raises(ValueError, match=r"expected counts \(models,\)"):
        SetAccuracies.from_counts([0.3], 10)
    with pytest.raises(ValueError, match=r"expected a matrix \(models, images\), found shape \(3,\)"):
        SetAccuracies.from_correct([1, 0, 1])
    with pytest.raises(ValueError, match="found another value"):
        SetAccuracies.from_correct([[0.5, 1]])


def test_an_interval_of_normal_draws_is_the_normal_one_and_corrects_a_bias() -> None:
    drawn = np.random.default_rng(0).normal(1.0, 2.0, 200_000)
    found = bootstrap_interval(1.0, drawn, 0.9)
    assert (found.low, found.high) == pytest.approx((1 + 2 * ndtri(0.05), 1 + 2 * ndtri(0.95)), abs=0.03)
    # Draws that lie 0.5 too low say that the estimate does too.
    biased = bootstrap_interval(1.5, drawn, 0.9)
    assert (biased.low, biased.high) == pytest.approx((found.low + 1, found.high + 1), abs=0.06)


@given(st.floats(0.2, 5), st.floats(-5, 5))
def test_an_interval_follows_scale_and_offset(scale: float, offset: float) -> None:
    drawn = np.random.default_rng(1).normal(size=(99, 2))
    low, high = bootstrap_bounds([0.1, -0.2], drawn)
    moved = bootstrap_bounds(scale * np.array([0.1, -0.2]) + offset, scale * drawn + offset)
    assert moved[0] == pytest.approx(scale * low + offset, abs=1e-9)
    assert moved[1] == pytest.approx(scale * high + offset, abs=1e-9)


def test_draws_without_a_value_are_left_out_and_counted() -> None:
    drawn = np.r_[np.full(30, np.nan), np.full(40, 2.0)]
    found = bootstrap_interval(2.0, drawn)
    assert (found.low, found.high, found.draws) == (2.0, 2.0, 40)
    with pytest.raises(ValueError, match="expected at least 20 draws that have a value, found 19 of 49"):
        bootstrap_interval(2.0, drawn[:49])
    with pytest.raises(ValueError, match="expected a level between 0 and 1, found 95"):
        bootstrap_interval(2.0, drawn, 95)
