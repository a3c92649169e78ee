"""Standings: who leads on a set and by how much, and what a filter did to the mixture that it was put on.

Arrays in, the report's plain data out. All intervals come from one set of draws over images and seeds
(`pipeline.robustness.trends`), the same for both sides of a difference.
"""

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.results import Estimate, Filtered, Standing
from pipeline.analysis.trends import Answered, Shift, drawn, estimate, evidence_of, ordered
from pipeline.robustness.axes import Floats
from pipeline.robustness.effective import drawn_line, mean_excess
from pipeline.robustness.intervals import clopper_pearson, interval
from pipeline.robustness.lines import DrawnLine
from pipeline.robustness.paired_accuracy import Evidence
from pipeline.robustness.trends import Trends

Mask = NDArray[np.bool_]


def compare(
    models: Iterable[Answered],
    reference: str,
    shift: Shift,
    baseline: Collection[str] = (),
    filters: Iterable[tuple[str, str]] = (),
) -> tuple[list[Standing], list[Filtered]]:
    """Return the standings of trained models under a shift, and what filters did: pairs of a mixture and the plain one.

    The reference itself may be asked for as a shift of the same images; it has no effective robustness. With one seed
    for each size the intervals leave out what a seed changes.
    """
    mine = ordered(one for one in models if one.trained)
    if not mine:
        return [], []
    evidence = evidence_of(mine, reference, shift)
    trends = drawn(mine, evidence)
    line = None if shift.name == reference else drawn_line(trends, baseline)
    return _standings(shift, evidence, trends, line), [_filtered(shift, trends, *both) for both in filters]


def _standings(shift: Shift, evidence: Evidence, trends: Trends, line: DrawnLine | None) -> list[Standing]:
    """Return the mixtures by their mean accuracy in their largest sizes, the highest first."""
    largest = {one: _largest(trends, one) for one in dict.fromkeys(trends.groups.tolist())}
    means = {one: _accuracy(trends, mine) for one, mine in largest.items()}
    ranked = sorted(means, key=lambda one: (-means[one][0], one))
    first, firsts = means[ranked[0]]
    found: list[Standing] = []
    for place, one in enumerate(ranked):
        mean, draws = means[one]
        found.append(
            {
                "set": shift.name,
                "kind": shift.kind,
                "mixture": one,
                "size": int(_sizes(trends)[largest[one]].max()),
                "seeds": int(largest[one].sum()),
                "accuracy": _mean(evidence, largest[one], mean, draws),
                "behind": estimate(interval(first - mean, firsts - draws)) if place else None,
                "effective": _excess(trends, one, line),
            }
        )
    return found


def _mean(evidence: Evidence, mine: Mask, mean: float, draws: Floats) -> Estimate:
    """Return a mean with its interval: of one model the exact one, of several that of the draws."""
    if mine.sum() > 1:
        return estimate(interval(mean, draws))
    correct, n = int(evidence.shift.correct[mine][0]), evidence.shift.n
    low, high = clopper_pearson(correct, n)
    return {"estimate": correct / n, "low": low, "high": high}


def _filtered(shift: Shift, trends: Trends, mixture: str, plain: str) -> Filtered:
    """Return what a filter did, over the sizes that both mixtures were trained in, or over all where there is none."""
    sizes, mine, other = _sizes(trends), trends.members(mixture), trends.members(plain)
    common = np.isin(sizes, np.intersect1d(sizes[mine], sizes[other]))
    both = (mine & common, other & common) if common.any() else (mine, other)
    line = trends.drawn.get(plain) if len(np.unique(sizes[other])) > 1 else None
    x, (low, high) = trends.x[mine], trends.range(plain)
    return {
        "set": shift.name,
        "kind": shift.kind,
        "mixture": mixture,
        "plain": plain,
        "reference": _gain(trends, *both, shift=False),
        "accuracy": _gain(trends, *both, shift=True),
        "moved": _excess(trends, mixture, line),
        "extrapolated": int(((x < low) | (x > high)).sum()),
    }


def _sizes(trends: Trends) -> NDArray[np.int64]:
    assert trends.sizes is not None, "draws of a grid know its sizes"
    return trends.sizes


def _largest(trends: Trends, group: str) -> Mask:
    mine, sizes = trends.members(group), _sizes(trends)
    largest: Mask = mine & (sizes == sizes[mine].max())
    return largest


def _accuracy(trends: Trends, mine: Mask, shift: bool = True) -> tuple[float, Floats]:
    """Return the mean accuracy of models on the shift or the reference, and that of each draw (draws,)."""
    inverse, weights = trends.axis.inverse, trends.weights[:, mine]
    places, drawn = (trends.y, trends.drawn_y) if shift else (trends.x, trends.drawn_x)
    return float(inverse(places[mine]).mean()), (inverse(drawn[:, mine]) * weights).sum(1) / weights.sum(1)


def _gain(trends: Trends, mine: Mask, other: Mask, shift: bool) -> Estimate:
    (mean, drawn), (less, lesses) = _accuracy(trends, mine, shift), _accuracy(trends, other, shift)
    return estimate(interval(mean - less, drawn - lesses))


def _excess(trends: Trends, group: str, line: DrawnLine | None) -> Estimate | None:
    if line is None:
        return None
    try:
        return estimate(interval(*mean_excess(trends, group, line)))
    except ValueError:  # too few of the line's draws have a value
        return None
