"""Joins on uid: split into parts and laid side by side, the rows are what a dictionary would give, in any order."""

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StageFailed
from pipeline.ledger.uid_join import join_on_uid, split_by_uid

UID = st.text("0123456789abcdef", min_size=32, max_size=32) | st.sampled_from(["0" * 32, "f" * 32, "0" * 31 + "1"])


NUMBERS = pa.schema(
    [("uid", pa.string()), ("score", pa.float32()), ("tags", pa.list_(pa.int32())), ("name", pa.string())]
)


VALUES = st.tuples(
    st.none() | st.sampled_from([0.5, -1.0, math.nan]), st.none() | st.lists(st.integers(0, 5)), st.none() | st.text()
)


def table_of(rows: dict[str, Any], order: Any) -> pa.Table:
    uids = list(rows)
    order.shuffle(uids)
    return pa.Table.from_pylist([dict(zip(NUMBERS.names, (uid, *rows[uid]), strict=True)) for uid in uids], NUMBERS)


def by_part(table: pa.Table, parts: int) -> dict[int, pa.Table]:
    found = dict(split_by_uid(table, parts))
    assert sum(rows.num_rows for rows in found.values()) == table.num_rows
    return found


@given(
    uids=st.lists(UID, unique=True, max_size=30),
    left=st.dictionaries(UID, VALUES, max_size=10),
    values=st.lists(VALUES, min_size=30, max_size=30),
    parts=st.integers(1, 7),
    order=st.randoms(use_true_random=False),
)
def test_parts_laid_side_by_side_are_the_rows_by_uid(
    uids: list[str], left: dict[str, Any], values: list[Any], parts: int, order: Any
) -> None:
    other = left | dict(
        zip(uids[::2], values, strict=False)
    )  # of every second one, and of some that are not in the base
    base = pa.table({"uid": pa.array(uids, pa.string()), "source": pa.array([uid[:2] for uid in uids], pa.string())})
    bases, others = by_part(base, parts), by_part(table_of(other, order), parts)
    empty = next(iter(split_by_uid(table_of({"0" * 32: (None, None, None)}, order), 1)))[1].slice(0, 0)
    found: list[dict[str, Any]] = []
    for part in sorted(bases):
        found += join_on_uid(bases[part], {"other": others.get(part, empty)}).to_pylist()
    assert [row["uid"] for row in found] == sorted(uids)
    for row in found:
        assert row["source"] == row["uid"][:2]
        if row["uid"] not in other:
            assert row["other"] is None
            continue
        score, tags, name = other[row["uid"]]
        without_nan = None if score is None or math.isnan(score) else score
        assert row["other"] == {"score": without_nan, "tags": tags, "name": name}


@given(uids=st.lists(UID, unique=True, min_size=1, max_size=30), parts=st.integers(1, 7))
def test_a_part_is_a_range_of_uids(uids: list[str], parts: int) -> None:
    found = by_part(pa.table({"uid": uids}), parts)
    assert all(0 <= part < parts for part in found)
    ranges = [sorted(key.hex() for key in found[part]["uid"].to_pylist()) for part in sorted(found)]
    assert [uid for one in ranges for uid in one] == sorted(uids)
    assert all(int(uid, 16) * parts >> 128 == part for part in found for uid in ranges[sorted(found).index(part)])


def test_a_uid_that_a_table_has_twice_is_said() -> None:
    base = dict(split_by_uid(pa.table({"uid": ["a" * 32, "b" * 32]}), 1))[0]
    twice = dict(split_by_uid(pa.table({"uid": ["b" * 32, "a" * 32, "b" * 32], "x": [1, 2, 3]}), 1))[0]
    with pytest.raises(StageFailed, match=f"clip_v1: expected one row for each uid, found more of {'b' * 32}"):
        join_on_uid(base, {"clip_v1": twice})
    with pytest.raises(StageFailed, match=f"the pairs: expected one row for each uid, found more of {'b' * 32}"):
        join_on_uid(twice, {"clip_v1": base})
