"""Ranking of the mixtures on each evaluation set, and the effect of a filter on the mixture it is applied to.

Arrays in, the report's plain data out. All intervals come from one set of draws over images and seeds
(`pipeline.robustness.trends`), the same for both sides of a difference.
"""

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.results import Estimate, FilterEffect, RankingRow
from pipeline.analysis.trends import (
    ModelAnswers,
    ShiftedSet,
    as_estimate,
    bootstrap_trends,
    paired_accuracies,
    sort_models,
)
from pipeline.robustness.axes import Floats
from pipeline.robustness.effective import bootstrap_line, mean_effective_robustness
from pipeline.robustness.intervals import bootstrap_interval, clopper_pearson
from pipeline.robustness.lines import BootstrapLine
from pipeline.robustness.paired_accuracy import PairedAccuracies
from pipeline.robustness.trends import TrendLines

Mask = NDArray[np.bool_]


def rank_mixtures(
    models: Iterable[ModelAnswers],
    reference: str,
    shift: ShiftedSet,
    baseline: Collection[str] = (),
    filters: Iterable[tuple[str, str]] = (),
) -> tuple[list[RankingRow], list[FilterEffect]]:
    """Return the ranking of the trained mixtures under a shift, and the effects of `filters`.

    `filters` are pairs of a filtered mixture and the plain one. The reference itself may be passed as a shift of the
    same images; it has no effective robustness. With one seed for each size the intervals do not include the variation
    between seeds.
    """
    trained = sort_models(model for model in models if model.trained)
    if not trained:
        return [], []
    evidence = paired_accuracies(trained, reference, shift)
    trends = bootstrap_trends(trained, evidence)
    line = None if shift.name == reference else bootstrap_line(trends, baseline)
    return _ranking(shift, evidence, trends, line), [_filter_effect(shift, trends, *names) for names in filters]


def _ranking(
    shift: ShiftedSet, evidence: PairedAccuracies, trends: TrendLines, line: BootstrapLine | None
) -> list[RankingRow]:
    """Return the mixtures by decreasing mean accuracy in their largest sizes."""
    largest = {mixture: _largest(trends, mixture) for mixture in dict.fromkeys(trends.groups.tolist())}
    means = {mixture: _accuracy(trends, members) for mixture, members in largest.items()}
    ranked = sorted(means, key=lambda mixture: (-means[mixture][0], mixture))
    first, first_draws = means[ranked[0]]
    rows: list[RankingRow] = []
    for rank, mixture in enumerate(ranked):
        mean, draws = means[mixture]
        rows.append(
            {
                "set": shift.name,
                "kind": shift.kind,
                "mixture": mixture,
                "size": int(_sizes(trends)[largest[mixture]].max()),
                "seeds": int(largest[mixture].sum()),
                "accuracy": _mean(evidence, largest[mixture], mean, draws),
                "behind": as_estimate(bootstrap_interval(first - mean, first_draws - draws)) if rank else None,
                "effective": _effective(trends, mixture, line),
            }
        )
    return rows


def _mean(evidence: PairedAccuracies, members: Mask, mean: float, draws: Floats) -> Estimate:
    """Return a mean with its interval: the exact one for one model, that of the draws for several."""
    if members.sum() > 1:
        return as_estimate(bootstrap_interval(mean, draws))
    correct, n = int(evidence.shift.correct[members][0]), evidence.shift.n
    low, high = clopper_pearson(correct, n)
    return {"estimate": correct / n, "low": low, "high": high}


def _filter_effect(shift: ShiftedSet, trends: TrendLines, mixture: str, plain: str) -> FilterEffect:
    """Return a filter's effect, over the sizes that both mixtures were trained in, or over all where there are none."""
    sizes, members, plain_members = _sizes(trends), trends.members(mixture), trends.members(plain)
    common = np.isin(sizes, np.intersect1d(sizes[members], sizes[plain_members]))
    compared = (members & common, plain_members & common) if common.any() else (members, plain_members)
    line = trends.drawn.get(plain) if len(np.unique(sizes[plain_members])) > 1 else None
    x, (low, high) = trends.x[members], trends.range(plain)
    return {
        "set": shift.name,
        "kind": shift.kind,
        "mixture": mixture,
        "plain": plain,
        "reference": _gain(trends, *compared, shift=False),
        "accuracy": _gain(trends, *compared, shift=True),
        "moved": _effective(trends, mixture, line),
        "extrapolated": int(((x < low) | (x > high)).sum()),
    }


def _sizes(trends: TrendLines) -> NDArray[np.int64]:
    assert trends.sizes is not None, "the trends of a grid have sizes"
    return trends.sizes


def _largest(trends: TrendLines, group: str) -> Mask:
    members, sizes = trends.members(group), _sizes(trends)
    largest: Mask = members & (sizes == sizes[members].max())
    return largest


def _accuracy(trends: TrendLines, members: Mask, shift: bool = True) -> tuple[float, Floats]:
    """Return the mean accuracy of models on the shift or the reference, and that of each draw (draws,)."""
    inverse, weights = trends.axis.inverse, trends.weights[:, members]
    places, drawn = (trends.y, trends.drawn_y) if shift else (trends.x, trends.drawn_x)
    return float(inverse(places[members]).mean()), (inverse(drawn[:, members]) * weights).sum(1) / weights.sum(1)


def _gain(trends: TrendLines, members: Mask, plain_members: Mask, shift: bool) -> Estimate:
    (mean, drawn), (plain_mean, plain_drawn) = (
        _accuracy(trends, members, shift),
        _accuracy(trends, plain_members, shift),
    )
    return as_estimate(bootstrap_interval(mean - plain_mean, drawn - plain_drawn))


def _effective(trends: TrendLines, group: str, line: BootstrapLine | None) -> Estimate | None:
    if line is None:
        return None
    try:
        return as_estimate(bootstrap_interval(*mean_effective_robustness(trends, group, line)))
    except ValueError:  # too few of the line's draws have a value
        return None
