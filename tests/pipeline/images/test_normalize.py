"""What is stored of each kind of image: its bytes, its size, its colours, and that it stands upright."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.images.normalize import ImageRules, RefusedImage, StoredImage, to_stored_image
from pipeline.records import Box
from tests.support.images import (
    AS_IT_CAME,
    BLUE,
    DRAWN,
    GREEN,
    MANY,
    RED,
    RULES,
    WHITE,
    chunk,
    colour,
    encoded,
    oriented,
    refused,
    stored,
    two_colours,
)


def four_colours() -> Image.Image:
    """Return an image of 96 x 64: red, blue above green, white."""
    image = two_colours((96, 64))
    image.paste(GREEN, (0, 32, 48, 64))
    image.paste(WHITE, (48, 32, 96, 64))
    return image


def sixteen_bit(*channels: npt.NDArray[np.uint16], form: str = ".png") -> bytes:
    return bytes(cv2.imencode(form, np.dstack(channels))[1])


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the colours in the middle of each quarter, row by row."""
    return [colour(image, x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]


def same(found: Sequence[tuple[int, ...]], expected: Sequence[tuple[int, ...]], tolerance: int = 8) -> bool:
    return bool(np.abs(np.array(found, int) - np.array(expected, int)).max() <= tolerance)


@MANY
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_every_common_format_is_stored_as_a_jpeg_of_the_same_colours(form: str, rules: ImageRules) -> None:
    body = encoded(
        two_colours(), form, **({"save_all": True, "append_images": [two_colours()]} if form == "MPO" else {})
    )
    found, image = stored(body, rules)
    assert same([colour(image, 0.2), colour(image, 0.8)], [RED, BLUE], 12)
    assert (found.jpg == body) == (form == "JPEG" and rules is AS_IT_CAME)


@pytest.mark.parametrize(
    ("mode", "original", "expected"),
    [
        ("no", (300, 200), (300, 200)),
        ("none", (300, 200), (300, 200)),
        ("keep_ratio", (300, 200), (96, 64)),
        ("keep_ratio", (200, 300), (64, 96)),
        ("keep_ratio", (300, 60), (300, 60)),
        ("keep_ratio_largest", (300, 150), (64, 32)),
        ("keep_ratio_largest", (64, 40), (64, 40)),
        ("keep_ratio_largest", (40, 30), (40, 30)),
        ("center_crop", (300, 200), (64, 64)),
        ("border", (300, 150), (64, 64)),
    ],
)
def test_each_mode_makes_its_sizes_and_none_makes_an_image_larger(
    mode: str, original: tuple[int, int], expected: tuple[int, int]
) -> None:
    found, image = stored(encoded(two_colours(original)), ImageRules(mode, 64, 95, 16, 100_000))
    assert image.size == expected
    assert (found.original_width, found.original_height, found.blurred) == (*original, 0)
    assert colour(image, 0.2) == pytest.approx(RED, abs=8)
    corner = WHITE if mode == "border" else BLUE
    assert colour(image, 0.9, 0.95) == pytest.approx(corner, abs=8)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30}, {"subsampling": 0}, {"keep_rgb": True}]
)
@pytest.mark.parametrize("size", [(100, 60), (16, 16), (97, 33)])
def test_a_jpeg_is_kept_byte_for_byte_where_nothing_must_be_done_to_it(
    options: dict[str, Any], size: tuple[int, int]
) -> None:
    for image in (two_colours(size), two_colours(size).convert("L")):
        body = encoded(image, "JPEG", **options) + b"\xff\xda\0appended"
        found, _ = stored(body, AS_IT_CAME)
        assert found == StoredImage(body, *size, *size)


def test_a_jpeg_that_must_be_turned_blurred_or_converted_is_not_kept() -> None:
    cmyk = encoded(two_colours().convert("CMYK"), "JPEG")
    for body, faces in ((cmyk, ()), (oriented(two_colours(), 6), ()), (DRAWN, ((0.1, 0.1, 0.5, 0.5),))):
        found, image = stored(body, AS_IT_CAME, faces)
        assert found.jpg != body
        assert image.mode == "RGB"
        assert found.blurred == len(faces)
        assert (found.width, found.height) == (found.original_width, found.original_height)


@MANY
@pytest.mark.parametrize(
    ("form", "orientation"),
    [("JPEG", value) for value in range(10)]
    + [(form, value) for form in ("PNG", "WEBP", "TIFF", "AVIF") for value in (2, 6, 8)]
    + [(form, 9) for form in ("PNG", "WEBP", "TIFF")],
)
def test_an_image_stands_upright_whatever_its_orientation_is(form: str, orientation: int, rules: ImageRules) -> None:
    found, image = stored(oriented(four_colours(), orientation, form), rules)
    assert (found.original_width, found.original_height) == (96, 64)
    assert image.size == ((96, 64) if rules is AS_IT_CAME else (64, 43))
    assert same(corners(image), [RED, BLUE, GREEN, WHITE], 12)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_turns_nothing(form: str) -> None:
    whole = Image.Exif()
    whole[0x0112] = 6
    data = whole.tobytes()
    for cut in range(0, len(data) - 4, 3):  # the last 4 bytes say that no other directory follows
        found, _ = stored(encoded(two_colours(), form, exif=data[:cut] or b"Exif\0\0"))
        assert found.original_width == 100
    text = chunk(b"tEXt", b"exif\0II*\0")
    png = encoded(two_colours())
    assert stored(png[:33] + text + png[33:])[0].original_width == 100


def test_what_is_transparent_becomes_white() -> None:
    image = two_colours().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 50, 60))
    for body in (encoded(image), encoded(image, "WEBP", lossless=True, exact=True), encoded(image, "TIFF")):
        _, found = stored(body)
        assert colour(found, 0.2) == pytest.approx(WHITE, abs=4)
        assert colour(found, 0.8) == pytest.approx(BLUE, abs=8)
    image.putalpha(128)
    assert colour(stored(encoded(image))[1], 0.8) == pytest.approx((142, 142, 227), abs=8)
    assert colour(stored(encoded(Image.new("LA", (40, 40), (0, 0))))[1], 0.5) == WHITE
    assert colour(stored(oriented(image, 3, "PNG"))[1], 0.8) == pytest.approx((142, 142, 227), abs=8)


def test_a_transparent_colour_becomes_white_in_grey_colours_and_palettes() -> None:
    for image in (two_colours().convert("L"), two_colours(), two_colours().quantize(4)):
        clear = image.getpixel((10, 10))
        for form in ("PNG", "GIF") if image.mode == "P" else ("PNG",):
            _, found = stored(encoded(image, form, transparency=clear))
            assert colour(found, 0.2) == pytest.approx(WHITE, abs=4)
            assert colour(found, 0.8) == pytest.approx(colour(image, 0.8), abs=8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA"])
def test_every_kind_of_samples_keeps_its_colours(mode: str) -> None:
    first = two_colours().convert("L") if mode == "LA" else two_colours()
    image = first.quantize(4) if mode == "P" else first.convert(mode)
    for form in ("PNG", "JPEG", "TIFF", "WEBP", "BMP"):
        try:
            body = encoded(image, form)
        except (OSError, KeyError):
            continue  # Pillow writes no such file
        _, found = stored(body, AS_IT_CAME)
        assert same([colour(found, 0.2), colour(found, 0.8)], [colour(image, 0.2), colour(image, 0.8)], 14), form


def test_sixteen_bits_a_sample_keep_their_range() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    opaque, clear = np.full_like(ramp, 65535), np.zeros_like(ramp)
    for channels in ((ramp,), (ramp, ramp, ramp), (ramp, ramp, ramp, opaque)):
        for form in (".png", ".tiff"):
            _, image = stored(sixteen_bit(*channels, form=form))
            assert [colour(image, 0.5, y)[0] for y in (0.1, 0.5, 0.9)] == pytest.approx([26, 130, 232], abs=6)
    assert colour(stored(sixteen_bit(ramp, ramp, ramp, clear))[1], 0.5) == WHITE


def test_samples_without_a_known_range_are_refused() -> None:
    for mode in ("F", "I"):
        assert refused(encoded(Image.new(mode, (40, 40), 1), "TIFF")) == "undecodable_image"


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_an_animation_the_first_frame_is_stored(form: str) -> None:
    options: dict[str, Any] = {} if form == "TIFF" else {"duration": 100}
    frames = [Image.new("RGB", (100, 60), GREEN), Image.new("RGB", (100, 60), BLUE)]
    body = encoded(two_colours(), form, save_all=True, append_images=frames, **options)
    for rules in (RULES, AS_IT_CAME):
        _, image = stored(body, rules)
        assert same([colour(image, 0.2), colour(image, 0.8)], [RED, BLUE], 14)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_nothing_that_a_camera_wrote_beside_the_pixels_is_stored(form: str) -> None:
    exif = Image.Exif()
    exif[0x8298] = "somebody's name"
    body = encoded(two_colours(), form, exif=exif)
    assert b"somebody's name" in body
    found, image = stored(body)
    assert b"somebody" not in found.jpg
    assert not image.getexif()


FACES: tuple[Box, ...] = ((0.55, 0.1, 0.95, 0.45),)


def test_several_threads_store_the_same_and_lose_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    bodies = [encoded(two_colours((100 + n, 60)), form) for n, form in enumerate(["JPEG", "PNG", "WEBP", "GIF"])]
    expected = [to_stored_image(body, RULES, FACES) for body in bodies]
    found: list[list[StoredImage | RefusedImage]] = []

    def work() -> None:
        for _ in range(20):
            found.append([to_stored_image(body, RULES, FACES) for body in bodies])
            os.write(1, b"line\n")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one == expected for one in found)
    assert capfd.readouterr().out == "line\n" * 80
