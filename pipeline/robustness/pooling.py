"""The pooling rule of the simple theory: the weight of each source's line in the line of their mixture.

The rule: a linear classifier w = mean of y x, trained on a mixture with shares p_s of sources with means m_s, has as
line the weighted mean of the sources' lines with weights lambda_s = p_s <m_s, mu> / sum of the same, where mu is the
mean of the reference set (y = +-1, x|y ~ N(y mu, sigma^2 I)). A source that helps more on the reference weighs more
than its share. <m_s, mu> is not observed, but the probits of the reference accuracies of sources that were trained at
the same sizes are proportional to it as long as the |m_s| are about equal. This is a reconstruction of the
simplest model in which each source has its own line (Nguyen et al. 2022 give insights from such a simple setting), not
a law of trained networks.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.robustness.axes import Floats
from pipeline.robustness.intervals import Interval, bootstrap_interval
from pipeline.robustness.trends import TrendLines, common_range


def pooling_weights(shares: Mapping[str, float], strengths: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return lambda_s = p_s k_s / sum of p k for each source with a share p; `strengths` k of any one shape.

    Shares need not sum to 1. A strength that is not above 0 makes all weights of its draw NaN: a source that is no
    better than guessing has no line to mix. Raises ValueError for shares that are negative or all 0, and
    for a source without a strength.
    """
    if not all(share >= 0 for share in shares.values()) or not 0 < sum(shares.values()) < np.inf:
        raise ValueError(f"expected shares >= 0 that are not all 0, found {dict(shares)}")
    if missing := sorted(set(shares) - set(strengths)):
        raise ValueError(f"expected a strength for each source, found none for {', '.join(missing)}")
    products = {name: share * np.where(strengths[name] > 0, strengths[name], np.nan) for name, share in shares.items()}
    total = sum(products.values())
    return {name: product / total for name, product in products.items()}


def source_strengths(
    trends: TrendLines, sources: Sequence[str], chance: float
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return each source's strength, estimated (a 0-d array) and drawn (draws,): its distance from guessing.

    That is the mean axis value on the reference of its models at the sizes that all sources were trained at, minus the
    value of `chance` (1 / classes). The mean is over models within a size, then over sizes. Raises ValueError where the
    trends have no sizes or the sources share none.
    """
    sizes = trends.sizes
    if sizes is None:
        raise ValueError("expected trends over sizes: strengths compare sources at the same number of pairs")
    shared = sorted(set.intersection(*(set(sizes[trends.members(name)].tolist()) for name in sources)))
    if not shared:
        raise ValueError(f"expected a size that all of {', '.join(sources)} were trained at, found none")
    chance_value, estimated, drawn = float(trends.axis.forward(chance)), dict[str, Floats](), dict[str, Floats]()
    for name in sources:
        members_by_size = [trends.members(name) & (sizes == size) for size in shared]
        estimated[name] = np.mean([trends.x[members].mean() for members in members_by_size], axis=0) - chance_value
        drawn[name] = (
            np.mean(
                [_weighted_mean(trends.drawn_x[:, members], trends.weights[:, members]) for members in members_by_size],
                axis=0,
            )
            - chance_value
        )
    return estimated, drawn


def _weighted_mean(values: Floats, weights: Floats) -> Floats:
    mean: Floats = (values * weights).sum(1) / weights.sum(1)
    return mean


def measured_weight(trends: TrendLines, mixture: str, source: str, other: str, level: float = 0.95) -> Interval:
    """Return the weight lambda of `source` against `other` that follows from a measured mixture of the two.

    That is the position of the mixture's line between theirs, 0 on `other`'s and 1 on `source`'s, at the middle of the
    range of reference accuracy that all three share. Raises ValueError where there is no such range or no line, or
    where the sources' lines cross there.
    """
    shared = common_range(trends, (mixture, source, other))
    if shared is None:
        raise ValueError(
            f"expected a range of reference accuracy that {mixture}, {source} and {other} share, found none"
        )
    middle = sum(shared) / 2
    lines = [trends.of(name) for name in (mixture, source, other)]
    values = [line.slope * middle + line.intercept for line in lines]
    drawn_values = [line.slopes * middle + line.intercepts for line in lines]
    if values[1] == values[2]:
        raise ValueError(f"expected lines of {source} and {other} that differ, found one place for both")
    return bootstrap_interval(
        (values[0] - values[2]) / (values[1] - values[2]),
        (drawn_values[0] - drawn_values[2]) / (drawn_values[1] - drawn_values[2]),
        level,
    )
