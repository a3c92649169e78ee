"""CLIP embeddings of image and caption, and their similarity (Radford et al. 2021), with any open_clip model."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from filters.contract import Columns, PairBatch, embeddings_to_binary
from pipeline.models import load


@dataclass(frozen=True)
class ClipSignal:
    """`model` is a reference as `pipeline.models.load` takes it; the model is loaded once in each worker process."""

    model: str
    batch_size: int = 64

    columns: ClassVar[pa.Schema] = pa.schema(
        [("image_embedding", pa.binary()), ("text_embedding", pa.binary()), ("similarity", pa.float32())]
    )

    def compute(self, batch: PairBatch) -> Columns:
        """Return the columns: unit embeddings as float16 binaries, and the cosine of the two, -1 to 1, from float32."""
        clip = load(self.model)
        images = clip.embed_images([Image.fromarray(image) for image in batch.images], self.batch_size)
        texts = clip.embed_texts([pair.caption for pair in batch.pairs], self.batch_size)
        return {
            "image_embedding": embeddings_to_binary(images),
            "text_embedding": embeddings_to_binary(texts),
            "similarity": np.einsum("nd,nd->n", images, texts),
        }
