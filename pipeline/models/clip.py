"""CLIP models from open_clip: loaded once per process with weights_only, embeddings as unit vectors."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputError, unknown_message
from pipeline.models.embedder import Vectors
from pipeline.models.fast_forward import image_tower, text_tower
from pipeline.models.preprocessing import Images, Preprocessing

RESULT_VERSION = 1
"""Version of the embeddings that open_clip gives: incremented where a new release changes them."""


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The type of matrix products by precision; sums and normalisation are float32 in both."""


MAX_CHARACTERS_PER_TOKEN = 64
"""Characters of a text that are read per token of the model's context; the longest word of CLIP's vocabulary has 32
bytes. The tokenizer's time grows with the square of a word's length: a word of 20,000 random letters took 14 s."""


class ClipModel:
    """An open_clip model in evaluation mode with its preprocessing and tokenizer.

    A vector does not depend on its batch except for rounding: in the seventh digit in fp32; in bf16 the cosine of two
    such vectors is above 0.9999. Where the model's output has no direction (zero, or not finite), the vector is zeros.
    """

    def __init__(self, name: str, pretrained: str | None, precision: str = "fp32") -> None:
        import open_clip

        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, precision=precision, weights_only=True
        )
        self._model: Any = model.eval()
        self._type = PRECISIONS[precision]
        self._pixels = Preprocessing(transform)
        self._tokenize: Any = open_clip.get_tokenizer(name)
        self._image_tower, self._text_tower = image_tower(model), text_tower(model)

    @property
    def temperature(self) -> float:
        """The learned logit scale, by which cosines are multiplied before the softmax."""
        return float(self._model.logit_scale.detach().exp())

    @torch.inference_mode()
    def embed_images(self, images: Images, batch_size: int) -> Vectors:
        """Return (n, d) unit vectors, float32, of RGB images of any size."""
        batches = []
        for start in range(0, len(images), batch_size):
            pixels = self._pixels(images[start : start + batch_size])
            tower = self._image_tower
            batches.append(_unit(tower(pixels) if tower else self._model.encode_image(pixels.to(self._type))))
        return np.concatenate(batches) if batches else np.zeros((0, 0), np.float32)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int) -> Vectors:
        """Return (n, d) unit vectors, float32; the tokenizer truncates a text longer than the model's context.

        Each distinct text is embedded once. Texts are batched by length, as each costs as much as the longest of its
        batch.
        """
        if not texts:
            return np.zeros((0, 0), np.float32)
        text_rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        max_characters = self._tokenize.context_length * MAX_CHARACTERS_PER_TOKEN
        tokens: Tensor = self._tokenize([text[:max_characters] for text in text_rows])
        order = torch.argsort(tokens.argmax(dim=1), stable=True)
        batches = []
        for start in range(0, len(order), batch_size):
            rows, tower = order[start : start + batch_size], self._text_tower
            batches.append(_unit(tower(tokens[rows]) if tower else self._model.encode_text(tokens[rows])))
        vectors = np.empty((len(text_rows), batches[0].shape[1]), np.float32)
        vectors[order.numpy()] = np.concatenate(batches)
        return vectors[[text_rows[text] for text in texts]]


def _unit(features: Tensor) -> Vectors:
    """Return (n, d) float32 unit vectors; zeros where a row has no direction."""
    unit = F.normalize(features.float(), dim=1)
    return unit.where(unit.isfinite().all(dim=1, keepdim=True), 0.0).numpy()


def use_threads(count: int) -> None:
    """Let the models of this process use `count` threads, at most one per core of the machine."""
    torch.set_num_threads(min(count, os.cpu_count() or 1))


def load_clip(reference: str, precision: str = "fp32") -> ClipModel:
    """Return the model of a reference, loaded once per precision and process.

    A reference is "local-dir:FOLDER", or "NAME::TAG" with open_clip's model name and pretrained tag or weights file.
    Raises InputError where open_clip does not know the model, its weights cannot be loaded or the precision is unknown.
    """
    return _loaded(reference, precision)


@cache
def _loaded(reference: str, precision: str) -> ClipModel:
    if precision not in PRECISIONS:
        raise InputError(f"precision: {unknown_message('precision', precision, PRECISIONS)}")
    name, _, pretrained = reference.partition("::")
    try:
        return ClipModel(name, pretrained or None, precision)
    except (RuntimeError, ValueError, FileNotFoundError, OSError) as error:
        first = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise InputError(f"model {reference}: cannot be loaded: {first}") from None
