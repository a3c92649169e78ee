"""Image-text retrieval: how often a caption finds its image, and an image one of its captions."""

from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.floating[Any]]


DEPTHS = (1, 5, 10)


ROUNDING = 1e-6
"""Cosines that are as near to each other are equal: captions of the same words have the same vector, and the last
digits of a product in float32 depend on where in a block it stands."""


BLOCK = 1024
"""Rows whose cosines with all others are held at once."""


def recalls(images: Vectors, texts: Vectors, image_of: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    """Return recall at 1, 5 and 10 both ways, shares from 0 to 1, of unit vectors of images (n, d) and texts (m, d).

    Text j belongs to the image `image_of[j]`, and each image has at least one. `text_to_image_k` is the share of texts
    whose image is among the k nearest; `image_to_text_k` that of images of which one text is (Karpathy and Fei-Fei
    2015; of several captions the first found counts). What is as near as the own one stands before it, so that a model
    which tells nothing apart finds nothing. Raises ValueError where there are none, or an image is without a text.
    """
    if not len(images) or texts.shape[:1] != image_of.shape:
        raise ValueError(f"expected images and an image of each text, found {len(images)}, {image_of.shape}")
    if set(image_of.tolist()) != set(range(len(images))):
        raise ValueError(f"expected at least one text of each of {len(images)} images, and no other")
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise ValueError("expected finite vectors")
    own_text = np.full(len(images), -np.inf)
    behind = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), BLOCK):
        rows = slice(start, start + BLOCK)
        cosines = texts[rows] @ images.T
        own = cosines[np.arange(len(cosines)), image_of[rows]]
        behind[rows] = (cosines >= own[:, None] - ROUNDING).sum(axis=1) - 1  # but for itself
        np.maximum.at(own_text, image_of[rows], own)
    ahead = np.zeros(len(images), np.int64)
    for start in range(0, len(texts), BLOCK):
        rows = slice(start, start + BLOCK)
        near = texts[rows] @ images.T >= own_text - ROUNDING
        near[np.arange(len(near)), image_of[rows]] = False  # an image's other captions are no wrong ones
        ahead += near.sum(axis=0)
    found = {f"image_to_text_{depth}": float((ahead < depth).mean()) for depth in DEPTHS}
    return found | {f"text_to_image_{depth}": float((behind < depth).mean()) for depth in DEPTHS}
