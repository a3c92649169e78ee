"""Scenes: objects with their sizes, positions and palettes, before textured backgrounds."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sources.world.drawing import Colour, ImageArray, ShapePart, place_parts
from sources.world.shapes import CLASSES, shape_parts

FloatImage = npt.NDArray[np.float32]


_LEAST_CONTRAST = 115.0  # between an object's main colour and the ground, Euclidean in RGB of 0..255


_GROUNDS = ("clouds", "horizon", "boards", "tiles", "bokeh", "hills")


@dataclass(frozen=True)
class PlacedObject:
    """An object in pixels: its parts back to front, a colour for each tone, half its extent in px."""

    parts: list[ShapePart]
    palette: dict[str, Colour]
    radius: float


@dataclass(frozen=True)
class Scene:
    """Small objects first, the main one last; `ground` are three related colours for the background."""

    height: int
    width: int
    ground: tuple[Colour, Colour, Colour]
    objects: list[PlacedObject]


def _from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB of 0..255 from hue, saturation and value, each in 0..1."""
    channels = []
    for offset in (5, 3, 1):
        k = (offset + 6 * hue) % 6
        channels.append(round(255 * value * (1 - saturation * max(0.0, min(k, 4 - k, 1.0)))))
    return channels[0], channels[1], channels[2]


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    return _from_hsv(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def _ground(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    base = np.array(_colour(rng, (0.05, 0.6), (0.25, 0.95)))
    near = [np.clip(base + rng.normal(0, 26, 3) + rng.normal(0, 20), 0, 255).astype(int).tolist() for _ in range(2)]
    first, second, third = base.tolist(), near[0], near[1]
    return (first[0], first[1], first[2]), (second[0], second[1], second[2]), (third[0], third[1], third[2])


def _contrasting_colour(rng: np.random.Generator, others: FloatImage, enough: float) -> Colour:
    """A random colour `enough` away from each of `others`, float32 (n, 3); the farthest of 12 if none is."""
    best, farthest = (0, 0, 0), -1.0
    for _ in range(12):
        colour = _colour(rng, (0.25, 0.95), (0.2, 0.97))
        distance = float(np.linalg.norm(others - np.array(colour), axis=1).min())
        if distance > farthest:
            best, farthest = colour, distance
        if distance >= enough:
            break
    return best


def _palette(rng: np.random.Generator, ground: tuple[Colour, Colour, Colour]) -> dict[str, Colour]:
    background = np.array(ground, dtype=np.float32)
    main = _contrasting_colour(rng, background, _LEAST_CONTRAST)
    second = _contrasting_colour(rng, np.array([*ground, main], dtype=np.float32), _LEAST_CONTRAST * 0.6)
    dark, light = _colour(rng, (0.1, 0.5), (0.06, 0.2)), _colour(rng, (0.02, 0.2), (0.85, 0.98))
    # Thin dark tyres before a dark background would be invisible: there dark and light are exchanged.
    if float(background.mean()) < 75:
        dark, light = light, dark
    return {"main": main, "second": second, "dark": dark, "light": light}


def compose(rng: np.random.Generator, class_name: str) -> Scene:
    """A scene with `class_name`: the short side 80 to about 275 px (small ones are more frequent), the long side at
    most 400 px.

    The main object takes 45 to 85 % of the short side. About a third of scenes also have small objects, of any class or
    of the same one.
    """
    short = 80 * 3.4 ** rng.uniform() ** 1.2
    long = min(400.0, short * rng.uniform(1.0, 1.45))
    height, width = (round(short), round(long)) if rng.random() < 0.4 else (round(long), round(short))
    if rng.random() < 0.55:
        height, width = min(height, width), max(height, width)
    ground = _ground(rng)
    extent = rng.uniform(0.55, 0.87) * min(height, width) / 2
    x = width / 2 + rng.uniform(-1, 1) * (width / 2 - extent) * 0.85
    y = height / 2 + rng.uniform(-1, 1) * (height / 2 - extent) * 0.85
    objects = []
    if rng.random() < 0.35:
        for _ in range(int(rng.integers(1, 4))):
            other = class_name if rng.random() < 0.5 else str(rng.choice(CLASSES))
            small = rng.uniform(0.1, 0.17) * min(height, width)
            corner_x = rng.uniform(small, width - small)
            corner_y = rng.uniform(small, height - small)
            if max(abs(corner_x - x), abs(corner_y - y)) > extent * 0.8 + small:
                objects.append(_object(rng, other, corner_x, corner_y, small, ground))
    objects.append(_object(rng, class_name, x, y, extent, ground))
    return Scene(height, width, ground, objects)


def _object(
    rng: np.random.Generator,
    class_name: str,
    x: float,
    y: float,
    radius: float,
    ground: tuple[Colour, Colour, Colour],
) -> PlacedObject:
    parts = place_parts(
        shape_parts(class_name, rng),
        x=x,
        y=y,
        radius=radius,
        turn=float(np.clip(rng.normal(0, 9), -20, 20)),
        mirrored=rng.random() < 0.5,
        stretch=rng.uniform(0.92, 1.09),
    )
    return PlacedObject(parts, _palette(rng, ground), radius)


def clouds(rng: np.random.Generator, height: int, width: int, *, coarsest: int = 2, octaves: int = 4) -> FloatImage:
    """Smooth noise of several octaves, float32 (height, width), about [-1, 1]; the first has `coarsest` cells."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        cells = coarsest * 2**octave + 1
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.62**octave
    return total / np.float32(1.5)


def gradient(rng: np.random.Generator, height: int, width: int) -> FloatImage:
    """A linear ramp of random direction, float32 (height, width), -1 to 1 from edge to edge."""
    angle = rng.uniform(0, 2 * np.pi)
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    return rows + columns


def grain(rng: np.random.Generator, picture: FloatImage, strength: float, *, colour: float = 0.4) -> ImageArray:
    """Add sensor noise (standard deviation `strength`, grey and per channel) and round to uint8."""
    height, width = picture.shape[:2]
    # One noise field, rolled for the channels, is a third of the cost of three and looks the same.
    noise = rng.standard_normal((height, width), dtype=np.float32) * np.float32(strength)
    shifted = np.stack([np.roll(noise, 7 * channel + 3, axis=channel % 2) for channel in range(3)], axis=2)
    noisy = picture + noise[..., None] + shifted * np.float32(colour)
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def _second_colour_share(rng: np.random.Generator, kind: str, height: int, width: int) -> FloatImage:
    """The share of the second ground colour, float32 (height, width) in 0..1."""
    cloud = clouds(rng, height, width, coarsest=int(rng.integers(2, 5)))
    ramp = gradient(rng, height, width)
    if kind == "horizon":
        line = np.linspace(0, 1, height, dtype=np.float32)[:, None] - np.float32(rng.uniform(0.35, 0.8))
        share = np.clip(line * 30 + cloud * 1.5 + 0.5, 0, 1) * 0.85 + 0.15 * np.clip(cloud, 0, 1)
    elif kind == "hills":
        ridge = cv2.resize(rng.uniform(0.2, 0.9, (1, 6)).astype(np.float32), (width, 1), interpolation=cv2.INTER_CUBIC)
        line = np.linspace(0, 1, height, dtype=np.float32)[:, None] - ridge
        share = np.clip(line * 25 + 0.5, 0, 1) * 0.8 + cloud * 0.2
    elif kind == "boards":
        share = 0.5 + 0.4 * np.sign(np.sin(ramp * rng.uniform(6, 16))) + 0.3 * cloud
    elif kind == "tiles":
        pitch = rng.uniform(5, 11)
        across = np.sin(np.linspace(0, pitch * 2, width, dtype=np.float32) + rng.uniform(0, 6))[None, :]
        down = np.sin(np.linspace(0, pitch * 2, height, dtype=np.float32) + rng.uniform(0, 6))[:, None]
        share = 0.5 + 0.4 * np.sign(across * down) + 0.3 * cloud
    elif kind == "bokeh":
        spots = np.zeros((height, width), dtype=np.uint8)
        for _ in range(int(rng.integers(8, 26))):
            centre = int(rng.integers(0, width)), int(rng.integers(0, height))
            radius = int(rng.uniform(0.03, 0.13) * min(height, width)) + 1
            cv2.circle(spots, centre, radius, int(rng.integers(90, 255)), -1, cv2.LINE_AA)
        share = cv2.blur(spots, (3, 3)).astype(np.float32) / 255 * 0.9 + cloud * 0.25
    else:
        share = 0.5 + 0.9 * cloud
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def textured_ground(rng: np.random.Generator, scene: Scene, *, contrast: float = 1.0) -> ImageArray:
    """A photo-like background in the scene's ground colours, lit from one side; uint8 (height, width, 3)."""
    height, width = scene.height, scene.width
    kind = _GROUNDS[int(rng.integers(len(_GROUNDS)))]
    share = _second_colour_share(rng, kind, height, width)[..., None] * np.float32(contrast)
    first, second, third = (np.array(colour, dtype=np.float32) for colour in scene.ground)
    light = 1 + gradient(rng, height, width) * np.float32(rng.uniform(0.05, 0.22))
    light += clouds(rng, height, width, coarsest=8, octaves=3) * np.float32(rng.uniform(0.03, 0.13))
    texture = (
        first + (second - first) * share + (third - first) * clouds(rng, height, width)[..., None] * np.float32(0.7)
    )
    return np.asarray(np.clip(texture * light[..., None], 0, 255), dtype=np.uint8)
