"""The perceptual fingerprint of each stored image, as a signal."""

from typing import ClassVar

import pyarrow as pa

from filters.contract import Columns, PairBatch
from pipeline.pdq import pdq


class PdqSignal:
    """The stored image's fingerprint and its quality."""

    columns: ClassVar[pa.Schema] = pa.schema([("pdq", pa.binary()), ("quality", pa.int32())])

    def compute(self, batch: PairBatch) -> Columns:
        """Return the columns."""
        found = [pdq(image) for image in batch.images]
        return {"pdq": [bits for bits, _ in found], "quality": [quality for _, quality in found]}
