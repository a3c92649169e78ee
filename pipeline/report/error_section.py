"""Error analysis of one model of each mixture, arranged for the page: reliability diagrams, class drops, mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.analysis.results import Calibration, ClassDrops, Mistakes
from pipeline.report.figures import ReliabilityCurve
from pipeline.report.schema import ReportData

_MIXTURES_PER_DIAGRAM = 8  # as many as there are colours


_MAX_MIXTURES = 24  # drawn, or shown as columns; for more, a table with a row for each is more readable


_MAX_CLASSES = 12


@dataclass(frozen=True)
class ReliabilityDiagram:
    """Mixtures on one evaluation set; `shown` names them where they are not all, and is empty otherwise."""

    set: str
    images: int
    shown: Sequence[str]
    curves: Sequence[ReliabilityCurve]


@dataclass(frozen=True)
class ClassDrop:
    """A class: its number of images in the reference and the shift, and each mixture's two accuracies (fractions)."""

    name: str
    images: tuple[int, int]
    accuracies: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class LargestDrops:
    """The classes of a shift with the largest mean accuracy drop over `mixtures`, and how many classes there are."""

    set: str
    classes: int
    left_out: int
    mixtures: Sequence[str]
    rows: Sequence[ClassDrop]


def calibration_by_set(report: ReportData) -> dict[str, list[Calibration]]:
    """The calibration of every mixture by evaluation set, the reference first."""
    rows_by_set: dict[str, list[Calibration]] = {}
    for row in report["calibration"]:
        rows_by_set.setdefault(row["set"], []).append(row)
    return dict(sorted(rows_by_set.items(), key=lambda item: item[0] != report["evaluation"]["reference"]))


def reliability_diagrams(
    sets: Mapping[str, Sequence[Calibration]], positions: Mapping[str, int]
) -> list[ReliabilityDiagram]:
    """The diagrams of each set, split so that no colour stands for two mixtures; none where there are too many."""
    drawn: list[ReliabilityDiagram] = []
    for name, rows in sets.items():
        if len(rows) > _MAX_MIXTURES:
            continue
        for start in range(0, len(rows), _MIXTURES_PER_DIAGRAM):
            group = rows[start : start + _MIXTURES_PER_DIAGRAM]
            shown = [row["mixture"] for row in group] if len(rows) > _MIXTURES_PER_DIAGRAM else []
            drawn.append(ReliabilityDiagram(name, rows[0]["images"], shown, [_curve(row, positions) for row in group]))
    return drawn


def _curve(row: Calibration, positions: Mapping[str, int]) -> ReliabilityCurve:
    bins = [
        (part["confidence"], part["accuracy"], part["share"])
        for part in row["bins"]
        if part["confidence"] is not None and part["accuracy"] is not None
    ]
    return ReliabilityCurve(positions[row["mixture"]], bins)


def largest_drops(drops: ClassDrops) -> LargestDrops:
    """The classes with the largest mean drop over all mixtures on one shift, the largest first; only drops above 0.

    Where there are many mixtures, only the first are shown as columns.
    """
    models = drops["mixtures"]
    rows: list[tuple[float, ClassDrop]] = []
    for number, name in enumerate(drops["classes"]):
        pairs = [(model["reference"][number], model["shift"][number]) for model in models]
        mean = sum(before - after for before, after in pairs) / len(pairs)
        images = drops["reference_images"][number], drops["shift_images"][number]
        if mean > 0:
            rows.append((mean, ClassDrop(name, images, pairs[:_MAX_MIXTURES])))
    rows.sort(key=lambda row: -row[0])
    names = [model["mixture"] for model in models]
    left_out = len(drops["left_out"])
    largest = [row for _, row in rows[:_MAX_CLASSES]]
    return LargestDrops(drops["set"], len(drops["classes"]), left_out, names[:_MAX_MIXTURES], largest)


def shown_mistakes(report: ReportData) -> dict[str, list[Mistakes]]:
    """By shift, the mixtures that have example images of mistakes."""
    by_shift: dict[str, list[Mistakes]] = {}
    for row in report["mistakes"]:
        if row["examples"]:
            by_shift.setdefault(row["set"], []).append(row)
    return by_shift
