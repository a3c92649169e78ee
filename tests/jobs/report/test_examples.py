"""Which pairs the report shows: some of each reason, the same wherever the rows lie."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.report.examples import _first_of_each, choose_decisions

ROWS = st.lists(
    st.tuples(st.integers(0, 999), st.sampled_from(["", "", "too_short", "evaluation_copy", "near_duplicate"])),
    unique_by=lambda row: row[0],
    max_size=60,
)


def table(rows: list[tuple[int, str]]) -> pa.Table:
    kinds = pa.schema([("uid", pa.string()), ("keep", pa.bool_()), ("reason", pa.string())])
    return pa.Table.from_pylist([{"uid": f"{n:032x}", "keep": not why, "reason": why} for n, why in rows], kinds)


@given(ROWS, st.integers(1, 30), st.integers(0, 60))
def test_some_of_each_reason_are_shown_in_whatever_files_they_lie(
    rows: list[tuple[int, str]], count: int, cut: int
) -> None:
    files = [_first_of_each(count)(table(part)) for part in (rows[:cut], rows[cut:])]
    chosen = choose_decisions(pa.concat_tables(reversed(files)), count)
    assert chosen == choose_decisions(table(rows), count)
    kept = [row["uid"] for row in chosen if row["keep"]]
    assert kept == sorted(f"{n:032x}" for n, why in rows if not why)[: count // 3]
    reasons = {why for _, why in rows} - {""}
    each = max(1, (count - len(kept)) // max(1, len(reasons)))
    for reason in reasons:
        shown = [row["uid"] for row in chosen if row["reason"] == reason]
        assert shown == sorted(f"{n:032x}" for n, why in rows if why == reason)[:each]
