"""What experiments/dilution.yaml has to say of four claims, out of its finished store, as a page of Markdown.

    python -m experiments.claims experiments/dilution.yaml

Each number is a difference of accuracies in points, with its 95 % interval from 1,000 draws of images and seeds, which
are the same for both sides. A mean distance from a source's line is that of
`pipeline.robustness.effective.mean_excess`.
"""

import sys
from pathlib import Path

from jobs.experiment import load
from jobs.findings import Grid, answered, beside_label
from jobs.run import Run
from pipeline.findings import Shift, lines
from pipeline.progress import Display
from pipeline.robustness.axes import Floats
from pipeline.robustness.bootstrap import Interval, interval
from pipeline.robustness.dilution import dilution
from pipeline.robustness.effective import mean_excess
from pipeline.robustness.trends import Trends

ONE, OTHER, MIXED = "yfcc_only", "wit_only", "yfcc_wit_half"
FILTERED, SCORER = "wit_clip_top", "scorer"
CLEANED = "yfcc_clean"


def _trends(grid: Grid, reference: str, shift: Shift) -> Trends:
    found = lines([*grid.trained, *grid.beside], reference, shift)
    assert found is not None, "the grid has one size alone"
    return found


def _excess(trends: Trends, group: str, source: str) -> Interval:
    return interval(*mean_excess(trends, group, trends.of(source)))


def _accuracy(trends: Trends, group: str, shift: bool) -> tuple[float, Floats]:
    """Return a group's mean accuracy on the shift or the reference, and that of each draw (draws,)."""
    mine, inverse = trends.members(group), trends.axis.inverse
    places, drawn = (trends.y, trends.drawn_y) if shift else (trends.x, trends.drawn_x)
    weights = trends.weights[:, mine]
    return float(inverse(places[mine]).mean()), (inverse(drawn[:, mine]) * weights).sum(1) / weights.sum(1)


def _more(trends: Trends, group: str, other: str, shift: bool = True) -> Interval:
    """Return a group's mean accuracy less another's."""
    (mine, mines), (less, lesses) = _accuracy(trends, group, shift), _accuracy(trends, other, shift)
    return interval(mine - less, mines - lesses)


def _said(found: Interval) -> str:
    side = "" if found.low <= 0 <= found.high else " (above)" if found.low > 0 else " (below)"
    return f"{100 * found.estimate:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{side}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def page(grid: Grid, reference: str) -> str:
    """Return the page."""
    by_shift = {shift.name: _trends(grid, reference, shift) for shift in grid.shifts}
    kinds = {shift.name: shift.kind for shift in grid.shifts}
    better = [
        [name, kinds[name], _said(_more(one, OTHER, ONE)), _said(_excess(one, OTHER, ONE))]
        for name, one in by_shift.items()
    ]
    between = []
    for name, one in by_shift.items():
        judged = dilution(one, MIXED, [ONE, OTHER])
        between.append([name, judged.best, _said(judged.effective), str(judged.verdict), str(judged.span or "unknown")])
    moved = [
        [
            name,
            _said(_more(one, FILTERED, OTHER)),
            _said(_excess(one, FILTERED, OTHER)),
            _said(_excess(one, beside_label(SCORER), OTHER)),
        ]
        for name, one in by_shift.items()
    ]
    trends = next(iter(by_shift.values()))
    plain, clean = (100 * _accuracy(trends, name, False)[0] for name in (ONE, CLEANED))
    cleaned = [_said(_more(trends, CLEANED, ONE, False)), f"{plain:.1f}", f"{clean:.1f}"]
    return "\n\n".join(
        [
            f"**No single source is best on all shifts.** {OTHER} beside {ONE}:",
            _table(["shift", "kind", f"accuracy less {ONE}'s", f"distance from {ONE}'s line"], better),
            f"**A mixture's line lies between its sources'.** {MIXED}, from the line of its better source:",
            _table(["shift", "better source", "mean distance, points", "verdict", "its line"], between),
            f"**Filtering by CLIP score moves a source's line towards the scorer's.** {FILTERED} beside {OTHER}:",
            _table(["shift", f"accuracy less {OTHER}'s", f"distance from {OTHER}'s line", "the scorer's"], moved),
            f"**Removing evaluation copies lowers the reference accuracy.** {CLEANED} less {ONE} on {reference}:",
            _table(["points", f"{ONE}, %", f"{CLEANED}, %"], [cleaned]),
        ]
    )


def main(path: Path) -> None:
    """Print the page of a finished experiment."""
    run = Run(load(path, []), Display())
    sys.stdout.write(page(answered(run, False), run.experiment.file.evaluation.reference) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
