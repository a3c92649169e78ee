"""The report's reliability diagrams: how often a model is right against how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline.report.svg import draw, marker, paint, series

_SIDE = 290.0  # CSS pixels
_TICKS = (0, 20, 40, 60, 80, 100)
_LEAST, _MOST = 3.0, 20.0  # a marker's width in pixels where a bin has next to none of the images, and all of them


@dataclass(frozen=True)
class Curve:
    """A mixture's bins that hold images, from the least sure: (confidence, accuracy, share of the images), fractions.

    `position` gives its colour.
    """

    position: int
    bins: Sequence[tuple[float, float, float]]


def reliability(name: str, title: str, curves: Sequence[Curve]) -> Markup:
    """Accuracy against confidence, both from 0 to 100 %, a line for each mixture; y = x is dashed.

    A marker's area grows with the share of the images in its bin.
    """

    def onto(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color=paint("muted"), linestyle=(0, (4, 4)), linewidth=1)
        for curve in curves:
            colour = paint(series(curve.position))
            x, y = ([100 * one[axis] for one in curve.bins] for axis in (0, 1))
            axes.plot(x, y, color=colour, linewidth=1.4, alpha=0.7, clip_on=False)
            for at, height, (_, _, share) in zip(x, y, curve.bins, strict=True):
                width = (_LEAST**2 + share * (_MOST**2 - _LEAST**2)) ** 0.5
                axes.plot([at], [height], marker(curve.position), color=colour, markersize=width, clip_on=False)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xticks(_TICKS)
        axes.set_yticks(_TICKS)
        axes.tick_params(length=0, pad=6)
        axes.grid(linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("right, %")

    return draw(name, title, (_SIDE, _SIDE), (52.0, 14.0, 10.0, 50.0), onto)
