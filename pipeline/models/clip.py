"""CLIP models through open_clip: loaded once in a process, weights only, embeddings as unit vectors."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputError, unknown
from pipeline.models.embedder import Vectors
from pipeline.models.fast_forward import image_tower, text_tower
from pipeline.models.preprocessing import Images, Preprocessing

RESULT_VERSION = 1
"""What open_clip makes of an image and of a text: raised where a new version gives other embeddings."""


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""What images and weights are multiplied in; sums and normalisation are float32 in both."""


CHARACTERS_A_TOKEN = 64
"""Characters of a text that are read for each token of the model's context; the longest word of CLIP's vocabulary has
32 bytes. The tokenizer's time grows with the square of a word's length: one of 20,000 random letters took it 14 s."""


class ClipModel:
    """An open_clip model in evaluation mode with its preprocessing and tokenizer.

    A vector is the same in any batch but for rounding: in the seventh digit in fp32; in bf16 the cosine of two is
    above 0.9999. A model whose output is no direction (zero, or not finite) gives a vector of zeros.
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
        """The learned logit scale, by which cosines are multiplied before a softmax."""
        return float(self._model.logit_scale.detach().exp())

    @torch.inference_mode()
    def embed_images(self, images: Images, batch_size: int) -> Vectors:
        """Return (n, d) unit vectors, float32, of RGB images of any size."""
        parts = []
        for start in range(0, len(images), batch_size):
            pixels = self._pixels(images[start : start + batch_size])
            tower = self._image_tower
            parts.append(_unit(tower(pixels) if tower else self._model.encode_image(pixels.to(self._type))))
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int) -> Vectors:
        """Return (n, d) unit vectors, float32; a text longer than the model's context is cut by its tokenizer.

        Each text is embedded once. They are batched by their length, as those of a batch cost as much as its longest.
        """
        if not texts:
            return np.zeros((0, 0), np.float32)
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        length = self._tokenize.context_length * CHARACTERS_A_TOKEN
        tokens: Tensor = self._tokenize([text[:length] for text in places])
        order = torch.argsort(tokens.argmax(dim=1), stable=True)
        parts = []
        for start in range(0, len(order), batch_size):
            rows, tower = order[start : start + batch_size], self._text_tower
            parts.append(_unit(tower(tokens[rows]) if tower else self._model.encode_text(tokens[rows])))
        vectors = np.empty((len(places), parts[0].shape[1]), np.float32)
        vectors[order.numpy()] = np.concatenate(parts)
        return vectors[[places[text] for text in texts]]


def _unit(features: Tensor) -> Vectors:
    """Return (n, d) float32 unit vectors; one of zeros where there is no direction."""
    unit = F.normalize(features.float(), dim=1)
    return unit.where(unit.isfinite().all(dim=1, keepdim=True), 0.0).numpy()


def use_threads(count: int) -> None:
    """Let the models of this process compute with `count` threads, at most one for each core of the machine."""
    torch.set_num_threads(min(count, os.cpu_count() or 1))


def load(reference: str, precision: str = "fp32") -> ClipModel:
    """Return the model of a reference, loaded once for each precision in a process.

    A reference is "local-dir:FOLDER", or "NAME::TAG" with open_clip's model name and pretrained tag or weights file.
    Raises InputError where open_clip knows no such model or its weights cannot be had, or there is no such precision.
    """
    return _loaded(reference, precision)


@cache
def _loaded(reference: str, precision: str) -> ClipModel:
    if precision not in PRECISIONS:
        raise InputError(f"precision: {unknown('precision', precision, PRECISIONS)}")
    name, _, pretrained = reference.partition("::")
    try:
        return ClipModel(name, pretrained or None, precision)
    except (RuntimeError, ValueError, FileNotFoundError, OSError) as error:
        first = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise InputError(f"model {reference}: cannot be loaded: {first}") from None
