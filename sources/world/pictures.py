"""A picture from its description to bytes, and the copies that the web makes of pictures.

Everything here is a pure function of its arguments, so that the same picture is the same bytes in any
process.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image as Pillow

from sources.world.drawing import Image
from sources.world.scenes import compose
from sources.world.styles import STYLES

# Sharing two cores with itself makes OpenCV slower on pictures this small.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Picture:
    """What to draw: `seed` feeds numpy's `default_rng`, `form` is the file's extension (jpg, png or webp)."""

    seed: tuple[int, ...]
    class_name: str
    style: str
    form: str = "jpg"


@dataclass(frozen=True)
class Alteration:
    """How a copy differs from its original: `cropped` and recoloured, or only resized and saved anew."""

    seed: tuple[int, ...]
    cropped: bool


def draw(picture: Picture) -> Image:
    """The pixels, uint8 (height, width, 3), RGB, 80 to 400 px a side."""
    rng = np.random.default_rng(picture.seed)
    return STYLES[picture.style](rng, compose(rng, picture.class_name))


def encode(pixels: Image, form: str, quality: int) -> bytes:
    """The pixels as a file of the given form; `quality` as Pillow's JPEG and WebP encoders count it."""
    buffer = io.BytesIO()
    image = Pillow.fromarray(pixels)
    if form == "png":
        image.save(buffer, "PNG", compress_level=6)
    elif form == "webp":
        image.save(buffer, "WEBP", quality=quality, method=1)
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def file_of(picture: Picture) -> tuple[bytes, int, int]:
    """The picture's bytes, width and height in px."""
    pixels = draw(picture)
    quality = 78 + sum(picture.seed) % 17
    return encode(pixels, picture.form, quality), pixels.shape[1], pixels.shape[0]


def altered(original: bytes, alteration: Alteration) -> tuple[bytes, int, int]:
    """A near copy of an image file: JPEG bytes, width and height in px.

    If `cropped`: resized by 0.6 to 1.4, recompressed at quality 60 to 90, 2 to 3 % of the area cut away at
    the edges, each channel scaled by up to 4 %. Otherwise resized by 0.7 to 1.3, recompressed at 70 to 90.
    """
    rng = np.random.default_rng(alteration.seed)
    with Pillow.open(io.BytesIO(original)) as opened:
        image = opened.convert("RGB")
    if alteration.cropped:
        margin = rng.uniform(0.005, 0.0075, 4) * (image.width, image.height, image.width, image.height)
        left, top, right, bottom = np.round(margin).astype(int).tolist()
        image = image.crop((left, top, image.width - right, image.height - bottom))
        gain = rng.uniform(0.96, 1.04, 3)
        pixels = np.clip(np.asarray(image, dtype=np.float32) * gain + rng.uniform(-4, 4), 0, 255)
        image = Pillow.fromarray(pixels.astype(np.uint8))
    scale = rng.uniform(0.6, 1.4) if alteration.cropped else rng.uniform(0.7, 1.3)
    # No side under 64 px: smaller ones fall to every size filter, and then nobody learns whether the copy was
    # found.
    scale = max(scale, 64 / min(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Pillow.Resampling.BICUBIC)
    return encode(
        np.asarray(image, dtype=np.uint8), "jpg", int(rng.integers(60 if alteration.cropped else 70, 91))
    ), *size
