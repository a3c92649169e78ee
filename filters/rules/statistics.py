"""Statistics over all pairs that a rule needs before it can decide on one: a fraction's cut value, concept counts.

The result is exact for any number of pairs, without sorting: values are counted by their bits, sixteen at a time from
the highest, as in a radix sort, and where many pairs share the value at the cut, their uids by their first letters.
Each round reads one column once, and its result is small.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial, singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.rules.base import Rule
from filters.rules.corpus import Balanced, StatisticsRule, TopFraction

Tables = Iterator[pa.Table]


Fold = Callable[[Sequence[str], Callable[[Tables], Any]], Sequence[Any]]
"""Reads columns of all rows that are considered, a part in each task; returns the function's result for each task."""


Statistics = Mapping[str, Any]
"""Statistics by the rule's name: for a TopFraction its `FractionCut` by source ("" for all), for a Balanced the counts
of the concepts that more than `t` pairs mention."""


RADIX_BITS = 16
"""Bits of a value that one round counts."""


MAX_SORTED_UIDS = 100_000
"""The most uids that the driver sorts at once."""


@dataclass(frozen=True)
class FractionCut:
    """The cut of a fraction: kept are values above `value`, and of the pairs with exactly `value` the uids up to `uid`.

    Without a value nothing is kept; without a uid all pairs with exactly `value` are kept.
    """

    value: float | None
    uid: str | None


def statistics_rules(rule: Rule) -> list[StatisticsRule]:
    """Return the parts of a rule that need statistics, each after those that its `among` contains."""
    return [part for part in reversed(list(rule.walk())) if isinstance(part, StatisticsRule)]


@singledispatch
def measure(rule: StatisticsRule, fold: Fold) -> Any:
    """Return a rule's entry of `Statistics`; `fold` reads uid, source and the rule's own column of its signal."""
    raise TypeError(f"nothing to measure for {type(rule).__name__}")


@measure.register
def _balanced_counts(rule: Balanced, fold: Fold) -> dict[int, int]:
    parts = fold(["concepts"], _count_concepts)
    total = np.zeros(max(map(len, parts), default=0), np.int64)
    for part in parts:
        total[: len(part)] += part
    return {int(concept): int(total[concept]) for concept in np.flatnonzero(total > rule.t)}


def _count_concepts(tables: Tables) -> npt.NDArray[np.int64]:
    total = np.zeros(0, np.int64)
    for table in tables:
        counts = np.bincount(pc.list_flatten(table["concepts"]).combine_chunks().to_numpy(zero_copy_only=False))
        longer, shorter = (total, counts) if len(total) > len(counts) else (counts, total)
        total = longer.astype(np.int64)
        total[: len(shorter)] += shorter
    return total


@dataclass(frozen=True)
class _Search:
    """The search for a source's cut: `key` are the highest bits found so far, `tied` is the number of pairs that share
    them, and `left` how many of these are kept.
    """

    key: int
    left: int
    tied: int


@measure.register
def _top_fraction_cuts(rule: TopFraction, fold: Fold) -> dict[str, FractionCut]:
    column, columns = rule.by[1], [rule.by[1], *(["source"] if rule.per_source else [])]
    searches: dict[str, _Search] = {}
    for shift in range(64 - RADIX_BITS, -1, -RADIX_BITS):
        keys = {scope: search.key for scope, search in searches.items()}
        counts: dict[str, npt.NDArray[np.int64]] = {}
        for part in fold(columns, partial(_count_bits, column, shift, keys)):
            for scope, part_counts in part.items():
                counts[scope] = counts.get(scope, 0) + part_counts
        searches = {scope: _narrow(rule.fraction, searches.get(scope), total) for scope, total in counts.items()}
    return {scope: _cut_of(rule, scope, search, fold) for scope, search in searches.items()}


def _narrow(fraction: float, before: _Search | None, counts: npt.NDArray[np.int64]) -> _Search:
    """Return the search extended by the bits that `counts` counts: those of the last pair to keep, from above."""
    kept = math.ceil(Fraction(str(fraction)) * int(counts.sum())) if before is None else before.left
    cumulative = np.cumsum(counts[::-1])
    index = int(np.searchsorted(cumulative, kept))
    bits = len(counts) - 1 - index
    key = ((before.key if before else 0) << RADIX_BITS) + bits
    return _Search(key, kept - int(cumulative[index] - counts[bits]), int(counts[bits]))


def _cut_of(rule: TopFraction, scope: str, search: _Search, fold: Fold) -> FractionCut:
    if search.left == 0:
        return FractionCut(None, None)
    return FractionCut(
        _float_of_bits(search.key), None if search.left == search.tied else _uid_at_cut(rule, scope, search, fold)
    )


def _uid_at_cut(rule: TopFraction, scope: str, search: _Search, fold: Fold) -> str:
    """Return the `left`-th uid, from 1, of the tied ones in order."""
    columns = ["uid", rule.by[1], *(["source"] if rule.per_source else [])]
    prefix, left, tied = "", search.left, search.tied
    while tied > MAX_SORTED_UIDS:
        prefix_counts: Counter[str] = Counter()
        for part in fold(columns, partial(_count_prefixes, rule.by[1], scope, search.key, prefix)):
            prefix_counts.update(part)
        for candidate in sorted(prefix_counts):
            if prefix_counts[candidate] >= left:
                prefix, tied = candidate, prefix_counts[candidate]
                break
            left -= prefix_counts[candidate]
    parts = fold(columns, partial(_tied_uids, rule.by[1], scope, search.key, prefix))
    uids: list[str] = sorted(uid for part in parts for uid in part)
    return uids[left - 1]


def ordered_bits(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Return for each float64, none of them NaN, a uint64 such that the order is the same and 0 and -0 are equal."""
    bits = (values + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def _float_of_bits(key: int) -> float:
    """Return the float64 whose `ordered_bits` these are."""
    bits = key & ~(1 << 63) if key >> 63 else ~key & ((1 << 64) - 1)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


def _known_values(column: str, tables: Tables) -> Iterator[tuple[pa.Table, npt.NDArray[np.uint64]]]:
    """Yield the rows that have a value, and the `ordered_bits` of their values."""
    for table in tables:
        values = table[column].cast(pa.float64(), safe=False)
        known = pc.fill_null(pc.invert(pc.is_nan(values)), False)
        yield table.filter(known), ordered_bits(values.filter(known).to_numpy())


def _source_masks(table: pa.Table, keys: npt.NDArray[np.uint64]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield each source with the mask of its rows; "" with all rows where there is no source column."""
    if "source" not in table.column_names:
        yield "", np.ones(len(keys), bool)
        return
    codes = table["source"].combine_chunks().dictionary_encode()
    for number, source in enumerate(codes.dictionary.to_pylist()):
        yield source, codes.indices.to_numpy() == number


def _count_bits(
    column: str, shift: int, keys_found: Mapping[str, int], tables: Tables
) -> dict[str, npt.NDArray[np.int64]]:
    """Return by source how often each value of the 16 bits above `shift` occurs after the bits found so far."""
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for table, keys in _known_values(column, tables):
        for scope, mask in _source_masks(table, keys):
            of_scope = keys[mask]
            if keys_found:
                of_scope = of_scope[of_scope >> np.uint64(shift + RADIX_BITS) == np.uint64(keys_found[scope])]
            bits = (of_scope >> np.uint64(shift)) & np.uint64((1 << RADIX_BITS) - 1)
            bit_counts = np.bincount(bits.astype(np.int64), minlength=1 << RADIX_BITS)
            counts[scope] = counts.get(scope, 0) + bit_counts
    return counts


def _tied_uids(column: str, scope: str, key: int, prefix: str, tables: Tables) -> list[str]:
    """Return the uids, starting with `prefix`, of a source's rows with exactly this value."""
    tied: list[str] = []
    for table, keys in _known_values(column, tables):
        mask = next((rows for name, rows in _source_masks(table, keys) if name == scope), np.zeros(len(keys), bool))
        uids = table["uid"].filter(pa.array(mask & (keys == np.uint64(key))))
        tied += uids.filter(pc.starts_with(uids, prefix)).to_pylist()
    return tied


def _count_prefixes(column: str, scope: str, key: int, prefix: str, tables: Tables) -> Counter[str]:
    """Count these uids by their prefix that is four letters longer than `prefix`."""
    return Counter(
        uid[: len(prefix) + 4] for table in tables for uid in _tied_uids(column, scope, key, prefix, iter([table]))
    )
