"""The funnel arranged for the page: rows that are checked, not only shown, and a bar for each source."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.mixtures.names import unsized
from pipeline.report.figures import Bar
from pipeline.report.schema import Report, SourceFunnel, Stage
from pipeline.report.svg import series

_SHADES = 5  # of either family: lost at ingest, dropped by a filter


_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class StageRow:
    """One stage of one source. `fault` says what does not add up, and is empty where all does."""

    stage: str
    came_in: int
    kept: int
    dropped: Sequence[tuple[str, int]]
    fault: str


@dataclass(frozen=True)
class SourceRows:
    """One source and its stages."""

    source: str
    published: int
    stages: Sequence[StageRow]


@dataclass(frozen=True)
class Bars:
    """The bars of all sources, and their legend as (colour token, meaning)."""

    bars: Sequence[Bar]
    legend: Sequence[tuple[str, str]]


def rows(funnel: Sequence[SourceFunnel]) -> list[SourceRows]:
    """Every stage of every source with its check; reasons come most frequent first, without those at 0."""
    return [
        SourceRows(source["source"], source["published"], [_row(source, stage) for stage in source["stages"]])
        for source in funnel
    ]


def _row(source: SourceFunnel, stage: Stage) -> StageRow:
    dropped = sum(stage["dropped"].values())
    if stage["in"] != stage["kept"] + dropped:
        fault = f"does not add up: {stage['in']:,} came in, {stage['kept']:,} kept + {dropped:,} dropped"
    elif stage["stage"] == "ingest" and stage["in"] != source["published"]:
        fault = f"does not add up: {source['published']:,} published, {stage['in']:,} came in"
    else:
        fault = ""
    return StageRow(stage["stage"], stage["in"], stage["kept"], ranked(stage["dropped"]), fault)


def ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """(name, count) from the most frequent to the least, equal ones by name; zeros are left out."""
    found = [(name, count) for name, count in counts.items() if count]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def bars(funnel: Sequence[SourceFunnel]) -> Bars:
    """One bar for each source: kept by its last stage, dropped there by reason, and lost at ingest before it.

    Filters may stand side by side or in a row. Where the last one saw fewer pairs than ingest stored, its
    bar is of what it saw; else of everything published.
    """
    journeys = [(source["source"], *_journey(source)) for source in funnel if source["stages"]]
    lost = _shades("i", [first for _, first, _ in journeys if first])
    dropped = _shades("f", [last for _, _, last in journeys if last["stage"] != "ingest"])
    drawn: list[Bar] = []
    for name, first, last in journeys:
        whole = first["in"] if first else last["in"]
        segments = [("kept", last["kept"])]
        if last is not first:
            segments += _segments(last, dropped)
        if first:
            segments += _segments(first, lost)
        drawn.append(Bar(name, *_notes(last["kept"], whole), whole, segments))
    if not drawn:
        return Bars([], [])
    legend = {"kept": "kept"}
    for family in (dropped, lost):
        for reason, shade in family.items():
            legend[shade] = "other reasons" if shade in legend else reason
    return Bars(drawn, list(legend.items()))


def _journey(source: SourceFunnel) -> tuple[Stage | None, Stage]:
    """(the ingest stage where it belongs in the bar, the last stage)."""
    first, last = source["stages"][0], source["stages"][-1]
    return (first if first is last or last["in"] == first["kept"] else None), last


def _shades(family: str, stages: Sequence[Stage]) -> dict[str, str]:
    """Each reason's colour token; the most frequent ones have their own, the rest share the last."""
    total: Counter[str] = Counter()
    for stage in stages:
        total.update(stage["dropped"])
    return {name: f"{family}{min(place, _SHADES)}" for place, (name, _) in enumerate(ranked(total), start=1)}


def _segments(stage: Stage, shades: Mapping[str, str]) -> list[tuple[str, int]]:
    shared: Counter[str] = Counter()
    for reason, count in stage["dropped"].items():
        if count:
            shared[shades[reason]] += count
    return sorted(shared.items())


def _notes(kept: int, whole: int) -> tuple[str, str]:
    if not whole:
        return "nothing came in", _NONE
    share = f"{100 * kept / whole:.0f} %"
    return f"{share} of {whole:,}", share


def mixture_bars(report: Report) -> Bars:
    """One bar for each mixture: the share of each source among its pairs. Its sizes have the same shares."""
    used = {source for mixture in report["mixtures"] for source in mixture["by_source"]}
    names = list(dict.fromkeys([*(source["source"] for source in report["funnel"]), *sorted(used)]))
    colour = {name: series(position) for position, name in enumerate(names)}
    drawn: list[Bar] = []
    for mixture in report["mixtures"]:
        if mixture["name"] != unsized(mixture["name"]):
            continue
        segments = [(colour[name], mixture["by_source"].get(name, 0)) for name in names]
        pairs, whole = f"{mixture['pairs']:,}", sum(mixture["by_source"].values())
        drawn.append(Bar(mixture["name"], f"{pairs} pairs", pairs, whole, segments))
    return Bars(drawn, [(colour[name], name) for name in names if name in used])


def tiles(report: Report) -> list[tuple[str, str]]:
    """The key numbers as (value, meaning); a dash where a stage has not run yet."""
    stages = [stage for source in report["funnel"] for stage in source["stages"]]
    stored = [stage["kept"] for stage in stages if stage["stage"] == "ingest"]
    main = next((stage["stage"] for stage in reversed(stages) if stage["stage"] != "ingest"), None)
    kept = [stage["kept"] for stage in stages if stage["stage"] == main]
    published = [source["published"] for source in report["funnel"]]
    images = [found["images"] for found in report["evaluation"]["sets"]]
    trained = [row["trainings"] for row in report["cost"]]
    by = f"kept by {main.removeprefix('filter:')}" if main else "kept by the main filter"
    return [
        (_total(published), "pairs published"),
        (_total(stored), "pairs stored"),
        (_total(kept), by),
        (str(len(report["mixtures"]) or _NONE), "mixtures"),
        (_total(trained), "trainings"),
        (_total(images), "evaluation images"),
    ]


def _total(counts: Sequence[int]) -> str:
    return f"{sum(counts):,}" if counts else _NONE
