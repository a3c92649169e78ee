"""The images of an evaluation set as embeddings."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.embedder import Embedder
from pipeline.errors import InputError
from pipeline.evaluation_sets import EvaluationSet
from pipeline.zeroshot import open_image

BATCH = 128


def embed_set(evaluation: EvaluationSet, model: Embedder) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the keys of a set's images and their unit embeddings, (n, d) float32, n >= 1.

    Raises InputError where there are none, or one is no image.
    """
    files = ((image.key, image.data) for image in evaluation.images())
    return embed_pictures(files, f"evaluation set {evaluation.name}", model)


def embed_pictures(
    files: Iterable[tuple[str, bytes]], where: str, model: Embedder
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the keys of image files (key, bytes) and their unit embeddings, as `embed_set` does."""
    keys: list[str] = []
    parts: list[npt.NDArray[np.float32]] = []
    waiting: list[Image.Image] = []
    for key, data in files:
        keys.append(key)
        waiting.append(open_image(data, f"{where}: {key}"))
        if len(waiting) == BATCH:
            parts.append(model.embed_images(waiting, BATCH))
            waiting = []
    if waiting:
        parts.append(model.embed_images(waiting, BATCH))
    if not parts:
        raise InputError(f"{where}: no images")
    return keys, np.concatenate(parts)
