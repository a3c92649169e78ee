"""What a rule must know of all pairs before it can speak of one: where a fraction is cut, how often a concept stands.

Exact, whatever the number of pairs, and nothing is sorted: values are counted by their bits, sixteen at a time from the
highest, as a radix sort would, and where many pairs share the value at the cut, their uids by their first letters. Each
round reads one column once, and what it finds is small.
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
from filters.rules.corpus import Balanced, MeasuredFirst, TopFraction

Tables = Iterator[pa.Table]


Fold = Callable[[Sequence[str], Callable[[Tables], Any]], Sequence[Any]]
"""Reads columns of all rows that count, some in each task; returns what the function made of each task's tables."""


Measured = Mapping[str, Any]
"""What was measured, by the rule's name: of a TopFraction its `Cut` by source ("" is all), of a Balanced the counts of
the concepts that more than `t` pairs mention."""


BITS = 16


MOST = 100_000
"""Uids that the driver sorts at once."""


@dataclass(frozen=True)
class Cut:
    """What is kept: values above `value`, and of those equal to it the uids up to `uid`; no value keeps nothing, no uid
    keeps all that are equal.
    """

    value: float | None
    uid: str | None


def measured_first(rule: Rule) -> list[MeasuredFirst]:
    """Return the parts of a rule that are measured, each behind those that it considers."""
    return [one for one in reversed(list(rule.walk())) if isinstance(one, MeasuredFirst)]


@singledispatch
def measure(rule: MeasuredFirst, fold: Fold) -> Any:
    """Return what `Measured` holds of a rule; `fold` reads uid, source and the rule's own column of its signal."""
    raise TypeError(f"nothing to measure for {type(rule).__name__}")


@measure.register
def _counts(rule: Balanced, fold: Fold) -> dict[int, int]:
    parts = fold(["concepts"], _count_concepts)
    total = np.zeros(max(map(len, parts), default=0), np.int64)
    for part in parts:
        total[: len(part)] += part
    return {int(one): int(total[one]) for one in np.flatnonzero(total > rule.t)}


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
    """Where a source's cut lies: `key` are the highest bits found, `left` how many of the `tied` that share them are
    kept.
    """

    key: int
    left: int
    tied: int


@measure.register
def _cuts(rule: TopFraction, fold: Fold) -> dict[str, Cut]:
    column, columns = rule.by[1], [rule.by[1], *(["source"] if rule.per_source else [])]
    found: dict[str, _Search] = {}
    for shift in range(64 - BITS, -1, -BITS):
        keys = {scope: one.key for scope, one in found.items()}
        counts: dict[str, npt.NDArray[np.int64]] = {}
        for part in fold(columns, partial(_count_bits, column, shift, keys)):
            for scope, counted in part.items():
                counts[scope] = counts.get(scope, 0) + counted
        found = {scope: _narrowed(rule.fraction, found.get(scope), counted) for scope, counted in counts.items()}
    return {scope: _cut(rule, scope, one, fold) for scope, one in found.items()}


def _narrowed(fraction: float, before: _Search | None, counts: npt.NDArray[np.int64]) -> _Search:
    """Return the search with the bits that `counts` counts: those in which the pairs to keep, from above, end."""
    left = math.ceil(Fraction(str(fraction)) * int(counts.sum())) if before is None else before.left
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, left))
    bits = len(counts) - 1 - place
    key = ((before.key if before else 0) << BITS) + bits
    return _Search(key, left - int(above[place] - counts[bits]), int(counts[bits]))


def _cut(rule: TopFraction, scope: str, one: _Search, fold: Fold) -> Cut:
    if one.left == 0:
        return Cut(None, None)
    return Cut(_value(one.key), None if one.left == one.tied else _uid(rule, scope, one, fold))


def _uid(rule: TopFraction, scope: str, one: _Search, fold: Fold) -> str:
    """Return the uid at place `left`, from 1, of the tied ones in order."""
    columns = ["uid", rule.by[1], *(["source"] if rule.per_source else [])]
    head, left, tied = "", one.left, one.tied
    while tied > MOST:
        heads: Counter[str] = Counter()
        for part in fold(columns, partial(_count_heads, rule.by[1], scope, one.key, head)):
            heads.update(part)
        for longer in sorted(heads):
            if heads[longer] >= left:
                head, tied = longer, heads[longer]
                break
            left -= heads[longer]
    parts = fold(columns, partial(_tied, rule.by[1], scope, one.key, head))
    uids: list[str] = sorted(uid for part in parts for uid in part)
    return uids[left - 1]


def ordered_bits(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Return for each float64 that is no NaN a number of 64 bits; they stand in the same order, 0 and -0 as one."""
    bits = (values + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def _value(key: int) -> float:
    """Return the float64 whose `ordered_bits` these are."""
    bits = key & ~(1 << 63) if key >> 63 else ~key & ((1 << 64) - 1)
    return float(np.array([bits], np.uint64).view(np.float64)[0])


def _known(column: str, tables: Tables) -> Iterator[tuple[pa.Table, npt.NDArray[np.uint64]]]:
    """Yield the rows that have a value, and their values' `ordered_bits`."""
    for table in tables:
        values = table[column].cast(pa.float64(), safe=False)
        known = pc.fill_null(pc.invert(pc.is_nan(values)), False)
        yield table.filter(known), ordered_bits(values.filter(known).to_numpy())


def _scopes(table: pa.Table, keys: npt.NDArray[np.uint64]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield each source with where its rows are; "" with all of them where sources are not told apart."""
    if "source" not in table.column_names:
        yield "", np.ones(len(keys), bool)
        return
    codes = table["source"].combine_chunks().dictionary_encode()
    for number, source in enumerate(codes.dictionary.to_pylist()):
        yield source, codes.indices.to_numpy() == number


def _count_bits(column: str, shift: int, found: Mapping[str, int], tables: Tables) -> dict[str, npt.NDArray[np.int64]]:
    """Return by source how often each value of the 16 bits above `shift` stands behind the bits that are found."""
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for table, keys in _known(column, tables):
        for scope, mine in _scopes(table, keys):
            of_scope = keys[mine]
            if found:
                of_scope = of_scope[of_scope >> np.uint64(shift + BITS) == np.uint64(found[scope])]
            bits = (of_scope >> np.uint64(shift)) & np.uint64((1 << BITS) - 1)
            counted = np.bincount(bits.astype(np.int64), minlength=1 << BITS)
            counts[scope] = counts.get(scope, 0) + counted
    return counts


def _tied(column: str, scope: str, key: int, head: str, tables: Tables) -> list[str]:
    """Return the uids that start with `head` of a source's rows with this very value."""
    found: list[str] = []
    for table, keys in _known(column, tables):
        mine = next((where for name, where in _scopes(table, keys) if name == scope), np.zeros(len(keys), bool))
        uids = table["uid"].filter(pa.array(mine & (keys == np.uint64(key))))
        found += uids.filter(pc.starts_with(uids, head)).to_pylist()
    return found


def _count_heads(column: str, scope: str, key: int, head: str, tables: Tables) -> Counter[str]:
    """Count those uids by four letters more than `head` has."""
    return Counter(uid[: len(head) + 4] for table in tables for uid in _tied(column, scope, key, head, iter([table])))
