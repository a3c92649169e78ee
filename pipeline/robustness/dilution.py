"""Dilution: does a mixture of sources keep the robustness of the best of them (Nguyen et al. 2022)?"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np

from pipeline.robustness.axes import Floats
from pipeline.robustness.effective import mean_effective_robustness
from pipeline.robustness.intervals import Interval, bootstrap_interval
from pipeline.robustness.trends import TrendLines, common_range


class DilutionVerdict(StrEnum):
    """A mixture against its best source: the sign of the whole interval of its effective robustness."""

    DILUTED = "diluted"
    BETTER = "better"
    UNDECIDED = "undecided"


class SpanVerdict(StrEnum):
    """A mixture's line against the span of its sources' lines: the sign of the whole interval of its margin."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNDECIDED = "undecided"


_VERDICTS = {-1: DilutionVerdict.DILUTED, 0: DilutionVerdict.UNDECIDED, 1: DilutionVerdict.BETTER}


_SPANS = {-1: SpanVerdict.OUTSIDE, 0: SpanVerdict.UNDECIDED, 1: SpanVerdict.INSIDE}


@dataclass(frozen=True)
class MixtureComparison:
    """A mixture's robustness compared with that of its sources.

    `effective`: mean over the mixture's models of accuracy under the shift minus what `best`'s line predicts at the
    model's reference accuracy (a fraction). `best` is the source for which that is smallest. `verdict`: DILUTED where
    the whole interval is below 0, BETTER where it is above 0, else UNDECIDED. `extrapolated` counts the mixture's
    models whose reference accuracy lies outside the range of `best`'s models.

    `margin`: the smallest distance, on the axis, from the mixture's line to the edge of the span of its sources' lines
    over the range of reference accuracy that all of them share; negative where the line leaves the span. `span`: INSIDE
    where the whole interval is above 0, OUTSIDE where it is below 0, else UNDECIDED. Both are None without a shared
    range. Sources with the same line span nothing, so any noise is outside: OUTSIDE was then reported in 10 to 17 of
    100 simulations; where a mixture lay on one of two different lines, in 3 or 4.
    """

    mixture: str
    sources: tuple[str, ...]
    best: str
    effective: Interval
    verdict: DilutionVerdict
    extrapolated: int
    margin: Interval | None
    span: SpanVerdict | None


@dataclass(frozen=True)
class MixingComparison:
    """Input mixing (training on the mixture) compared with output mixing (the mean of the sources' outputs).

    `gain` is the effective robustness of output mixing minus that of input mixing, both from the line of the best
    source of the input mixture: a fraction, from paired draws.
    """

    inputs: MixtureComparison
    outputs: MixtureComparison
    gain: Interval


def compare_with_sources(
    trends: TrendLines, mixture: str, sources: Sequence[str], level: float = 0.95
) -> MixtureComparison:
    """Compare a mixture with its sources, each a group of `trends`.

    The best source is chosen once, not in each draw. Where two sources are about equal, the better one is better partly
    by chance, and DILUTED is reported slightly more often than the level allows. The verdicts of many mixtures are not
    corrected for multiple comparisons. Raises ValueError for fewer than two sources and for a group without a line.
    """
    best = _best_source(trends, mixture, sources)
    return _compare_with_sources(trends, mixture, sources, best, level)


def compare_with_ensemble(
    trends: TrendLines, mixture: str, ensemble: str, sources: Sequence[str], level: float = 0.95
) -> MixingComparison:
    """Compare a mixture and the ensemble of its sources' models (`ensembling.mix_outputs`), both groups of `trends`.

    Both are measured from the line of the mixture's best source. Raises as `dilution` does.
    """
    best = _best_source(trends, mixture, sources)
    output_excess, output_draws = mean_effective_robustness(trends, ensemble, trends.of(best))
    input_excess, input_draws = mean_effective_robustness(trends, mixture, trends.of(best))
    return MixingComparison(
        _compare_with_sources(trends, mixture, sources, best, level),
        _compare_with_sources(trends, ensemble, sources, best, level),
        bootstrap_interval(output_excess - input_excess, output_draws - input_draws, level),
    )


def _best_source(trends: TrendLines, mixture: str, sources: Sequence[str]) -> str:
    if len(set(sources)) < 2 or mixture in sources:
        raise ValueError(f"expected two or more sources beside {mixture}, found {', '.join(sources) or 'none'}")
    return min(sorted(sources), key=lambda source: mean_effective_robustness(trends, mixture, trends.of(source))[0])


def _compare_with_sources(
    trends: TrendLines, mixture: str, sources: Sequence[str], best: str, level: float
) -> MixtureComparison:
    effective = bootstrap_interval(*mean_effective_robustness(trends, mixture, trends.of(best)), level)
    low, high = trends.range(best)
    x = trends.x[trends.members(mixture)]
    margin = _margin(trends, mixture, sources, level)
    return MixtureComparison(
        mixture=mixture,
        sources=tuple(sources),
        best=best,
        effective=effective,
        verdict=_VERDICTS[_sign(effective)],
        extrapolated=int(((x < low) | (x > high)).sum()),
        margin=margin,
        span=None if margin is None else _SPANS[_sign(margin)],
    )


def _sign(estimate: Interval) -> int:
    return -1 if estimate.high < 0 else int(estimate.low > 0)


def _margin(trends: TrendLines, mixture: str, sources: Sequence[str], level: float) -> Interval | None:
    shared = common_range(trends, (mixture, *sources))
    if shared is None:
        return None
    lines = [trends.of(name) for name in (mixture, *sources)]
    margins = _smallest_margin(
        np.array([[line.slope] for line in lines]), np.array([[line.intercept] for line in lines]), *shared
    )
    drawn_margins = _smallest_margin(
        np.stack([line.slopes for line in lines]), np.stack([line.intercepts for line in lines]), *shared
    )
    return bootstrap_interval(float(margins[0]), drawn_margins, level)


def _smallest_margin(slopes: Floats, intercepts: Floats, low: float, high: float) -> Floats:
    """The smallest margin (draws,) of the first line in the span of the others (lines, draws) from `low` to `high`.

    The upper edge of a span of lines is convex and the lower one concave, so a line comes nearest to either at an end
    of the range or where two sources' lines cross.
    """
    places = [np.full(slopes.shape[1], low), np.full(slopes.shape[1], high)]
    for a, b in combinations(range(1, len(slopes)), 2):
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = (intercepts[b] - intercepts[a]) / (slopes[a] - slopes[b])
        places.append(np.where((crossing > low) & (crossing < high), crossing, low))
    values = slopes[:, :, None] * np.stack(places, -1) + intercepts[:, :, None]
    least: Floats = np.minimum(values[1:].max(0) - values[0], values[0] - values[1:].min(0)).min(-1)
    return least
