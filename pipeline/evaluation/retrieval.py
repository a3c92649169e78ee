"""Image-text retrieval: recall of the image of a caption, and of a caption of an image."""

from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.floating[Any]]


DEPTHS = (1, 5, 10)


COSINE_TOLERANCE = 1e-6
"""Cosines that differ by at most this are equal: captions of the same words have the same vector, and the last digits
of a product in float32 depend on its position in a block."""


BLOCK_ROWS = 1024
"""Rows whose cosines with all others are in memory at once."""


def recall_at_depths(images: Vectors, texts: Vectors, image_of: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    """Return recall at 1, 5 and 10 both ways, shares from 0 to 1, of unit vectors of images (n, d) and texts (m, d).

    Text j belongs to the image `image_of[j]`, and each image has at least one. `text_to_image_k` is the share of texts
    whose image is among the k nearest; `image_to_text_k` that of images with one of their texts among the k nearest
    (Karpathy and Fei-Fei 2015; of several captions the nearest counts). Ties rank before the correct item, so that a
    model which cannot tell items apart gains nothing. Raises ValueError where there are no images or texts, or an
    image has no text.
    """
    if not len(images) or texts.shape[:1] != image_of.shape:
        raise ValueError(f"expected images and an image of each text, found {len(images)}, {image_of.shape}")
    if set(image_of.tolist()) != set(range(len(images))):
        raise ValueError(f"expected at least one text of each of {len(images)} images, and no other")
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise ValueError("expected finite vectors")
    best_text = np.full(len(images), -np.inf)
    texts_ahead = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        cosines = texts[rows] @ images.T
        own_cosines = cosines[np.arange(len(cosines)), image_of[rows]]
        texts_ahead[rows] = (cosines >= own_cosines[:, None] - COSINE_TOLERANCE).sum(
            axis=1
        ) - 1  # without the image itself
        np.maximum.at(best_text, image_of[rows], own_cosines)
    images_ahead = np.zeros(len(images), np.int64)
    for start in range(0, len(texts), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        as_near = texts[rows] @ images.T >= best_text - COSINE_TOLERANCE
        as_near[np.arange(len(as_near)), image_of[rows]] = False  # an image's other captions are not wrong
        images_ahead += as_near.sum(axis=0)
    image_to_text = {f"image_to_text_{depth}": float((images_ahead < depth).mean()) for depth in DEPTHS}
    return image_to_text | {f"text_to_image_{depth}": float((texts_ahead < depth).mean()) for depth in DEPTHS}
