"""The funnel arranged for the page: rows whose counts are checked, and a bar for each source."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.mixtures.names import base_name
from pipeline.report.figures import Bar
from pipeline.report.schema import FunnelStage, ReportData, SourceFunnelData
from pipeline.report.svg import series_token

_SHADES = 5  # of each family: dropped at ingest, dropped by a filter


_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class StageRow:
    """One stage of one source. `fault` says which counts do not add up, and is empty where they do."""

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
class BarChart:
    """The bars of all sources or mixtures, and their legend as (colour token, meaning)."""

    bars: Sequence[Bar]
    legend: Sequence[tuple[str, str]]


def funnel_rows(funnel: Sequence[SourceFunnelData]) -> list[SourceRows]:
    """Every stage of every source with its check; reasons by decreasing count, without those at 0."""
    return [
        SourceRows(source["source"], source["published"], [_row(source, stage) for stage in source["stages"]])
        for source in funnel
    ]


def _row(source: SourceFunnelData, stage: FunnelStage) -> StageRow:
    dropped = sum(stage["dropped"].values())
    if stage["in"] != stage["kept"] + dropped:
        fault = f"does not add up: {stage['in']:,} in, {stage['kept']:,} kept + {dropped:,} dropped"
    elif stage["stage"] == "ingest" and stage["in"] != source["published"]:
        fault = f"does not add up: {source['published']:,} published, {stage['in']:,} in"
    else:
        fault = ""
    return StageRow(stage["stage"], stage["in"], stage["kept"], sorted_counts(stage["dropped"]), fault)


def sorted_counts(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """(name, count) by decreasing count, then by name; zeros are left out."""
    nonzero = [(name, count) for name, count in counts.items() if count]
    return sorted(nonzero, key=lambda item: (-item[1], item[0]))


def funnel_bars(funnel: Sequence[SourceFunnelData]) -> BarChart:
    """One bar for each source: kept by its last stage, dropped there by reason, and dropped at ingest before it.

    Filters may be alternatives or applied one after another. Where the input of the last one is smaller than what
    ingest stored, the bar is of that input; otherwise of everything published.
    """
    stages = [(source["source"], *_ingest_and_last(source)) for source in funnel if source["stages"]]
    ingest_shades = _shades("i", [ingest for _, ingest, _ in stages if ingest])
    filter_shades = _shades("f", [last_stage for _, _, last_stage in stages if last_stage["stage"] != "ingest"])
    bars: list[Bar] = []
    for name, ingest, last_stage in stages:
        whole = ingest["in"] if ingest else last_stage["in"]
        segments = [("kept", last_stage["kept"])]
        if last_stage is not ingest:
            segments += _segments(last_stage, filter_shades)
        if ingest:
            segments += _segments(ingest, ingest_shades)
        bars.append(Bar(name, *_notes(last_stage["kept"], whole), whole, segments))
    if not bars:
        return BarChart([], [])
    legend = {"kept": "kept"}
    for family in (filter_shades, ingest_shades):
        for reason, token in family.items():
            legend[token] = "other reasons" if token in legend else reason
    return BarChart(bars, list(legend.items()))


def _ingest_and_last(source: SourceFunnelData) -> tuple[FunnelStage | None, FunnelStage]:
    """(the ingest stage, or None where it is not part of the bar; the last stage)."""
    first, last = source["stages"][0], source["stages"][-1]
    return (first if first is last or last["in"] == first["kept"] else None), last


def _shades(family: str, stages: Sequence[FunnelStage]) -> dict[str, str]:
    """Each reason's colour token; the most frequent ones have their own, the others share the last."""
    totals: Counter[str] = Counter()
    for stage in stages:
        totals.update(stage["dropped"])
    return {name: f"{family}{min(rank, _SHADES)}" for rank, (name, _) in enumerate(sorted_counts(totals), start=1)}


def _segments(stage: FunnelStage, shades: Mapping[str, str]) -> list[tuple[str, int]]:
    by_shade: Counter[str] = Counter()
    for reason, count in stage["dropped"].items():
        if count:
            by_shade[shades[reason]] += count
    return sorted(by_shade.items())


def _notes(kept: int, whole: int) -> tuple[str, str]:
    if not whole:
        return "no input", _NONE
    share = f"{100 * kept / whole:.0f} %"
    return f"{share} of {whole:,}", share


def mixture_bars(report: ReportData) -> BarChart:
    """One bar for each mixture: the share of each source in its pairs. All sizes of a mixture have the same shares."""
    sources = {source for mixture in report["mixtures"] for source in mixture["by_source"]}
    names = list(dict.fromkeys([*(source["source"] for source in report["funnel"]), *sorted(sources)]))
    colour = {name: series_token(position) for position, name in enumerate(names)}
    bars: list[Bar] = []
    for mixture in report["mixtures"]:
        if mixture["name"] != base_name(mixture["name"]):
            continue
        segments = [(colour[name], mixture["by_source"].get(name, 0)) for name in names]
        pairs, whole = f"{mixture['pairs']:,}", sum(mixture["by_source"].values())
        bars.append(Bar(mixture["name"], f"{pairs} pairs", pairs, whole, segments))
    return BarChart(bars, [(colour[name], name) for name in names if name in sources])


def key_figures(report: ReportData) -> list[tuple[str, str]]:
    """The key figures as (value, meaning); a dash where a stage has not run yet."""
    stages = [stage for source in report["funnel"] for stage in source["stages"]]
    stored = [stage["kept"] for stage in stages if stage["stage"] == "ingest"]
    main_filter = next((stage["stage"] for stage in reversed(stages) if stage["stage"] != "ingest"), None)
    kept = [stage["kept"] for stage in stages if stage["stage"] == main_filter]
    published = [source["published"] for source in report["funnel"]]
    images = [evaluation_set["images"] for evaluation_set in report["evaluation"]["sets"]]
    trainings = [row["trainings"] for row in report["cost"]]
    kept_label = f"kept by {main_filter.removeprefix('filter:')}" if main_filter else "kept by the main filter"
    return [
        (_total(published), "pairs published"),
        (_total(stored), "pairs stored"),
        (_total(kept), kept_label),
        (str(len(report["mixtures"]) or _NONE), "mixtures"),
        (_total(trainings), "trainings"),
        (_total(images), "evaluation images"),
    ]


def _total(counts: Sequence[int]) -> str:
    return f"{sum(counts):,}" if counts else _NONE
