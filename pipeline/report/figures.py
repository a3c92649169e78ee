"""The report's figures: stacked bars, accuracies with intervals, shift against reference, reliability diagrams.

Each function takes numbers that the section modules have arranged and returns inline SVG. Sizes are CSS pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline.report.svg import draw_svg, marker, placeholder_colour, series_token, shorten

_PERCENT_TICKS = (
    0.001,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.98,
    0.99,
    0.999,
)


_PANEL_WIDTH, _SCATTER_SIDE = 290.0, 400.0  # CSS pixels


@dataclass(frozen=True)
class Bar:
    """One stacked bar: `segments` are (colour token, count) from the left, drawn as shares of `whole`.

    `note` is printed at its right end, `brief` instead of it in a narrow figure.
    """

    label: str
    note: str
    brief: str
    whole: int
    segments: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class AccuracyInterval:
    """One accuracy (fraction) with its interval; the mixture's `position` gives the colour."""

    label: str
    position: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One mixture in a scatter: (value, low, high) on either axis, fractions strictly between 0 and 1."""

    position: int
    reference: tuple[float, float, float]
    shift: tuple[float, float, float]


@dataclass(frozen=True)
class TrendBand:
    """A mixture's line with its band as points (reference, line, low, high), fractions strictly between 0 and 1."""

    position: int
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class SizePoint:
    """Accuracy (fraction) of a mixture of `size` pairs: mean, minimum and maximum over its seeds."""

    size: int
    mean: float
    least: float
    most: float


@dataclass(frozen=True)
class SizeCurve:
    """A mixture's accuracies by size, from the smallest."""

    position: int
    rungs: Sequence[SizePoint]


def probit(fraction: float) -> float:
    """The standard normal quantile of a fraction; raises statistics.StatisticsError outside ]0, 1[."""
    return NormalDist().inv_cdf(fraction)


def plot_stacked_bars(name: str, title: str, bars: Sequence[Bar], width: float) -> Markup:
    """Stacked horizontal bars of shares, one for each source or mixture, in a figure `width` pixels wide."""
    narrow = width < 600
    pitch, label_limit = 32.0, 14 if narrow else 22

    def plot(axes: Axes) -> None:
        for row, bar in enumerate(bars):
            left = 0.0
            for token, count in bar.segments:
                share = 100 * count / bar.whole if bar.whole else 0.0
                axes.barh(row, share, left=left, height=0.62, color=placeholder_colour(token))
                left += share
            axes.text(-1.5, row, shorten(bar.label, label_limit), ha="right", va="center")
            axes.text(
                max(left, 100) + 1.5,
                row,
                bar.brief if narrow else bar.note,
                ha="left",
                va="center",
                color=placeholder_colour("muted"),
            )
        axes.set_xlim(0, 100)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        _hide_frame(axes, [(0, "0"), (25, "25"), (50, "50"), (75, "75"), (100, "100 %")])

    margins = (100.0, 46.0, 4.0, 26.0) if narrow else (140.0, 104.0, 4.0, 26.0)
    return draw_svg(name, title, (width, pitch * len(bars) + 30), margins, plot)


def plot_intervals(name: str, title: str, rows: Sequence[AccuracyInterval], chance: float, top: float) -> Markup:
    """Accuracies with 95 % intervals, one row a mixture, from 0 to `top`; `chance` is a dotted line (fractions)."""

    def plot(axes: Axes) -> None:
        axes.axvline(100 * chance, color=placeholder_colour("muted"), linestyle=(0, (2, 3)), linewidth=1.2)
        for row, point in enumerate(rows):
            colour = placeholder_colour(series_token(point.position))
            axes.plot([100 * point.low, 100 * point.high], [row, row], color=colour, linewidth=2)
            axes.plot([100 * point.value], [row], marker(point.position), color=colour, markersize=7.5)
            axes.text(-5 * top, row, shorten(point.label, 15), ha="right", va="center")
            axes.text(
                103 * top, row, f"{100 * point.value:.1f}", ha="left", va="center", color=placeholder_colour("muted")
            )
        axes.set_xlim(0, 100 * top)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        step = 0.1 if top <= 0.5 else 0.2
        ticks = [index * step for index in range(int(top / step + 1e-9) + 1)]
        _hide_frame(axes, [(100 * tick, f"{100 * tick:.0f}") for tick in ticks])

    return draw_svg(name, title, (_PANEL_WIDTH, 27.0 * len(rows) + 30), (106.0, 36.0, 4.0, 26.0), plot)


def plot_scatter(
    name: str,
    title: str,
    points: Sequence[Point],
    line: tuple[float, float] | None,
    limits: tuple[float, float],
) -> Markup:
    """Shift accuracy against reference accuracy, both on probit axes, with y = x dashed.

    `line` is the slope and intercept of the fitted line in probit units; `limits` are the ends of both axes, as
    fractions.
    """
    low, high = probit(limits[0]), probit(limits[1])

    def plot(axes: Axes) -> None:
        axes.plot([low, high], [low, high], color=placeholder_colour("muted"), linestyle=(0, (4, 4)), linewidth=1)
        if line is not None:
            ends = [line[0] * x + line[1] for x in (low, high)]
            axes.plot([low, high], ends, color=placeholder_colour("ink"), linewidth=1.4)
        for position in dict.fromkeys(point.position for point in points):
            _plot_crosses(axes, position, [point for point in points if point.position == position])
        _probit_axes(axes, limits)

    return draw_svg(name, title, (_SCATTER_SIDE, _SCATTER_SIDE), (52.0, 12.0, 10.0, 50.0), plot)


def plot_trends(
    name: str,
    title: str,
    points: Sequence[tuple[int, float, float]],
    bands: Sequence[TrendBand],
    line: tuple[float, float] | None,
    limits: tuple[float, float],
) -> Markup:
    """Shift accuracy against reference accuracy as in `scatter`, a point for each model and a line for each mixture.

    `points` are (position, reference, shift). A mixture's band is shaded around its line, over the range of its models;
    `line`, in probit units, is the baseline that effective robustness is measured from.
    """
    low, high = probit(limits[0]), probit(limits[1])

    def plot(axes: Axes) -> None:
        axes.plot([low, high], [low, high], color=placeholder_colour("muted"), linestyle=(0, (4, 4)), linewidth=1)
        if line is not None:
            axes.plot(
                [low, high], [line[0] * x + line[1] for x in (low, high)], color=placeholder_colour("ink"), linewidth=1
            )
        for band in bands:
            x, middle, lower, upper = ([probit(value) for value in row] for row in zip(*band.points, strict=True))
            colour = placeholder_colour(series_token(band.position))
            axes.fill_between(x, lower, upper, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, middle, color=colour, linewidth=1.8)
        for position in dict.fromkeys(position for position, *_ in points):
            places = [(probit(point[1]), probit(point[2])) for point in points if point[0] == position]
            colour = placeholder_colour(series_token(position))
            axes.plot(
                *zip(*places, strict=True), marker(position), color=colour, markersize=5, alpha=0.85, linestyle=""
            )
        _probit_axes(axes, limits)

    return draw_svg(name, title, (_SCATTER_SIDE, _SCATTER_SIDE), (52.0, 12.0, 10.0, 50.0), plot)


def plot_accuracy_by_size(name: str, title: str, steps: Sequence[SizeCurve], top: float) -> Markup:
    """Accuracy from 0 to `top` (fraction) against the number of training pairs on a base-2 logarithmic axis."""
    sizes = sorted({rung.size for curve in steps for rung in curve.rungs})

    def plot(axes: Axes) -> None:
        for curve in steps:
            colour = placeholder_colour(series_token(curve.position))
            x = [math.log2(rung.size) for rung in curve.rungs]
            axes.plot(x, [100 * rung.mean for rung in curve.rungs], color=colour, linewidth=1.6)
            for place, rung in zip(x, curve.rungs, strict=True):
                axes.plot([place, place], [100 * rung.least, 100 * rung.most], color=colour, linewidth=1.2, alpha=0.6)
                axes.plot([place], [100 * rung.mean], marker(curve.position), color=colour, markersize=6)
        axes.set_ylim(0, 100 * top)
        axes.margins(x=0.08)
        axes.set_xticks([math.log2(size) for size in sizes], labels=[f"{size:,}" for size in sizes])
        axes.tick_params(length=0, pad=6)
        axes.grid(linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("training pairs")

    return draw_svg(name, title, (_PANEL_WIDTH, 220.0), (34.0, 12.0, 8.0, 46.0), plot)


def _probit_axes(axes: Axes, limits: tuple[float, float]) -> None:
    low, high = probit(limits[0]), probit(limits[1])
    ticks = _spaced_ticks(limits, min_distance=(high - low) / 9)
    labels = [f"{100 * tick:g}" for tick in ticks]
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xticks([probit(tick) for tick in ticks], labels=labels)
    axes.set_yticks([probit(tick) for tick in ticks], labels=labels)
    axes.tick_params(length=0, pad=6)
    axes.grid(linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("accuracy on the reference, %")
    axes.set_ylabel("accuracy on the shift, %")


def _plot_crosses(axes: Axes, position: int, points: Sequence[Point]) -> None:
    """Draw a mixture's points with their intervals; in two calls for all points, as each call takes a millisecond."""
    colour, centres = placeholder_colour(series_token(position)), []
    arms: tuple[list[float], list[float]] = ([], [])
    for point in points:
        x, x_low, x_high = map(probit, point.reference)
        y, y_low, y_high = map(probit, point.shift)
        centres.append((x, y))
        arms[0].extend((x_low, x_high, math.nan, x, x, math.nan))
        arms[1].extend((y, y, math.nan, y_low, y_high, math.nan))
    axes.plot(*arms, color=colour, linewidth=1.2, alpha=0.6)
    axes.plot(*zip(*centres, strict=True), marker(position), color=colour, markersize=8, clip_on=False, linestyle="")


def _spaced_ticks(limits: tuple[float, float], min_distance: float) -> list[float]:
    """The round percentages within the limits, each at least `min_distance` probit units from the one before."""
    ticks: list[float] = []
    for tick in _PERCENT_TICKS:
        far_enough = not ticks or probit(tick) - probit(ticks[-1]) >= min_distance
        if limits[0] <= tick <= limits[1] and far_enough:
            ticks.append(tick)
    return ticks


def _hide_frame(axes: Axes, ticks: Sequence[tuple[float, str]]) -> None:
    """Remove the frame and draw only faint vertical lines at the labelled ticks."""
    axes.set_xticks([value for value, _ in ticks], labels=[label for _, label in ticks])
    axes.set_yticks([])
    axes.tick_params(length=0, pad=6)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


_RELIABILITY_SIDE = 290.0  # CSS pixels


_RELIABILITY_TICKS = (0, 20, 40, 60, 80, 100)


_MIN_MARKER, _MAX_MARKER = (
    3.0,
    20.0,
)  # a marker's width in pixels for a bin with almost none, and with all, of the images


@dataclass(frozen=True)
class ReliabilityCurve:
    """A mixture's non-empty bins by increasing confidence: (confidence, accuracy, share of the images), fractions.

    `position` gives its colour.
    """

    position: int
    bins: Sequence[tuple[float, float, float]]


def plot_reliability(name: str, title: str, curves: Sequence[ReliabilityCurve]) -> Markup:
    """Reliability diagram: accuracy against confidence, both 0 to 100 %, a line for each mixture; y = x is dashed.

    A marker's area grows with the share of the images in its bin.
    """

    def plot(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=placeholder_colour("muted"), linestyle=(0, (4, 4)), linewidth=1)
        for curve in curves:
            colour = placeholder_colour(series_token(curve.position))
            x, y = ([100 * part[axis] for part in curve.bins] for axis in (0, 1))
            axes.plot(x, y, color=colour, linewidth=1.4, alpha=0.7, clip_on=False)
            for place, height, (_, _, share) in zip(x, y, curve.bins, strict=True):
                width = (_MIN_MARKER**2 + share * (_MAX_MARKER**2 - _MIN_MARKER**2)) ** 0.5
                axes.plot([place], [height], marker(curve.position), color=colour, markersize=width, clip_on=False)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xticks(_RELIABILITY_TICKS)
        axes.set_yticks(_RELIABILITY_TICKS)
        axes.tick_params(length=0, pad=6)
        axes.grid(linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %")

    return draw_svg(name, title, (_RELIABILITY_SIDE, _RELIABILITY_SIDE), (52.0, 14.0, 10.0, 50.0), plot)
