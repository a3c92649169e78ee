"""Least-squares lines of accuracy under a shift against accuracy on the reference set, with bootstrap bands."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.robustness.axes import Axis, Floats
from pipeline.robustness.intervals import Interval, bootstrap_bounds, bootstrap_interval

#: Values within less than this of each other count as one value, through which no line is fitted (axis units).
MIN_SPREAD = 1e-9


@dataclass(frozen=True)
class Line:
    """shift = slope * reference + intercept, both as values on `axis`.

    `r2` is the share of the variance of the shift's values that the line explains; `models` counts the fitted models.
    """

    axis: Axis
    slope: float
    intercept: float
    r2: float
    models: int

    def at(self, reference: ArrayLike) -> Floats:
        """Return the values on the axis predicted under the shift at values of the reference (any shape)."""
        return self.slope * np.asarray(reference, np.float64) + self.intercept

    def predict(self, reference: ArrayLike) -> Floats:
        """Return the accuracies (0 to 1) predicted under the shift at values of the reference (any shape)."""
        return self.axis.inverse(self.at(reference))


def fit_line(axis: Axis, reference: ArrayLike, shift: ArrayLike) -> Line | None:
    """Return the ordinary least-squares line through values on an axis, two arrays (models,).

    None with fewer than three models, or with no spread on the reference. Where all models have the same accuracy under
    the shift, R2 is 1: the flat line explains all variance. Noise in the reference accuracies flattens the slope, as in
    every least-squares fit. Raises ValueError for arrays of different shapes.
    """
    x, y = np.asarray(reference, np.float64), np.asarray(shift, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"expected two arrays (models,), found shapes {x.shape} and {y.shape}")
    if len(x) < 3 or np.ptp(x) < MIN_SPREAD:
        return None
    slopes, intercepts = fit_lines(x, y, np.ones_like(x))
    slope, intercept = float(slopes), float(intercepts)
    residual, spread = float(((y - slope * x - intercept) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    r2 = 1 - residual / spread if np.ptp(y) >= MIN_SPREAD else 1.0
    return Line(axis, slope, intercept, r2, len(x))


def fit_lines(reference: Floats, shift: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the slopes and intercepts (...,) of weighted least-squares lines through values (..., models).

    `weights` (..., models) are the weights of the models. A line through values without spread is NaN.
    """
    total = weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (weights * reference).sum(-1, keepdims=True) / total
        y = (weights * shift).sum(-1, keepdims=True) / total
        square = (weights * (reference - x) ** 2).sum(-1)
        slopes = np.where(square > MIN_SPREAD**2, (weights * (reference - x) * (shift - y)).sum(-1) / square, np.nan)
    return slopes, y[..., 0] - slopes * x[..., 0]


@dataclass(frozen=True, eq=False)
class BootstrapLine:
    """shift = slope * reference + intercept on `axis`, and the same of each draw: `slopes`, `intercepts` (draws,).

    Draws without a line are NaN; no interval uses them.
    """

    axis: Axis
    slope: float
    intercept: float
    slopes: Floats
    intercepts: Floats

    def slope_interval(self, level: float = 0.95) -> Interval:
        """Return the slope with its interval."""
        return bootstrap_interval(self.slope, self.slopes, level)

    def intercept_interval(self, level: float = 0.95) -> Interval:
        """Return the intercept (a value on the axis) with its interval."""
        return bootstrap_interval(self.intercept, self.intercepts, level)

    def predict(self, reference: ArrayLike) -> Floats:
        """Return the accuracies (0 to 1) predicted under the shift at values of the reference (any shape)."""
        return self.axis.inverse(self.slope * np.asarray(reference, np.float64) + self.intercept)

    def band(self, reference: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
        """Return the ends of the band, accuracies (0 to 1), at values of the reference (values,).

        The band is pointwise: at each value the line lies inside with the stated level, not at all values at once. It
        is a band of the line, not a prediction band for another model.
        """
        x = np.asarray(reference, np.float64)
        low, high = bootstrap_bounds(
            self.slope * x + self.intercept, self.slopes[:, None] * x + self.intercepts[:, None], level
        )
        return self.axis.inverse(low), self.axis.inverse(high)
