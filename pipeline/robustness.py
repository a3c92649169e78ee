"""Intervals of accuracies, and how accuracy under a shift follows accuracy on the reference set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, norm


def clopper_pearson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share `correct` / `n` at `level` (Clopper and Pearson 1934), 0 to 1."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, found {correct} of {n}")
    tail = (1 - level) / 2
    low = 0.0 if correct == 0 else float(beta.ppf(tail, correct, n - correct + 1))
    high = 1.0 if correct == n else float(beta.ppf(1 - tail, correct + 1, n - correct))
    return low, high


def probit(accuracy: float, n: int) -> float:
    """Return the standard normal quantile of an accuracy of `n` images, kept within [0.5 / n, 1 - 0.5 / n].

    Probit axes are those on which models lie on a line (Recht et al. 2019, Taori et al. 2020); the bounds give
    accuracies of 0 and 1 a place there.
    """
    return float(norm.ppf(min(max(accuracy, 0.5 / n), 1 - 0.5 / n)))


@dataclass(frozen=True)
class Line:
    """shift = slope * reference + intercept, both on probit axes, with the share of variance it explains."""

    slope: float
    intercept: float
    r2: float

    def predict(self, reference: float) -> float:
        """Return the accuracy (0 to 1) expected under the shift at a probit reference accuracy."""
        return float(norm.cdf(self.slope * reference + self.intercept))


def fit_line(reference: Sequence[float], shift: Sequence[float]) -> Line | None:
    """Return the least-squares line through points on probit axes; None with fewer than three or no spread."""
    x, y = np.asarray(reference, np.float64), np.asarray(shift, np.float64)
    if len(x) < 3 or np.ptp(x) < 1e-9:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    residual, spread = float(((y - slope * x - intercept) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return Line(float(slope), float(intercept), 1 - residual / spread if np.ptp(y) >= 1e-9 else 1.0)
