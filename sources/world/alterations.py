"""Alterations of an image that is published again: cuts, mirrors, frames, captions, colours, blur.

Each alteration is a function of an RGB image, uint8 (height, width, 3), and a random generator for its free parameters,
that returns another such image.
"""

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image as Pillow

from sources.world.drawing import ImageArray

AlterationFunction = Callable[[ImageArray, np.random.Generator], ImageArray]


_WORDS = ("BEST OF", "click here", "like & share", "SALE -50%", "when you see it", "follow us", "2019", "Monday mood")


def resaved(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Resized by 0.7 to 1.3, as sites do with uploaded images."""
    scale = rng.uniform(0.7, 1.3)
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    return np.asarray(Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BICUBIC), np.uint8)


def trimmed(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Cut by 2 to 3 % of its area at the edges, each channel scaled by up to 4 %, and resized by 0.6 to 1.4."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = np.round(rng.uniform(0.005, 0.0075, 4) * (width, height, width, height)).astype(int)
    cut = pixels[top : height - bottom, left : width - right].astype(np.float32)
    scaled = np.clip(cut * rng.uniform(0.96, 1.04, 3) + rng.uniform(-4, 4), 0, 255).astype(np.uint8)
    scale = rng.uniform(0.6, 1.4)
    size = [max(1, round(side * scale)) for side in scaled.shape[1::-1]]
    return np.asarray(Pillow.fromarray(scaled).resize(size, Pillow.Resampling.BICUBIC), np.uint8)


def recompressed(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Saved as a JPEG of quality 30."""
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "JPEG", quality=30)
    return np.asarray(Pillow.open(buffer).convert("RGB"), np.uint8)


def resized(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Half the width and half the height."""
    height, width = pixels.shape[:2]
    size = max(1, width // 2), max(1, height // 2)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _cropped(share: float) -> AlterationFunction:
    """Return an alteration that cuts `share` of the width and of the height, split at random between the two sides."""

    def crop(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
        height, width = pixels.shape[:2]
        down, across = round(share * height), round(share * width)
        top, left = int(rng.integers(down + 1)), int(rng.integers(across + 1))
        return pixels[top : top + height - down, left : left + width - across].copy()

    return crop


def flipped(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Mirrored left to right."""
    return np.ascontiguousarray(pixels[:, ::-1])


def colour_shifted(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Red, green and blue scaled by 0.7 to 1.3 and moved by up to 20 of 255, each independently."""
    shifted = pixels.astype(np.float32) * rng.uniform(0.7, 1.3, 3) + rng.uniform(-20, 20, 3)
    return np.asarray(np.clip(np.round(shifted), 0, 255), np.uint8)


def brightened(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """A gamma of 0.6 (brighter) or 1.6 (darker)."""
    gamma = (0.6, 1.6)[int(rng.integers(2))]
    return np.asarray(np.round(255 * (pixels / 255.0) ** gamma), np.uint8)


def bordered(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """A frame of one colour, 4 to 10 % of the width at the sides and of the height at the top and bottom."""
    height, width = pixels.shape[:2]
    share = rng.uniform(0.04, 0.1, 2)
    down, across = max(1, round(share[0] * height)), max(1, round(share[1] * width))
    grey = int((0, 255, rng.integers(256))[int(rng.integers(3))])
    colour = (grey,) * 3 if rng.random() < 0.7 else tuple(int(level) for level in rng.integers(0, 256, 3))
    return np.asarray(
        cv2.copyMakeBorder(pixels, down, down, across, across, cv2.BORDER_CONSTANT, value=colour), np.uint8
    )


def captioned(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Text on an opaque band over the lowest or the uppermost 12 to 18 % of the image."""
    height = len(pixels)
    band = max(1, round(rng.uniform(0.12, 0.18) * height))
    top = 0 if rng.random() < 0.3 else height - band
    background, ink = ((255, 255, 255), (0, 0, 0)) if rng.random() < 0.5 else ((0, 0, 0), (255, 255, 255))
    altered = pixels.copy()
    altered[top : top + band] = background
    text = "  ".join(_WORDS[index] for index in rng.permutation(len(_WORDS))[:3].tolist())
    size = band / 40
    cv2.putText(altered, text, (2, top + round(band * 0.75)), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
    return altered


def blurred(pixels: ImageArray, rng: np.random.Generator) -> ImageArray:
    """A Gaussian blur whose sigma is 1 to 2 % of the short side."""
    sigma = rng.uniform(0.01, 0.02) * min(pixels.shape[:2])
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), max(sigma, 0.3)), np.uint8)


ALTERATIONS: dict[str, AlterationFunction] = {
    "resaved": resaved,
    "trimmed": trimmed,
    "recompressed": recompressed,
    "resized": resized,
    "cropped_5": _cropped(0.05),
    "cropped_10": _cropped(0.10),
    "cropped_20": _cropped(0.20),
    "flipped": flipped,
    "colour_shifted": colour_shifted,
    "brightened": brightened,
    "bordered": bordered,
    "captioned": captioned,
    "blurred": blurred,
}
"""Alterations by name. `cropped_P` removes P % of each side; for 20 this leaves 64 % of the area."""
