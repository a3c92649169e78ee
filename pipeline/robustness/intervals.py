"""Exact intervals of accuracies, and intervals from bootstrap draws."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from pipeline.robustness.axes import Floats


def clopper_pearson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share `correct` / `n` at `level` (Clopper and Pearson 1934), 0 to 1."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, found {correct} of {n}")
    tail = (1 - level) / 2
    low = 0.0 if correct == 0 else float(beta.ppf(tail, correct, n - correct + 1))
    high = 1.0 if correct == n else float(beta.ppf(1 - tail, correct + 1, n - correct))
    return low, high


#: With fewer draws the ends of an interval would be single draws.
MIN_DRAWS = 20


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval at `level`, from so many `draws` (those that had a value)."""

    estimate: float
    low: float
    high: float
    level: float
    draws: int


def finite_draws(draws: Floats) -> Floats:
    """Return the draws (draws, ...) that are finite throughout; raise ValueError where fewer than LEAST are.

    A draw has no value where, for example, it contains one model only, through which no line can be fitted.
    """
    finite = draws[np.isfinite(draws).reshape(len(draws), -1).all(1)]
    if len(finite) < MIN_DRAWS:
        raise ValueError(f"expected at least {MIN_DRAWS} draws that have a value, found {len(finite)} of {len(draws)}")
    return finite


def bootstrap_bounds(estimate: ArrayLike, draws: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the lower and upper ends (...) of the bias-corrected percentile interval of draws (draws, ...).

    Efron 1981: where more than half the draws lie below the estimate, both ends move up. Lines need the correction,
    because noise in the reference flattens a draw's slope once more than the estimate's. Raises ValueError for a level
    outside (0, 1) and for fewer than LEAST draws with a value.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, found {level}")
    finite, centre = finite_draws(draws), np.asarray(estimate, np.float64)
    # A draw equal to the estimate, up to rounding, counts half: with few images many draws are equal to it.
    equal = np.abs(finite - centre) <= 1e-12 * (1 + np.abs(centre))
    below = np.where(equal, 0.5, finite < centre).sum(0)
    bias = ndtri(np.clip(below, 0.5, len(finite) - 0.5) / len(finite))
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        quantiles = ndtr(2 * bias + ndtri(tail))
        columns = [
            np.quantile(column, q)
            for column, q in zip(finite.reshape(len(finite), -1).T, np.ravel(quantiles), strict=True)
        ]
        ends.append(np.reshape(columns, centre.shape))
    return ends[0], ends[1]


def bootstrap_interval(estimate: float, draws: Floats, level: float = 0.95) -> Interval:
    """Return the interval of one number from its draws (draws,); raises as `bounds` does."""
    low, high = bootstrap_bounds(estimate, draws, level)
    return Interval(float(estimate), float(low), float(high), level, len(finite_draws(draws)))
