"""Images to be stored, and what the tests of pictures ask of what is stored."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from pipeline.images.normalize import ImageRules, RefusedImage, StoredImage, to_stored_image
from pipeline.records import Box
from sources.world.pictures import Picture as Drawn
from sources.world.pictures import render_file
from sources.world.shapes import CLASSES

RULES = ImageRules(mode="keep_ratio_largest", size=64, quality=95, min_side=16, max_pixels=100_000)


AS_IT_CAME = ImageRules(mode="none", size=64, quality=95, min_side=16, max_pixels=100_000)


RED, BLUE, GREEN, WHITE = (200, 30, 30), (30, 30, 200), (30, 160, 30), (255, 255, 255)


DRAWN = render_file(Drawn((1, 2), CLASSES[0], "photo"))[0]


OUTCOMES = {
    *("not_an_image", "too_many_pixels", "image_too_small", "truncated_image", "undecodable_image"),
    "face_not_blurred",
}


MANY = pytest.mark.parametrize("rules", [RULES, AS_IT_CAME], ids=["resized", "none"])


def two_colours(size: tuple[int, int] = (100, 60)) -> Image.Image:
    """Return an image that is red on the left and blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def oriented(image: Image.Image, orientation: int, form: str = "JPEG") -> bytes:
    """Return a file that shows `image` upright once its orientation is applied."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = image.transpose(back[orientation]) if orientation in back else image
    return encoded(turned, form, exif=exif, quality=95)


def stored(body: bytes, rules: ImageRules = RULES, faces: Sequence[Box] = ()) -> tuple[StoredImage, Image.Image]:
    """Return the picture that is stored of a body, and the image that Pillow, not its own encoder, reads in it."""
    found = to_stored_image(body, rules, faces)
    assert isinstance(found, StoredImage), found
    image = Image.open(io.BytesIO(found.jpg))
    assert image.format == "JPEG"
    assert image.size == (found.width, found.height)
    return found, image


def colour(image: Image.Image, x: float, y: float = 0.5) -> tuple[int, ...]:
    return image.convert("RGB").getpixel((int(image.width * x), int(image.height * y)))  # type: ignore[return-value]


def refused(body: bytes, rules: ImageRules = RULES, faces: Sequence[Box] = ()) -> str:
    found = to_stored_image(body, rules, faces)
    assert isinstance(found, RefusedImage), found
    assert found.outcome in OUTCOMES
    assert 0 < len(found.detail) <= 200
    return found.outcome


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG's chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
