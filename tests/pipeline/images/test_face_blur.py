"""Faces are blurred wherever their image is turned and resized to, or the image is not stored."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.images.normalize import ImageRules, StoredImage
from pipeline.records import Box
from tests.support.images import AS_IT_CAME, RULES, WHITE, colour, encoded, oriented, refused, stored


def striped(size: tuple[int, int] = (200, 120), mode: str = "RGB") -> Image.Image:
    """Return an image of fine black and white stripes, which any blur turns grey."""
    rows, columns = np.indices(size[::-1])
    return Image.fromarray(((rows // 3 + columns // 3) % 2 * 255).astype(np.uint8)).convert(mode)


def contrast(image: Image.Image, box: Box) -> float:
    """Return the standard deviation of the grey levels in the inner half of a box."""
    left, top, right, bottom = box
    grey = np.asarray(image.convert("L"), np.float64)
    high, wide = grey.shape
    x, y = (right - left) / 4, (bottom - top) / 4
    inner = grey[int((top + y) * high) : int((bottom - y) * high), int((left + x) * wide) : int((right - x) * wide)]
    return float(inner.std())


NO = ImageRules("no", 64, 95, 16, 100_000)


FACE: Box = (0.55, 0.1, 0.95, 0.45)


REST: tuple[Box, ...] = ((0.0, 0.0, 0.35, 0.4), (0.0, 0.65, 0.35, 1.0), (0.6, 0.7, 1.0, 1.0))


@pytest.mark.parametrize(
    ("mode", "form"),
    [(mode, form) for mode in ("RGB", "L") for form in ("JPEG", "PNG", "TIFF", "WEBP", "GIF")]
    + [("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("CMYK", "TIFF")],
)
def test_a_face_is_blurred_and_the_rest_is_not(mode: str, form: str) -> None:
    for rules in (NO, AS_IT_CAME):
        found, image = stored(encoded(striped(mode=mode), form), rules, [FACE])
        assert found.blurred == 1
        assert contrast(image, FACE) < 8
        assert all(contrast(image, box) > 80 for box in REST)


def test_the_blur_is_a_tenth_of_the_face() -> None:
    edge = Image.new("L", (400, 400), 0)
    edge.paste(255, (200, 0, 400, 400))
    _, image = stored(encoded(edge), ImageRules("no", 64, 95, 16, 1_000_000), [(0.1, 0.1, 0.9, 0.9)])
    steps = np.diff(np.asarray(image, np.float64)[200])
    assert np.sqrt((steps * (np.arange(399) - 199) ** 2).sum() / steps.sum()) == pytest.approx(32, rel=0.06)


@pytest.mark.parametrize(
    ("form", "orientation"),
    [("JPEG", value) for value in range(1, 9)] + [(form, value) for form in ("PNG", "WEBP") for value in (2, 6)],
)
def test_boxes_are_turned_with_their_image(form: str, orientation: int) -> None:
    turned = oriented(striped(), orientation, form)
    with Image.open(io.BytesIO(turned)) as opened:  # the face's box as a detector that ignores orientation sees it
        marks = Image.new("L", (200, 120), 0)
        ImageDraw.Draw(marks).rectangle((110, 12, 189, 53), fill=255)
        with Image.open(io.BytesIO(oriented(marks, orientation, "PNG"))) as seen:
            left, top, right, bottom = seen.getbbox() or (0, 0, 0, 0)
        box = (left / opened.width, top / opened.height, right / opened.width, bottom / opened.height)
    found, image = stored(turned, AS_IT_CAME, [box])
    assert image.size == (200, 120)
    assert found.blurred == 1
    assert contrast(image, FACE) < 8
    assert all(contrast(image, place) > 80 for place in REST)


@pytest.mark.parametrize("mode", ["center_crop", "border", "keep_ratio", "keep_ratio_largest"])
def test_boxes_are_of_the_whole_image_in_every_mode(mode: str) -> None:
    image = Image.new("RGB", (256, 128), WHITE)
    ImageDraw.Draw(image).rectangle((118, 54, 137, 73), fill=(0, 0, 0))
    face = (0.375, 0.25, 0.625, 0.75)
    rules = ImageRules(mode, 64, 95, 16, 100_000)
    sharp, soft = stored(encoded(image), rules)[1], stored(encoded(image), rules, [face])[1]
    assert sharp.size == soft.size
    assert colour(sharp, 0.5)[0] < 10
    assert colour(soft, 0.5)[0] > colour(sharp, 0.5)[0] + 5


def test_boxes_over_the_edge_are_clipped_and_those_without_area_count_for_nothing() -> None:
    body = encoded(striped(), "JPEG")
    found, image = stored(body, AS_IT_CAME, [(-0.2, -1.0, 0.4, 0.5), (0.7, 0.7, 1.3, float("inf"))])
    assert found.blurred == 2
    assert contrast(image, (0.0, 0.0, 0.4, 0.5)) < 8
    for box in ((0.5, 0.5, 0.5, 0.5), (0.2, 0.3, 0.2, 0.9), (1.2, 0.1, 1.4, 0.3)):
        assert stored(body, AS_IT_CAME, [box])[0] == StoredImage(body, 200, 120, 200, 120)


def test_an_image_whose_faces_cannot_be_blurred_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = encoded(striped(), "JPEG")
    nan = float("nan")
    wrong: list[Any] = [
        (0.5, 0.1, 0.4, 0.3),
        (0.1, 0.5, 0.3, 0.4),
        (nan, 0, 1, 1),
        (0, 0, 1, nan),
        (0, 1),
        "left",
        None,
    ]
    for box in wrong:
        for rules in (RULES, AS_IT_CAME):
            assert refused(body, rules, [FACE, box]) == "face_not_blurred"

    def fails(*_: object, **__: object) -> None:
        raise cv2.error("")

    monkeypatch.setattr(cv2, "blendLinear", fails)
    assert refused(body, RULES, [FACE]) == "face_not_blurred"
    assert stored(body, RULES)[0].blurred == 0
