"""Groups of duplicates over the whole corpus: exact by SHA-256 of the fetched bytes, near by PDQ within a distance."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from filters.search.hamming_join import MAX_BAND_DISTANCE_BITS, Codes, NearPairs, bands, join_band, join_blocks
from pipeline.errors import InputError
from pipeline.images.pdq import MIN_QUALITY, SAME_PICTURE_BITS

PART_ROWS = 1 << 22
"""Rows of a part where a band is split between tasks; fewer are one task."""


BLOCK_ROWS = 1 << 13
"""Rows of a task where all rows are compared with all."""


@dataclass(frozen=True)
class DuplicatesSignal:
    """Settings: the PDQ signal, the largest Hamming distance within a group, the least quality that is compared.

    `exact_group` and `near_group` are the smallest uid of a group, `exact_size` and `near_size` its number of pairs.
    Pairs with equal bytes form an exact group; near groups are the connected components of exact groups whose
    fingerprints are within the distance, so an exact group is never split. A pair without a fingerprint, or with one of
    too low a quality, is near only its exact copies.
    """

    pdq: str
    distance: int = SAME_PICTURE_BITS
    min_quality: int = MIN_QUALITY

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("exact_group", pa.string()),
            ("exact_size", pa.int64()),
            ("near_group", pa.string()),
            ("near_size", pa.int64()),
        ]
    )

    def __post_init__(self) -> None:
        for key, largest in (("distance", 256), ("min_quality", 101)):
            value: Any = getattr(self, key)
            if type(value) is not int or not 0 <= value <= largest:
                raise InputError(f"{key}: expected a whole number from 0 to {largest}, found {value!r}")

    @property
    def method(self) -> str:
        """How pairs are found; both methods find every pair within the distance."""
        return f"{len(bands(self.distance))} bands" if self.distance <= MAX_BAND_DISTANCE_BITS else "all pairs"

    def tasks(self, rows: int) -> list[tuple[int, int, int]]:
        """Return the tasks by which `rows` distinct fingerprints are compared, each an argument of `compare`."""
        if self.distance > MAX_BAND_DISTANCE_BITS:
            return [(0, first, min(first + BLOCK_ROWS, rows)) for first in range(0, rows, BLOCK_ROWS)]
        parts = 1 + rows // PART_ROWS
        return [(band, part, parts) for band in range(len(bands(self.distance))) for part in range(parts)]

    def compare(self, codes: Codes, task: tuple[int, int, int]) -> NearPairs:
        """Return a forest of near pairs of distinct fingerprints, (n, 32) uint8; all tasks' forests give all groups."""
        band, first, second = task
        if self.distance > MAX_BAND_DISTANCE_BITS:
            return join_blocks(codes, first, second, self.distance)
        return join_band(codes, bands(self.distance)[band], self.distance, first, second)


def sort_order(codes: Codes) -> Any:
    """Return the order, (n,) int64, that sorts fingerprints, (n, 32) uint8, as bytes."""
    return np.lexsort(codes.view(">u8").T[::-1])
