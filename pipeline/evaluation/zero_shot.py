"""Zero-shot classification with prompt ensembles: predict once, measure often."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import InputError
from pipeline.evaluation.datasets import EvaluationSet
from pipeline.models.embedder import Embedder
from pipeline.models.image_embedding import embed_pictures, open_image


@dataclass(frozen=True)
class Predictions:
    """For each image of a set: its key, its label (n,) int32, and a logit for each class (n, classes) float32.

    A logit is the cosine of image and class vector; the order of the classes is the set's.
    """

    keys: list[str]
    labels: npt.NDArray[np.int32]
    logits: npt.NDArray[np.float32]

    @property
    def predicted(self) -> npt.NDArray[np.int32]:
        """The class of the largest logit, the first where several are."""
        best: npt.NDArray[np.int32] = self.logits.argmax(axis=1).astype(np.int32)
        return best

    @property
    def correct(self) -> int:
        """How many predictions are the label."""
        return int((self.predicted == self.labels).sum())


def class_vectors(model: Embedder, evaluation: EvaluationSet, batch_size: int = 256) -> npt.NDArray[np.float32]:
    """Return (classes, d) unit vectors: the mean of each class's prompts' unit vectors (Radford et al. 2021, 3.1.4).

    A class whose prompts have no direction has a vector of zeros, as they have.
    """
    prompts = [prompt for name in evaluation.classes for prompt in evaluation.prompts(name)]
    texts = model.embed_texts(prompts, batch_size)
    means = texts.reshape(len(evaluation.classes), len(evaluation.templates), -1).mean(axis=1)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = means / np.where(norms > 0, norms, 1)
    return unit


def predict(
    model: Embedder,
    evaluation: EvaluationSet,
    batch_size: int = 128,
    change: Callable[[Image.Image, str], Image.Image] | None = None,
    classes: npt.NDArray[np.float32] | None = None,
) -> Predictions:
    """Return the model's predictions on every image of the set, each changed by `change(image, key)` if that is given.

    `classes` are the set's `class_vectors`, computed where they are not given. Raises InputError where there is no
    image, or one that does not decode.
    """
    vectors = class_vectors(model, evaluation) if classes is None else classes
    keys: list[str] = []
    labels: list[int] = []
    parts: list[npt.NDArray[np.float32]] = []
    waiting: list[Image.Image] = []
    for one in evaluation.images():
        keys.append(one.key)
        labels.append(one.label)
        image = open_image(one.data, f"evaluation set {evaluation.name}: {one.key}")
        waiting.append(image if change is None else change(image, one.key))
        if len(waiting) == batch_size:
            parts.append(model.embed_images(waiting, batch_size) @ vectors.T)
            waiting = []
    if waiting:
        parts.append(model.embed_images(waiting, batch_size) @ vectors.T)
    if not parts:
        raise InputError(f"evaluation set {evaluation.name}: no images")
    return Predictions(keys, np.array(labels, np.int32), np.concatenate(parts))


def embed_set(evaluation: EvaluationSet, model: Embedder) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the keys of a set's images and their unit embeddings, (n, d) float32, n >= 1.

    Raises InputError where there are none, or one is no image.
    """
    files = ((image.key, image.data) for image in evaluation.images())
    return embed_pictures(files, f"evaluation set {evaluation.name}", model)
