"""One model of each mixture arranged for the page: reliability diagrams, largest drops, mistakes by shift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.analysis.results import Calibration, ClassDrops, Mistakes
from pipeline.report.figures import Curve
from pipeline.report.schema import Report

_TOGETHER = 8  # mixtures in one diagram: as many as there are colours


_MOST_MIXTURES = 24  # that are drawn, or are columns: of more, a table with a row for each says more


_MOST_CLASSES = 12


@dataclass(frozen=True)
class Diagram:
    """Some mixtures on one set; `shown` names them where they are not all, and is empty otherwise."""

    set: str
    images: int
    shown: Sequence[str]
    curves: Sequence[Curve]


@dataclass(frozen=True)
class Drop:
    """A class: its images on the reference and on the shift, and each mixture's two accuracies (fractions)."""

    name: str
    images: tuple[int, int]
    accuracies: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Drops:
    """The classes of a shift whose accuracy drops most, in the mean over `mixtures`, and how many classes there are."""

    set: str
    classes: int
    left_out: int
    mixtures: Sequence[str]
    rows: Sequence[Drop]


def by_set(report: Report) -> dict[str, list[Calibration]]:
    """The calibration of every mixture on each set, the reference first."""
    found: dict[str, list[Calibration]] = {}
    for one in report["calibration"]:
        found.setdefault(one["set"], []).append(one)
    return dict(sorted(found.items(), key=lambda pair: pair[0] != report["evaluation"]["reference"]))


def diagrams(sets: Mapping[str, Sequence[Calibration]], place: Mapping[str, int]) -> list[Diagram]:
    """The diagrams of each set, of so many mixtures each that no colour stands for two; none of too many mixtures."""
    found: list[Diagram] = []
    for name, rows in sets.items():
        if len(rows) > _MOST_MIXTURES:
            continue
        for start in range(0, len(rows), _TOGETHER):
            some = rows[start : start + _TOGETHER]
            shown = [row["mixture"] for row in some] if len(rows) > _TOGETHER else []
            found.append(Diagram(name, rows[0]["images"], shown, [_curve(row, place) for row in some]))
    return found


def _curve(row: Calibration, place: Mapping[str, int]) -> Curve:
    bins = [
        (one["confidence"], one["accuracy"], one["share"])
        for one in row["bins"]
        if one["confidence"] is not None and one["accuracy"] is not None
    ]
    return Curve(place[row["mixture"]], bins)


def largest_drops(drops: ClassDrops) -> Drops:
    """The classes with the largest drops on one shift: the mean over all mixtures is above 0, the largest come first.

    Only the first mixtures are columns where there are many.
    """
    models = drops["mixtures"]
    rows: list[tuple[float, Drop]] = []
    for at, name in enumerate(drops["classes"]):
        pairs = [(one["reference"][at], one["shift"][at]) for one in models]
        mean = sum(before - after for before, after in pairs) / len(pairs)
        images = drops["reference_images"][at], drops["shift_images"][at]
        if mean > 0:
            rows.append((mean, Drop(name, images, pairs[:_MOST_MIXTURES])))
    rows.sort(key=lambda row: -row[0])
    names = [one["mixture"] for one in models]
    left_out = len(drops["left_out"])
    found = [row for _, row in rows[:_MOST_CLASSES]]
    return Drops(drops["set"], len(drops["classes"]), left_out, names[:_MOST_MIXTURES], found)


def shown_mistakes(report: Report) -> dict[str, list[Mistakes]]:
    """By shift the mixtures that have mistakes to look at."""
    found: dict[str, list[Mistakes]] = {}
    for one in report["mistakes"]:
        if one["examples"]:
            found.setdefault(one["set"], []).append(one)
    return found
