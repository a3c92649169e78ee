"""Which pairs go into which tar of an export, and where their bytes lie: numpy columns, no object for each pair."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.subsets import Keys
from pipeline.uids import halves

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Byte ranges of tars in the order in which they are wanted: `sizes[i]` bytes of `shards[of[i]]` at `offsets[i]`.

    `keys` are the uids of the pairs whose members they hold. All columns have the length n.
    """

    shards: tuple[str, ...]
    keys: Keys
    of: npt.NDArray[np.int32]
    offsets: Whole
    sizes: Whole

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: npt.NDArray[np.intp]) -> "Pieces":
        """Return the pieces at these places, with only the shards that they need."""
        used, of = np.unique(self.of[places], return_inverse=True)
        shards = tuple(self.shards[number] for number in used)
        return Pieces(shards, self.keys[places], of.astype(np.int32), self.offsets[places], self.sizes[places])


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return each number with its bits mixed: SplitMix64's finalizer (Steele, Lea and Flood 2014, OOPSLA)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def order_keys(seed: int, copy: int, keys: Keys) -> npt.NDArray[np.uint64]:
    """Return the numbers, (n,), by which copy number `copy` of each pair is placed among the others of that number."""
    start = np.frombuffer(hashlib.sha256(f"order:{seed}:{copy}".encode()).digest()[:16], np.uint64)
    high, low = halves(keys)
    return _mixed(_mixed(high ^ start[0]) ^ low ^ start[1])


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
