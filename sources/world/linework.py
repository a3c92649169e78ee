"""The two styles made of lines: flat clip art and the pencil sketch."""

import cv2
import numpy as np

from sources.world.drawing import Colour, ImageArray, Points, ShapePart, fill, paint, stroke
from sources.world.scenes import Scene, clouds, gradient, grain


def _vivid(colour: Colour) -> Colour:
    """The colour as printed: its saturation increased."""
    values = np.array(colour, dtype=np.float32)
    channels = np.clip(values.mean() + (values - values.mean()) * 1.6 + 12, 0, 255).astype(int).tolist()
    return channels[0], channels[1], channels[2]


def _flat_ground(rng: np.random.Generator, scene: Scene) -> ImageArray:
    """A printed background: rays, stripes, dots, bars or blobs in two or three flat colours."""
    height, width = scene.height, scene.width
    colours = [_vivid(colour) for colour in scene.ground]
    lift = 1.0 if rng.random() < 0.6 else 0.55
    first, second = (tuple(round(255 - (255 - value) * lift) for value in colour) for colour in colours[:2])
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = first
    kind = int(rng.integers(5))
    long = float(height + width)
    if kind == 0:
        centre, rays = np.array([rng.uniform(0, width), rng.uniform(0, height)]), int(rng.integers(5, 13))
        phase = rng.uniform(0, 6)
        for ray in range(rays):
            angles = phase + (2 * np.pi / rays) * np.array([ray, ray + 0.5])
            ends = centre + long * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            fill(canvas, np.concatenate([centre[None], ends]).astype(np.float32), second)
    elif kind == 1:
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(0.1, 0.3) * min(height, width)
        along = np.array([np.cos(angle), np.sin(angle)])
        offset = np.array([-along[1], along[0]])
        for step in np.arange(-long, long, pitch):
            middle = np.array([width / 2, height / 2]) + offset * (step + pitch * 0.3)
            stroke(
                canvas,
                np.stack([middle - along * long, middle + along * long]),
                second,
                pitch * rng.uniform(0.3, 0.6),
            )
    elif kind == 2:
        for _ in range(int(rng.integers(10, 30))):
            centre_px = int(rng.integers(0, width)), int(rng.integers(0, height))
            cv2.circle(
                canvas,
                centre_px,
                int(rng.uniform(0.02, 0.1) * min(height, width)) + 1,
                second,
                -1,
                cv2.LINE_AA,
            )
    elif kind == 3:
        edge = rng.uniform(0.25, 0.8) * height
        slope = rng.uniform(-0.25, 0.25) * height
        low = np.array([[0, edge - slope], [width, edge + slope], [width, height], [0, height]], dtype=np.float32)
        fill(canvas, low, second)
    else:
        for _ in range(int(rng.integers(2, 5))):
            angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            reach = rng.uniform(0.2, 0.5) * min(height, width) * (1 + 0.25 * np.sin(angles * rng.integers(2, 5)))
            blob = np.stack(
                [
                    np.cos(angles) * reach + rng.uniform(0, width),
                    np.sin(angles) * reach + rng.uniform(0, height),
                ],
                1,
            )
            fill(canvas, blob.astype(np.float32), second)
    return canvas


def clipart(rng: np.random.Generator, scene: Scene) -> ImageArray:
    """Flat saturated areas inside heavy outlines."""
    canvas = _flat_ground(rng, scene)
    pen = (20, 18, 24)
    for item in scene.objects:
        line = max(1.0, item.radius * rng.uniform(0.035, 0.06))
        for part in item.parts:
            if part.width > 0:
                stroke(canvas, part.points, pen, part.width + 2 * line)
        for part in item.parts:
            paint(canvas, part, _vivid(item.palette[part.tone]))
            if part.width == 0:
                stroke(canvas, part.points, pen, line, closed=True)
    return canvas


def _shaky(rng: np.random.Generator, points: Points, amount: float, *, closed: bool) -> Points:
    """The outline as drawn by hand: resampled at 40 points, each displaced by a smooth error of about `amount` px."""
    outline = np.concatenate([points, points[:1]]) if closed else points
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(outline, axis=0), axis=1))])
    distances = np.union1d(np.linspace(0, steps[-1], 40), steps)
    dense = np.stack([np.interp(distances, steps, outline[:, axis]) for axis in (0, 1)], axis=1)
    error = np.stack(
        [np.interp(distances, np.linspace(0, steps[-1], 9), rng.normal(0, amount, 9)) for _ in (0, 1)], axis=1
    )
    return np.asarray(dense + error, dtype=np.float32)


def _band(part: ShapePart) -> Points:
    """The two sides of a thick line as one outline, float32 (2 n, 2)."""
    along = np.gradient(part.points, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    half = across * np.float32(part.width / 2)
    return np.concatenate([part.points + half, (part.points - half)[::-1]]).astype(np.float32)


def _hatch(rng: np.random.Generator, canvas: ImageArray, area: ImageArray, grey: int, pitch: float) -> None:
    """Draw parallel lines over `area` (uint8 mask) in place, `pitch` px apart."""
    height, width = area.shape
    lines = np.zeros_like(area)
    angle = rng.uniform(0.4, 1.2) * (1 if rng.random() < 0.5 else -1)
    along = np.array([np.cos(angle), np.sin(angle)])
    offset = np.array([-along[1], along[0]])
    reach = float(height + width) / 2
    for step in np.arange(-reach, reach, pitch):
        middle = np.array([width / 2, height / 2]) + offset * step
        stroke(lines, np.stack([middle - along * reach, middle + along * reach]), (255,), 1)
    weight = cv2.min(lines, area).astype(np.float32) / 255
    canvas[:] = (canvas * (1 - weight) + grey * weight).astype(np.uint8)


def sketch(rng: np.random.Generator, scene: Scene) -> ImageArray:
    """Grey lines on paper, each drawn twice with a random error, and hatched shading."""
    height, width = scene.height, scene.width
    short_side = min(height, width)
    canvas = np.full((height, width), int(rng.integers(222, 246)), dtype=np.uint8)
    paper = int(canvas[0, 0])
    # Smudges and a hatched patch, so that no two backgrounds are alike, to a person or to a perceptual hash.
    smudge = clouds(rng, height, width, coarsest=3, octaves=3) * np.float32(rng.uniform(14, 30))
    smudge += gradient(rng, height, width) * np.float32(rng.uniform(3, 16))
    for _ in range(int(rng.integers(1, 4))):
        patch = np.zeros((height, width), dtype=np.uint8)
        centre = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        axes = int(rng.uniform(0.15, 0.45) * width), int(rng.uniform(0.1, 0.35) * height)
        cv2.ellipse(patch, centre, axes, rng.uniform(0, 180), 0, 360, 255, -1)
        _hatch(rng, canvas, patch, int(rng.integers(120, 190)), max(3.0, short_side * rng.uniform(0.02, 0.05)))
    for item in scene.objects:
        ink = int(rng.integers(15, 80))
        pen = max(1.0, item.radius * rng.uniform(0.018, 0.045))
        for part in item.parts:
            outline = part.points if part.width == 0 else _band(part)
            fill(canvas, outline, (paper,))
            if part.tone in ("second", "dark") and rng.random() < 0.8:
                area = np.zeros((height, width), dtype=np.uint8)
                fill(area, outline, (255,))
                _hatch(
                    rng,
                    canvas,
                    area,
                    ink + 40,
                    max(2.5, item.radius * (0.09 if part.tone == "second" else 0.055)),
                )
            for _ in range(2):
                line = _shaky(rng, outline, item.radius * 0.012, closed=True)
                stroke(canvas, line, (ink,), pen)
    tint = np.array([1.0, rng.uniform(0.96, 1.0), rng.uniform(0.86, 1.0)], dtype=np.float32)
    return grain(rng, (canvas.astype(np.float32) + smudge)[..., None] * tint, rng.uniform(1.5, 4), colour=0.0)
