"""What rules measure: where a fraction is cut and how often concepts stand, by a count of bits against a plain sort."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filters.rules import statistics
from filters.rules.corpus import Balanced, TopFraction
from filters.rules.statistics import Fold, FractionCut, measure, ordered_bits

Row = tuple[str, str, float | None]


VALUES = st.floats(width=64, allow_nan=True) | st.sampled_from([0.0, -0.0, 0.3, 1.0, math.inf, -math.inf]) | st.none()


ROWS = st.lists(st.tuples(st.sampled_from("stu"), VALUES), max_size=40).map(
    lambda rows: [(f"{number * 7919 % 1000:032x}", source, value) for number, (source, value) in enumerate(rows)]
)


SPLITS = st.lists(st.integers(0, 40), max_size=4)


def folding(table: pa.Table, splits: Sequence[int]) -> Fold:
    """Return a fold over tasks that hold the table's rows up to each split; each task has its rows in two tables."""
    bounds = [0, *sorted(min(split, table.num_rows) for split in splits), table.num_rows]

    def fold(columns: Sequence[str], function: Callable[[Iterator[pa.Table]], Any]) -> Sequence[Any]:
        tasks = [table.slice(low, high - low) for low, high in pairwise(bounds)]
        return [function(iter([task.slice(0, 2).select(columns), task.slice(2).select(columns)])) for task in tasks]

    return fold


def table_of(rows: Sequence[Row], kind: pa.DataType) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(
        [pa.array(columns[0]), pa.array(columns[1]), pa.array(columns[2], kind)], ["uid", "source", "score"]
    )


def kept(rows: Sequence[Row], cuts: dict[str, FractionCut], per_source: bool) -> set[str]:
    """Return the uids that cuts keep, by what their docstring says."""
    found = set()
    for uid, source, value in rows:
        cut = cuts.get(source if per_source else "")
        if value is None or math.isnan(value) or cut is None or cut.value is None:
            continue
        if value > cut.value or (value == cut.value and (cut.uid is None or uid <= cut.uid)):
            found.add(uid)
    return found


def by_sorting(rows: Sequence[Row], fraction: float, per_source: bool) -> set[str]:
    found: set[str] = set()
    for scope in {source for _, source, _ in rows} if per_source else {""}:
        mine = [row for row in rows if row[2] is not None and not math.isnan(row[2]) and scope in ("", row[1])]
        ranked = sorted(mine, key=lambda row: (-(row[2] or 0.0), row[0]))
        found |= {uid for uid, _, _ in ranked[: math.ceil(Fraction(str(fraction)) * len(mine))]}
    return found


@settings(deadline=None)
@given(
    rows=ROWS,
    fraction=st.sampled_from([0.0, 0.07, 0.3, 0.5, 1 / 3, 0.999, 1.0]),
    per_source=st.booleans(),
    splits=SPLITS,
)
@example(rows=[], fraction=0.5, per_source=False, splits=[])
def test_a_cut_keeps_what_a_sort_would(rows: list[Row], fraction: float, per_source: bool, splits: list[int]) -> None:
    rule = TopFraction("top", fraction, ("clip_v1", "score"), per_source)
    cuts = measure(rule, folding(table_of(rows, pa.float64()), splits))
    assert kept(rows, cuts, per_source) == by_sorting(rows, fraction, per_source)


@pytest.mark.parametrize("kind", [pa.float32(), pa.int32(), pa.int64()])
def test_a_column_of_any_numbers_is_cut(kind: pa.DataType) -> None:
    rows: list[Row] = [(f"{number:032x}", "s", float(number % 11 - 5)) for number in range(100)]
    cuts = measure(TopFraction("top", 0.3, ("image_v1", "score")), folding(table_of(rows, kind), [50]))
    assert kept(rows, cuts, False) == by_sorting(rows, 0.3, False)


@pytest.mark.parametrize("most", [1, 3, 100_000])
def test_ties_that_are_many_are_told_apart_by_the_first_letters_of_their_uids(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MAX_SORTED_UIDS", most)
    rng = np.random.default_rng(0)
    names = [f"{rng.integers(0, 3):01x}{rng.integers(0, 1 << 60):031x}" for _ in range(60)]
    names += [f"abcdabcdabcd{number:020x}" for number in range(20)]
    rows: list[Row] = [(name, "st"[number % 2], 0.5 if number % 5 else 0.75) for number, name in enumerate(names)]
    for fraction in (0.1, 0.25, 0.5, 0.8, 0.99):
        for per_source in (False, True):
            rule = TopFraction("top", fraction, ("clip_v1", "score"), per_source)
            cuts = measure(rule, folding(table_of(rows, pa.float32()), [7, 31]))
            assert kept(rows, cuts, per_source) == by_sorting(rows, fraction, per_source)


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=2))
@example([-0.0, 0.0])
@example([5e-324, -5e-324])
@example([math.inf, 1.7976931348623157e308])
def test_bits_stand_in_the_order_of_the_numbers(pair: list[float]) -> None:
    first, second = (int(bits) for bits in ordered_bits(np.array(pair, np.float64)))
    assert (first < second, first == second) == (pair[0] < pair[1], pair[0] == pair[1])


@given(
    captions=st.lists(st.none() | st.lists(st.integers(0, 9), unique=True), max_size=30),
    t=st.integers(1, 5),
    splits=SPLITS,
)
def test_concepts_that_stand_more_than_t_times_are_counted(
    captions: list[list[int] | None], t: int, splits: list[int]
) -> None:
    table = pa.table({"concepts": pa.array(captions, pa.list_(pa.int32()))})
    counts = Counter(one for caption in captions for one in caption or [])
    assert measure(Balanced("b", "concepts_v1", t, 0), folding(table, splits)) == {
        one: count for one, count in counts.items() if count > t
    }
