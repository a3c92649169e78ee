"""From published rows to a tar: what is stored of each kind of image, what each refusal is called, and the order."""

import hashlib
import io
import random
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.fetching import ImageRules, Picture, fetch_shard, to_picture
from pipeline.schemas import TABLES
from pipeline.shards import BLOCK, ShardWriter, StoredPair, read_pairs
from pipeline.web import STORED, Attempt
from sources.world.pictures import Picture as Drawn
from sources.world.pictures import file_of
from sources.world.publish import pixel_bomb
from sources.world.shapes import CLASSES
from tests.hostile_web import HOST, HostileWeb, jpeg, web_rules

RULES = ImageRules(mode="keep_ratio_largest", size=64, quality=95, min_side=16, max_pixels=100_000)
RED, BLUE = (200, 30, 30), (30, 30, 200)
DRAWN = file_of(Drawn((1, 2), CLASSES[0], "photo"))[0]


@pytest.fixture(scope="module")
def site() -> Iterator[HostileWeb]:
    with HostileWeb() as server:
        yield server


def two_colours(size: tuple[int, int] = (100, 60)) -> Image.Image:
    """Return an image that is red on the left and blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def sixteen_bit(*channels: npt.NDArray[np.uint16]) -> bytes:
    return bytes(cv2.imencode(".png", np.dstack(channels))[1])


def stored(body: bytes, rules: ImageRules = RULES) -> tuple[Picture, Image.Image]:
    """Return the picture that is stored of a body, and the image that Pillow, not its own encoder, reads in it."""
    found = to_picture(body, rules)
    assert isinstance(found, Picture), found
    image = Image.open(io.BytesIO(found.jpg))
    assert image.format == "JPEG"
    assert image.size == (found.width, found.height)
    return found, image


def colour(image: Image.Image, x: float, y: float = 0.5) -> tuple[int, ...]:
    return image.convert("RGB").getpixel((int(image.width * x), int(image.height * y)))  # type: ignore[return-value]


def refused(body: bytes, rules: ImageRules = RULES) -> str:
    found = to_picture(body, rules)
    assert isinstance(found, Attempt)
    assert found.outcome != STORED
    assert found.detail
    assert len(found.detail) <= 200
    return found.outcome


def served(site: HostileWeb, body: bytes) -> str:
    """Return the URL of a body that is served as an image."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return HOST + site.answering(head.encode() + body)


def rows_of(urls: list[str]) -> list[dict[str, Any]]:
    """Return published rows in the order of their uids."""
    uids = sorted(hashlib.sha256(f"{n} {url}".encode()).hexdigest()[:32] for n, url in enumerate(urls))
    return [
        {"uid": uid, "source": "laion", "record_id": f"r{n}", "url": url, "caption": f"caption {n} é"}
        for n, (uid, url) in enumerate(zip(uids, urls, strict=True))
    ]


def fetched(
    site: HostileWeb, rows: list[dict[str, Any]], rules: ImageRules = RULES, **changes: object
) -> tuple[dict[str, pa.Table], bytes, list[StoredPair]]:
    """Return the tables that a shard's fetching fills, the tar, and its pairs."""
    stream = io.BytesIO()
    writer = ShardWriter(stream)
    tables = fetch_shard(rows, web_rules(**({"hosts": site.hosts} | changes)), rules, writer, "shards/0.tar")
    sha256 = writer.close()
    assert sha256 == hashlib.sha256(stream.getvalue()).hexdigest()
    assert {name: table.schema for name, table in tables.items()} == {n: TABLES[n] for n in ("fetches", "samples")}
    return tables, stream.getvalue(), list(read_pairs(io.BytesIO(stream.getvalue())))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_common_format_is_stored_as_a_jpeg_of_the_same_colours(form: str) -> None:
    _, image = stored(encoded(two_colours(), form))
    assert colour(image, 0.2) == pytest.approx(RED, abs=8)
    assert colour(image, 0.8) == pytest.approx(BLUE, abs=8)


@pytest.mark.parametrize(
    ("mode", "original", "expected"),
    [
        ("no", (300, 200), (300, 200)),
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
    assert (found.original_width, found.original_height) == original
    assert colour(image, 0.2) == pytest.approx(RED, abs=8)
    corner = (255, 255, 255) if mode == "border" else BLUE
    assert colour(image, 0.9, 0.95) == pytest.approx(corner, abs=8)


def test_what_is_transparent_becomes_white() -> None:
    image = two_colours().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 50, 60))
    for body in (encoded(image), encoded(image, "WEBP", lossless=True, exact=True)):
        _, found = stored(body)
        assert colour(found, 0.2) == pytest.approx((255, 255, 255), abs=4)
        assert colour(found, 0.8) == pytest.approx(BLUE, abs=8)
    image.putalpha(128)
    assert colour(stored(encoded(image))[1], 0.8) == pytest.approx((142, 142, 227), abs=8)
    assert colour(stored(encoded(Image.new("LA", (40, 40), (0, 0))))[1], 0.5) == (255, 255, 255)


def test_sixteen_bits_a_sample_keep_their_range() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    opaque, clear = np.full_like(ramp, 65535), np.zeros_like(ramp)
    for body in (sixteen_bit(ramp), sixteen_bit(ramp, ramp, ramp), sixteen_bit(ramp, ramp, ramp, opaque)):
        _, image = stored(body)
        assert [colour(image, 0.5, y)[0] for y in (0.1, 0.5, 0.9)] == pytest.approx([26, 130, 232], abs=6)
    assert colour(stored(sixteen_bit(ramp, ramp, ramp, clear))[1], 0.5) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_nothing_that_a_camera_wrote_beside_the_pixels_is_stored(form: str) -> None:
    exif = Image.Exif()
    exif[0x8298] = "somebody's name"
    body = encoded(two_colours(), form, exif=exif)
    assert b"somebody's name" in body
    found, image = stored(body)
    assert b"somebody" not in found.jpg
    assert not image.getexif()


def test_sizes_are_checked_at_their_limits_and_pixels_before_they_are_decoded() -> None:
    assert refused(encoded(two_colours((400, 251)))) == "too_many_pixels"
    assert refused(pixel_bomb(12_000)) == "too_many_pixels"
    assert refused(pixel_bomb()) == "too_many_pixels"
    assert stored(encoded(two_colours((400, 250))))[0].original_width == 400
    assert refused(encoded(two_colours((100, 15)))) == refused(encoded(two_colours((15, 100)))) == "image_too_small"
    assert stored(encoded(two_colours((64, 16))))[0].height == 16


def test_a_body_that_is_cut_is_never_stored() -> None:
    assert stored(DRAWN + b"\0" * 300)
    cuts = [refused(DRAWN[: len(DRAWN) * part // 10]) for part in range(10)]
    assert set(cuts) == {"not_an_image", "truncated_image"}
    assert cuts[-1] == refused(DRAWN[:-1]) == "truncated_image"
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 60, 3)).astype(np.uint8))
    for form in ("PNG", "WEBP", "GIF", "BMP"):
        body = encoded(noise, form)
        assert refused(body[: len(body) // 2]) in {"undecodable_image", "not_an_image"}


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda tail: DRAWN[:400] + tail)))
def test_any_bytes_are_a_picture_or_a_named_refusal(body: bytes) -> None:
    found = to_picture(body, RULES)
    assert isinstance(found, Picture) or refused(body) in {"not_an_image", "truncated_image", "undecodable_image"}


def test_each_pair_has_one_final_attempt_and_what_is_stored_is_described_exactly(site: HostileWeb) -> None:
    expected = {
        served(site, DRAWN): [STORED],
        served(site, encoded(two_colours((400, 251)))): ["too_many_pixels"],
        served(site, b"no image at all"): ["not_an_image"],
        served(site, DRAWN[:-40]): ["truncated_image"],
        served(site, encoded(two_colours((40, 9)))): ["image_too_small"],
        served(site, encoded(two_colours())[:-90]): ["undecodable_image"],
        f"{HOST}/page": ["not_an_image"],
        f"{HOST}/status?is=503": ["http_503"] * 3,
        f"{HOST}/once?is=500&final": ["http_500", STORED],
        f"{HOST}/image?n=4&tag=noai": ["opted_out"],
        "ftp://www.site.test/a.jpg": ["url_refused"],
    }
    rows = rows_of(list(expected))
    tables, _, pairs = fetched(site, rows)
    fetches = tables["fetches"].to_pylist()
    assert [row["uid"] for row in fetches] == [row["uid"] for row in rows for _ in expected[row["url"]]]
    for row in rows:
        own = [one for one in fetches if one["uid"] == row["uid"]]
        assert [one["outcome"] for one in own] == expected[row["url"]]
        assert [one["final"] for one in own] == [False] * (len(own) - 1) + [True]
        assert [one["attempt"] for one in own] == list(range(1, len(own) + 1))
    assert [pair.uid for pair in pairs] == [row["uid"] for row in rows if expected[row["url"]][-1] == STORED]
    assert fetches[0]["bytes"] == len(DRAWN)


def test_a_samples_row_says_where_its_bytes_lie_and_what_they_are(site: HostileWeb) -> None:
    bodies = [DRAWN, encoded(two_colours((300, 150))), jpeg(3, (30, 40))]
    rows = rows_of([served(site, body) for body in bodies])
    tables, tar, pairs = fetched(site, rows)
    for row, body, sample, pair in zip(rows, bodies, tables["samples"].to_pylist(), pairs, strict=True):
        data = tar[sample["offset"] + BLOCK :][: sample["jpg_bytes"]]
        assert data == pair.jpg
        assert sample["jpg_sha256"] == hashlib.sha256(data).hexdigest()
        assert (sample["raw_bytes"], sample["raw_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert (sample["offset"], sample["size"]) == (pair.offset, pair.size)
        assert (sample["width"], sample["height"]) == Image.open(io.BytesIO(data)).size
        assert (sample["original_width"], sample["original_height"]) == Image.open(io.BytesIO(body)).size
        assert (sample["shard"], sample["source"], pair.caption) == ("shards/0.tar", "laion", row["caption"])
        assert pair.meta == row | {"sha256": sample["raw_sha256"]} | {
            key: sample[key] for key in ("width", "height", "original_width", "original_height")
        }


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_the_tar_is_in_the_rows_order_however_late_the_answers_come(site: HostileWeb, concurrency: int) -> None:
    delays = [0.3, 0.0, 0.2, 0.0, 0.1, 0.0, 0.0, 0.15, 0.0]
    rows = rows_of([f"{HOST}/slow?s={delay}&n={n}" for n, delay in enumerate(delays)])
    tables, tar, pairs = fetched(site, rows, concurrency=concurrency)
    assert [pair.uid for pair in pairs] == [row["uid"] for row in rows] == sorted(row["uid"] for row in rows)
    assert tables["samples"]["uid"].to_pylist() == tables["fetches"]["uid"].to_pylist() == [row["uid"] for row in rows]
    random.Random(concurrency).shuffle(delays)
    quick = [row | {"url": f"{HOST}/slow?s={delay}"} for row, delay in zip(rows, delays, strict=True)]
    assert [pair.jpg for pair in fetched(site, quick)[2]] == [pair.jpg for pair in pairs]
    again = fetched(site, rows, concurrency=16)
    assert again[1] == tar
    assert again[0]["samples"] == tables["samples"]


def test_a_shard_without_rows_is_an_empty_tar(site: HostileWeb) -> None:
    tables, tar, pairs = fetched(site, [])
    assert [table.num_rows for table in tables.values()] == [0, 0]
    assert not any(tar)
    assert pairs == []
