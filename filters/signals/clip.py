"""CLIP embeddings of image and caption, and their similarity (Radford et al. 2021), with any open_clip model."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.signals.base import ColumnValues, PairBatch, embeddings_to_binary
from pipeline.errors import InputError, unknown_message

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class ClipSignal:
    """Settings: the model, how many images or texts it processes at once, and the precision of its products.

    `model` is a reference that `pipeline.models.clip.load_clip` accepts; a worker process loads each model once.
    `precision` is fp32, or bf16 at about half the cost where the processor supports it: the embeddings of a ViT-B-32
    then have a cosine above 0.999 to those of fp32.

        clip_b32_v1: {kind: clip, model: b32}
        clip_l14_v1: {kind: clip, model: l14, precision: bf16}
    """

    model: str
    batch_size: int = 64
    precision: str = "fp32"

    columns: ClassVar[pa.Schema] = pa.schema(
        [("image_embedding", pa.binary()), ("text_embedding", pa.binary()), ("similarity", pa.float32())]
    )

    def __post_init__(self) -> None:
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise InputError(f"batch_size: expected a whole number of at least 1, found {self.batch_size!r}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision: {unknown_message('precision', str(self.precision), PRECISIONS)}")

    def compute(self, batch: PairBatch) -> ColumnValues:
        """Return the columns: unit embeddings as float16 binaries, and the cosine of the two, -1 to 1, from float32.

        An embedding without a direction (all zero or not finite) is null, and so is its similarity.
        """
        from pipeline.models.clip import load_clip

        clip = load_clip(self.model, self.precision)
        images = clip.embed_images(batch.images, self.batch_size)
        texts = clip.embed_texts([pair.caption for pair in batch.pairs], self.batch_size)
        cosines = (images.astype(np.float64) * texts).sum(axis=1).clip(-1, 1)
        known = images.any(axis=1) & texts.any(axis=1)
        return {
            "image_embedding": _binaries(images),
            "text_embedding": _binaries(texts),
            "similarity": pa.array(cosines, pa.float32(), mask=~known),
        }


def _binaries(vectors: npt.NDArray[np.float32]) -> pa.Array:
    """Return unit vectors as binaries, null where a vector is zero."""
    return pc.if_else(pa.array(vectors.any(axis=1)), embeddings_to_binary(vectors), pa.scalar(None, pa.binary()))
