"""Image identity: each stored image's perceptual fingerprint (PDQ), and SHA-256 of its body, JPEG and pixels."""

import hashlib
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.signals.base import ColumnValues, PairBatch
from pipeline.images.pdq import pdq_fingerprint


class PdqSignal:
    """The stored image's fingerprint and its quality, as ingest computed them, else computed here."""

    columns: ClassVar[pa.Schema] = pa.schema([("pdq", pa.binary()), ("quality", pa.int32())])

    def compute(self, batch: PairBatch) -> ColumnValues:
        """Return the columns."""
        stored = [(sample.get("pdq"), sample.get("pdq_quality")) for sample in batch.samples]
        fingerprints = [
            (bits, quality) if bits is not None else pdq_fingerprint(batch.images[row])
            for row, (bits, quality) in enumerate(stored)
        ]
        return {"pdq": [bits for bits, _ in fingerprints], "quality": [quality for _, quality in fingerprints]}


def pixels_sha256(image: npt.NDArray[np.uint8]) -> str:
    """Return SHA-256, 64 hex digits, of an RGB image: width and height as 8 bytes each, least first, then its bytes.

    The same for the same pixels, however they were encoded. (height, width, 3) uint8, row by row.
    """
    height, width = image.shape[:2]
    hasher = hashlib.sha256(width.to_bytes(8, "little") + height.to_bytes(8, "little"))
    hasher.update(np.ascontiguousarray(image).data)
    return hasher.hexdigest()


class HashesSignal:
    """SHA-256, 64 hex digits each, of the body as fetched, of the JPEG as it is stored, and of its decoded pixels.

    Decoders round each in their own way, so the pixels' is to be compared with what OpenCV decoded.
    """

    columns: ClassVar[pa.Schema] = pa.schema(
        [("raw_sha256", pa.string()), ("stored_sha256", pa.string()), ("pixels_sha256", pa.string())]
    )

    def compute(self, batch: PairBatch) -> ColumnValues:
        """Return the columns."""
        return {
            "raw_sha256": [sample["raw_sha256"] for sample in batch.samples],
            "stored_sha256": [sample["jpg_sha256"] for sample in batch.samples],
            "pixels_sha256": [pixels_sha256(image) for image in batch.images],
        }
