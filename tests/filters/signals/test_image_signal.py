"""What is told of an image by its pixels, its file and its bytes, and what becomes of one that is damaged."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.signals.base import PairBatch
from filters.signals.fingerprints import HashesSignal, PdqSignal, pixels_sha256
from filters.signals.image import MAX_BORDER_LEVELS, MAX_GREY_SPREAD_LEVELS, ImageSignal, flat_border, is_greyscale
from pipeline.errors import StageFailed
from tests.filters.signals.test_contract import Pixels, batch_of, grey_of, picture


def of_image(image: Pixels, **sample: Any) -> dict[str, Any]:
    batch = batch_of([image])
    columns = ImageSignal().compute(PairBatch(batch.pairs, [{**batch.samples[0], **sample}]))
    assert list(columns) == ImageSignal.columns.names
    [row] = pa.Table.from_pydict(columns, ImageSignal.columns).to_pylist()
    return row


def test_grey_is_what_a_jpeg_leaves_of_grey_and_no_tint() -> None:
    grey = np.repeat(grey_of(picture(2))[..., None], 3, axis=2)
    noise = np.random.default_rng(3).integers(-4, 5, grey.shape)
    tint = np.array([12, 0, -12])
    assert of_image(grey)["greyscale"]
    assert of_image(np.clip(grey + noise, 0, 255).astype(np.uint8))["greyscale"]
    assert not of_image(np.clip(grey + tint, 0, 255).astype(np.uint8))["greyscale"]
    assert not any(of_image(picture(number))["greyscale"] for number in (0, 1, 3, 4, 5))
    spot = grey.copy()
    spot[24:40, 24:40] = (200, 40, 40)
    assert not of_image(spot)["greyscale"]
    at = np.zeros((4, 4), np.uint8)
    for edge in (MAX_GREY_SPREAD_LEVELS, MAX_GREY_SPREAD_LEVELS + 1):
        at[2, 2] = edge
        assert is_greyscale(at) == (edge == MAX_GREY_SPREAD_LEVELS)


def lines_of_one_grey(lines: list[list[int]]) -> int:
    """Return how many of the first lines span at most the levels of a border, counted one by one."""
    count, seen = 0, list[int]()
    for line in lines:
        seen += line
        if max(seen) - min(seen) > MAX_BORDER_LEVELS:
            break
        count += 1
    return count


@given(
    st.integers(1, 7).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([0, 8, 9, 100, 104, 255]), min_size=width, max_size=width), min_size=1, max_size=7
        )
    )
)
def test_a_flat_border_is_what_counting_line_by_line_finds(rows: list[list[int]]) -> None:
    shares = []
    for lines in (rows, [list(column) for column in zip(*rows, strict=True)]):
        shares.append((lines_of_one_grey(lines) + lines_of_one_grey(lines[::-1])) / len(lines))
    assert flat_border(np.array(rows, np.uint8)) == pytest.approx(min(1, max(shares)))


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_border_is_seen_on_either_side_and_a_picture_without_one_has_none(grey: int) -> None:
    image = cv2.resize(picture(1), (256, 256))
    image[:8, :] = image[-8:, :] = image[:, :8] = image[:, -8:] = np.arange(3) * 80  # no border of the scene's own
    image[::4] = 255 - image[::4]
    image[:, ::4] = 255 - image[:, ::4]
    assert (of_image(image)["flat_border"], of_image(image)["has_flat_border"]) == (0, False)
    for place in (np.s_[:32], np.s_[-32:], np.s_[:, :32], np.s_[:, -32:]):
        bordered = image.copy()
        bordered[place] = grey
        found = of_image(bordered)
        assert found["flat_border"] == pytest.approx(1 / 8, abs=0.04)
        assert found["has_flat_border"]
    framed = image.copy()
    framed[:32] = framed[-32:] = grey
    assert of_image(framed)["flat_border"] == pytest.approx(1 / 4, abs=0.08)
    assert of_image(np.full_like(image, grey))["flat_border"] == 1


def test_what_the_body_was_is_told_from_the_samples() -> None:
    assert [of_image(picture(0))[name] for name in ("format", "animated")] == ["jpeg", False]
    found = of_image(picture(0), format="gif", frames=2)
    assert [found[name] for name in ("format", "animated")] == ["gif", True]


def test_hashes_are_of_the_body_of_the_stored_file_and_of_the_pixels_with_their_size() -> None:
    image = picture(1)
    batch = batch_of([image, image, picture(2)])
    again = cv2.imencode(".png", cv2.cvtColor(batch.images[0], cv2.COLOR_RGB2BGR))[1].tobytes()  # the same pixels
    pairs = [batch.pairs[0], replace(batch.pairs[1], jpg=again), batch.pairs[2]]
    samples = [
        {**sample, "jpg_sha256": hashlib.sha256(pair.jpg).hexdigest()}
        for sample, pair in zip(batch.samples, pairs, strict=True)
    ]
    batch = PairBatch(pairs, samples)
    found = HashesSignal().compute(batch)
    assert list(found) == HashesSignal.columns.names
    assert found["raw_sha256"] == [f"{n:064x}" for n in range(3)]
    assert found["stored_sha256"] == [hashlib.sha256(pair.jpg).hexdigest() for pair in batch.pairs]
    size = struct.pack("<QQ", image.shape[1], image.shape[0])
    assert found["pixels_sha256"][0] == hashlib.sha256(size + batch.images[0].tobytes()).hexdigest()
    assert len(set(found["stored_sha256"])) == 3
    assert found["pixels_sha256"][0] == found["pixels_sha256"][1] != found["pixels_sha256"][2]
    tall, wide = np.zeros((2, 8, 3), np.uint8), np.zeros((8, 2, 3), np.uint8)
    assert pixels_sha256(tall) != pixels_sha256(wide)
    assert pixels_sha256(image[:, ::-1]) == pixels_sha256(np.ascontiguousarray(image[:, ::-1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda jpg: b"",
        lambda jpg: b"\0" * len(jpg),
        lambda jpg: jpg[:10],
        lambda jpg: jpg[:2] + b"\xff\xd9",
        lambda jpg: jpg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x08\xff\xff\xff\xff", 1),
    ],
    ids=["nothing", "zeros", "cut", "no image", "billions of pixels"],
)
def test_a_stored_image_that_does_not_decode_is_named(damage: Callable[[bytes], bytes]) -> None:
    batch = batch_of([picture(0), picture(1)])
    hurt = replace(batch.pairs[1], jpg=damage(batch.pairs[1].jpg), offset=5120)
    for signal in (ImageSignal(), PdqSignal(), HashesSignal()):
        with pytest.raises(
            StageFailed, match=f"pair {hurt.uid}, at byte 5120 of its shard: .* do not decode"
        ) as caught:
            signal.compute(PairBatch([batch.pairs[0], hurt], batch.samples))
        assert "\n" not in str(caught.value)
