"""What a model is to those who only want its vectors, which takes no torch, whose import takes seconds."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """What turns images and texts into unit vectors of one space."""

    def embed_images(self, images: Sequence[Image.Image], batch_size: int) -> Vectors:
        """Return (n, d) unit vectors."""
        ...

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> Vectors:
        """Return (n, d) unit vectors."""
        ...
