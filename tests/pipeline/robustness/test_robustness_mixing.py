"""Dilution, output mixing, pooling and forecast on lines that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.robustness.axes import LINEAR, PROBIT
from pipeline.robustness.dilution import (
    DilutionVerdict,
    MixtureComparison,
    SpanVerdict,
    compare_with_ensemble,
    compare_with_sources,
)
from pipeline.robustness.ensembling import correct_predictions, ensemble_outputs
from pipeline.robustness.forecast import forecast_error, forecast_line
from pipeline.robustness.paired_accuracy import PairedAccuracies, SetAccuracies
from pipeline.robustness.pooling import measured_weight, pooling_weights, source_strengths
from pipeline.robustness.trends import TrendLines, trend_lines

N = 10_000


REFERENCE = (4000, 5000, 6000, 7000)


def trends(lines: dict[str, tuple[float, float]], over: tuple[int, ...] = REFERENCE, seed: int = 0) -> TrendLines:
    """Groups on given lines (slope, intercept) of the linear axis, four sizes and one seed each."""
    shift = [round(slope * one + N * intercept) for slope, intercept in lines.values() for one in over]
    evidence = PairedAccuracies(
        SetAccuracies.from_counts(list(over) * len(lines), N), SetAccuracies.from_counts(shift, N)
    )
    groups = [name for name in lines for _ in over]
    sizes = [10, 20, 40, 80] * len(lines)
    return trend_lines(evidence, groups, LINEAR, sizes=sizes, seeds=[0] * len(sizes), draws=150, seed=seed)


def judged(mixture: tuple[float, float], **others: tuple[float, float]) -> MixtureComparison:
    sources = others or {"a": (0.9, 0.0), "b": (0.5, 0.0)}
    return compare_with_sources(trends({**sources, "m": mixture}), "m", list(sources))


@pytest.mark.parametrize(
    ("slope", "verdict", "span"),
    [
        (0.7, DilutionVerdict.DILUTED, SpanVerdict.INSIDE),
        (0.3, DilutionVerdict.DILUTED, SpanVerdict.OUTSIDE),
        (1.1, DilutionVerdict.BETTER, SpanVerdict.OUTSIDE),
        (0.9, DilutionVerdict.UNDECIDED, SpanVerdict.UNDECIDED),
    ],
)
def test_a_mixture_is_judged_from_its_best_source(slope: float, verdict: DilutionVerdict, span: SpanVerdict) -> None:
    found = judged((slope, 0.0))
    assert (found.verdict, found.span, found.best) == (verdict, span, "a")
    assert found.effective.estimate == pytest.approx((slope - 0.9) * 0.55, abs=1e-4)
    assert found.extrapolated == 0
    assert found.margin is not None
    # The span is narrowest at the lowest reference accuracy; a line beside it is farthest from it at the highest.
    expected = min(min(0.9 - slope, slope - 0.5) * at for at in (0.4, 0.7))
    assert found.margin.estimate == pytest.approx(expected, abs=1e-4)


def test_a_line_leaves_the_span_where_its_sources_lines_cross() -> None:
    # The sources' lines cross at 0.55; at both ends the mixture is amid them, where they cross it is above both.
    found = judged((0.5, 0.1), a=(1.0, -0.2), b=(0.0, 0.35))
    assert found.margin is not None
    assert found.margin.estimate == pytest.approx(-0.025, abs=1e-4)
    assert found.span is SpanVerdict.OUTSIDE


def test_sources_may_come_in_any_order_and_the_best_is_best_where_the_mixture_is() -> None:
    lines = {"a": (1.0, -0.2), "b": (0.0, 0.35), "m": (0.5, 0.05)}
    made = trends(lines)
    assert (
        compare_with_sources(made, "m", ["a", "b"]).effective == compare_with_sources(made, "m", ["b", "a"]).effective
    )
    low = trends(lines, over=(3000, 3500, 4000, 4500))
    high = trends(lines, over=(6000, 6500, 7000, 7500))
    assert (compare_with_sources(low, "m", ["a", "b"]).best, compare_with_sources(high, "m", ["a", "b"]).best) == (
        "b",
        "a",
    )


def test_sources_that_share_no_range_have_no_span_and_the_best_is_extrapolated() -> None:
    counts = [1000, 1500, 2000, 5000, 5500, 6000, 7000, 7500, 8000]
    evidence = PairedAccuracies(
        SetAccuracies.from_counts(counts, N), SetAccuracies.from_counts([round(0.6 * one) for one in counts], N)
    )
    made = trend_lines(evidence, list("aaammmbbb"), LINEAR, over_models=False, draws=50)
    found = compare_with_sources(made, "m", ["a", "b"])
    assert (found.margin, found.span, found.extrapolated) == (None, None, 3)
    with pytest.raises(ValueError, match="expected a range of reference accuracy that m, a and b share, found none"):
        measured_weight(made, "m", "a", "b")


def test_a_mixture_shows_its_weight_where_its_sources_differ() -> None:
    made = trends({"a": (0.9, 0.0), "b": (0.5, 0.0), "same": (0.5, 0.0), "m": (0.6, 0.0)})
    found = measured_weight(made, "m", "a", "b")
    assert found.estimate == pytest.approx(0.25, abs=1e-3)
    assert 0.15 < found.low < found.high < 0.35
    assert measured_weight(made, "m", "b", "a").estimate == pytest.approx(0.75, abs=1e-3)
    with pytest.raises(ValueError, match="expected lines of b and same that differ, found one place for both"):
        measured_weight(made, "m", "b", "same")


@pytest.mark.parametrize("sources", [[], ["a"], ["a", "a"], ["a", "m"]])
def test_a_mixture_of_fewer_than_two_others_is_refused(sources: list[str]) -> None:
    with pytest.raises(ValueError, match="expected two or more sources beside m, found"):
        compare_with_sources(trends({"a": (0.9, 0), "m": (0.5, 0)}), "m", sources)


def test_output_mixing_stands_beside_input_mixing() -> None:
    made = trends({"a": (0.9, 0), "b": (0.5, 0), "m": (0.6, 0), "outputs": (0.8, 0)})
    found = compare_with_ensemble(made, "m", "outputs", ["a", "b"])
    assert (found.inputs.mixture, found.outputs.mixture) == ("m", "outputs")
    assert (found.inputs.best, found.outputs.best) == ("a", "a")
    assert found.gain.estimate == pytest.approx(0.2 * 0.55, abs=1e-4)
    assert found.gain.estimate == pytest.approx(found.outputs.effective.estimate - found.inputs.effective.estimate)
    assert found.gain.low > 0


def test_logits_are_averaged_as_they_are_and_probabilities_after_the_softmax() -> None:
    sure, unsure = np.array([[10.0, 0, 0]]), np.array([[0, 1.0, 0]])
    assert ensemble_outputs([sure, unsure]) == pytest.approx(np.array([[5, 0.5, 0]]))
    assert ensemble_outputs([sure, unsure], [3, 1]) == pytest.approx(np.array([[7.5, 0.25, 0]]))
    mixed = ensemble_outputs([sure, unsure], of="probabilities")
    assert mixed.sum() == pytest.approx(1)
    assert mixed[0, 1] == pytest.approx((np.e / (np.e + 2) + 1 / (np.exp(10) + 2)) / 2)


@given(st.integers(0, 99), st.integers(1, 4))
def test_a_model_mixed_with_itself_is_itself_and_order_is_nothing(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = [rng.normal(size=(5, 3)).astype(np.float32) for _ in range(models)]
    shares = rng.random(models) + 0.1
    assert ensemble_outputs([outputs[0]] * models, shares.tolist()) == pytest.approx(outputs[0].astype(float))
    turned = ensemble_outputs(outputs[::-1], shares[::-1].tolist(), of="probabilities")
    assert turned == pytest.approx(ensemble_outputs(outputs, shares.tolist(), of="probabilities"))


def test_outputs_that_cannot_be_mixed_are_refused() -> None:
    one = np.zeros((2, 3))
    for outputs in ([], [one, np.zeros((2, 4))], [np.zeros(3)]):
        with pytest.raises(ValueError, match=r"expected outputs \(images, classes\) of one shape"):
            ensemble_outputs(outputs)
    for shares in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="expected a share >= 0 for each of 2 models"):
            ensemble_outputs([one, one], shares)
    with pytest.raises(ValueError, match="expected finite logits"):
        ensemble_outputs([one, one * np.nan])


def test_an_answer_is_right_where_the_label_is_largest() -> None:
    outputs = np.array([[0.1, 0.9], [0.5, 0.5], [0.5, 0.5]])
    assert correct_predictions(outputs, np.array([1, 0, 1])).tolist() == [True, True, False]
    for labels in ([0, 1], [0, 1, 2], [0, -1, 1]):
        with pytest.raises(ValueError, match="expected 3 labels from 0 to 1"):
            correct_predictions(outputs, np.array(labels))


@given(st.floats(0, 1), st.floats(0.1, 9), st.floats(0.1, 9))
def test_pooling_weights_are_shares_times_strength(p: float, a: float, b: float) -> None:
    found = pooling_weights({"a": p, "b": 1 - p}, {"a": np.array(a), "b": np.array(b)})
    assert found["a"] == pytest.approx(p * a / (p * a + (1 - p) * b))
    assert found["a"] + found["b"] == pytest.approx(1)
    scaled = pooling_weights({"a": 100 * p, "b": 100 * (1 - p)}, {"a": np.array(a), "b": np.array(b)})
    assert scaled["a"] == pytest.approx(found["a"])


def test_weights_without_a_meaning_are_refused_or_none() -> None:
    one = np.array([1.0, -1.0])
    assert np.isnan(pooling_weights({"a": 1, "b": 1}, {"a": one, "b": np.ones(2)})["b"]).tolist() == [False, True]
    for shares in ({"a": -1.0}, {"a": 0.0}, {}):
        with pytest.raises(ValueError, match="expected shares >= 0 that are not all 0"):
            pooling_weights(shares, {"a": one})
    with pytest.raises(ValueError, match="expected a strength for each source, found none for b"):
        pooling_weights({"a": 1, "b": 1}, {"a": one})


def test_a_forecast_mixes_lines_by_share_and_strength_and_its_miss_is_measured() -> None:
    made = trends({"a": (0.9, 0.0), "b": (0.5, 0.1)})
    found = forecast_line(made, {"a": 1, "b": 3, "unused": 0}, chance=0.1)
    # The sources are alike on the reference, so their shares are the weights.
    assert {name: one.estimate for name, one in found.weights.items()} == pytest.approx({"a": 0.25, "b": 0.75})
    assert (found.line.slope, found.line.intercept) == pytest.approx((0.6, 0.075), abs=1e-3)
    assert found.line.slope_interval().low < 0.6 < found.line.slope_interval().high
    true = trends({"a": (0.9, 0.0), "b": (0.5, 0.1), "m": (0.6, 0.075)})
    miss = forecast_error(found, true, "m")
    assert miss.shift.estimate == pytest.approx(0, abs=1e-3)
    assert miss.within
    off = forecast_error(found, trends({"m": (0.6, 0.175)}), "m")
    assert off.shift.estimate == pytest.approx(0.1, abs=1e-3)
    assert (off.slope.estimate, off.intercept.estimate) == pytest.approx((0, 0.1), abs=1e-3)
    assert not off.within


def test_forecasts_that_rest_on_nothing_are_refused() -> None:
    made = trends({"a": (0.9, 0.0), "b": (0.5, 0.1)})
    with pytest.raises(ValueError, match=r"expected sources above the chance of 0\.7, found a, b not above it"):
        forecast_line(made, {"a": 1, "b": 1}, chance=0.7)
    with pytest.raises(ValueError, match="expected shares >= 0 that are not all 0"):
        forecast_line(made, {"a": 0}, chance=0.1)
    with pytest.raises(ValueError, match="no line for c: no such group"):
        forecast_line(made, {"c": 1}, chance=0.1)
    made_so = forecast_line(made, {"a": 1, "b": 1}, chance=0.1)
    with pytest.raises(ValueError, match="expected trends with the forecast's axis, seed and draws"):
        forecast_error(made_so, trends({"m": (0.6, 0.1)}, seed=1), "m")


def test_strengths_compare_sources_at_the_sizes_that_they_share() -> None:
    counts = [2000, 3000, 4000, 3000, 4000, 5000]
    evidence = PairedAccuracies(SetAccuracies.from_counts(counts, N), SetAccuracies.from_counts(counts, N))
    groups, options = list("aaabbb"), {"seeds": [0] * 6, "draws": 50}
    made = trend_lines(evidence, groups, LINEAR, sizes=[10, 20, 40, 20, 40, 80], **options)
    found, drawn = source_strengths(made, ["a", "b"], chance=0.1)
    assert [float(found[name]) for name in "ab"] == pytest.approx([0.25, 0.25])
    assert drawn["a"].mean() == pytest.approx(0.25, abs=0.01)
    apart = trend_lines(evidence, groups, LINEAR, sizes=[1, 2, 3, 4, 5, 6], **options)
    with pytest.raises(ValueError, match="expected a size that all of a, b were trained at, found none"):
        source_strengths(apart, ["a", "b"], chance=0.1)
    with pytest.raises(ValueError, match="expected trends over sizes"):
        source_strengths(trend_lines(evidence, groups, PROBIT, draws=50), ["a", "b"], chance=0.1)
