"""The simple theory's pooling rule: how much of each source's line is in the line of their mixture.

The rule: a linear classifier w = mean of y x, trained on a mixture with shares p_s of sources with means m_s, has the
line that mixes the sources' lines with weights lambda_s = p_s <m_s, mu> / sum of the same, where mu is the mean of the
reference set (y = +-1, x|y ~ N(y mu, sigma^2 I)). A source that helps more on the reference weighs more than its share.
<m_s, mu> is not seen, but sources that were trained at the same sizes have reference accuracies whose probits stand in
the ratio of it as long as |m_s| is alike. This is a reconstruction of the simplest model in which each source has
its own line (Nguyen et al. 2022 give insights from such a simple setting), not a law of trained networks.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.robustness.axes import Floats
from pipeline.robustness.intervals import Interval, interval
from pipeline.robustness.trends import Trends, common_range


def pooling_weights(shares: Mapping[str, float], strengths: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return lambda_s = p_s k_s / sum of p k for each source with a share p; `strengths` k of any one shape.

    Shares need not sum to 1. A strength that is not above 0 makes all weights of its draw NaN: a source that is no
    better than guessing has no line that could be mixed. Raises ValueError for shares that are negative or all 0, and
    for a source without a strength.
    """
    if not all(share >= 0 for share in shares.values()) or not 0 < sum(shares.values()) < np.inf:
        raise ValueError(f"expected shares >= 0 that are not all 0, found {dict(shares)}")
    if missing := sorted(set(shares) - set(strengths)):
        raise ValueError(f"expected a strength for each source, found none for {', '.join(missing)}")
    parts = {name: share * np.where(strengths[name] > 0, strengths[name], np.nan) for name, share in shares.items()}
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}


def strengths(trends: Trends, sources: Sequence[str], chance: float) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return each source's strength, estimated (a 0-d array) and drawn (draws,): how far it is above guessing.

    That is the mean place on the reference of its models at the sizes that all sources were trained at, minus the place
    of `chance` (1 / classes). The mean is over models within a size, then over sizes. Raises ValueError where the
    trends know no sizes or the sources share none.
    """
    sizes = trends.sizes
    if sizes is None:
        raise ValueError("expected trends over sizes: strengths compare sources at the same number of pairs")
    shared = sorted(set.intersection(*(set(sizes[trends.members(name)].tolist()) for name in sources)))
    if not shared:
        raise ValueError(f"expected a size that all of {', '.join(sources)} were trained at, found none")
    zero, found, drawn = float(trends.axis.forward(chance)), dict[str, Floats](), dict[str, Floats]()
    for name in sources:
        at = [trends.members(name) & (sizes == size) for size in shared]
        found[name] = np.mean([trends.x[one].mean() for one in at], axis=0) - zero
        drawn[name] = np.mean([_mean(trends.drawn_x[:, one], trends.weights[:, one]) for one in at], axis=0) - zero
    return found, drawn


def _mean(values: Floats, weights: Floats) -> Floats:
    mean: Floats = (values * weights).sum(1) / weights.sum(1)
    return mean


def weight_found(trends: Trends, mixture: str, source: str, other: str, level: float = 0.95) -> Interval:
    """Return the weight lambda of `source` against `other` that a measured mixture of the two shows.

    That is where the mixture's line lies between theirs, 0 on `other`'s and 1 on `source`'s, at the middle of the
    range of reference accuracy that all three span. Raises ValueError where there is no such range or no line, or where
    the sources' lines meet there.
    """
    shared = common_range(trends, (mixture, source, other))
    if shared is None:
        raise ValueError(
            f"expected a range of reference accuracy that {mixture}, {source} and {other} share, found none"
        )
    middle = sum(shared) / 2
    lines = [trends.of(name) for name in (mixture, source, other)]
    at = [line.slope * middle + line.intercept for line in lines]
    drawn = [line.slopes * middle + line.intercepts for line in lines]
    if at[1] == at[2]:
        raise ValueError(f"expected lines of {source} and {other} that differ, found one place for both")
    return interval((at[0] - at[2]) / (at[1] - at[2]), (drawn[0] - drawn[2]) / (drawn[1] - drawn[2]), level)
