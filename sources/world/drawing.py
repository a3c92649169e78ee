"""Parts of an object, and the functions that draw them on a canvas."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]


ImageArray = npt.NDArray[np.uint8]


Colour = tuple[int, int, int]


# Sub-pixel bits of the coordinates that OpenCV draws with: 1/16 px.
_SHIFT = 4


@dataclass(frozen=True)
class ShapePart:
    """One piece of an object.

    `points`: float32 (n, 2). `tone`: the palette's entry "main", "second", "dark" or "light".
    `width`: 0 for a filled polygon, else the width of an open line in the units of `points`.
    """

    points: Points
    tone: str
    width: float = 0.0


def polygon(*corners: tuple[float, float]) -> Points:
    """Corners as float32 (n, 2)."""
    return np.array(corners, dtype=np.float32)


def ellipse(
    x: float,
    y: float,
    across: float,
    down: float,
    *,
    turn: float = 0.0,
    start: float = 0.0,
    stop: float = 360.0,
) -> Points:
    """An elliptic arc of half-axes `across` and `down` as float32 (25, 2); angles in degrees."""
    angle = np.radians(np.linspace(start, stop, 25))
    points = np.stack([across * np.cos(angle), down * np.sin(angle)], axis=1)
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    turned = points @ np.array([[cosine, sine], [-sine, cosine]])
    return np.asarray(turned + np.array([x, y]), dtype=np.float32)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """An upright rectangle as float32 (4, 2)."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def place_parts(
    parts: Sequence[ShapePart], *, x: float, y: float, radius: float, turn: float, mirrored: bool, stretch: float
) -> list[ShapePart]:
    """The parts in pixels: centre (`x`, `y`), unit length `radius` px, rotated by `turn` degrees; `stretch` scales x
    relative to y.
    """
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    across = radius * stretch * (-1 if mirrored else 1)
    matrix = np.array([[across * cosine, across * sine], [-radius / stretch * sine, radius / stretch * cosine]])
    return [
        ShapePart((part.points @ matrix + (x, y)).astype(np.float32), part.tone, part.width * radius) for part in parts
    ]


def fill(canvas: ImageArray, points: Points, colour: Sequence[int]) -> None:
    """Fill a polygon in place, anti-aliased; `canvas` is uint8 (height, width) or (height, width, 3)."""
    corners = np.round(points * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [corners], tuple(colour), cv2.LINE_AA, _SHIFT)


def stroke(canvas: ImageArray, points: Points, colour: Sequence[int], width: float, *, closed: bool = False) -> None:
    """Draw a line in place, anti-aliased, at least 1 px wide."""
    corners = np.round(points * (1 << _SHIFT)).astype(np.int32)
    cv2.polylines(canvas, [corners], closed, tuple(colour), max(1, round(width)), cv2.LINE_AA, _SHIFT)


def paint(canvas: ImageArray, part: ShapePart, colour: Sequence[int]) -> None:
    """Draw one part in place in one colour, whatever its kind."""
    if part.width > 0:
        stroke(canvas, part.points, colour, part.width)
    else:
        fill(canvas, part.points, colour)
