"""Trend lines, their differences, effective and relative robustness, on points whose lines are known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.robustness.axes import LINEAR, LOGIT, PROBIT
from pipeline.robustness.effective import effective_robustness, mean_effective_robustness, relative_robustness
from pipeline.robustness.paired_accuracy import PairedAccuracies, SetAccuracies
from pipeline.robustness.resampling import draw_models, draw_seeds
from pipeline.robustness.trends import TrendLines, common_range, line_difference, trend_lines

N = 1000


GROUPS = ["a"] * 6 + ["b"] * 6


SIZES, SEEDS = [10, 10, 20, 20, 40, 40] * 2, [0, 1] * 6


REFERENCE = [400, 420, 500, 510, 610, 600] * 2


def planted(slopes: tuple[float, float] = (0.5, 0.8)) -> PairedAccuracies:
    """Two groups on two lines through 0 of the linear axis, exactly."""
    shift = [round(slopes[GROUPS[model] == "b"] * one) for model, one in enumerate(REFERENCE)]
    return PairedAccuracies(SetAccuracies.from_counts(REFERENCE, N), SetAccuracies.from_counts(shift, N))


def answered(seed: int = 0, models: int = 12) -> PairedAccuracies:
    rng = np.random.default_rng(seed)
    level = np.linspace(-0.5, 1.0, models)[:, None]
    right = [SetAccuracies.from_correct(level + rng.standard_normal((models, 200)) > 0) for _ in range(2)]
    return PairedAccuracies(*right)


def ladder(evidence: PairedAccuracies, order: list[int] | None = None, **options: Any) -> TrendLines:
    kept = order or list(range(12))
    named = {"sizes": [SIZES[one] for one in kept], "seeds": [SEEDS[one] for one in kept]}
    return trend_lines(evidence, [GROUPS[one] for one in kept], LINEAR, **named, **{"draws": 60, **options})


def test_each_group_has_the_line_that_it_was_given() -> None:
    trends = ladder(planted())
    assert trends.lines["a"].slope == pytest.approx(0.5)
    assert trends.lines["b"].slope == pytest.approx(0.8)
    assert [trends.lines[one].intercept for one in "ab"] == pytest.approx([0, 0], abs=1e-12)
    assert [trends.lines[one].r2 for one in "ab"] == pytest.approx([1, 1])
    assert trends.range("a") == (0.4, 0.61)


def test_a_difference_is_that_of_the_lines() -> None:
    found = line_difference(ladder(planted(), over_models=False, draws=400), "b", "a")
    assert (found.slope.estimate, found.intercept.estimate) == pytest.approx((0.3, 0), abs=1e-12)
    assert found.height is not None
    assert found.height.estimate == pytest.approx(0.3 * 0.505)
    # The height at the middle is known far better than slope and intercept are.
    assert found.height.low > 0.1 > found.slope.low
    assert (found.height.high - found.height.low) < (found.slope.high - found.slope.low) / 3


def test_a_group_differs_from_its_copy_by_nothing_for_images_and_seeds_are_paired() -> None:
    one = answered(models=6)
    twice = PairedAccuracies(
        *(SetAccuracies.from_correct(np.tile(half.answers, (2, 1))) for half in (one.reference, one.shift))
    )
    found = line_difference(ladder(twice), "a", "b")
    assert (found.slope.low, found.slope.high) == pytest.approx((0, 0), abs=1e-9)
    assert (found.intercept.low, found.intercept.high) == pytest.approx((0, 0), abs=1e-9)
    # Unpaired, as counts are, the same copies differ by noise.
    counts = PairedAccuracies(
        *(SetAccuracies.from_counts(half.correct, half.n) for half in (twice.reference, twice.shift))
    )
    apart = line_difference(ladder(counts), "a", "b")
    assert apart.slope.low < -0.05 < 0.05 < apart.slope.high


@settings(max_examples=20)
@given(order=st.permutations(range(12)), seed=st.integers(0, 5))
def test_draws_follow_their_seed_and_know_no_order_of_models(order: list[int], seed: int) -> None:
    evidence = answered(models=12)
    sets = [half.answers for half in (evidence.reference, evidence.shift)]
    turned = PairedAccuracies(*(SetAccuracies.from_correct(half[order]) for half in sets if half is not None))
    trends, again = ladder(evidence, seed=seed), ladder(turned, order, seed=seed)
    for group in "ab":
        assert again.drawn[group].slopes == pytest.approx(trends.drawn[group].slopes, abs=1e-9)
        assert again.drawn[group].slope == pytest.approx(trends.drawn[group].slope, abs=1e-9)
    other = ladder(evidence, seed=seed + 1)
    assert not np.allclose(other.drawn["a"].slopes, trends.drawn["a"].slopes)


@settings(max_examples=20)
@given(st.floats(-0.4, 0.9))
def test_a_band_holds_its_line_and_is_narrowest_amid_the_models(place: float) -> None:
    trends = trend_lines(answered(models=12), ["all"] * 12, PROBIT, draws=200)
    line = trends.of("all")
    low, high = line.band([place, float(trends.x.mean()), 6.0])
    at = line.predict([place, float(trends.x.mean()), 6.0])
    assert (low <= at).all()
    assert (at <= high).all()
    assert (low >= 0).all()
    assert (high <= 1).all()
    inner = [high[one] - low[one] for one in (0, 1)]
    assert inner[1] <= inner[0] * 1.25


def test_a_band_over_models_is_wider_than_one_over_images() -> None:
    evidence = answered(models=12)
    wide = trend_lines(evidence, ["all"] * 12, PROBIT, draws=400).of("all").slope_interval()
    narrow = trend_lines(evidence, ["all"] * 12, PROBIT, draws=400, over_models=False).of("all").slope_interval()
    assert wide.high - wide.low > narrow.high - narrow.low
    assert narrow.draws == 400


def test_seeds_are_drawn_within_sizes_and_alike_for_all_groups() -> None:
    groups, sizes, seeds = ["a"] * 6 + ["b"] * 6, [1, 1, 1, 2, 2, 2] * 2, [0, 1, 2] * 4
    weights = draw_seeds(groups, sizes, seeds, 3000, seed=1)
    assert (weights[:, :6] == weights[:, 6:]).all()
    assert weights[:, :3].sum(1) == pytest.approx(np.full(3000, 3.0))
    assert weights[:, 3:6].sum(1) == pytest.approx(np.full(3000, 3.0))
    assert not (weights[:, :3] == weights[:, 3:6]).all()
    # The variance of a mean over three seeds is s^2 / 3 with the unbiased s^2, as if seeds had been trained anew.
    values = np.array([0.1, 0.4, 0.9])
    assert (weights[:, :3] @ values / 3).var() == pytest.approx(values.var(ddof=1) / 3, rel=0.06)
    assert (draw_seeds(groups, sizes, seeds, 10, seed=1) != draw_seeds(groups, sizes, seeds, 10, seed=2)).any()


def test_a_lone_model_stays_and_other_groups_change_nothing() -> None:
    assert (draw_models(["a"], 5, seed=0) == 1).all()
    assert (draw_models(["a", "a", "a"], 9, 0) == draw_models(["b", "a", "a", "a"], 9, 0)[:, 1:]).all()


def test_what_makes_no_trend_is_said() -> None:
    evidence = planted()
    with pytest.raises(ValueError, match="expected a group, and size and seed or neither, of 12 models"):
        trend_lines(evidence, GROUPS[1:], LINEAR)
    with pytest.raises(ValueError, match="expected a group, and size and seed or neither, of 12 models"):
        trend_lines(evidence, GROUPS, LINEAR, sizes=SIZES)
    with pytest.raises(ValueError, match="a: expected each cell once in a group"):
        trend_lines(evidence, GROUPS, LINEAR, sizes=SIZES, seeds=[0] * 12)
    trends = trend_lines(evidence, ["few", "few"] + ["a"] * 10, LINEAR, draws=30)
    assert trends.without == ("few",)
    with pytest.raises(ValueError, match="no line for few: too few models or no spread; expected one of a"):
        trends.of("few")
    with pytest.raises(ValueError, match="no line for x: no such group; expected one of a"):
        trends.of("x")


def test_moved_accuracies_are_counted_and_no_common_range_is_none() -> None:
    sets = (
        SetAccuracies.from_counts([0, 10, 20, 50, 60, 70], 100),
        SetAccuracies.from_counts([5, 10, 100, 50, 60, 70], 100),
    )
    trends = trend_lines(PairedAccuracies(*sets), ["low"] * 3 + ["high"] * 3, LOGIT, draws=300)
    assert trends.moved == 2
    assert common_range(trends, ["low", "high"]) is None
    found = line_difference(trends, "high", "low")
    assert found.height is None
    # Of three models two are drawn: a third of the draws hold one model twice, and are not counted.
    assert found.slope.draws < 300


def test_effective_robustness_is_what_lies_above_the_baseline() -> None:
    found = effective_robustness(
        planted(), [f"m{one}" for one in range(12)], {f"m{one}" for one in range(6)}, LINEAR, draws=200
    )
    assert found.fitted_on == tuple(f"m{one}" for one in range(6))
    assert found.baseline.slope == pytest.approx(0.5)
    assert found.values[:6] == pytest.approx(np.zeros(6), abs=1e-12)
    assert found.values[6:] == pytest.approx(0.3 * np.array(REFERENCE[6:]) / N)
    assert found.of("m7") == pytest.approx(0.126)
    assert (found.low <= found.values).all()
    assert (found.values <= found.high).all()
    assert (found.low[6:] > 0).all()
    assert (found.moved, found.draws <= 200) == (0, True)
    trends = ladder(planted())
    assert mean_effective_robustness(trends, "b", trends.of("a"))[0] == pytest.approx(found.values[6:].mean())


def test_a_baseline_that_is_none_is_refused() -> None:
    names = [f"m{one}" for one in range(12)]
    with pytest.raises(
        ValueError, match="expected at least three baseline models that differ on the reference, found 2"
    ):
        effective_robustness(planted(), names, names[:2], LINEAR)
    with pytest.raises(ValueError, match="expected baseline models among those measured, found x"):
        effective_robustness(planted(), names, [*names, "x"], LINEAR)
    with pytest.raises(ValueError, match="expected 12 different names, found 11 of 12"):
        effective_robustness(planted(), [*names[:11], "m0"], names[:4], LINEAR)


def test_relative_robustness_is_a_paired_difference_of_accuracies() -> None:
    rng = np.random.default_rng(0)
    origin = rng.random(1000) < 0.6
    model = origin | (rng.random(1000) < 0.1)  # right wherever the origin is, and on some more
    paired = relative_robustness(SetAccuracies.from_correct([model, origin]), 0, 1, draws=400)
    assert paired.estimate == pytest.approx(model.mean() - origin.mean())
    assert 0 < paired.low < paired.estimate < paired.high
    apart = relative_robustness(SetAccuracies.from_counts([model.sum(), origin.sum()], 1000), 0, 1, draws=400)
    assert apart.estimate == paired.estimate
    assert apart.high - apart.low > 2 * (paired.high - paired.low)
