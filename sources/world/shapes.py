"""The object classes as outlines.

A class is a function of a random generator that returns `ShapePart`s in a unit frame, back to front: x to the right, y
downwards, both within about [-1, 1]. A style determines the look of a part; the outline alone must identify the class,
so colours are random and independent of it.
"""

from collections.abc import Callable

import numpy as np

from sources.world.drawing import ShapePart, box, ellipse, polygon


def _bicycle(rng: np.random.Generator) -> list[ShapePart]:
    radius = rng.uniform(0.38, 0.44)
    tyre = rng.uniform(0.08, 0.11)
    left, right, hub = (-0.53, 0.4), (0.53, 0.4), (-0.08, 0.42)
    seat, head = (-0.22, -0.24), (0.36, -0.2)
    parts = [ShapePart(ellipse(x, y, radius, radius), "dark", tyre) for x, y in (left, right)]
    for corners in ((left, seat, hub, left), (hub, head, seat), (head, right)):
        parts.append(ShapePart(polygon(*corners), "main", 0.09))
    handle = (
        polygon((0.24, -0.52), (0.33, -0.42), head)
        if rng.random() < 0.5
        else polygon((0.56, -0.4), (0.32, -0.46), head)
    )
    parts.append(ShapePart(handle, "second", 0.09))
    parts.append(ShapePart(polygon(seat, (-0.27, -0.4)), "main", 0.09))
    parts.append(ShapePart(polygon((-0.42, -0.43), (-0.1, -0.43)), "second", 0.13))
    return parts


def _boat(rng: np.random.Generator) -> list[ShapePart]:
    mast = rng.uniform(-0.12, 0.05)
    top = rng.uniform(-0.98, -0.85)
    parts = [
        ShapePart(polygon((mast, top), (mast, 0.42)), "dark", 0.07),
        ShapePart(polygon((mast + 0.07, top + 0.1), (0.8, 0.3), (mast + 0.07, 0.3)), "light"),
        ShapePart(polygon((mast - 0.07, top + 0.25), (mast - 0.07, 0.3), (-0.72, 0.3)), "second"),
        ShapePart(polygon((-0.98, 0.42), (0.98, 0.42), (0.66, 0.9), (-0.6, 0.9)), "main"),
    ]
    if rng.random() < 0.6:
        parts.append(ShapePart(polygon((-0.88, 0.56), (0.89, 0.56)), "light", 0.07))
    return parts


def _butterfly(rng: np.random.Generator) -> list[ShapePart]:
    span = rng.uniform(0.88, 1.0)
    parts = []
    for side in (-1, 1):
        parts.append(ShapePart(ellipse(side * 0.38 * span, 0.42, 0.38, 0.3, turn=side * 40), "second"))
        parts.append(ShapePart(ellipse(side * 0.52 * span, -0.28, 0.52, 0.36, turn=side * -32), "main"))
        parts.append(ShapePart(ellipse(side * 0.62 * span, -0.36, 0.16, 0.13), "light"))
        parts.append(ShapePart(polygon((side * 0.03, -0.5), (side * 0.14, -0.78), (side * 0.28, -0.88)), "dark", 0.05))
    parts.append(ShapePart(ellipse(0, 0.02, 0.09, 0.6), "dark"))
    return parts


def _car(rng: np.random.Generator) -> list[ShapePart]:
    roof = rng.uniform(-0.56, -0.44)
    rear = rng.uniform(-0.75, -0.55)
    shape = polygon(
        (-0.98, 0.38),
        (-0.97, 0.0),
        (rear - 0.08, -0.1),
        (rear + 0.2, roof),
        (0.28, roof),
        (0.56, -0.08),
        (0.95, 0.02),
        (0.98, 0.38),
    )
    parts = [ShapePart(shape, "main")]
    parts.append(
        ShapePart(
            polygon((rear + 0.12, -0.1), (rear + 0.27, roof + 0.1), (-0.12, roof + 0.1), (-0.12, -0.1)),
            "light",
        )
    )
    parts.append(ShapePart(polygon((-0.02, -0.1), (-0.02, roof + 0.1), (0.23, roof + 0.1), (0.4, -0.1)), "light"))
    for x in (-0.55, 0.55):
        parts.append(ShapePart(ellipse(x, 0.4, 0.25, 0.25), "dark"))
        parts.append(ShapePart(ellipse(x, 0.4, 0.11, 0.11), "light"))
    if rng.random() < 0.5:
        parts.append(ShapePart(ellipse(0.9, 0.14, 0.07, 0.07), "second"))
    return parts


def _cup(rng: np.random.Generator) -> list[ShapePart]:
    foot = rng.uniform(0.36, 0.52)
    top = rng.uniform(-0.5, -0.35)
    parts = [ShapePart(ellipse(0.6, 0.08, 0.3, 0.3), "main", 0.13)]
    if rng.random() < 0.6:
        parts.append(ShapePart(ellipse(-0.08, 0.78, 0.85, 0.13), "second"))
    parts.append(ShapePart(polygon((-0.7, top), (0.56, top), (foot - 0.05, 0.76), (-foot - 0.1, 0.76)), "main"))
    parts.append(ShapePart(ellipse(-0.07, top, 0.63, 0.15), "dark"))
    for x in (-0.3, 0.14) if rng.random() < 0.6 else ():
        wave = polygon((x, top - 0.16), (x + 0.09, top - 0.26), (x - 0.04, top - 0.38), (x + 0.05, top - 0.5))
        parts.append(ShapePart(wave, "light", 0.07))
    if rng.random() < 0.5:
        parts.append(ShapePart(polygon((-0.62, 0.2), (0.48, 0.2)), "second", 0.14))
    return parts


def _fish(rng: np.random.Generator) -> list[ShapePart]:
    height = rng.uniform(0.38, 0.5)
    tail = rng.uniform(0.38, 0.5)
    parts = [
        ShapePart(polygon((0.45, 0.0), (0.98, -tail), (0.84, 0.0), (0.98, tail)), "second"),
        ShapePart(polygon((-0.3, -height * 0.75), (0.05, -height - 0.28), (0.3, -height * 0.7)), "second"),
        ShapePart(ellipse(-0.2, 0.0, 0.76, height), "main"),
        ShapePart(polygon((-0.15, 0.1), (0.2, 0.02), (0.14, 0.3)), "second"),
        ShapePart(ellipse(-0.62, -0.1, 0.1, 0.1), "light"),
        ShapePart(ellipse(-0.63, -0.1, 0.05, 0.05), "dark"),
    ]
    for x in (0.0, 0.2) if rng.random() < 0.5 else ():
        parts.append(ShapePart(ellipse(x - 0.24, 0, 0.12, height * 0.7, start=-80, stop=80), "light", 0.06))
    return parts


def _flower(rng: np.random.Generator) -> list[ShapePart]:
    petals = int(rng.integers(5, 9))
    phase = rng.uniform(0, 360)
    parts = [ShapePart(polygon((0.0, -0.3), (rng.uniform(-0.1, 0.1), 0.3), (0.0, 0.98)), "dark", 0.09)]
    for side in (-1, 1):
        parts.append(ShapePart(ellipse(side * 0.27, 0.6, 0.28, 0.11, turn=side * -32), "second"))
    for petal in range(petals):
        angle = phase + 360 * petal / petals
        x, y = 0.36 * np.cos(np.radians(angle)), 0.36 * np.sin(np.radians(angle)) - 0.38
        parts.append(ShapePart(ellipse(float(x), float(y), 0.27, 0.88 / petals + 0.03, turn=angle), "main"))
    parts.append(ShapePart(ellipse(0, -0.38, 0.19, 0.19), "light"))
    return parts


def _house(rng: np.random.Generator) -> list[ShapePart]:
    eaves = rng.uniform(-0.2, 0.0)
    peak = rng.uniform(-0.95, -0.75)
    door = rng.choice([-0.4, 0.0, 0.38])
    parts = []
    if rng.random() < 0.7:
        parts.append(ShapePart(box(0.36, peak, 0.56, eaves), "dark"))
    parts.append(ShapePart(box(-0.74, eaves, 0.74, 0.9), "main"))
    parts.append(ShapePart(polygon((-0.97, eaves), (0.0, peak), (0.97, eaves)), "second"))
    parts.append(ShapePart(box(door - 0.15, 0.38, door + 0.15, 0.9), "dark"))
    for x in (-0.42, 0.0, 0.42):
        if abs(x - door) > 0.2:
            parts.append(ShapePart(box(x - 0.14, 0.12, x + 0.14, 0.44), "light"))
    return parts


def _key(rng: np.random.Generator) -> list[ShapePart]:
    ring = rng.uniform(0.26, 0.34)
    teeth = [0.56, 0.74, 0.9] if rng.random() < 0.5 else [0.62, 0.86]
    parts = [ShapePart(polygon((-0.98 + 2 * ring, 0.0), (0.95, 0.0)), "main", 0.17)]
    parts += [ShapePart(polygon((x, 0.0), (x, rng.uniform(0.26, 0.4))), "main", 0.13) for x in teeth]
    parts.append(ShapePart(ellipse(-0.95 + ring, 0.0, ring, ring), "main", 0.2))
    parts.append(ShapePart(polygon((-0.9 + 2 * ring, -0.15), (-0.9 + 2 * ring, 0.15)), "second", 0.12))
    return parts


def _mushroom(rng: np.random.Generator) -> list[ShapePart]:
    brim = rng.uniform(0.0, 0.12)
    foot = rng.uniform(0.26, 0.36)
    parts = [
        ShapePart(polygon((-0.22, brim), (0.22, brim), (foot, 0.9), (-foot, 0.9)), "light"),
        ShapePart(ellipse(0, brim, 0.92, 0.86, start=180, stop=360), "main"),
        ShapePart(ellipse(0, brim, 0.92, 0.14), "second"),
    ]
    for x, y, size in ((-0.45, -0.22, 0.13), (0.05, -0.5, 0.16), (0.5, -0.2, 0.12), (0.02, -0.12, 0.1)):
        parts.append(ShapePart(ellipse(x + rng.uniform(-0.06, 0.06), brim + y, size, size * 0.85), "light"))
    return parts


def _tree(rng: np.random.Generator) -> list[ShapePart]:
    tiers = int(rng.integers(3, 5))
    width = rng.uniform(0.62, 0.78)
    parts = [ShapePart(box(-0.11, 0.5, 0.11, 0.98), "dark")]
    for tier in range(tiers):
        low = 0.66 - 1.16 * tier / tiers
        half = width * (1 - 0.72 * tier / tiers)
        high = max(-0.98, low - 0.72)
        parts.append(
            ShapePart(
                polygon((-half, low), (0.0, high), (half, low), (0.0, low - 0.1)),
                "main" if tier % 2 == 0 else "second",
            )
        )
    return parts


def _umbrella(rng: np.random.Generator) -> list[ShapePart]:
    low = rng.uniform(-0.06, 0.06)
    hook = -1 if rng.random() < 0.5 else 1
    parts = [ShapePart(polygon((0, -0.92), (0, 0.72)), "dark", 0.08)]
    parts.append(ShapePart(ellipse(hook * 0.15, 0.72, 0.15, 0.2, start=0, stop=180), "dark", 0.08))
    dome = ellipse(0, low, 0.98, 0.8, start=180, stop=360)
    scallops = [ellipse(x, low, 0.245, 0.15, start=360, stop=180) for x in (0.735, 0.245, -0.245, -0.735)]
    parts.append(ShapePart(np.concatenate([dome, *scallops]), "main"))
    inner = np.concatenate([ellipse(0, low, 0.49, 0.8, start=180, stop=360), *scallops[1:3]])
    parts.append(ShapePart(inner, "second"))
    parts.append(ShapePart(ellipse(0, low, 0.1, 0.8, start=180, stop=360), "main", 0.04))
    return parts


_SHAPES: dict[str, Callable[[np.random.Generator], list[ShapePart]]] = {
    "bicycle": _bicycle,
    "boat": _boat,
    "butterfly": _butterfly,
    "car": _car,
    "cup": _cup,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "key": _key,
    "mushroom": _mushroom,
    "tree": _tree,
    "umbrella": _umbrella,
}


CLASSES: tuple[str, ...] = tuple(sorted(_SHAPES))


def shape_parts(class_name: str, rng: np.random.Generator) -> list[ShapePart]:
    """One example of a class, in the unit frame, back to front."""
    return _SHAPES[class_name](rng)
