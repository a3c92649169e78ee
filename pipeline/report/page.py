"""The report as one self-contained HTML page.

Captions, reasons and names come from the web and are untrusted: jinja2 escapes every value, thumbnails must be JPEG
data URLs, and the page's Content-Security-Policy allows one style block by its hash and `data:` images, nothing else.
"""

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.mixtures.names import base_name
from pipeline.report import accuracy_section, error_section, figures, funnel_section, trends_section
from pipeline.report.schema import ReportData
from pipeline.report.svg import marker, series_token

_THUMBNAIL = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/]*={0,2}")


# What XML and HTML cannot represent: control characters, lone surrogates, non-characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


_WIDE, _NARROW = 900.0, 350.0  # CSS pixels


_MAX_FIGURE_ROWS = 24  # with more models, the table and the figures of accuracy by size are more readable


def render_page(report: ReportData) -> str:
    """The page as HTML. The same report gives the same bytes.

    Raises ValueError for a thumbnail that is not a JPEG data URL.
    """
    clean = cast(ReportData, _printable(report))
    _check_thumbnails(clean)
    environment = _environment()
    css = _stylesheet(environment)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        report=clean,
        css=css,
        css_hash=f"sha256-{digest}",
        tiles=funnel_section.key_figures(clean),
        evaluation_digests=[
            (evaluation_set["name"], evaluation_set["sha256"])
            for evaluation_set in clean["provenance"]["evaluation_sets"]
        ],
        **_example_pairs(clean),
        **_funnel(clean),
        **_mixtures(clean),
        **_evaluation(clean),
        **_trends(clean),
        **_contamination(clean),
        **_error_analysis(clean),
    )


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=PackageLoader("pipeline.report"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=lambda number: f"{number:,}",
        percent=lambda fraction: f"{100 * fraction:.1f}",
        points=lambda fraction: f"{100 * fraction:+.1f}".replace("-", "−"),  # noqa: RUF001 - a typeset minus
        score=_score,
        duration=_duration,
        size=_size,
        moment=_moment,
        series=series_token,
        marker=marker,
        ranked=funnel_section.sorted_counts,
    )
    return environment


def _stylesheet(environment: Environment) -> Markup:
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, "report.css")
    return Markup(f"\n{source}")  # noqa: S704 - a file of the package, never a value


def _printable(value: Any) -> Any:
    """The same JSON with every unprintable character replaced by U+FFFD."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value.replace("\r\n", "\n").replace("\r", "\n"))
    if isinstance(value, Mapping):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value


def _check_thumbnails(report: ReportData) -> None:
    for owner, thumbnail in _thumbnails(report):
        if not _THUMBNAIL.fullmatch(thumbnail):
            raise ValueError(
                f"{owner}: thumbnail starts with {thumbnail[:40]!r}, "
                "expected data:image/jpeg;base64, and base64 after it"
            )


def _thumbnails(report: ReportData) -> Iterator[tuple[str, str]]:
    """(owner, thumbnail) of every thumbnail on the page."""
    for example in report["examples"]:
        yield f"example {example['uid']}", example["thumbnail"]
        if (resemblance := example["resembles"]) and resemblance["thumbnail"] is not None:
            yield f"example {example['uid']}", resemblance["thumbnail"]
    for mistakes in report["mistakes"]:
        for mistake in mistakes["examples"]:
            if mistake["thumbnail"] is not None:
                yield f"mistake {mistakes['mixture']}, {mistakes['set']}/{mistake['key']}", mistake["thumbnail"]


def _example_pairs(report: ReportData) -> dict[str, Any]:
    """The example pairs: the kept ones, and the dropped ones sorted by reason."""
    kept = [example for example in report["examples"] if example["kept"]]
    dropped = [example for example in report["examples"] if not example["kept"]]
    return {"kept_pairs": kept, "dropped_pairs": sorted(dropped, key=lambda example: example["reason"])}


def _funnel(report: ReportData) -> dict[str, Any]:
    sources, bars = funnel_section.funnel_rows(report["funnel"]), funnel_section.funnel_bars(report["funnel"])
    faults = [f"{row.source}, {stage.stage}: {stage.fault}" for row in sources for stage in row.stages if stage.fault]
    title = "Outcome of each source's published pairs, in percent"
    return {
        "sources": sources,
        "faults": faults,
        "funnel_legend": bars.legend,
        "funnel_figures": _both_widths("funnel", title, bars),
    }


def _mixtures(report: ReportData) -> dict[str, Any]:
    bars = funnel_section.mixture_bars(report)
    title = "Share of each source in each mixture, in percent"
    trained = [mixture["name"] for mixture in report["mixtures"] if mixture["training"]]
    return {
        "share_legend": bars.legend,
        "share_figures": _both_widths("shares", title, bars),
        "in_sizes": {base_name(name) for name in trained},
    }


def _both_widths(name: str, title: str, bars: funnel_section.BarChart) -> list[tuple[str, Markup]]:
    """The same bars for a wide and a narrow screen; the style sheet shows one of them."""
    if not bars.bars:
        return []
    widths = (("wide", _WIDE), ("narrow", _NARROW))
    return [(kind, figures.plot_stacked_bars(f"{name}-{kind}", title, bars.bars, width)) for kind, width in widths]


def _evaluation(report: ReportData) -> dict[str, Any]:
    table = accuracy_section.accuracy_table(report)
    has_trends = any(trend["groups"] for trend in report["trends"])  # then `_trends` provides the panels
    panels = [] if has_trends else accuracy_section.panels(report)
    top, limits = accuracy_section.accuracy_limit(table), accuracy_section.probit_limits(panels)
    interval_figures = [
        (
            evaluated,
            figures.plot_intervals(
                f"accuracy-{number}", f"Accuracy on {evaluated['name']}, in percent", rows, evaluated["chance"], top
            ),
        )
        for number, evaluated in enumerate(table.sets)
        if len(table.rows) <= _MAX_FIGURE_ROWS and (rows := accuracy_section.whiskers(table, number))
    ]
    scatters = []
    for number, panel in enumerate(panels):
        slope, intercept = panel.shift["slope"], panel.shift["intercept"]
        line = (slope, intercept) if slope is not None and intercept is not None else None
        title = f"Accuracy on {panel.shift['set']} against accuracy on the reference"
        scatters.append((panel, figures.plot_scatter(f"shift-{number}", title, panel.points, line, limits)))
    return {
        "accuracy": table,
        "accuracy_figures": interval_figures,
        "scatters": scatters,
        "positions": accuracy_section.mixture_positions(report),
    }


def _trends(report: ReportData) -> dict[str, Any]:
    positions = trends_section.trend_positions(report)
    shift_panels, ladders = (
        trends_section.trend_panels(report, positions),
        trends_section.accuracy_by_size(report, positions),
    )
    limits = trends_section.trend_limits(shift_panels)
    highest = max((rung.most for _, steps in ladders for curve in steps for rung in curve.rungs), default=1.0)
    top = min(math.ceil(10 * highest + 1e-9), 10) / 10
    panels = []
    for number, panel in enumerate(shift_panels):
        title = f"Accuracy on {panel.trend['set']} against accuracy on the reference, a line for each mixture"
        svg = figures.plot_trends(f"trend-{number}", title, panel.points, panel.bands, panel.line, limits)
        panels.append((panel.trend, svg))
    return {
        "trend_positions": positions,
        "trend_panels": panels,
        "ladders": [
            (
                name,
                figures.plot_accuracy_by_size(f"ladder-{number}", f"Accuracy on {name} by training pairs", steps, top),
            )
            for number, (name, steps) in enumerate(ladders)
        ],
        "effective": trends_section.effective_by_set(report),
        "leaders": trends_section.ranking_by_mixture(report),
    }


def _contamination(report: ReportData) -> dict[str, Any]:
    rows = report["contamination"]
    by_mixture = {name: [row for row in rows if row["mixture"] == name] for name in (row["mixture"] for row in rows)}
    return {
        "contaminated_sets": list(dict.fromkeys(row["set"] for row in rows)),
        "contamination": list(by_mixture.items()),
    }


def _error_analysis(report: ReportData) -> dict[str, Any]:
    positions, sets = trends_section.trend_positions(report), error_section.calibration_by_set(report)
    diagrams = []
    for number, diagram in enumerate(error_section.reliability_diagrams(sets, positions)):
        title = f"Accuracy on {diagram.set} by confidence, a line for each mixture"
        diagrams.append((diagram, figures.plot_reliability(f"reliability-{number}", title, diagram.curves)))
    return {
        "calibrated": sets,
        "calibration_at": {(row["set"], row["mixture"]): row for row in report["calibration"]},
        "calibration_mixtures": list(dict.fromkeys(row["mixture"] for row in report["calibration"])),
        "reliability_figures": diagrams,
        "class_drops": [error_section.largest_drops(drops) for drops in report["classes"]],
        "mistakes": error_section.shown_mistakes(report),
        "hidden_mistakes": sum(row["wrong"] > 0 and not row["examples"] for row in report["mistakes"]),
    }


def _score(value: float | str | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else value


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _size(size: float) -> str:
    """A number of bytes with its unit, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _moment(stamp: str) -> str:
    """An ISO 8601 time as "24 November 2026, 01:59 UTC"; any other text is returned unchanged."""
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".rstrip()
