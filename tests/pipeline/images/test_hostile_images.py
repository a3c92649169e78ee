"""Bodies that are no images, cut, damaged, or made to take a machine's memory or time."""

import io
import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.normalize import ImageRules, RefusedImage, StoredImage, to_stored_image
from pipeline.records import Box
from sources.world.publish import pixel_bomb
from tests.support.images import AS_IT_CAME, DRAWN, MANY, RULES, chunk, encoded, oriented, refused, stored, two_colours


def bombs() -> dict[str, bytes]:
    """Return small bodies that a careless decoder makes gigabytes of."""
    png, zeros = encoded(two_colours()), zlib.compress(bytes(200 << 20), 9)
    big = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    text, profile = chunk(b"zTXt", b"Comment\0\0" + zeros), chunk(b"iCCP", b"icc\0\0" + zeros)
    gif = bytearray(encoded(two_colours(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    return {
        "png": pixel_bomb(12_000),
        "largest png": pixel_bomb(),
        "two headers": png[:8] + big + png[8:],
        "two headers, small one first": png[:33] + big + png[33:],
        "text": png[:33] + text + png[33:],
        "text after the pixels": png[:-12] + text + png[-12:],
        "profile": png[:33] + profile + png[33:],
        "gif": bytes(gif),
        "bmp": b"BM"
        + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(9),
    }


def damaged(body: bytes, changes: list[tuple[float, int]]) -> bytes:
    """Return a body with bytes changed at places given as shares of its length."""
    out = bytearray(body)
    for place, value in changes:
        out[int(place * (len(out) - 1))] = value
    return bytes(out)


@MANY
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_sizes_are_checked_at_their_limits(rules: ImageRules, form: str) -> None:
    assert refused(encoded(two_colours((400, 251)), form), rules) == "too_many_pixels"
    assert stored(encoded(two_colours((400, 250)), form), rules)[0].original_width == 400
    for size in ((100, 15), (15, 100)):
        assert refused(encoded(two_colours(size), form), rules) == "image_too_small"
    assert stored(encoded(two_colours((64, 16)), form), rules)[0].height == 16


@pytest.mark.parametrize("name", bombs())
def test_pixels_are_counted_before_they_are_decoded_and_memory_stays_bounded(name: str) -> None:
    body = bombs()[name]
    to_stored_image(DRAWN, RULES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for rules in (RULES, AS_IT_CAME):
        found = to_stored_image(body, rules)
        if "text" in name:
            assert isinstance(found, StoredImage) or found.outcome == "not_an_image"
        else:
            assert isinstance(found, RefusedImage)
            assert found.outcome in {"too_many_pixels", "undecodable_image", "not_an_image"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_tiff_whose_directory_lies_is_read_by_the_parser_that_measured_it() -> None:
    body = bytearray(encoded(two_colours(), "TIFF"))
    start = struct.unpack_from("<I", body, 4)[0]
    count = struct.unpack_from("<H", body, start)[0]
    entries = [body[start + 2 + 12 * n :][:12] for n in range(count)]
    wide = struct.pack("<HHII", 256, 4, 1, 60_000)
    for order in ([wide, *entries], [*entries, wide]):
        lying = bytes(body) + struct.pack("<H", len(order)) + b"".join(bytes(one) for one in order) + bytes(4)
        lying = lying[:4] + struct.pack("<I", len(body)) + lying[8:]
        found = to_stored_image(lying, RULES)
        assert isinstance(found, RefusedImage) or found.original_width == 100


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html><html><body>404</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n",
        b"%PDF-1.7\n",
        encoded(two_colours((32, 32)), "ICO"),
        encoded(two_colours(), "JPEG2000"),
        encoded(two_colours(), "PPM"),
        encoded(two_colours(), "TGA"),
    ],
    ids=["empty", "html", "svg", "eps", "pdf", "ico", "jpeg2000", "ppm", "tga"],
)
def test_what_no_page_shows_as_a_photograph_is_no_image(body: bytes) -> None:
    assert refused(body) == refused(body, AS_IT_CAME) == "not_an_image"


@MANY
@pytest.mark.parametrize("progressive", [False, True])
def test_a_body_that_is_cut_is_never_stored(rules: ImageRules, progressive: bool) -> None:
    with Image.open(io.BytesIO(DRAWN)) as drawn:
        body = encoded(drawn, "JPEG", quality=90, progressive=progressive)
    assert stored(body + b"\0" * 300, rules)
    assert stored(body + b"\xff\xda a film begins and has no end", rules)
    cuts = [refused(body[: len(body) * part // 10], rules) for part in range(10)]
    assert set(cuts) == {"not_an_image", "truncated_image"}
    assert cuts[-1] == refused(body[:-1], rules) == "truncated_image"
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 60, 3)).astype(np.uint8))
    for form in ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        whole = encoded(noise, form)
        assert refused(whole[: len(whole) // 2], rules) in {"undecodable_image", "not_an_image"}


def test_a_jpeg_that_no_decoder_reads_is_not_kept() -> None:
    body = encoded(two_colours(), "JPEG")
    scan, tables = body.index(b"\xff\xda"), body.index(b"\xff\xdb")
    size = int.from_bytes(body[tables + 2 : tables + 4])
    for broken in (body[:scan] + b"\xff\xd9", body[:tables] + body[tables + 2 + size :]):
        assert refused(broken, AS_IT_CAME) in {"undecodable_image", "not_an_image"}


@MANY
def test_a_body_made_to_keep_a_parser_busy_is_refused_at_once(rules: ImageRules) -> None:
    body, png = encoded(two_colours(), "JPEG"), encoded(two_colours())
    scan = body[body.index(b"\xff\xda") : -2]
    extras = [b"\xff\xe9\0\2" * 2_000_000, b"\xff" * 8_000_000, b"\xff\xfe\0\3a" * 20_000]
    bodies = [body[:2] + extra + body[2:] for extra in extras] + [body[:-2] + scan * 101 + body[-2:]]
    started = time.process_time()
    for one in (*bodies, png[:33] + chunk(b"abCd", b"") * 500_000 + png[33:]):
        assert refused(one, rules) == "undecodable_image"
    assert time.process_time() - started < 2
    profile = b"".join(b"\xff\xe2\0\x11ICC_PROFILE" + bytes(4) for _ in range(255))
    assert stored(body[:2] + profile + b"\xff" * 100 + body[2:], rules)
    assert stored(png[:33] + chunk(b"abCd", b"") * 1000 + png[33:], rules)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda tail: DRAWN[:400] + tail),
        st.tuples(
            st.sampled_from(
                [oriented(two_colours(), 6, form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF")]
            ),
            st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
        ).map(lambda given: damaged(*given)),
    ),
    st.sampled_from([RULES, AS_IT_CAME]),
    st.sampled_from([(), ((0.1, 0.2, 0.5, 0.6),)]),
)
def test_any_bytes_are_a_picture_or_a_named_refusal(body: bytes, rules: ImageRules, faces: tuple[Box, ...]) -> None:
    found = to_stored_image(body, rules, faces)
    if isinstance(found, StoredImage):
        assert cv2.imdecode(np.frombuffer(found.jpg, np.uint8), cv2.IMREAD_COLOR) is not None
        assert found.blurred == len(faces)
    else:
        refused(body, rules, faces)
