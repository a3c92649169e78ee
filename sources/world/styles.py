"""Six ways to render a scene. `photo` is the reference; each other style keeps the outlines and changes the rest.

A style is a pure function of a random generator and a `Scene`; it returns uint8 (height, width, 3), RGB.
"""

from collections.abc import Callable

import cv2
import numpy as np

from sources.world.drawing import ImageArray, paint, stroke
from sources.world.linework import clipart, sketch
from sources.world.scenes import FloatImage, PlacedObject, Scene, clouds, gradient, grain, textured_ground


def _mask(scene: Scene, objects: list[PlacedObject]) -> ImageArray:
    """The mask of objects: uint8 (height, width), 255 inside."""
    mask = np.zeros((scene.height, scene.width), dtype=np.uint8)
    for item in objects:
        for part in item.parts:
            paint(mask, part, (255, 255, 255))
    return mask


def _lit(rng: np.random.Generator, scene: Scene) -> tuple[FloatImage, FloatImage]:
    """The lit scene without camera effects: float32 (height, width, 3) of 0..255, and the objects' mask of 0..1."""
    height, width = scene.height, scene.width
    ground = textured_ground(rng, scene)
    outline = _mask(scene, scene.objects)
    mask = outline.astype(np.float32) / np.float32(255)
    reach = max(1.5, scene.objects[-1].radius * 0.09)
    angle = rng.uniform(0, 2 * np.pi)
    offset = np.array([[1, 0, reach * 1.6 * np.cos(angle)], [0, 1, reach * 1.6 * abs(np.sin(angle))]], dtype=np.float32)
    shadow = (
        cv2.blur(cv2.warpAffine(outline, offset, (width, height)), (int(reach) * 2 + 1,) * 2).astype(np.float32) / 255
    )
    background = ground * (1 - np.float32(rng.uniform(0.25, 0.55)) * shadow)[..., None]

    flat = ground.copy()
    for item in scene.objects:
        for part in item.parts:
            paint(flat, part, item.palette[part.tone])
    # Edges are darker: the blurred mask is a cheap approximation of the surface's slope.
    rim = cv2.blur(outline, (int(reach) * 2 + 1,) * 2).astype(np.float32) / 255
    shade = 0.72 + 0.33 * rim + gradient(rng, height, width) * np.float32(rng.uniform(0.08, 0.22))
    shade += clouds(rng, height, width, coarsest=5, octaves=3) * np.float32(rng.uniform(0.05, 0.14))
    lit = background * (1 - mask)[..., None] + flat * (shade * mask)[..., None]
    return np.asarray(lit, dtype=np.float32), mask


def photo(rng: np.random.Generator, scene: Scene) -> ImageArray:
    """Textured ground, shading, shadow, a tint, slight blur and grain."""
    picture, _ = _lit(rng, scene)
    tint = rng.uniform(0.9, 1.1, 3).astype(np.float32) * np.float32(rng.uniform(0.85, 1.12))
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.3, 0.9))
    return grain(rng, picture * tint, rng.uniform(2, 9))


def painting(rng: np.random.Generator, scene: Scene) -> ImageArray:
    """The lit scene repainted in short strokes that follow a smooth field, in a shifted palette."""
    lit, mask = _lit(rng, scene)
    height, width = scene.height, scene.width
    shift = rng.normal(0, 14, 3).astype(np.float32) + np.array([10, 2, -8], dtype=np.float32)
    source = np.clip((lit - 110) * np.float32(rng.uniform(1.0, 1.3)) + 118 + shift, 0, 255).astype(np.uint8)
    canvas = cv2.medianBlur(source, 5)
    field = clouds(rng, height, width, coarsest=2, octaves=2) * np.float32(np.pi)
    inside = np.argwhere(cv2.erode(mask, np.ones((3, 3), dtype=np.uint8)) > 0.5)
    size = min(height, width)
    # Broad strokes everywhere, then finer ones on the objects.
    for count, length, on_objects in ((260, 0.05, False), (340, 0.02, True)):
        spots = np.stack([rng.integers(0, height, count), rng.integers(0, width, count)], axis=1)
        if on_objects and len(inside):
            spots = inside[rng.integers(0, len(inside), count)]
        angles = field[spots[:, 0], spots[:, 1]]
        half = np.stack([np.cos(angles), np.sin(angles)], axis=1) * size * length * rng.uniform(0.5, 1.0, (count, 1))
        centres = spots[:, ::-1].astype(np.float32)
        colours = np.clip(source[spots[:, 0], spots[:, 1]] + rng.normal(0, 9, (count, 1)), 0, 255).astype(int).tolist()
        wide = max(1.5, size * length * 0.42)
        for ends, colour in zip(np.stack([centres - half, centres + half], axis=1), colours, strict=True):
            stroke(canvas, ends, colour, wide)
    weave = 1 + clouds(rng, height, width, coarsest=24, octaves=2) * np.float32(0.06)
    return np.asarray(np.clip(canvas * weave[..., None], 0, 255), dtype=np.uint8)


def lowlight(rng: np.random.Generator, scene: Scene) -> ImageArray:
    """The lit scene at night: dark, nearly grey, one lamp, much noise."""
    lit, mask = _lit(rng, scene)
    height, width = scene.height, scene.width
    grey = lit @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    # At night objects differ only by brightness; increase the contrast so that they stay visible.
    inner, outer = float((grey * mask).sum() / max(mask.sum(), 1)), float(grey.mean())
    grey = grey + mask * np.float32(26 if inner >= outer else -26)
    faint = grey[..., None] * np.float32(0.75) + lit * np.float32(0.25)
    rows, columns = np.ogrid[:height, :width]
    lamp_x, lamp_y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
    away = ((columns - lamp_x) ** 2 + (rows - lamp_y) ** 2) / (0.5 * (height + width) / 2) ** 2
    lamp = (np.float32(rng.uniform(0.2, 0.3)) + np.float32(rng.uniform(0.25, 0.45)) * np.exp(-away)).astype(np.float32)
    tint = np.array([rng.uniform(0.7, 1.0), rng.uniform(0.85, 1.0), rng.uniform(0.95, 1.25)], dtype=np.float32)
    return grain(rng, faint * lamp[..., None] * tint + np.float32(6), rng.uniform(5, 10), colour=0.7)


_THERMAL = (
    ((0, 0, 12), (70, 0, 120), (190, 30, 90), (245, 130, 10), (255, 245, 180)),
    ((10, 10, 90), (0, 130, 190), (40, 190, 70), (240, 220, 30), (220, 30, 20)),
    ((6, 6, 6), (70, 70, 72), (130, 130, 132), (190, 190, 190), (250, 250, 250)),
)


def infrared(rng: np.random.Generator, scene: Scene) -> ImageArray:
    """Heat instead of light: warm objects before a cool ground (or the reverse), soft, in false colours."""
    lit, mask = _lit(rng, scene)
    grey = lit.mean(axis=2) / np.float32(255)
    heat = grey * np.float32(0.45) + mask * np.float32(rng.uniform(0.35, 0.5))
    heat = cv2.GaussianBlur(heat, (0, 0), max(0.6, min(scene.height, scene.width) * 0.008))
    # A thermal camera stretches its image over its whole scale.
    heat = 0.04 + 0.92 * (heat - heat.min()) / max(float(np.ptp(heat)), 0.05)
    if rng.random() < 0.3:
        heat = 1 - heat
    stops = np.array(_THERMAL[int(rng.integers(len(_THERMAL)))], dtype=np.float32)
    levels = np.clip(heat * 255, 0, 255).astype(np.uint8)
    scale = np.stack(
        [np.interp(np.arange(256), np.linspace(0, 255, len(stops)), stops[:, c]) for c in range(3)], axis=1
    )
    return grain(rng, scale.astype(np.float32)[levels], rng.uniform(2, 5), colour=0.0)


STYLES: dict[str, Callable[[np.random.Generator, Scene], ImageArray]] = {
    "photo": photo,
    "clipart": clipart,
    "infrared": infrared,
    "lowlight": lowlight,
    "painting": painting,
    "sketch": sketch,
}
