"""Which pairs go into which tar of an export, and where their bytes lie: numpy columns, no object for each pair."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.sampling import order_keys
from pipeline.core.uid_arrays import Keys


def laid_out(keys: Keys, times: npt.NDArray[np.int32], seed: int, pairs_per_tar: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield for each tar the places of its pairs in `keys`, in their order; `keys` are sorted, and each is there once.

    First come all first copies, shuffled, then all second ones, and so on, as a tar never holds two copies of a pair:
    readers take equal keys side by side for one sample. The pairs of a round are spread evenly, so that no tar is
    much smaller than another.
    """
    for copy in range(int(times.max(initial=0))):
        mine = np.flatnonzero(times > copy)
        round_ = mine[np.argsort(order_keys(seed, copy, keys[mine]), kind="stable")]
        tars = -(-len(round_) // pairs_per_tar)
        for number in range(tars):
            yield round_[len(round_) * number // tars : len(round_) * (number + 1) // tars]


@dataclass(frozen=True)
class Chosen:
    """The pairs of a mixture, sorted by uid: how often each is in it, and its part, as a place in `parts`."""

    keys: Keys
    times: npt.NDArray[np.int32]
    part: npt.NDArray[np.int32]
    parts: tuple[str, ...]

    def pairs(self) -> dict[str, tuple[int, int]]:
        """Return the pairs of each part, with copies and without."""
        distinct = np.bincount(self.part, minlength=len(self.parts))
        copies = np.bincount(self.part, weights=self.times, minlength=len(self.parts))
        return {name: (int(copies[number]), int(distinct[number])) for number, name in enumerate(self.parts)}


def tars_of_parts(chosen: Chosen, seed: int, pairs_per_tar: int) -> Iterator[tuple[npt.NDArray[np.intp], float]]:
    """Yield as `laid_out` does, but each pair once, part by part, and with each tar its upsampling factor.

    open_clip draws tars in proportion to their factors, so that of all samples a part has its factor times its pairs:
    its pairs with copies over those without make that its quota.
    """
    for number, (copies, distinct) in enumerate(chosen.pairs().values()):
        mine = np.flatnonzero(chosen.part == number)
        for tar in laid_out(chosen.keys[mine], np.ones(len(mine), np.int32), seed, pairs_per_tar):
            yield mine[tar], copies / distinct
