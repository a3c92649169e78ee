"""Trends arranged for the page: a panel for each shift, accuracy by size for each set, effective robustness.

Here a colour stands for a mixture, whatever the number of its models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.analysis.results import BandPoint, Estimate, RankingRow, SizeAccuracy, Trend
from pipeline.report import accuracy_section
from pipeline.report.figures import SizeCurve, SizePoint, TrendBand
from pipeline.report.schema import ReportData

_EDGE = 0.001  # accuracies of 0 and 1 are drawn this far inside, as their probit is infinite


@dataclass(frozen=True)
class TrendPanel:
    """One shift: the points (position, reference, shift) of all models, the bands, and the baseline's line."""

    trend: Trend
    points: Sequence[tuple[int, float, float]]
    bands: Sequence[TrendBand]
    line: tuple[float, float] | None


def trend_positions(report: ReportData) -> dict[str, int]:
    """Each mixture's position as in the other sections; then further mixtures and models that were not trained here."""
    position_of = accuracy_section.mixture_positions(report)
    models = (model for trend in report["trends"] for model in trend["models"])
    rows = (*report["ladder"], *report["calibration"], *report["standings"], *report["filtered"], *models)
    names = dict.fromkeys([row["mixture"] for row in rows] + [row["plain"] for row in report["filtered"]])
    first_free = max(position_of.values(), default=-1) + 1
    return {name: position_of.get(name, first_free + number) for number, name in enumerate(names)}


def trend_panels(report: ReportData, place: dict[str, int]) -> list[TrendPanel]:
    """A panel for each shift, where any mixture was trained in more than one size."""
    return [_panel(trend, place) for trend in report["trends"] if trend["groups"]]


def _panel(trend: Trend, positions: dict[str, int]) -> TrendPanel:
    points = [
        (positions[model["mixture"]], _clip(model["reference"]), _clip(model["shift"])) for model in trend["models"]
    ]
    bands = [TrendBand(positions[group["mixture"]], _points(group["band"])) for group in trend["groups"]]
    baseline = trend["baseline"]
    return TrendPanel(trend, points, bands, (baseline["slope"], baseline["intercept"]) if baseline else None)


def _points(band: Iterable[BandPoint]) -> list[tuple[float, float, float, float]]:
    return [
        (_clip(point["reference"]), _clip(point["line"]), _clip(point["low"]), _clip(point["high"])) for point in band
    ]


def _clip(fraction: float) -> float:
    return min(max(fraction, _EDGE), 1 - _EDGE)


def trend_limits(shown: Sequence[TrendPanel]) -> tuple[float, float]:
    """The common ends of all probit axes (fractions), a little outside every point."""
    ends = [end for panel in shown for _, *ends in panel.points for end in ends]
    low, high = min(ends, default=0.05), max(ends, default=0.95)
    return max(low * 0.85, low / 2), min(1 - 0.85 * (1 - high), 1 - (1 - high) / 2)


def accuracy_by_size(report: ReportData, place: dict[str, int]) -> list[tuple[str, list[SizeCurve]]]:
    """By evaluation set, the accuracies by size of the mixtures that have more than one size."""
    ladders = []
    for name in dict.fromkeys(row["set"] for row in report["ladder"]):
        rows = [row for row in report["ladder"] if row["set"] == name]
        steps = [
            SizeCurve(position, rungs) for mixture, position in place.items() if len(rungs := _rungs(rows, mixture)) > 1
        ]
        if steps:
            ladders.append((name, steps))
    return ladders


def _rungs(rows: Iterable[SizeAccuracy], mixture: str) -> list[SizePoint]:
    return [SizePoint(row["size"], row["mean"], row["least"], row["most"]) for row in rows if row["mixture"] == mixture]


def effective_by_set(report: ReportData) -> dict[str, dict[str, Estimate]]:
    """By shift, the effective robustness of each mixture and external model; none where a shift has no baseline."""
    by_set: dict[str, dict[str, Estimate]] = {trend["set"]: {} for trend in report["trends"]}
    for row in report["standings"]:
        if row["effective"] is not None:
            by_set.setdefault(row["set"], {})[row["mixture"]] = row["effective"]
    ranked = {row["mixture"] for row in report["standings"]}
    for trend in report["trends"]:
        for model in trend["models"]:
            if model["effective"] is not None and model["mixture"] not in ranked:
                by_set[trend["set"]][model["mixture"]] = model["effective"]
    return by_set


def ranking_by_mixture(report: ReportData) -> dict[str, dict[str, RankingRow]]:
    """The ranking by mixture and set; empty where each mixture was trained in one size with one seed."""
    by_mixture: dict[str, dict[str, RankingRow]] = {}
    for row in report["standings"]:
        by_mixture.setdefault(row["mixture"], {})[row["set"]] = row
    models = {model["model"] for trend in report["trends"] for model in trend["models"]}
    return by_mixture if len(models) > len(by_mixture) else {}
