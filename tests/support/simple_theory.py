"""The oracle: the simplest model in which each source has a line of its own, with all that it says in closed form.

A reconstruction, not a published model: y = +-1; the test domain T has x|y ~ N(y mu_T, sigma_T^2 I), a source s has
x|y ~ N(y m_s, sigma^2 I), and training is w = mean of y x. Then probit(accuracy on T) = <w, mu_T> / (sigma_T |w|) for
every w, so that

- a source's line goes through the origin with slope (sigma_I / sigma_O) <m_s, mu_O> / <m_s, mu_I>, whatever n;
- pooling shares p of A and 1 - p of B mixes the slopes with lambda = p <m_A, mu_I> / (the same + (1 - p) <m_B, mu_I>);
- keeping the pairs with u . (y x) >= tau moves m_s by a multiple of the teacher u (|u| = 1), so the line towards u's.

All means lie in the plane of the first two axes; the other directions hold noise only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from pipeline.robustness.axes import PROBIT, Floats
from pipeline.robustness.paired_accuracy import PairedAccuracies, SetAccuracies
from pipeline.robustness.trends import TrendLines, trend_lines

DIMENSIONS = 400


SIZES = (40, 120, 400, 1200)


SEEDS = (0, 1, 2)


GRID = [(size, seed) for size in SIZES for seed in SEEDS]


IMAGES = 1500


DRAWS = 200


def direction(degrees: float, length: float = 1.0) -> Floats:
    """Return a vector in the plane of the first two axes, at an angle from the first."""
    found = np.zeros(DIMENSIONS)
    found[:2] = length * np.cos(np.radians(degrees)), length * np.sin(np.radians(degrees))
    return found


@dataclass(frozen=True, eq=False)
class World:
    """Two test domains and sources with unit means at `angles` (degrees); the reference's mean is at 0 degrees."""

    angles: Mapping[str, float]
    out_angle: float = 30.0
    length_in: float = 2.0
    length_out: float = 2.4
    sigma_in: float = 1.0
    sigma_out: float = 1.2
    sigma: float = 1.0

    @property
    def mu_in(self) -> Floats:
        return direction(0, self.length_in)

    @property
    def mu_out(self) -> Floats:
        return direction(self.out_angle, self.length_out)

    def mean(self, shares: Mapping[str, float]) -> Floats:
        """Return the mean of y x over a mixture with shares that sum to 1."""
        return sum((p * direction(self.angles[name]) for name, p in shares.items()), np.zeros(DIMENSIONS))

    def slope(self, mean: Floats) -> float:
        """Return the slope of the line of training sets with this mean."""
        return float(self.sigma_in / self.sigma_out * (mean @ self.mu_out) / (mean @ self.mu_in))

    def weight(self, a: str, b: str, p: float) -> float:
        """Return lambda of `a` in a mixture with shares p of `a` and 1 - p of `b`."""
        mine, other = (direction(self.angles[name]) @ self.mu_in for name in (a, b))
        return float(p * mine / (p * mine + (1 - p) * other))

    def train(self, mean: Floats, n: int, rng: np.random.Generator) -> Floats:
        """Return w of n pairs: their mean of y x has this distribution, so the pairs need not be made."""
        return mean + self.sigma / np.sqrt(n) * rng.standard_normal(DIMENSIONS)

    def pairs(self, mean: Floats, n: int, rng: np.random.Generator) -> Floats:
        """Return y x of n pairs (n, DIMENSIONS)."""
        return mean + self.sigma * rng.standard_normal((n, DIMENSIONS))

    def kept_mean(self, mean: Floats, teacher: Floats, tau: float) -> Floats:
        """Return the mean of y x over pairs with teacher . (y x) >= tau, for a teacher of length 1."""
        at = (tau - teacher @ mean) / self.sigma
        return mean + self.sigma * np.exp(norm.logpdf(at) - norm.logsf(at)) * teacher

    def train_on_kept(self, mean: Floats, teacher: Floats, tau: float, n: int, rng: np.random.Generator) -> Floats:
        """Return w of n pairs that the teacher keeps: along it their y x are cut off normals, across it as before."""
        across = self.train(mean, n, rng)
        at = (tau - teacher @ mean) / self.sigma
        along = teacher @ mean + self.sigma * norm.isf(rng.random(n) * norm.sf(at)).mean()
        return across + (along - teacher @ across) * teacher

    def places(self, w: Floats) -> tuple[float, float]:
        """Return the exact probits of the accuracies of w on the reference and under the shift."""
        length = np.linalg.norm(w)
        return float(w @ self.mu_in / (self.sigma_in * length)), float(w @ self.mu_out / (self.sigma_out * length))

    def margins(self, ws: Sequence[Floats], rng: np.random.Generator, images: int = IMAGES) -> list[Floats]:
        """Return y w.x (images, classifiers) on the reference and under the shift; all see the same images."""
        stacked = np.stack(ws)
        # w . noise over all w has the covariance of the w's, so only its few dimensions are drawn.
        root = np.linalg.qr(stacked.T, mode="r")
        root *= np.where(np.diag(root) < 0, -1, 1)[:, None]  # the signs that every LAPACK agrees on
        found = []
        for mu, sigma in ((self.mu_in, self.sigma_in), (self.mu_out, self.sigma_out)):
            found.append(stacked @ mu + sigma * rng.standard_normal((images, len(root))) @ root)
        return found

    def trained(self, mixtures: Mapping[str, Mapping[str, float]], rng: np.random.Generator) -> dict[str, list[Floats]]:
        """Return the w of every mixture (name: shares), at all sizes and seeds."""
        means = {name: self.mean(shares) for name, shares in mixtures.items()}
        return {name: [self.train(mean, size, rng) for size, _ in GRID] for name, mean in means.items()}

    def trends(self, trained: Mapping[str, Sequence[Floats]], rng: np.random.Generator, seed: int = 0) -> TrendLines:
        """Evaluate the w (group: one for each size and seed) and return the fitted lines."""
        sets = self.margins([w for ws in trained.values() for w in ws], rng)
        evidence = PairedAccuracies(*(SetAccuracies.from_correct((one > 0).T) for one in sets))
        groups = [name for name in trained for _ in GRID]
        sizes, seeds = zip(*(GRID * len(trained)), strict=True)
        return trend_lines(evidence, groups, PROBIT, sizes=sizes, seeds=seeds, draws=DRAWS, seed=seed)
