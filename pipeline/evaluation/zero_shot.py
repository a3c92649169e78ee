"""Zero-shot classification with prompt ensembles."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import InputError
from pipeline.evaluation.datasets import EvaluationSet
from pipeline.models.embedder import Embedder
from pipeline.models.image_embedding import embed_image_files, open_image


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
        """The class of the largest logit, the first of several."""
        best: npt.NDArray[np.int32] = self.logits.argmax(axis=1).astype(np.int32)
        return best

    @property
    def correct(self) -> int:
        """The number of predictions that are the label."""
        return int((self.predicted == self.labels).sum())


def class_vectors(model: Embedder, evaluation: EvaluationSet, batch_size: int = 256) -> npt.NDArray[np.float32]:
    """Return (classes, d) unit vectors: the mean of each class's prompts' unit vectors (Radford et al. 2021, 3.1.4).

    A class whose prompts all have vectors of zeros has one too.
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
    """Return the model's predictions on every image of the set, each transformed by `change(image, key)` if given.

    `classes` are the set's `class_vectors`, computed if not given. Raises InputError where there is no image, or one
    does not decode.
    """
    vectors = class_vectors(model, evaluation) if classes is None else classes
    keys: list[str] = []
    labels: list[int] = []
    parts: list[npt.NDArray[np.float32]] = []
    batch: list[Image.Image] = []
    for example in evaluation.images():
        keys.append(example.key)
        labels.append(example.label)
        image = open_image(example.data, f"evaluation set {evaluation.name}: {example.key}")
        batch.append(image if change is None else change(image, example.key))
        if len(batch) == batch_size:
            parts.append(model.embed_images(batch, batch_size) @ vectors.T)
            batch = []
    if batch:
        parts.append(model.embed_images(batch, batch_size) @ vectors.T)
    if not parts:
        raise InputError(f"evaluation set {evaluation.name}: no images")
    return Predictions(keys, np.array(labels, np.int32), np.concatenate(parts))


def embed_set(evaluation: EvaluationSet, model: Embedder) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the keys of a set's images and their unit embeddings, (n, d) float32, n >= 1.

    Raises InputError where there are no images, or one does not decode.
    """
    files = ((image.key, image.data) for image in evaluation.images())
    return embed_image_files(files, f"evaluation set {evaluation.name}", model)
