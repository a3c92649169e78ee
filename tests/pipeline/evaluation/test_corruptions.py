"""Synthetic shifts: what each kind does to an image, that severities rise, and that only the key decides."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.evaluation.corruptions import (
    CORRUPTION_KINDS,
    LARGE_SIDE_PX,
    SEVERITIES,
    SMALL_SIDE_PX,
    Corruption,
    parameters,
)
from tests.support.clip_models import texture

RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog", "snow"}


def picture(seed: int = 0, width: int = 64, height: int = 48) -> Image.Image:
    """Return a texture with a dark and a white patch, whose edges are sharp."""
    pixels = texture(seed, height, width)
    pixels[: height // 3, : width // 3] = 0
    pixels[height // 2 : 2 * height // 3, width // 2 : 3 * width // 4] = 255
    return Image.fromarray(pixels)


def array(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(image) / 255


def grey(value: float, side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), (round(255 * value),) * 3)


def change(kind: str, severity: int, seeds: range = range(6)) -> float:
    """Return the root of the mean squared change of some images."""
    squares = [
        ((array(Corruption(kind, severity)(picture(n), f"k{n}")) - array(picture(n))) ** 2).mean() for n in seeds
    ]
    return math.sqrt(sum(squares) / len(squares))


@pytest.mark.parametrize("kind", CORRUPTION_KINDS)
def test_every_kind_changes_an_image_more_from_severity_to_severity(kind: str) -> None:
    changes = [change(kind, severity) for severity in SEVERITIES]
    assert changes[0] > 0.004
    if kind == "pixelate":  # squares of a pixel and a bit change most where they fall beside the pixels
        assert changes[4] > changes[3] > max(changes[:3])
    else:
        assert changes == sorted(changes)
        assert changes[4] > 1.1 * changes[0]


@pytest.mark.parametrize("kind", CORRUPTION_KINDS)
def test_an_image_of_any_size_keeps_it(kind: str) -> None:
    for size, severity in product([(1, 1), (5, 3), (32, 32), (64, 200), (224, 224)], (1, 5)):
        found = Corruption(kind, severity)(picture(1, *size), "k")
        assert (found.size, found.mode) == (size, "RGB")


def test_a_large_image_is_shrunk_to_the_side_that_the_parameters_are_for() -> None:
    assert Corruption("contrast", 1)(picture(1, 896, 448), "k").size == (448, LARGE_SIDE_PX)


@pytest.mark.parametrize("kind", CORRUPTION_KINDS)
def test_the_key_alone_decides_what_is_random(kind: str) -> None:
    one = Corruption(kind, 3)(picture(), "a").tobytes()
    np.random.seed(5)
    Corruption(kind, 2)(picture(9), "b")
    assert Corruption(kind, 3)(picture(), "a").tobytes() == one
    assert (Corruption(kind, 3)(picture(), "b").tobytes() != one) == (kind in RANDOM)


def test_noise_has_the_published_deviation_at_both_sides() -> None:
    for side, deviation in ((SMALL_SIDE_PX, 0.04), (LARGE_SIDE_PX, 0.08)):
        added = array(Corruption("gaussian_noise", 1)(grey(0.5, side), "k")) - array(grey(0.5, side))
        assert added.std() == pytest.approx(deviation, rel=0.05)
        assert added.mean() == pytest.approx(0, abs=0.005)
    counted = array(Corruption("shot_noise", 5)(grey(0.25, LARGE_SIDE_PX), "k"))
    assert counted.mean() == pytest.approx(64 / 255, abs=0.01)
    assert counted.std() == pytest.approx(math.sqrt(0.25 / 3), rel=0.05)
    struck = array(Corruption("impulse_noise", 5)(grey(0.5, LARGE_SIDE_PX), "k"))
    assert [(struck == value).mean() for value in (0, 1)] == pytest.approx([0.135] * 2, abs=0.005)


@pytest.mark.parametrize("kind", ["gaussian_blur", "defocus_blur", "motion_blur", "pixelate", "contrast"])
def test_a_blur_leaves_a_plain_image_and_the_mean_of_any(kind: str) -> None:
    assert np.abs(array(Corruption(kind, 5)(grey(0.3), "k")) - array(grey(0.3))).max() <= 1.01 / 255
    assert array(Corruption(kind, 3)(picture(2), "k")).mean() == pytest.approx(array(picture(2)).mean(), abs=0.03)


def test_a_blur_spreads_a_point_as_far_as_its_parameters_say() -> None:
    image = Image.new("RGB", (LARGE_SIDE_PX, LARGE_SIDE_PX))
    image.paste(
        (255, 255, 255), (LARGE_SIDE_PX // 2, LARGE_SIDE_PX // 2, LARGE_SIDE_PX // 2 + 8, LARGE_SIDE_PX // 2 + 8)
    )
    for kind, reach in (("gaussian_blur", 4 * 2 + 8), ("defocus_blur", 4 + 8 + 3), ("motion_blur", 30 + 10)):
        lit = np.argwhere(array(Corruption(kind, 2)(image, "k"))[..., 0] > 0) - LARGE_SIDE_PX // 2
        assert 8 < np.ptp(lit, axis=0).max() + 1 <= 2 * reach
        assert np.abs(lit).max() <= reach
    across = np.argwhere(array(Corruption("motion_blur", 5)(image, "k"))[..., 0] > 0)
    assert np.ptp(across, axis=0)[1] > np.ptp(across, axis=0)[0]  # at 45 degrees at most from the horizontal


def test_weather_is_light() -> None:
    for kind in ("fog", "snow", "brightness"):
        image = picture(3, LARGE_SIDE_PX, LARGE_SIDE_PX)
        assert array(Corruption(kind, 3)(image, "k")).mean() > array(image).mean() + 0.05
    dark = array(Corruption("brightness", 5)(grey(0.2, LARGE_SIDE_PX), "k"))
    assert dark == pytest.approx(np.full_like(dark, 0.7), abs=0.01)
    assert array(Corruption("brightness", 1)(grey(0, LARGE_SIDE_PX), "k")).mean() == pytest.approx(0.1, abs=0.01)
    foggy = array(Corruption("fog", 3)(picture(3), "k"))
    assert foggy.std() < array(picture(3)).std()


def test_brightness_keeps_the_hue_and_contrast_the_mean() -> None:
    red = Image.new("RGB", (LARGE_SIDE_PX, LARGE_SIDE_PX), (100, 50, 25))
    found = array(Corruption("brightness", 2)(red, "k"))[0, 0]
    assert found / found[0] == pytest.approx([1, 0.5, 0.25], abs=0.02)
    image = picture(4, LARGE_SIDE_PX, LARGE_SIDE_PX)
    flat = array(Corruption("contrast", 5)(image, "k"))
    assert flat.std(axis=(0, 1)) == pytest.approx(0.05 * array(image).std(axis=(0, 1)), rel=0.1)
    assert flat.mean(axis=(0, 1)) == pytest.approx(array(image).mean(axis=(0, 1)), abs=0.003)


def test_pixels_are_as_coarse_as_the_parameter_says() -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (LARGE_SIDE_PX, LARGE_SIDE_PX, 3), dtype=np.uint8))
    found = np.asarray(Corruption("pixelate", 5)(noise, "k"))
    assert (found[:, 0::4] == found[:, 3::4]).all()
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 56 * 56


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(CORRUPTION_KINDS)), st.integers(1, 1000), st.integers(1, 4))
def test_parameters_lie_between_the_published_ones(kind: str, side: int, severity: int) -> None:
    known, found = CORRUPTION_KINDS[kind], parameters(kind, severity, side)
    for place, value in enumerate(found):
        ends = sorted((known.small[severity - 1][place], known.large[severity - 1][place]))
        shrunk = min(side / SMALL_SIDE_PX, 1) if place in known.lengths else 1
        assert ends[0] * shrunk * 0.999 <= value <= ends[1] * 1.001
        if side in (SMALL_SIDE_PX, LARGE_SIDE_PX):
            assert value == pytest.approx((known.small if side == SMALL_SIDE_PX else known.large)[severity - 1][place])
    for side_, table in ((SMALL_SIDE_PX, known.small), (LARGE_SIDE_PX, known.large)):
        assert parameters(kind, severity, side_) == pytest.approx(table[severity - 1])


def test_what_is_no_shift_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown kind of shift 'fogg' \(did you mean 'fog'\?\)"):
        Corruption("fogg", 1)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"expected a severity of 1 to 5, found {severity}"):
            Corruption("fog", severity)
    assert Corruption("fog", 3).name == "fog_3"
