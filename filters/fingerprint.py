"""PDQ, a 256-bit perceptual fingerprint (Facebook, https://github.com/facebook/ThreatExchange/tree/main/pdq)."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pdqhash
import pyarrow as pa

from filters.contract import Columns, PairBatch

PDQ_BYTES = 32


def pdq(image: npt.NDArray[np.uint8]) -> tuple[bytes, int]:
    """Return (32 bytes, quality 0 to 100) of an RGB image, (height, width, 3) uint8.

    Two fingerprints within a Hamming distance of 31 count as the same picture, and a quality below 50 as too flat to
    say, by PDQ's own documentation.
    """
    bits, quality = pdqhash.compute(np.ascontiguousarray(image))
    return np.packbits(bits.astype(np.uint8)).tobytes(), int(quality)


class PdqSignal:
    """The stored image's fingerprint and its quality."""

    columns: ClassVar[pa.Schema] = pa.schema([("pdq", pa.binary()), ("quality", pa.int32())])

    def compute(self, batch: PairBatch) -> Columns:
        """Return the columns."""
        found = [pdq(image) for image in batch.images]
        return {"pdq": [bits for bits, _ in found], "quality": [quality for _, quality in found]}
