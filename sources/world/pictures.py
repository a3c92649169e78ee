"""Renders a picture's description to bytes, and makes altered copies of pictures.

Everything here is a pure function of its arguments, so that the same picture gives the same bytes in any process.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image as Pillow

from sources.world.alterations import ALTERATIONS
from sources.world.drawing import ImageArray
from sources.world.scenes import compose
from sources.world.styles import STYLES

# On pictures this small, OpenCV is slower with two threads.
cv2.setNumThreads(1)


_LEAST_SIDE = 64


@dataclass(frozen=True)
class Picture:
    """What to draw: `seed` is that of numpy's `default_rng`, `form` the file's extension (jpg, png or webp)."""

    seed: tuple[int, ...]
    class_name: str
    style: str
    form: str = "jpg"


@dataclass(frozen=True)
class Alteration:
    """How a copy differs from its original: `name` is a key of `ALTERATIONS`."""

    seed: tuple[int, ...]
    name: str


def draw_picture(picture: Picture) -> ImageArray:
    """The pixels, uint8 (height, width, 3), RGB, 80 to 400 px a side."""
    rng = np.random.default_rng(picture.seed)
    return STYLES[picture.style](rng, compose(rng, picture.class_name))


def encode(pixels: ImageArray, form: str, quality: int) -> bytes:
    """The pixels as a file of the given form; `quality` is that of Pillow's JPEG and WebP encoders."""
    buffer = io.BytesIO()
    image = Pillow.fromarray(pixels)
    if form == "png":
        image.save(buffer, "PNG", compress_level=6)
    elif form == "webp":
        image.save(buffer, "WEBP", quality=quality, method=1)
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def render_file(picture: Picture) -> tuple[bytes, int, int]:
    """The picture's bytes, width and height in px."""
    pixels = draw_picture(picture)
    quality = 78 + sum(picture.seed) % 17
    return encode(pixels, picture.form, quality), pixels.shape[1], pixels.shape[0]


def alter(original: bytes, alteration: Alteration) -> tuple[bytes, int, int]:
    """A near copy of an image file: JPEG bytes of quality 70 to 90, width and height in px."""
    rng = np.random.default_rng(alteration.seed)
    with Pillow.open(io.BytesIO(original)) as source:
        pixels = np.asarray(source.convert("RGB"), np.uint8)
    image = Pillow.fromarray(ALTERATIONS[alteration.name](pixels, rng))
    # No side under 64 px: every size filter drops smaller ones, and then it is unknown whether the copy was found.
    if min(image.size) < _LEAST_SIDE:
        scale = _LEAST_SIDE / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Pillow.Resampling.BICUBIC)
    return encode(np.asarray(image, np.uint8), "jpg", int(rng.integers(70, 91))), *image.size
