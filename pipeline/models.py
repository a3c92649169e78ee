"""CLIP models through open_clip: loaded once in a process, weights only, embeddings as unit vectors."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.errors import InputError


class Embedder(Protocol):
    """What turns images and texts into unit vectors of one space."""

    def embed_images(self, images: Sequence[Image.Image], batch_size: int) -> npt.NDArray[np.float32]:
        """Return (n, d) unit vectors."""
        ...

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Return (n, d) unit vectors."""
        ...


class ClipModel:
    """An open_clip model in evaluation mode with its preprocessing and tokenizer."""

    def __init__(self, name: str, pretrained: str | None) -> None:
        import open_clip

        model, _, self._preprocess = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, weights_only=True
        )
        self._model: Any = model.eval()
        self._tokenize: Any = open_clip.get_tokenizer(name)

    @property
    def temperature(self) -> float:
        """The learned logit scale, by which cosines are multiplied before a softmax."""
        return float(self._model.logit_scale.detach().exp())

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image], batch_size: int) -> npt.NDArray[np.float32]:
        """Return (n, d) unit vectors, float32, of RGB images of any size."""
        parts = []
        for start in range(0, len(images), batch_size):
            pixels = torch.stack([self._preprocess(image) for image in images[start : start + batch_size]])
            parts.append(self._model.encode_image(pixels, normalize=True).float().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Return (n, d) unit vectors, float32; a text longer than the model's context is cut by its tokenizer."""
        parts = []
        for start in range(0, len(texts), batch_size):
            tokens = self._tokenize(list(texts[start : start + batch_size]))
            parts.append(self._model.encode_text(tokens, normalize=True).float().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


@cache
def load(reference: str) -> ClipModel:
    """Return the model of a reference, loaded once in a process.

    A reference is "local-dir:FOLDER", or "NAME::TAG" with open_clip's model name and pretrained tag or weights file.
    Raises InputError where open_clip knows no such model or its weights cannot be had.
    """
    name, _, pretrained = reference.partition("::")
    try:
        return ClipModel(name, pretrained or None)
    except (RuntimeError, ValueError, FileNotFoundError, OSError) as error:
        first = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise InputError(f"model {reference}: cannot be loaded: {first}") from None
