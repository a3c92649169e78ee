"""A few rows out of many: found by statistics where there are some, and without them where there are none."""

import hashlib
import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.ledger.data_files import ROW_GROUP_ROWS, sort_by_uid, uid_range, write_rows
from pipeline.ledger.job_graph import jobs_as_of
from pipeline.ledger.scan import rows_with
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import Ledger
from pipeline.provenance.trace import format_trace, trace
from pipeline.storage.store import Store
from tests.pipeline.ledger.test_tables import job_row
from tests.pipeline.takedown.test_takedown import BY_NAME, taken
from tests.support.takedown_store import build

SCHEMA = TABLES["decisions"]


def uid(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def decisions(numbers: list[int]) -> pa.Table:
    rows = [
        {"uid": uid(number), "source": "s", "filter": "f", "keep": True, "reason": f"{number} at {place}"}
        for place, number in enumerate(numbers)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def committed(ledger: Ledger, job: str, files: list[pa.Table], statistics: bool = True) -> None:
    written = [write_rows(ledger.store, job, "decisions", rows) for rows in files]
    if not statistics:  # as an older version wrote them
        written = [replace(one, first="", last="") for one in written]
    ledger.commit(job, "decisions", SCHEMA, written)
    ledger.finish([job_row(job)])


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=5),
    st.sets(st.integers(0, 60)),
    st.booleans(),
)
def test_the_rows_found_are_those_that_a_reader_of_everything_finds(
    files: list[list[int]], wanted: set[int], statistics: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Store(folder))
        committed(ledger, "a", [decisions(numbers) for numbers in files], statistics)
        keys = [uid(number) for number in wanted]
        found = rows_with(ledger, "decisions", ["uid"], keys)
        expected = [row for row in ledger.read("decisions").to_pylist() if row["uid"] in keys]
        assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_rows_are_written_in_the_order_of_uids_and_those_of_one_uid_in_theirs() -> None:
    ordered = sort_by_uid(decisions([3, 1, 2, 1, 3]))
    assert ordered["uid"].to_pylist() == sorted(uid(number) for number in (3, 1, 2, 1, 3))
    reasons = ordered["reason"].to_pylist()
    assert reasons.index("1 at 1") < reasons.index("1 at 3")
    assert reasons.index("3 at 0") < reasons.index("3 at 4")
    assert uid_range(ordered) == (ordered["uid"][0].as_py(), ordered["uid"][4].as_py())
    assert uid_range(ordered.slice(0, 0)) == ("", "")


def test_a_file_that_cannot_hold_the_uid_is_not_opened(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    near, far = sorted(range(20), key=uid)[:10], sorted(range(20), key=uid)[10:]
    committed(ledger, "a", [decisions(near), decisions(far)])
    [gone] = [one.path for one in ledger.files("decisions") if one.first > uid(near[-1])]
    (tmp_path / gone).unlink()
    assert [row["uid"] for row in rows_with(ledger, "decisions", ["uid"], [uid(near[3])])] == [uid(near[3])]
    with pytest.raises(FileNotFoundError):
        rows_with(ledger, "decisions", ["uid"], [uid(far[3])])


def test_a_row_group_holds_few_enough_rows_to_be_read_for_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = decisions([1]).take(pa.array([0] * (ROW_GROUP_ROWS + 5)))
    file = write_rows(store, "a", "decisions", rows)
    with store.parquet(f"tables/decisions/{file.path}") as opened:
        assert [opened.metadata.row_group(at).num_rows for at in range(2)] == [ROW_GROUP_ROWS, 5]


def test_what_was_taken_down_is_told_by_its_uid_its_url_and_its_image(tmp_path: Path) -> None:
    build(tmp_path)
    named = BY_NAME["named"]
    [before] = trace(Ledger(Store(str(tmp_path))), named.uid)
    assert before["taken_down"] == []
    answer = taken(tmp_path, named.uid)
    ledger = Ledger(Store(str(tmp_path)))
    for key in (named.uid, named.url, hashlib.sha256(named.raw).hexdigest()):
        [life] = trace(ledger, key)
        assert not life["published"]
        assert {one["reason"] for one in life["taken_down"]} == {"asked by its author"}
        assert "taken down" in format_trace(life)
    [training] = answer["trainings"]
    for copy, times in training["times"].items():
        assert trace(ledger, copy)[0]["taken_down"][0]["seen"] == {training["training"]: times}


def test_a_funnel_is_that_of_a_job_by_the_first_digits_of_its_id(tmp_path: Path) -> None:
    jobs = [job_row("aa1", 1), job_row("aa2", 2), job_row("b", 3)]
    assert [row.job for row in jobs_as_of(jobs, "aa2")] == ["aa1", "aa2"]
    for wrong in ("aa", "c", ""):
        with pytest.raises(InputError, match=r"--as-of: \d finished jobs have an id .* \(export m\)"):
            jobs_as_of(jobs, wrong)


def _append(root: str, writer: int, commits: int) -> None:
    for number in range(commits):
        committed(Ledger(Store(root)), f"{writer}-{number}", [decisions([writer * 100 + number])])


def test_four_jobs_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(str(tmp_path), writer, 6)) for writer in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0] * 4
    ledger = Ledger(Store(str(tmp_path)))
    names = {f"{writer}-{number}" for writer in range(4) for number in range(6)}
    assert {job.job for job in ledger.jobs()} == names
    rows = ledger.read("decisions").to_pylist()
    assert sorted(row["uid"] for row in rows) == sorted(uid(w * 100 + n) for w in range(4) for n in range(6))
    assert {row["job"] for row in rows} == names
    assert len(ledger.read("jobs")) == len(names)
