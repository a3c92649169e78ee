"""A line together with its bootstrap draws: intervals of its slope and intercept, and a band around it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.robustness.axes import Axis, Floats
from pipeline.robustness.bootstrap import Interval, bounds, interval


@dataclass(frozen=True, eq=False)
class DrawnLine:
    """shift = slope * reference + intercept on `axis`, and the same of each draw: `slopes`, `intercepts` (draws,).

    Draws without a line are NaN; no interval counts them.
    """

    axis: Axis
    slope: float
    intercept: float
    slopes: Floats
    intercepts: Floats

    def slope_interval(self, level: float = 0.95) -> Interval:
        """Return the slope with its interval."""
        return interval(self.slope, self.slopes, level)

    def intercept_interval(self, level: float = 0.95) -> Interval:
        """Return the intercept (a place on the axis) with its interval."""
        return interval(self.intercept, self.intercepts, level)

    def predict(self, reference: ArrayLike) -> Floats:
        """Return the accuracies (0 to 1) expected under the shift at places of the reference (any shape)."""
        return self.axis.inverse(self.slope * np.asarray(reference, np.float64) + self.intercept)

    def band(self, reference: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
        """Return the ends of the band, accuracies (0 to 1), at places of the reference (places,).

        The band is pointwise: at each place the line lies inside with the stated level, not everywhere at once. It is
        the line's, not that of one more model.
        """
        x = np.asarray(reference, np.float64)
        low, high = bounds(self.slope * x + self.intercept, self.slopes[:, None] * x + self.intercepts[:, None], level)
        return self.axis.inverse(low), self.axis.inverse(high)
