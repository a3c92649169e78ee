"""The images of an evaluation set as embeddings."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import InputError
from pipeline.evaluation_sets import EvaluationSet
from pipeline.models import Embedder
from pipeline.zeroshot import open_image

BATCH = 128


def set_images(evaluation: EvaluationSet) -> Iterator[tuple[str, Image.Image]]:
    """Yield (key, RGB image) of a set in its order; raise InputError where one is no image."""
    for image in evaluation.images():
        yield image.key, open_image(image.data, f"evaluation set {evaluation.name}: {image.key}")


def embed_set(evaluation: EvaluationSet, model: Embedder) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the keys of a set's images and their unit embeddings, (n, d) float32, n >= 1.

    Raises InputError where there are none, or one is no image.
    """
    keys: list[str] = []
    parts: list[npt.NDArray[np.float32]] = []
    waiting: list[Image.Image] = []
    for key, image in set_images(evaluation):
        keys.append(key)
        waiting.append(image)
        if len(waiting) == BATCH:
            parts.append(model.embed_images(waiting, BATCH))
            waiting = []
    if waiting:
        parts.append(model.embed_images(waiting, BATCH))
    if not parts:
        raise InputError(f"evaluation set {evaluation.name}: no images")
    return keys, np.concatenate(parts)
