"""Effective and relative robustness (Taori et al. 2020)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.robustness.axes import Axis, Floats
from pipeline.robustness.intervals import Interval, bootstrap_bounds, bootstrap_interval, finite_draws
from pipeline.robustness.lines import BootstrapLine, Line, fit_line, fit_lines
from pipeline.robustness.paired_accuracy import PairedAccuracies, SetAccuracies
from pipeline.robustness.resampling import draw_models
from pipeline.robustness.trends import TrendLines


@dataclass(frozen=True, eq=False)
class EffectiveRobustness:
    """Effective robustness of `models`: `values`, `low`, `high` (models,), fractions of accuracy.

    `baseline` is the line they are relative to, `fitted_on` names the models that it was fitted on. `moved` counts the
    accuracies of 0 or 1 that were moved inside, `draws` the draws that had a line.
    """

    models: tuple[str, ...]
    values: Floats
    low: Floats
    high: Floats
    level: float
    baseline: Line
    fitted_on: tuple[str, ...]
    moved: int
    draws: int

    def of(self, model: str) -> float:
        """Return one model's effective robustness."""
        return float(self.values[self.models.index(model)])


def effective_robustness(
    evidence: PairedAccuracies,
    names: Sequence[str],
    baseline: Collection[str],
    axis: Axis,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> EffectiveRobustness:
    """Return each model's accuracy under the shift minus the baseline line's prediction at its reference accuracy.

    The effective robustness of Taori et al. 2020: accuracies themselves are subtracted, not values on the axis. `names`
    (models,) names the models of `evidence`, `baseline` those that the line is fitted on. A draw
    resamples images and baseline models; the model itself is fixed. A model of the baseline is compared with a line
    that it was part of. An accuracy of 0 or 1 is moved inside by half an image where it is infinite on the axis. Raises
    ValueError for names that repeat or are unknown, and for a baseline that determines no line.
    """
    if len(set(names)) != evidence.models or len(names) != evidence.models:
        raise ValueError(f"expected {evidence.models} different names, found {len(set(names))} of {len(names)}")
    if unknown := sorted(set(baseline) - set(names)):
        raise ValueError(f"expected baseline models among those measured, found {', '.join(unknown)}")
    is_baseline = np.array([name in baseline for name in names])
    (x, y), (drawn_x, drawn_y) = evidence.places(axis), evidence.draw(axis, draws, seed)
    line = fit_line(axis, x.values[is_baseline], y.values[is_baseline])
    if line is None:
        raise ValueError(
            f"expected at least three baseline models that differ on the reference, found {is_baseline.sum()}"
        )
    slopes, intercepts = _draw_lines(drawn_x[:, is_baseline], drawn_y[:, is_baseline], seed)
    values = axis.inverse(y.values) - line.predict(x.values)
    drawn = axis.inverse(drawn_y) - axis.inverse(slopes[:, None] * drawn_x + intercepts[:, None])
    low, high = bootstrap_bounds(values, drawn, level)
    fitted_on = tuple(name for name, fitted in zip(names, is_baseline, strict=True) if fitted)
    return EffectiveRobustness(
        tuple(names), values, low, high, level, line, fitted_on, x.moved + y.moved, len(finite_draws(drawn))
    )


def bootstrap_line(trends: TrendLines, groups: Collection[str] = ()) -> BootstrapLine | None:
    """Return the line through the models of `groups`, or of all, with the draws of `trends`; None where there is none.

    The line of a single group is that of `trends`, whose seeds are resampled as those of all other groups; the models
    of several groups are resampled together, as in `effective_robustness`.
    """
    names = set(groups) or set(trends.groups.tolist())
    if len(names) == 1:
        return trends.drawn.get(names.pop())
    selected = np.isin(trends.groups, sorted(names))
    line = fit_line(trends.axis, trends.x[selected], trends.y[selected])
    if line is None:
        return None
    drawn = _draw_lines(trends.drawn_x[:, selected], trends.drawn_y[:, selected], trends.seed)
    return BootstrapLine(trends.axis, line.slope, line.intercept, *drawn)


def _draw_lines(x: Floats, y: Floats, seed: int) -> tuple[Floats, Floats]:
    """Return the slope and the intercept of each draw (draws,); each draw resamples the models."""
    return fit_lines(x, y, draw_models(["baseline"] * x.shape[1], len(x), seed))


def mean_effective_robustness(trends: TrendLines, group: str, line: BootstrapLine) -> tuple[float, Floats]:
    """Return a group's mean effective robustness relative to a line, and that of each draw (draws,); fractions.

    The draws must be those of the line: the same images and seeds. Raises ValueError for a group without models.
    """
    members = trends.members(group)
    inverse, weights = trends.axis.inverse, trends.weights[:, members]
    value = float((inverse(trends.y[members]) - line.predict(trends.x[members])).mean())
    expected = line.slopes[:, None] * trends.drawn_x[:, members] + line.intercepts[:, None]
    drawn: Floats = ((inverse(trends.drawn_y[:, members]) - inverse(expected)) * weights).sum(1) / weights.sum(1)
    return value, drawn


def relative_robustness(
    shift: SetAccuracies, model: int, origin: int, *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """Return the accuracy under the shift of a model minus that of the model it was derived from, a fraction.

    The relative robustness of Taori et al. 2020. `model` and `origin` are positions in `shift`; where the
    correctness of each image is known, a draw takes the same images for both. It does not take the reference into
    account.
    """
    drawn, accuracy = shift.draw(draws, np.random.SeedSequence(seed)), shift.accuracy
    return bootstrap_interval(accuracy[model] - accuracy[origin], drawn[:, model] - drawn[:, origin], level)
