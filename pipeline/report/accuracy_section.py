"""Accuracies arranged for the page: the table of mixtures by evaluation set, and the points of each shift."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.analysis.results import Robustness
from pipeline.mixtures.names import base_name
from pipeline.report.figures import AccuracyInterval, Point
from pipeline.report.schema import AccuracyResult, EvaluationSetSummary, ReportData

_DEFAULT_EDGE = 0.001  # a point whose number of images is unknown is drawn no closer to 0 or 1 than this


_CHANCE_MARGIN = 1.1


@dataclass(frozen=True)
class MixtureRow:
    """One mixture's results, set by set; None where it was not evaluated. `position` gives its colour."""

    mixture: str
    position: int
    results: Sequence[AccuracyResult | None]


@dataclass(frozen=True)
class AccuracyTable:
    """Accuracy by mixture and evaluation set, the reference first. `best` is the highest accuracy on each set."""

    sets: Sequence[EvaluationSetSummary]
    rows: Sequence[MixtureRow]
    best: Sequence[float | None]


@dataclass(frozen=True)
class ShiftPanel:
    """One shift of the robustness figure. `clipped` counts points moved off 0 or 1 so that they can be drawn."""

    shift: Robustness
    points: Sequence[Point]
    clipped: int


def mixture_positions(report: ReportData) -> dict[str, int]:
    """Each mixture's position, which gives its colour and marker: as blended, then those that only the results name.

    All sizes and seeds of a mixture have its position.
    """
    names = [mixture["name"] for mixture in report["mixtures"]]
    names += [result["mixture"] for result in report["evaluation"]["results"]]
    names += [point["mixture"] for shift in report["robustness"] for point in shift["points"]]
    families = {name: position for position, name in enumerate(dict.fromkeys(map(_family, names)))}
    return {name: families[_family(name)] for name in dict.fromkeys(names)}


def _family(label: str) -> str:
    return base_name(label).partition(" (seed ")[0]


def accuracy_table(report: ReportData) -> AccuracyTable:
    """All results as a table; a mixture without results has no row."""
    evaluation = report["evaluation"]
    by_key = _by_key(evaluation["results"])
    sets = sorted(evaluation["sets"], key=lambda evaluation_set: evaluation_set["name"] != evaluation["reference"])
    rows = [
        MixtureRow(mixture, position, [by_key.get((mixture, evaluation_set["name"])) for evaluation_set in sets])
        for mixture, position in mixture_positions(report).items()
    ]
    rows = [row for row in rows if any(row.results)]
    columns = [[result["top1"] for row in rows if (result := row.results[number])] for number in range(len(sets))]
    return AccuracyTable(sets, rows, [max(column, default=None) for column in columns])


def whiskers(table: AccuracyTable, column: int) -> list[AccuracyInterval]:
    """The accuracies with their intervals in one evaluation set's panel."""
    return [
        AccuracyInterval(row.mixture, row.position, result["top1"], result["low"], result["high"])
        for row in table.rows
        if (result := row.results[column])
    ]


def accuracy_limit(table: AccuracyTable) -> float:
    """The right end of every accuracy panel (fraction): the next tenth above all intervals and chance."""
    highs = [result["high"] for row in table.rows for result in row.results if result]
    highs += [_CHANCE_MARGIN * evaluation_set["chance"] for evaluation_set in table.sets]
    tenths = int(10 * max(highs, default=1.0) + 1 - 1e-9)
    return min(max(tenths, 1), 10) / 10


def panels(report: ReportData) -> list[ShiftPanel]:
    """The points of every shift that has any, with their intervals where there are results for them."""
    by_key, position_of = _by_key(report["evaluation"]["results"]), mixture_positions(report)
    panels: list[ShiftPanel] = []
    for shift in report["robustness"]:
        points: list[Point] = []
        clipped = 0
        for point in shift["points"]:
            reference = by_key.get((point["mixture"], report["evaluation"]["reference"]))
            x, x_clipped = _clipped(point["reference"], reference)
            y, y_clipped = _clipped(point["shift"], by_key.get((point["mixture"], shift["set"])))
            points.append(Point(position_of[point["mixture"]], x, y))
            clipped += x_clipped or y_clipped
        if points:
            panels.append(ShiftPanel(shift, points, clipped))
    return panels


def probit_limits(shown: Sequence[ShiftPanel]) -> tuple[float, float]:
    """The common ends of all probit axes (fractions), a little outside every whisker."""
    ends = [end for panel in shown for point in panel.points for end in (*point.reference, *point.shift)]
    low, high = min(ends, default=0.05), max(ends, default=0.95)
    return max(low * 0.85, low / 2), min(1 - 0.85 * (1 - high), 1 - (1 - high) / 2)


def _by_key(results: Iterable[AccuracyResult]) -> dict[tuple[str, str], AccuracyResult]:
    return {(result["mixture"], result["set"]): result for result in results}


def _clipped(value: float, result: AccuracyResult | None) -> tuple[tuple[float, float, float], bool]:
    """((value, low, high), clipped): all within [0.5/n, 1 - 0.5/n], because the probit of 0 and 1 is infinite."""
    edge = 0.5 / result["n"] if result and result["n"] else _DEFAULT_EDGE
    low, high = (result["low"], result["high"]) if result else (value, value)
    inside = min(max(value, edge), 1 - edge)
    return (inside, min(max(low, edge), 1 - edge), min(max(high, edge), 1 - edge)), inside != value
