"""Accuracies arranged for the page: the table of mixtures against sets, and the points of each shift."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.analysis.results import Robustness
from pipeline.mixtures.names import unsized
from pipeline.report.figures import Point, Whisker
from pipeline.report.schema import EvaluationSet, Report, Result

_WITHOUT_COUNT = 0.001  # where a point's number of images is unknown, it is drawn no closer to 0 or 1 than this


_CHANCE_MARGIN = 1.1


@dataclass(frozen=True)
class Row:
    """One mixture's results, set by set; None where it was not evaluated. `position` gives its colour."""

    mixture: str
    position: int
    results: Sequence[Result | None]


@dataclass(frozen=True)
class Matrix:
    """Mixtures against sets, the reference first. `best` is the highest accuracy on each set."""

    sets: Sequence[EvaluationSet]
    rows: Sequence[Row]
    best: Sequence[float | None]


@dataclass(frozen=True)
class Panel:
    """One shift of the robustness figure. `clipped` counts points moved off 0 or 1 to be drawable."""

    shift: Robustness
    points: Sequence[Point]
    clipped: int


def positions(report: Report) -> dict[str, int]:
    """Each mixture's place, which gives its colour and mark: as blended, then any that only the results name.

    A mixture's sizes and seeds have its place.
    """
    named = [mixture["name"] for mixture in report["mixtures"]]
    named += [result["mixture"] for result in report["evaluation"]["results"]]
    named += [point["mixture"] for shift in report["robustness"] for point in shift["points"]]
    families = {name: place for place, name in enumerate(dict.fromkeys(map(_family, named)))}
    return {name: families[_family(name)] for name in dict.fromkeys(named)}


def _family(label: str) -> str:
    return unsized(label).partition(" (seed ")[0]


def matrix(report: Report) -> Matrix:
    """All results as a table; mixtures without any result have no row."""
    evaluation = report["evaluation"]
    found = _by_key(evaluation["results"])
    sets = sorted(evaluation["sets"], key=lambda each: each["name"] != evaluation["reference"])
    rows = [
        Row(mixture, position, [found.get((mixture, each["name"])) for each in sets])
        for mixture, position in positions(report).items()
    ]
    rows = [row for row in rows if any(row.results)]
    columns = [[result["top1"] for row in rows if (result := row.results[place])] for place in range(len(sets))]
    return Matrix(sets, rows, [max(column, default=None) for column in columns])


def whiskers(table: Matrix, column: int) -> list[Whisker]:
    """The rows of one set's panel."""
    return [
        Whisker(row.mixture, row.position, result["top1"], result["low"], result["high"])
        for row in table.rows
        if (result := row.results[column])
    ]


def upper_end(table: Matrix) -> float:
    """The right end of every accuracy panel (fraction): the next tenth above all intervals and chance."""
    highs = [result["high"] for row in table.rows for result in row.results if result]
    highs += [_CHANCE_MARGIN * each["chance"] for each in table.sets]
    tenths = int(10 * max(highs, default=1.0) + 1 - 1e-9)
    return min(max(tenths, 1), 10) / 10


def panels(report: Report) -> list[Panel]:
    """The points of every shift that has any, with their intervals where the results know them."""
    found, place = _by_key(report["evaluation"]["results"]), positions(report)
    drawn: list[Panel] = []
    for shift in report["robustness"]:
        points: list[Point] = []
        clipped = 0
        for point in shift["points"]:
            reference = found.get((point["mixture"], report["evaluation"]["reference"]))
            x, moved_x = _drawable(point["reference"], reference)
            y, moved_y = _drawable(point["shift"], found.get((point["mixture"], shift["set"])))
            points.append(Point(place[point["mixture"]], x, y))
            clipped += moved_x or moved_y
        if points:
            drawn.append(Panel(shift, points, clipped))
    return drawn


def limits(shown: Sequence[Panel]) -> tuple[float, float]:
    """The common ends of all probit axes (fractions), a little outside every whisker."""
    ends = [end for panel in shown for point in panel.points for end in (*point.reference, *point.shift)]
    low, high = min(ends, default=0.05), max(ends, default=0.95)
    return max(low * 0.85, low / 2), min(1 - 0.85 * (1 - high), 1 - (1 - high) / 2)


def _by_key(results: Iterable[Result]) -> dict[tuple[str, str], Result]:
    return {(result["mixture"], result["set"]): result for result in results}


def _drawable(value: float, result: Result | None) -> tuple[tuple[float, float, float], bool]:
    """((value, low, high), moved): all inside [0.5/n, 1 - 0.5/n], for the probit of 0 and 1 is infinite."""
    edge = 0.5 / result["n"] if result and result["n"] else _WITHOUT_COUNT
    low, high = (result["low"], result["high"]) if result else (value, value)
    inside = min(max(value, edge), 1 - edge)
    return (inside, min(max(low, edge), 1 - edge), min(max(high, edge), 1 - edge)), inside != value
