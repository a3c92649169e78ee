"""The interface of a model that gives embeddings. It needs no torch, whose import takes seconds."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """A model that embeds images and texts as unit vectors in one space."""

    def embed_images(self, images: Sequence[Image.Image], batch_size: int) -> Vectors:
        """Return (n, d) unit vectors."""
        ...

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> Vectors:
        """Return (n, d) unit vectors."""
        ...
