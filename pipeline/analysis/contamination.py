"""Contamination: which evaluation images a model's training pairs resemble, and its accuracy without those.

The rows of the signal `nearest` are compared with the thresholds of the experiment's own filter for it, so that the
report and the filter refer to the same pairs.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class CopyThresholds:
    """The thresholds of a copy: a PDQ distance of at most `pdq_distance` bits to an image whose PDQ quality is at least
    `min_quality`, a cosine of at least `cosine`, an alignment score of at least `aligned`; None disables a search.
    """

    pdq_distance: int | None
    cosine: float | None
    aligned: float | None
    min_quality: int


@dataclass(frozen=True)
class SetCopies:
    """Of one evaluation set: how many pairs resemble one of its images, and the keys of these images."""

    pairs: int
    keys: frozenset[str]


def find_copies(per_set: pa.ChunkedArray, near: CopyThresholds) -> dict[str, SetCopies]:
    """Return the copies by evaluation set; `per_set` (pairs,) is the column of that name of the signal `nearest`.

    Where a search has no result (null), the pair resembles no image by that search.
    """
    column = per_set.combine_chunks()
    pair, entries = pc.list_parent_indices(column), pc.list_flatten(column)
    set_names = pc.struct_field(entries, "set").to_numpy(zero_copy_only=False)
    hits = {search: hit for search, hit in _search_hits(entries, near).items() if hit.any()}
    copies_by_set = {}
    for name in dict.fromkeys(set_names.tolist()):
        in_set, pairs, keys = set_names == name, set[int](), set[str]()
        for search, hit in hits.items():
            selected = pa.array(hit & in_set)
            pairs.update(pair.filter(selected).to_pylist())
            keys.update(pc.struct_field(entries, f"{search}_key").filter(selected).to_pylist())
        copies_by_set[name] = SetCopies(len(pairs), frozenset(keys))
    return copies_by_set


def _search_hits(entries: pa.Array, near: CopyThresholds) -> dict[str, NDArray[np.bool_]]:
    def as_mask(matches: pa.Array) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = pc.fill_null(matches, False).to_numpy(zero_copy_only=False)
        return mask

    hits = {}
    if near.pdq_distance is not None:
        close = pc.less_equal(pc.struct_field(entries, "pdq_distance"), near.pdq_distance)
        sharp = pc.greater_equal(pc.struct_field(entries, "pdq_quality"), near.min_quality)
        hits["pdq"] = as_mask(close) & as_mask(sharp)
    for search, minimum in (("cosine", near.cosine), ("aligned", near.aligned)):
        if minimum is not None:
            score = pc.struct_field(entries, search)
            hits[search] = as_mask(pc.greater_equal(score, pa.scalar(minimum, score.type)))
    return hits
