"""A planner's view: the line of a mixture that is not yet trained, and afterwards how far it was off."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.robustness.effective import mean_excess
from pipeline.robustness.intervals import Interval, interval
from pipeline.robustness.lines import DrawnLine
from pipeline.robustness.pooling import pooling_weights, strengths
from pipeline.robustness.trends import Trends


@dataclass(frozen=True, eq=False)
class Forecast:
    """The predicted line of a mixture with `shares` of sources; `weights` is how much of each source's line is in it.

    The intervals hold what is not known of the sources (their images and seeds), not whether the rule is true. `seed`
    is that of the draws.
    """

    shares: dict[str, float]
    weights: dict[str, Interval]
    line: DrawnLine
    seed: int


def forecast(trends: Trends, shares: Mapping[str, float], chance: float, level: float = 0.95) -> Forecast:
    """Predict a mixture's line from its sources' lines and shares by the pooling rule of `pipeline.robustness.pooling`.

    The weights mix slopes and intercepts alike, so at each reference accuracy the predicted place is the weighted mean
    of the sources' places. (In the theory lines go through the origin; with intercepts this is an extension that
    nothing proves.) `chance` is the accuracy of guessing. Sources with a share of 0 are left out. Raises ValueError for
    shares that are negative or all 0, trends without sizes or without a line for a source, sources without a size in
    common, and for a source that is on average not above chance.
    """
    used = {name: share for name, share in shares.items() if share != 0}
    lines = {name: trends.of(name) for name in used}
    found, drawn = strengths(trends, list(used), chance) if used else ({}, {})
    if weak := [name for name in used if not found[name] > 0]:
        raise ValueError(f"expected sources above the chance of {chance:.3g}, found {', '.join(weak)} not above it")
    weight, weights = pooling_weights(used, found), pooling_weights(used, drawn)
    line = DrawnLine(
        trends.axis,
        float(np.sum([weight[name] * lines[name].slope for name in used])),
        float(np.sum([weight[name] * lines[name].intercept for name in used])),
        np.sum([weights[name] * lines[name].slopes for name in used], axis=0),
        np.sum([weights[name] * lines[name].intercepts for name in used], axis=0),
    )
    intervals = {name: interval(float(weight[name]), weights[name], level) for name in used}
    return Forecast(dict(shares), intervals, line, trends.seed)


@dataclass(frozen=True)
class Miss:
    """Measured minus forecast.

    `shift`: the mean over the mixture's models of accuracy under the shift minus what the forecast expects at the
    model's reference accuracy (a fraction); `slope` and `intercept`: those of the mixture's own line minus the
    forecast's. `within` says whether the interval of `shift` holds 0: the noise of images and seeds alone explains the
    miss.
    """

    shift: Interval
    slope: Interval
    intercept: Interval
    within: bool


def how_far_off(made: Forecast, trends: Trends, mixture: str, level: float = 0.95) -> Miss:
    """Compare a forecast with the mixture once it is trained: a group of `trends`.

    The trends may be others than those that the forecast was made from. Draws with the same seed hold the same images
    of the same sets, so the two are paired. Raises ValueError where axis, seed or number of draws differ, and for a
    mixture without a line.
    """
    mine, line = trends.of(mixture), made.line
    asked, found = (line.axis.name, made.seed, len(line.slopes)), (trends.axis.name, trends.seed, len(mine.slopes))
    if asked != found:
        raise ValueError(f"expected trends with the forecast's axis, seed and draws {asked}, found {found}")
    shift = interval(*mean_excess(trends, mixture, line), level)
    return Miss(
        shift=shift,
        slope=interval(mine.slope - line.slope, mine.slopes - line.slopes, level),
        intercept=interval(mine.intercept - line.intercept, mine.intercepts - line.intercepts, level),
        within=shift.low <= 0 <= shift.high,
    )
