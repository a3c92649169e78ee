"""How many frames a body has, against Pillow's own count; and bodies that would keep a counter busy or lie to it."""

import io
import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.frame_count import MAX_FRAMES, count_frames
from pipeline.images.normalize import RefusedImage, StoredImage, to_stored_image
from tests.support.images import (
    AS_IT_CAME,
    BLUE,
    GREEN,
    MANY,
    RED,
    RULES,
    chunk,
    encoded,
    oriented,
    stored,
    two_colours,
)


def animation(form: str, count: int, **options: Any) -> bytes:
    """Return a file of so many frames, no two of them the same."""
    colours = [Image.new("RGB", (40, 30), (7 * number % 256, number // 30, 99)) for number in range(count)]
    return encoded(colours[0], form, save_all=True, append_images=colours[1:], duration=50, **options)


@MANY
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_still_has_one_frame_and_is_told_by_its_format(form: str, rules: Any) -> None:
    found, _ = stored(encoded(two_colours(), form), rules)
    assert (found.format, found.frames) == (form.lower(), 1)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_frames_of_an_animation_are_counted(form: str, count: int) -> None:
    body = animation(form, count)
    with Image.open(io.BytesIO(body)) as image:
        assert image.n_frames == count  # type: ignore[attr-defined]
    found, _ = stored(body)
    assert (found.format, found.frames) == (form.lower(), count)


def test_what_no_browser_plays_is_no_animation() -> None:
    more = [Image.new("RGB", (100, 60), GREEN), Image.new("RGB", (100, 60), BLUE)]
    for form, told in (("TIFF", "tiff"), ("MPO", "jpeg")):
        found, _ = stored(encoded(two_colours(), form, save_all=True, append_images=more))
        assert (found.format, found.frames) == (told, 1)
    turned, _ = stored(oriented(two_colours(), 6, "PNG"), AS_IT_CAME)
    assert (turned.format, turned.frames) == ("png", 1)


@given(st.binary(max_size=12), st.integers(2, 5))
def test_a_gifs_comments_palettes_and_trailing_bytes_are_no_frames(comment: bytes, count: int) -> None:
    body = animation("GIF", count, comment=comment + b"!,;")
    assert stored(body + b",,,,")[0].frames == count
    palettes = [two_colours((40, 30)).convert("P", palette=Image.Palette.ADAPTIVE, colors=n + 2) for n in range(count)]
    for number, frame in enumerate(palettes):
        frame.putpixel((number, 0), 0 if frame.getpixel((number, 0)) else 1)
    own = encoded(palettes[0], "GIF", save_all=True, append_images=palettes[1:], duration=50)
    with Image.open(io.BytesIO(own)) as image:
        assert stored(own)[0].frames == image.n_frames  # type: ignore[attr-defined]


def test_a_cut_or_damaged_gif_has_the_frames_that_begin_in_it() -> None:
    body = animation("GIF", 6)
    counts = []
    for end in range(len(body), 60, -1):
        if isinstance(found := to_stored_image(body[:end], RULES), StoredImage):
            counts.append(found.frames)
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (6, 1)
    changed = [
        to_stored_image(body[:at] + bytes([value]) + body[at + 1 :], RULES)
        for at in range(len(body))
        for value in (0, 255)
    ]
    assert all(1 <= found.frames <= 7 for found in changed if isinstance(found, StoredImage))


def test_no_body_keeps_the_counter_busy_or_gets_more_frames_than_any() -> None:
    gif = encoded(Image.new("RGB", (40, 30), RED), "GIF")[:-1]
    frame = gif[gif.rindex(b",") :]
    descriptor = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x4c\1\0"
    hostile = {
        "many frames": gif + descriptor * 500_000,
        "many small blocks": gif + b"!\xfe" + b"\1a" * 4_000_000 + b"\0;",
        "no end": gif + b"!" * 8_000_000,
        "commas": gif + b"," * 8_000_000,
        "noise": gif + bytes(range(1, 256)) * 40_000,
    }
    started = time.process_time()
    counts = {name: stored(body)[0].frames for name, body in hostile.items()}
    assert time.process_time() - started < 5
    assert counts["many frames"] == MAX_FRAMES
    assert counts["many small blocks"] == 1
    assert all(1 <= count <= MAX_FRAMES for count in counts.values())
    assert stored(gif + frame * 2)[0].frames == 3


@pytest.mark.parametrize(("told", "expected"), [(2, {2}), (9_999, {9_999}), (0x7FFFFFFF, {MAX_FRAMES}), (0, {1})])
def test_a_png_that_lies_about_its_frames_is_told_within_bounds(told: int, expected: set[int]) -> None:
    body = animation("PNG", 3)
    at = body.index(b"acTL") - 4
    lying = body[:at] + chunk(b"acTL", struct.pack(">II", told, 0)) + body[at + 20 :]
    found = to_stored_image(lying, RULES)
    assert isinstance(found, RefusedImage) or found.frames in expected
    with Image.open(io.BytesIO(lying)) as image:
        assert count_frames(image, lying) in expected
