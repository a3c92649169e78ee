"""Decoding and embedding of image files in batches."""

import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import InputError
from pipeline.models.embedder import Embedder


def open_image(data: bytes, where: str) -> Image.Image:
    """Return an RGB image; raise InputError, which names `where`, if the bytes do not decode."""
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: not an image: {type(error).__name__}") from None


BATCH_IMAGES = 128


def embed_image_files(
    files: Iterable[tuple[str, bytes]], where: str, model: Embedder
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the keys of image files (key, bytes) and their unit embeddings, as `embed_set` does."""
    keys: list[str] = []
    parts: list[npt.NDArray[np.float32]] = []
    batch: list[Image.Image] = []
    for key, data in files:
        keys.append(key)
        batch.append(open_image(data, f"{where}: {key}"))
        if len(batch) == BATCH_IMAGES:
            parts.append(model.embed_images(batch, BATCH_IMAGES))
            batch = []
    if batch:
        parts.append(model.embed_images(batch, BATCH_IMAGES))
    if not parts:
        raise InputError(f"{where}: no images")
    return keys, np.concatenate(parts)
