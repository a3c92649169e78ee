"""Contamination: which evaluation images a model's training pairs resemble, and its accuracy without those.

What the signal `nearest` found is taken, by the thresholds of the experiment's own filter for it, so that the report
and the filter speak of the same pairs.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Near:
    """What counts as a copy: PDQ within so many bits of an image whose PDQ has `min_quality`, a cosine of so much or
    more, an alignment score of so much or more; None leaves a search out.
    """

    pdq_distance: int | None
    cosine: float | None
    aligned: float | None
    min_quality: int


@dataclass(frozen=True)
class Copies:
    """Of one evaluation set: how many pairs resemble an image of it, and the keys of these images."""

    pairs: int
    keys: frozenset[str]


def copies(per_set: pa.ChunkedArray, near: Near) -> dict[str, Copies]:
    """Return by evaluation set what the pairs resemble; `per_set` (pairs,) is that column of the signal `nearest`.

    Where a search found nothing (null), the pair resembles nothing by it.
    """
    column = per_set.combine_chunks()
    pair, entries = pc.list_parent_indices(column), pc.list_flatten(column)
    names = pc.struct_field(entries, "set").to_numpy(zero_copy_only=False)
    hits = {search: found for search, found in _hits(entries, near).items() if found.any()}
    told = {}
    for name in dict.fromkeys(names.tolist()):
        mine, pairs, keys = names == name, set[int](), set[str]()
        for search, hit in hits.items():
            at = pa.array(hit & mine)
            pairs.update(pair.filter(at).to_pylist())
            keys.update(pc.struct_field(entries, f"{search}_key").filter(at).to_pylist())
        told[name] = Copies(len(pairs), frozenset(keys))
    return told


def _hits(entries: pa.Array, near: Near) -> dict[str, NDArray[np.bool_]]:
    def passed(mask: pa.Array) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        return found

    found = {}
    if near.pdq_distance is not None:
        close = pc.less_equal(pc.struct_field(entries, "pdq_distance"), near.pdq_distance)
        sharp = pc.greater_equal(pc.struct_field(entries, "pdq_quality"), near.min_quality)
        found["pdq"] = passed(close) & passed(sharp)
    for search, least in (("cosine", near.cosine), ("aligned", near.aligned)):
        if least is not None:
            score = pc.struct_field(entries, search)
            found[search] = passed(pc.greater_equal(score, pa.scalar(least, score.type)))
    return found
