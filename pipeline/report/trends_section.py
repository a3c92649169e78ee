"""Trends arranged for the page: a panel for each shift, a ladder for each set, and the table of dilutions.

Here a colour stands for a mixture, whatever the number of its models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.analysis.results import BandPoint, Estimate, Ladder, Standing, Trend
from pipeline.report import accuracy_section
from pipeline.report.figures import Band, Rung, Steps
from pipeline.report.schema import Report

_EDGE = 0.001  # accuracies of 0 and 1 are drawn this far inside, as they have no place on a probit axis


@dataclass(frozen=True)
class TrendPanel:
    """One shift: the points (position, reference, shift) of all models, the bands, and the baseline's line."""

    trend: Trend
    points: Sequence[tuple[int, float, float]]
    bands: Sequence[Band]
    line: tuple[float, float] | None


def positions(report: Report) -> dict[str, int]:
    """Each mixture's place, in the order of the trainings, and then of the models beside them; as in other parts."""
    place = accuracy_section.positions(report)
    beside = (one for trend in report["trends"] for one in trend["models"])
    rows = (*report["ladder"], *report["calibration"], *report["standings"], *report["filtered"], *beside)
    named = dict.fromkeys([row["mixture"] for row in rows] + [row["plain"] for row in report["filtered"]])
    after = max(place.values(), default=-1) + 1
    return {name: place.get(name, after + number) for number, name in enumerate(named)}


def panels(report: Report, place: dict[str, int]) -> list[TrendPanel]:
    """A panel for each shift, where any mixture was trained in more than one size."""
    return [_panel(one, place) for one in report["trends"] if one["groups"]]


def _panel(trend: Trend, place: dict[str, int]) -> TrendPanel:
    points = [(place[one["mixture"]], _inside(one["reference"]), _inside(one["shift"])) for one in trend["models"]]
    bands = [Band(place[one["mixture"]], _points(one["band"])) for one in trend["groups"]]
    base = trend["baseline"]
    return TrendPanel(trend, points, bands, (base["slope"], base["intercept"]) if base else None)


def _points(band: Iterable[BandPoint]) -> list[tuple[float, float, float, float]]:
    return [
        (_inside(one["reference"]), _inside(one["line"]), _inside(one["low"]), _inside(one["high"])) for one in band
    ]


def _inside(fraction: float) -> float:
    return min(max(fraction, _EDGE), 1 - _EDGE)


def limits(shown: Sequence[TrendPanel]) -> tuple[float, float]:
    """The common ends of all probit axes (fractions), a little outside every point."""
    ends = [end for panel in shown for _, *ends in panel.points for end in ends]
    low, high = min(ends, default=0.05), max(ends, default=0.95)
    return max(low * 0.85, low / 2), min(1 - 0.85 * (1 - high), 1 - (1 - high) / 2)


def ladders(report: Report, place: dict[str, int]) -> list[tuple[str, list[Steps]]]:
    """For each set its mixtures' accuracies by size, of the mixtures that have more than one size."""
    found = []
    for name in dict.fromkeys(row["set"] for row in report["ladder"]):
        rows = [row for row in report["ladder"] if row["set"] == name]
        steps = [Steps(at, rungs) for mixture, at in place.items() if len(rungs := _rungs(rows, mixture)) > 1]
        if steps:
            found.append((name, steps))
    return found


def _rungs(rows: Iterable[Ladder], mixture: str) -> list[Rung]:
    return [Rung(row["size"], row["mean"], row["least"], row["most"]) for row in rows if row["mixture"] == mixture]


def effective(report: Report) -> dict[str, dict[str, Estimate]]:
    """By shift and mixture, and model beside them, the effective robustness; none where a shift has no baseline."""
    found: dict[str, dict[str, Estimate]] = {one["set"]: {} for one in report["trends"]}
    for row in report["standings"]:
        if row["effective"] is not None:
            found.setdefault(row["set"], {})[row["mixture"]] = row["effective"]
    compared = {row["mixture"] for row in report["standings"]}
    for trend in report["trends"]:
        for one in trend["models"]:
            if one["effective"] is not None and one["mixture"] not in compared:
                found[trend["set"]][one["mixture"]] = one["effective"]
    return found


def leaders(report: Report) -> dict[str, dict[str, Standing]]:
    """By mixture and set how it stands, where it was trained in several sizes or with several seeds."""
    found: dict[str, dict[str, Standing]] = {}
    for row in report["standings"]:
        found.setdefault(row["mixture"], {})[row["set"]] = row
    models = {one["model"] for trend in report["trends"] for one in trend["models"]}
    return found if len(models) > len(found) else {}
