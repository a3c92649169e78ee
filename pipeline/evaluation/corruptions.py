"""Synthetic shifts of images, computed on the fly: noise, blur, weather and digital faults at severities 1 to 5.

Kinds, severities and parameters are those of Hendrycks and Dietterich 2019 ("Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations", section 3.1 and the authors' published settings): of ImageNet-C for images
whose short side is 224 pixels, of CIFAR-10-C for one of 32. Between them a parameter lies on the geometric line in the
logarithm of the side, so that a small image is not drowned by what a large one bears. A larger image is shrunk to 224
first, as ImageNet-C's were; on a smaller one than 32, lengths in pixels shrink with it. The recipes are written anew
from the paper's descriptions, so accuracies on these images are near those on ImageNet-C but not the same numbers:
fog's cloud is a sum of octaves of smooth noise in place of diamond-square, and motion blur a line in place of
ImageMagick's.

What is random is drawn from the image's key and the kind alone. So it does not depend on which images came before,
and the severities of one image have the same random numbers. How they follow from the key is NumPy's, whose generators
may change with its version (NEP 19).

A synthetic shift is no stand-in for a natural one: robustness to the one does not predict that to the other
(Taori et al. 2020).
"""

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import unknown

RESULT_VERSION = 1
"""What NumPy's generators and OpenCV make of an image: raised where a new version gives other pixels."""


Pixels = npt.NDArray[np.float64]
"""RGB, (height, width, 3), 0 to 1."""


Recipe = Callable[[Pixels, np.random.Generator, Sequence[float]], Pixels]


SMALL, LARGE = 32, 224
"""The short sides, in pixels, of CIFAR-10-C's and ImageNet-C's images."""


SEVERITIES = (1, 2, 3, 4, 5)


def _gaussian_noise(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    return image + random.normal(0, given[0], image.shape)


def _shot_noise(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    return random.poisson(image * given[0]) / given[0]


def _impulse_noise(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    drawn = random.random(image.shape)
    return np.where(drawn < given[0] / 2, 0.0, np.where(drawn < given[0], 1.0, image))


def _filtered(image: Pixels, kernel: Pixels) -> Pixels:
    found: Pixels = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    return found


def _gaussian_blur(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    reach = math.ceil(4 * given[0])
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * given[0] ** 2))
    return _filtered(image, np.outer(line, line))


def _defocus_blur(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    fine = 5  # points a pixel and axis by which the disk's edge is smooth
    reach = math.ceil(given[0])
    places = (np.arange(fine * (2 * reach + 1)) + 0.5) / fine - reach - 0.5
    disk = (places[:, None] ** 2 + places**2 <= given[0] ** 2).astype(np.float64)
    return _filtered(image, disk.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).sum(axis=(1, 3)))


def _along(image: Pixels, angle: float, radius: float, sigma: float) -> Pixels:
    """Return an image blurred along a line at `angle` degrees: a half Gaussian, cut at twice its radius."""
    reach = math.ceil(2 * radius) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for step in np.arange(0, 2 * radius, 0.25):
        x, y = reach + step * math.cos(math.radians(angle)), reach + step * math.sin(math.radians(angle))
        for column in (math.floor(x), math.floor(x) + 1):  # a point's weight is shared by the four pixels around it
            for row in (math.floor(y), math.floor(y) + 1):
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                kernel[row, column] += share * math.exp(-(step**2) / (2 * sigma**2))
    return _filtered(image, kernel)


def _motion_blur(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    return _along(image, random.uniform(-45, 45), given[0], given[1])


def _cloud(random: np.random.Generator, height: int, width: int, decay: float) -> npt.NDArray[np.float64]:
    """Return smooth noise (height, width), 0 to 1: octaves twice as fine, each `decay` times as weak."""
    cloud, cells, weight = np.zeros((height, width)), 2, 1.0
    while cells <= 2 * max(height, width):
        octave = random.uniform(-1, 1, (cells, cells))
        cloud += weight * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight / decay
    least, most = cloud.min(), cloud.max()
    found: Pixels = (cloud - least) / max(most - least, np.finfo(float).tiny)
    return found


def _fog(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    thickness, decay = given
    brightest = max(image.max(), np.finfo(float).tiny)
    cloud = _cloud(random, image.shape[0], image.shape[1], decay)[..., None]
    found: Pixels = (image + thickness * cloud) * brightest / (brightest + thickness)
    return found


def _snow(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    mean, deviation, zoom, threshold, radius, sigma, kept = given
    height, width = image.shape[:2]
    small = random.normal(mean, deviation, (math.ceil(height / zoom), math.ceil(width / zoom)))
    flakes = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    falling = _along(flakes, random.uniform(45, 135), radius, sigma)
    grey = image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    white = np.maximum(image, grey[..., None] * 1.5 + 0.5)
    found: Pixels = kept * image + (1 - kept) * white + (falling + falling[::-1, ::-1])[..., None]
    return found


def _brightness(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    value = image.max(axis=2, keepdims=True)  # V of HSV: hue and saturation stay where all channels grow alike
    brighter = np.minimum(value + given[0], 1)
    found: Pixels = np.where(value > 0, image * (brighter / np.maximum(value, np.finfo(float).tiny)), brighter)
    return found


def _contrast(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    mean = image.mean(axis=(0, 1), keepdims=True)
    found: Pixels = mean + given[0] * (image - mean)
    return found


def _jpeg(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    stream = io.BytesIO()
    _picture(image).save(stream, "JPEG", quality=round(given[0]))
    return np.asarray(Image.open(stream).convert("RGB")) / 255


def _pixelate(image: Pixels, random: np.random.Generator, given: Sequence[float]) -> Pixels:
    picture = _picture(image)
    width, height = (max(1, int(side * given[0])) for side in picture.size)
    coarse = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(coarse.resize(picture.size, Image.Resampling.BOX)) / 255


@dataclass(frozen=True)
class Kind:
    """A kind of shift: its recipe, and for each severity its parameters on images of 32 and of 224 pixels.

    `lengths` are the places of those that are lengths in pixels.
    """

    recipe: Recipe
    small: tuple[tuple[float, ...], ...]
    large: tuple[tuple[float, ...], ...]
    lengths: tuple[int, ...] = ()


def _one(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


# the standard deviation of what is added to each value, which is 0 to 1
GAUSSIAN_NOISE = Kind(_gaussian_noise, _one(0.04, 0.06, 0.08, 0.09, 0.1), _one(0.08, 0.12, 0.18, 0.26, 0.38))


# the photons that white is counted with
SHOT_NOISE = Kind(_shot_noise, _one(500, 250, 100, 75, 50), _one(60, 25, 12, 5, 3))


# the share of values that become 0 or 1
IMPULSE_NOISE = Kind(_impulse_noise, _one(0.01, 0.02, 0.03, 0.05, 0.07), _one(0.03, 0.06, 0.09, 0.17, 0.27))


# the standard deviation in pixels; one of the paper's extra kinds
GAUSSIAN_BLUR = Kind(_gaussian_blur, _one(0.4, 0.6, 0.7, 0.8, 1), _one(1, 2, 3, 4, 6), (0,))


# the disk's radius in pixels; the small ones are of the disk that spreads as far as the published kernel, whose
# disk is cut from whole pixels and then smoothed: twice the root of its variance along an axis
DEFOCUS_BLUR = Kind(_defocus_blur, _one(0.8, 1, 1.2, 1.33, 1.65), _one(3, 4, 6, 8, 10), (0,))


# the line's radius and its standard deviation, in pixels
MOTION_BLUR = Kind(
    _motion_blur,
    ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    (0, 1),
)


# how thick it is, where white is 1, and how much weaker each finer octave of its cloud is
FOG = Kind(
    _fog,
    ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)


# mean, deviation and size of the flakes' noise, the threshold above which it is a flake, radius and deviation of
# their fall in pixels, and the share of the image that is not whitened
SNOW = Kind(
    _snow,
    (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    (4, 5),
)


# what is added to the value of HSV
BRIGHTNESS = Kind(_brightness, _one(0.05, 0.1, 0.15, 0.2, 0.3), _one(0.1, 0.2, 0.3, 0.4, 0.5))


# the share that is left of each value's distance from its channel's mean
CONTRAST = Kind(_contrast, _one(0.75, 0.5, 0.4, 0.3, 0.15), _one(0.4, 0.3, 0.2, 0.1, 0.05))


# JPEG's quality
JPEG = Kind(_jpeg, _one(80, 65, 58, 50, 40), _one(25, 18, 15, 10, 7))


# the share of the side that is left
PIXELATE = Kind(_pixelate, _one(0.95, 0.9, 0.85, 0.75, 0.65), _one(0.6, 0.5, 0.4, 0.3, 0.25))


KINDS: dict[str, Kind] = {
    "gaussian_noise": GAUSSIAN_NOISE,
    "shot_noise": SHOT_NOISE,
    "impulse_noise": IMPULSE_NOISE,
    "gaussian_blur": GAUSSIAN_BLUR,
    "defocus_blur": DEFOCUS_BLUR,
    "motion_blur": MOTION_BLUR,
    "fog": FOG,
    "snow": SNOW,
    "brightness": BRIGHTNESS,
    "contrast": CONTRAST,
    "jpeg": JPEG,
    "pixelate": PIXELATE,
}
"""The kinds by name. A kind that is used is a root of its job's code, so each is a constant of its own."""


def parameters(kind: str, severity: int, side: int) -> tuple[float, ...]:
    """Return a kind's parameters at a severity for an image whose short side is `side` pixels, at least 1."""
    known = KINDS[kind]
    at = min(max(math.log(side / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    pairs = zip(known.small[severity - 1], known.large[severity - 1], strict=True)
    found = [low ** (1 - at) * high**at for low, high in pairs]
    shrunk = min(side / SMALL, 1.0)
    return tuple(value * (shrunk if place in known.lengths else 1.0) for place, value in enumerate(found))


@dataclass(frozen=True)
class Shift:
    """One kind of shift at one severity; raises ValueError where there is no such kind or severity."""

    kind: str
    severity: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(unknown("kind of shift", self.kind, KINDS))
        if self.severity not in SEVERITIES:
            raise ValueError(f"expected a severity of 1 to 5, found {self.severity}")

    @property
    def name(self) -> str:
        """Its name, as in fog_3."""
        return f"{self.kind}_{self.severity}"

    @property
    def entry(self) -> str:
        """Its kind as module:name."""
        return f"{__name__}:{self.kind.upper()}"

    def __call__(self, image: Image.Image, key: str) -> Image.Image:
        """Return the RGB image of a key shifted, its short side at most 224 pixels."""
        if min(image.size) > LARGE:
            ratio = LARGE / min(image.size)
            size = (round(image.width * ratio), round(image.height * ratio))
            image = image.resize(size, Image.Resampling.BICUBIC)
        seed = hashlib.sha256(f"{self.kind}\x1f{key}".encode()).digest()[:8]
        given = parameters(self.kind, self.severity, min(image.size))
        random = np.random.default_rng(int.from_bytes(seed, "big"))
        return _picture(KINDS[self.kind].recipe(np.asarray(image.convert("RGB")) / 255, random, given))


def _picture(pixels: npt.NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
