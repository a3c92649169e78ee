"""Synthetic corruptions of images, computed on the fly: noise, blur, weather and digital kinds at severities 1 to 5.

Kinds, severities and parameters are those of Hendrycks and Dietterich 2019 ("Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations", section 3.1 and the authors' published settings): of ImageNet-C for images
whose short side is 224 pixels, of CIFAR-10-C for 32 pixels. Between these sizes a parameter is interpolated
geometrically in the logarithm of the side, so that a small image is not destroyed by settings for a large one. A larger
image is shrunk to 224 first, as ImageNet-C's were; on images smaller than 32, lengths in pixels shrink with the side.
The corruptions are reimplemented from the paper's descriptions, so accuracies on these images are close to those on
ImageNet-C but not the same numbers: fog's cloud is a sum of octaves of smooth noise instead of diamond-square, and
motion blur uses a line instead of ImageMagick's kernel.

Random numbers are seeded by the image's key and the kind alone. So they do not depend on the images before, and all
severities of one image have the same random numbers. How they follow from the seed is NumPy's, whose generators may
change with its version (NEP 19).

A synthetic corruption does not stand for a natural shift: robustness to one does not predict robustness to the other
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

from pipeline.errors import unknown_message

RESULT_VERSION = 1
"""Version of the pixels that NumPy's generators and OpenCV produce: incremented where a new release changes them."""


Pixels = npt.NDArray[np.float64]
"""RGB, (height, width, 3), 0 to 1."""


CorruptionFunction = Callable[[Pixels, np.random.Generator, Sequence[float]], Pixels]


SMALL_SIDE_PX, LARGE_SIDE_PX = 32, 224
"""The short sides, in pixels, of CIFAR-10-C's and ImageNet-C's images."""


SEVERITIES = (1, 2, 3, 4, 5)


def _gaussian_noise(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    return image + rng.normal(0, settings[0], image.shape)


def _shot_noise(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    return rng.poisson(image * settings[0]) / settings[0]


def _impulse_noise(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    uniform = rng.random(image.shape)
    return np.where(uniform < settings[0] / 2, 0.0, np.where(uniform < settings[0], 1.0, image))


def _convolve(image: Pixels, kernel: Pixels) -> Pixels:
    filtered: Pixels = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    return filtered


def _gaussian_blur(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    radius = math.ceil(4 * settings[0])
    profile = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * settings[0] ** 2))
    return _convolve(image, np.outer(profile, profile))


def _defocus_blur(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    points_per_pixel = 5  # sample points per pixel and axis, which smooth the disk's edge
    radius = math.ceil(settings[0])
    positions = (np.arange(points_per_pixel * (2 * radius + 1)) + 0.5) / points_per_pixel - radius - 0.5
    disk = (positions[:, None] ** 2 + positions**2 <= settings[0] ** 2).astype(np.float64)
    return _convolve(
        image, disk.reshape(2 * radius + 1, points_per_pixel, 2 * radius + 1, points_per_pixel).sum(axis=(1, 3))
    )


def _blur_along_line(image: Pixels, angle: float, radius: float, sigma: float) -> Pixels:
    """Return an image blurred along a line at `angle` degrees: a half Gaussian, truncated at twice its radius."""
    half_width = math.ceil(2 * radius) + 1
    kernel = np.zeros((2 * half_width + 1, 2 * half_width + 1))
    for step in np.arange(0, 2 * radius, 0.25):
        x, y = half_width + step * math.cos(math.radians(angle)), half_width + step * math.sin(math.radians(angle))
        for column in (math.floor(x), math.floor(x) + 1):  # a point's weight is shared by the four pixels around it
            for row in (math.floor(y), math.floor(y) + 1):
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                kernel[row, column] += share * math.exp(-(step**2) / (2 * sigma**2))
    return _convolve(image, kernel)


def _motion_blur(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    return _blur_along_line(image, rng.uniform(-45, 45), settings[0], settings[1])


def _cloud(rng: np.random.Generator, height: int, width: int, decay: float) -> npt.NDArray[np.float64]:
    """Return smooth noise (height, width), 0 to 1: a sum of octaves, each twice as fine and `decay` times as weak."""
    cloud, cells, weight = np.zeros((height, width)), 2, 1.0
    while cells <= 2 * max(height, width):
        octave = rng.uniform(-1, 1, (cells, cells))
        cloud += weight * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight / decay
    least, most = cloud.min(), cloud.max()
    normalised: Pixels = (cloud - least) / max(most - least, np.finfo(float).tiny)
    return normalised


def _fog(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    thickness, decay = settings
    brightest = max(image.max(), np.finfo(float).tiny)
    cloud = _cloud(rng, image.shape[0], image.shape[1], decay)[..., None]
    foggy: Pixels = (image + thickness * cloud) * brightest / (brightest + thickness)
    return foggy


def _snow(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    mean, deviation, zoom, threshold, radius, sigma, image_weight = settings
    height, width = image.shape[:2]
    small = rng.normal(mean, deviation, (math.ceil(height / zoom), math.ceil(width / zoom)))
    flakes = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    falling = _blur_along_line(flakes, rng.uniform(45, 135), radius, sigma)
    grey = image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    white = np.maximum(image, grey[..., None] * 1.5 + 0.5)
    snowy: Pixels = image_weight * image + (1 - image_weight) * white + (falling + falling[::-1, ::-1])[..., None]
    return snowy


def _brightness(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    value = image.max(
        axis=2, keepdims=True
    )  # V of HSV: hue and saturation do not change where all channels grow by the same factor
    brighter = np.minimum(value + settings[0], 1)
    result: Pixels = np.where(value > 0, image * (brighter / np.maximum(value, np.finfo(float).tiny)), brighter)
    return result


def _contrast(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    mean = image.mean(axis=(0, 1), keepdims=True)
    result: Pixels = mean + settings[0] * (image - mean)
    return result


def _jpeg(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    stream = io.BytesIO()
    _to_image(image).save(stream, "JPEG", quality=round(settings[0]))
    return np.asarray(Image.open(stream).convert("RGB")) / 255


def _pixelate(image: Pixels, rng: np.random.Generator, settings: Sequence[float]) -> Pixels:
    full_size = _to_image(image)
    width, height = (max(1, int(side * settings[0])) for side in full_size.size)
    coarse = full_size.resize((width, height), Image.Resampling.BOX)
    return np.asarray(coarse.resize(full_size.size, Image.Resampling.BOX)) / 255


@dataclass(frozen=True)
class CorruptionKind:
    """A kind of corruption: its function, and for each severity its parameters on images of 32 and of 224 pixels.

    `lengths` are the indices of the parameters that are lengths in pixels.
    """

    recipe: CorruptionFunction
    small: tuple[tuple[float, ...], ...]
    large: tuple[tuple[float, ...], ...]
    lengths: tuple[int, ...] = ()


def _single_values(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


# the standard deviation of the noise added to each value, which is 0 to 1
GAUSSIAN_NOISE = CorruptionKind(
    _gaussian_noise, _single_values(0.04, 0.06, 0.08, 0.09, 0.1), _single_values(0.08, 0.12, 0.18, 0.26, 0.38)
)


# the photon count of white
SHOT_NOISE = CorruptionKind(_shot_noise, _single_values(500, 250, 100, 75, 50), _single_values(60, 25, 12, 5, 3))


# the share of values that become 0 or 1
IMPULSE_NOISE = CorruptionKind(
    _impulse_noise, _single_values(0.01, 0.02, 0.03, 0.05, 0.07), _single_values(0.03, 0.06, 0.09, 0.17, 0.27)
)


# the standard deviation in pixels; this is one of the paper's extra kinds
GAUSSIAN_BLUR = CorruptionKind(
    _gaussian_blur, _single_values(0.4, 0.6, 0.7, 0.8, 1), _single_values(1, 2, 3, 4, 6), (0,)
)


# the disk's radius in pixels; the small ones are those of the disk with the spread of the published kernel, which is a
# disk of whole pixels that is then smoothed: twice the square root of its variance along an axis
DEFOCUS_BLUR = CorruptionKind(
    _defocus_blur, _single_values(0.8, 1, 1.2, 1.33, 1.65), _single_values(3, 4, 6, 8, 10), (0,)
)


# the line's radius and its standard deviation, in pixels
MOTION_BLUR = CorruptionKind(
    _motion_blur,
    ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    (0, 1),
)


# the thickness, where white is 1, and the factor by which each finer octave of the cloud is weaker
FOG = CorruptionKind(
    _fog,
    ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)


# mean, standard deviation and zoom of the flakes' noise, the threshold above which it is a flake, radius and standard
# deviation of their motion blur in pixels, and the weight of the image that is not whitened
SNOW = CorruptionKind(
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
BRIGHTNESS = CorruptionKind(
    _brightness, _single_values(0.05, 0.1, 0.15, 0.2, 0.3), _single_values(0.1, 0.2, 0.3, 0.4, 0.5)
)


# the remaining share of each value's distance from its channel's mean
CONTRAST = CorruptionKind(
    _contrast, _single_values(0.75, 0.5, 0.4, 0.3, 0.15), _single_values(0.4, 0.3, 0.2, 0.1, 0.05)
)


# the JPEG quality
JPEG = CorruptionKind(_jpeg, _single_values(80, 65, 58, 50, 40), _single_values(25, 18, 15, 10, 7))


# the share of the side length that the image is reduced to
PIXELATE = CorruptionKind(
    _pixelate, _single_values(0.95, 0.9, 0.85, 0.75, 0.65), _single_values(0.6, 0.5, 0.4, 0.3, 0.25)
)


CORRUPTION_KINDS: dict[str, CorruptionKind] = {
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
"""The kinds by name. Each is a constant of its own, as a kind in use is a root of its job's code digest."""


def parameters(kind: str, severity: int, side: int) -> tuple[float, ...]:
    """Return a kind's parameters at a severity for an image whose short side is `side` pixels, at least 1."""
    spec = CORRUPTION_KINDS[kind]
    position = min(max(math.log(side / SMALL_SIDE_PX) / math.log(LARGE_SIDE_PX / SMALL_SIDE_PX), 0.0), 1.0)
    bounds = zip(spec.small[severity - 1], spec.large[severity - 1], strict=True)
    values = [low ** (1 - position) * high**position for low, high in bounds]
    scale = min(side / SMALL_SIDE_PX, 1.0)
    return tuple(value * (scale if index in spec.lengths else 1.0) for index, value in enumerate(values))


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption at one severity; raises ValueError where there is no such kind or severity."""

    kind: str
    severity: int

    def __post_init__(self) -> None:
        if self.kind not in CORRUPTION_KINDS:
            raise ValueError(unknown_message("kind of shift", self.kind, CORRUPTION_KINDS))
        if self.severity not in SEVERITIES:
            raise ValueError(f"expected a severity of 1 to 5, found {self.severity}")

    @property
    def name(self) -> str:
        """The name, such as fog_3."""
        return f"{self.kind}_{self.severity}"

    @property
    def entry(self) -> str:
        """The kind's constant as module:name."""
        return f"{__name__}:{self.kind.upper()}"

    def __call__(self, image: Image.Image, key: str) -> Image.Image:
        """Return the corrupted RGB image of a key, its short side at most 224 pixels."""
        if min(image.size) > LARGE_SIDE_PX:
            ratio = LARGE_SIDE_PX / min(image.size)
            size = (round(image.width * ratio), round(image.height * ratio))
            image = image.resize(size, Image.Resampling.BICUBIC)
        seed = hashlib.sha256(f"{self.kind}\x1f{key}".encode()).digest()[:8]
        settings = parameters(self.kind, self.severity, min(image.size))
        rng = np.random.default_rng(int.from_bytes(seed, "big"))
        return _to_image(CORRUPTION_KINDS[self.kind].recipe(np.asarray(image.convert("RGB")) / 255, rng, settings))


def _to_image(pixels: npt.NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
