"""The layout of an export: which pairs go into which tar, as numpy columns without an object per pair."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.sampling import order_keys
from pipeline.core.uid_arrays import UidKeys


def layout_tars(
    keys: UidKeys, times: npt.NDArray[np.int32], seed: int, pairs_per_tar: int
) -> Iterator[npt.NDArray[np.intp]]:
    """Yield for each tar the indices of its pairs in `keys`, in tar order; `keys` are sorted and distinct.

    All first copies come first, shuffled, then all second ones, and so on, since a tar must not hold two copies of a
    pair: readers take adjacent equal keys for one sample. The pairs of a round are spread evenly, so no tar is much
    smaller than another.
    """
    for copy in range(int(times.max(initial=0))):
        repeated = np.flatnonzero(times > copy)
        shuffled = repeated[np.argsort(order_keys(seed, copy, keys[repeated]), kind="stable")]
        tars = -(-len(shuffled) // pairs_per_tar)
        for number in range(tars):
            yield shuffled[len(shuffled) * number // tars : len(shuffled) * (number + 1) // tars]


@dataclass(frozen=True)
class ExportPairs:
    """The pairs of a mixture, sorted by uid: the number of copies of each, and its part, as an index into `parts`."""

    keys: UidKeys
    times: npt.NDArray[np.int32]
    part: npt.NDArray[np.int32]
    parts: tuple[str, ...]

    def pairs(self) -> dict[str, tuple[int, int]]:
        """Return the number of pairs of each part, with and without copies."""
        distinct = np.bincount(self.part, minlength=len(self.parts))
        copies = np.bincount(self.part, weights=self.times, minlength=len(self.parts))
        return {name: (int(copies[number]), int(distinct[number])) for number, name in enumerate(self.parts)}


def tars_of_parts(chosen: ExportPairs, seed: int, pairs_per_tar: int) -> Iterator[tuple[npt.NDArray[np.intp], float]]:
    """Yield as `layout_tars` does, but each pair once, part by part, and each tar with its upsampling factor.

    open_clip draws tars in proportion to their factors, so a part's share of all samples is proportional to its factor
    times its pairs. The factor is the number of pairs with copies over that without, which makes this the part's quota.
    """
    for number, (copies, distinct) in enumerate(chosen.pairs().values()):
        part_rows = np.flatnonzero(chosen.part == number)
        for tar_rows in layout_tars(chosen.keys[part_rows], np.ones(len(part_rows), np.int32), seed, pairs_per_tar):
            yield part_rows[tar_rows], copies / distinct
