"""Forecasts: the line of a mixture that is not yet trained, and its error once the mixture is trained."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.robustness.effective import mean_effective_robustness
from pipeline.robustness.intervals import Interval, bootstrap_interval
from pipeline.robustness.lines import BootstrapLine
from pipeline.robustness.pooling import pooling_weights, source_strengths
from pipeline.robustness.trends import TrendLines


@dataclass(frozen=True, eq=False)
class LineForecast:
    """The predicted line of a mixture with `shares` of sources; `weights` are those of each source's line in it.

    The intervals cover the noise of the sources (images and seeds), not whether the rule holds. `seed` is that of the
    draws.
    """

    shares: dict[str, float]
    weights: dict[str, Interval]
    line: BootstrapLine
    seed: int


def forecast_line(trends: TrendLines, shares: Mapping[str, float], chance: float, level: float = 0.95) -> LineForecast:
    """Predict a mixture's line from its sources' lines and shares by the pooling rule of `pipeline.robustness.pooling`.

    The weights apply to slopes and intercepts alike, so at each reference accuracy the predicted value is the weighted
    mean of the sources' values. (In the theory the lines pass through the origin; with intercepts this is an unproven
    extension.) `chance` is the accuracy of guessing. Sources with a share of 0 are left out. Raises ValueError for
    shares that are negative or all 0, trends without sizes or without a line for a source, sources without a common
    size, and a source that is on average not above chance.
    """
    positive_shares = {name: share for name, share in shares.items() if share != 0}
    lines = {name: trends.of(name) for name in positive_shares}
    strength, drawn_strengths = source_strengths(trends, list(positive_shares), chance) if positive_shares else ({}, {})
    if not_above_chance := [name for name in positive_shares if not strength[name] > 0]:
        raise ValueError(
            f"expected sources above the chance of {chance:.3g}, found {', '.join(not_above_chance)} not above it"
        )
    weight, weights = pooling_weights(positive_shares, strength), pooling_weights(positive_shares, drawn_strengths)
    line = BootstrapLine(
        trends.axis,
        float(np.sum([weight[name] * lines[name].slope for name in positive_shares])),
        float(np.sum([weight[name] * lines[name].intercept for name in positive_shares])),
        np.sum([weights[name] * lines[name].slopes for name in positive_shares], axis=0),
        np.sum([weights[name] * lines[name].intercepts for name in positive_shares], axis=0),
    )
    intervals = {name: bootstrap_interval(float(weight[name]), weights[name], level) for name in positive_shares}
    return LineForecast(dict(shares), intervals, line, trends.seed)


@dataclass(frozen=True)
class ForecastError:
    """Measured minus forecast.

    `shift`: the mean over the mixture's models of accuracy under the shift minus what the forecast predicts at the
    model's reference accuracy (a fraction); `slope` and `intercept`: those of the mixture's own line minus the
    forecast's. `within` says whether the interval of `shift` includes 0, so that the noise of images and seeds alone
    explains the error.
    """

    shift: Interval
    slope: Interval
    intercept: Interval
    within: bool


def forecast_error(made: LineForecast, trends: TrendLines, mixture: str, level: float = 0.95) -> ForecastError:
    """Compare a forecast with the mixture once it is trained: a group of `trends`.

    The trends may differ from those that the forecast was made from. Draws with the same seed contain the same images
    of the same sets, so the two are paired. Raises ValueError where axis, seed or number of draws differ, and for a
    mixture without a line.
    """
    measured, predicted = trends.of(mixture), made.line
    expected, actual = (
        (predicted.axis.name, made.seed, len(predicted.slopes)),
        (trends.axis.name, trends.seed, len(measured.slopes)),
    )
    if expected != actual:
        raise ValueError(f"expected trends with the forecast's axis, seed and draws {expected}, found {actual}")
    shift = bootstrap_interval(*mean_effective_robustness(trends, mixture, predicted), level)
    return ForecastError(
        shift=shift,
        slope=bootstrap_interval(measured.slope - predicted.slope, measured.slopes - predicted.slopes, level),
        intercept=bootstrap_interval(
            measured.intercept - predicted.intercept, measured.intercepts - predicted.intercepts, level
        ),
        within=shift.low <= 0 <= shift.high,
    )
