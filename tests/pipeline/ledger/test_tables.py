"""The store, its units of work and its Delta tables: whole or not at all, once and not twice, seen by every reader."""

import os
import pickle
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.scan import scan_table
from pipeline.ledger.schemas import DESCRIPTION, SCHEMA_VERSION, TABLES
from pipeline.ledger.tables import JobRow, Ledger, schema_version
from pipeline.ledger.work_units import UnitOutput, finished_units, record_path, run_unit
from pipeline.storage.store import Store
from tests.support.road_experiment import ROOT

SCHEMA = TABLES["exports"]


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that is a folder, and one that is no folder."""
    if request.param == "folder":
        yield Store(str(tmp_path / "new" / "store"))
        return
    found = Store(f"memory://{uuid.uuid4().hex}/store")
    yield found
    found.fs.store.clear()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Store(str(tmp_path / "store")))


def rows_of(*tars: str) -> pa.Table:
    rows = [{"mixture": "m", "tar": tar, "pairs": n, "bytes": 512 * n, "sha256": "0"} for n, tar in enumerate(tars)]
    return pa.Table.from_pylist(rows, SCHEMA)


def committed(ledger: Ledger, job: str, *tars: str) -> bool:
    return ledger.commit(job, "exports", SCHEMA, [write_rows(ledger.store, job, "exports", rows_of(*tars))])


def job_row(job: str, minute: int = 0) -> JobRow:
    start = datetime(2026, 11, 24, 12, minute, tzinfo=UTC)
    facts = {"files": [1, None, "é"]}
    return JobRow(
        job, "export", "m", start, start + timedelta(seconds=9), {"exports": 2}, {"a": 1}, ["x"], "c", {}, facts
    )


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def failing(store: Store, relative: str) -> None:
    with store.create(relative) as stream:
        stream.write(b"half of it")
        raise ZeroDivisionError


def appended(ledger: Ledger, job: str, table: str, rows: pa.Table, schema: pa.Schema | None = None) -> None:
    ledger.commit(job, table, schema or rows.schema, [write_rows(ledger.store, job, table, rows)])


@pytest.mark.parametrize("table", ["signals_x", "exports"])
def test_a_column_that_is_added_is_null_in_older_rows_and_in_the_tables_schema(ledger: Ledger, table: str) -> None:
    old = TABLES["exports"].field("mixture"), TABLES["exports"].field("tar")
    appended(ledger, "a", table, pa.Table.from_pylist([{"mixture": "m", "tar": "1"}], pa.schema(old)))
    new = pa.schema([*old, TABLES["exports"].field("pairs")])
    appended(ledger, "b", table, pa.Table.from_pylist([{"mixture": "m", "tar": "2", "pairs": 5}], new))
    rows = ledger.read(table, ["pairs", "tar"]).to_pylist()
    assert rows == [{"pairs": None, "tar": "1", "job": "a"}, {"pairs": 5, "tar": "2", "job": "b"}]
    assert [row["pairs"] for row in ledger.read(table).to_pylist()] == [None, 5]
    assert [part.rows["pairs"].to_pylist() for part in scan_table(ledger, table, ["tar", "pairs"])] == [[None], [5]]
    delta = ledger.open(table)
    assert delta is not None
    assert "pairs" in [field.name for field in delta.schema().fields]
    assert schema_version(delta) == SCHEMA_VERSION


def test_a_column_that_no_file_has_is_null_and_one_that_no_version_knows_an_error(ledger: Ledger) -> None:
    appended(ledger, "a", "exports", pa.table({"mixture": ["m"]}))
    assert ledger.read("exports", ["sha256", "bytes"]).to_pylist() == [{"sha256": None, "bytes": None, "job": "a"}]
    assert ledger.read("exports").column_names == [*TABLES["exports"].names, "job"]
    with pytest.raises(InputError, match=r"tables/exports: expected a column colour, found mixture, tar"):
        ledger.read("exports", ["mixture", "colour"])
    appended(ledger, "a", "signals_x", pa.table({"uid": ["1"], "words": [2]}))
    with pytest.raises(InputError, match=r"signals_x: expected a column of another time, found uid, words"):
        ledger.read("signals_x", ["uid", "of another time"])


def test_a_column_of_two_types_is_refused_by_name(ledger: Ledger) -> None:
    appended(ledger, "a", "signals_x", pa.table({"uid": ["1"], "words": [1]}))
    file = write_rows(ledger.store, "b", "signals_x", pa.table({"uid": ["2"], "words": ["two"]}))
    ledger.commit("b", "signals_x", pa.table({"uid": ["1"], "words": [1]}).schema, [file])
    with pytest.raises(InputError, match=r"signals_x: words: found int64 and string, expected one type"):
        ledger.read("signals_x")


def test_a_table_of_a_later_version_is_refused(ledger: Ledger) -> None:
    appended(ledger, "a", "exports", pa.table({"mixture": ["m"]}))
    delta = ledger.open("exports")
    assert delta is not None
    delta.alter.set_table_description(DESCRIPTION.format(SCHEMA_VERSION + 1))
    later = (
        rf"exports: written by a later version of cuvee: found schema {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}"
    )
    for use in (ledger.read, ledger.files, ledger.version):
        with pytest.raises(InputError, match=later):
            use("exports")


def test_what_is_written_is_read_listed_and_removed(store: Store) -> None:
    assert store.files("") == store.files("a") == []
    store.write("a/b/c.json", b"12345")
    store.write("a/d", b"")
    assert store.files("") == store.files("a") == ["a/b/c.json", "a/d"]
    assert (store.read("a/b/c.json"), store.size("a/b/c.json"), store.size("a/d")) == (b"12345", 5, 0)
    assert [store.exists(path) for path in ("a/b", "b")] == [True, False]
    store.write("a/d", b"new")
    assert store.read("a/d") == b"new"
    for _ in range(2):
        store.remove("a/b")
    assert store.files("") == ["a/d"]


def test_a_file_whose_writer_fails_does_not_appear_and_an_old_one_stays(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        failing(store, "a/b")
    assert store.files("") == []
    store.write("a/b", b"first")
    with pytest.raises(ZeroDivisionError):
        failing(store, "a/b")
    assert store.read("a/b") == b"first"
    assert store.files("") == ["a/b"]


def test_a_file_is_not_seen_before_it_is_whole(store: Store) -> None:
    with store.create("a/b") as stream:
        stream.write(b"x" * 100_000)
        stream.flush()
        assert not store.exists("a/b")
    assert store.size("a/b") == 100_000


def test_a_store_that_can_be_written_is_left_as_it_was(store: Store) -> None:
    store.check_writable()
    assert not store.exists("")
    store.write("a", b"1")
    store.check_writable()
    assert store.files("") == ["a"]


def test_a_store_under_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(InputError) as caught:
            Store(str(root)).check_writable()
        assert str(caught.value).startswith(f"{root}: the store cannot be written (")
        assert "\n" not in str(caught.value)


def test_a_stores_files_can_be_had_as_a_local_folder(store: Store) -> None:
    store.write("index/a.npy", b"1")
    store.write("index/in/b.npy", b"2")
    folder = Path(store.local_folder("index"))
    assert ((folder / "a.npy").read_bytes(), (folder / "in/b.npy").read_bytes()) == (b"1", b"2")
    assert store.local_folder("index") == str(folder)
    assert store.local == folder.is_relative_to(store.root)


def test_a_store_is_its_root_wherever_it_is_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("here")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(store)) == store == Store(str(tmp_path / "here"))
    assert store.uri("tables/x") == store.path("tables/x") == str(tmp_path / "here/tables/x")
    remote = Store("memory://bucket/prefix/")
    assert remote.uri("tables/x") == "memory://bucket/prefix/tables/x"
    assert fsspec.filesystem("memory")._strip_protocol(remote.uri("a")) == remote.path("a")


def test_a_unit_is_worked_once_and_its_record_names_its_files(store: Store) -> None:
    calls: list[int] = []

    def work() -> UnitOutput:
        calls.append(1)
        return UnitOutput({"j1": {"exports": rows_of("a", "b")}, "j2": {"exports": rows_of("c")}}, {"counts": [1, 2]})

    first = run_unit(store, "group", "shard 7", work)
    assert run_unit(store, "group", "shard 7", work) == first
    assert len(calls) == 1
    assert {job: [file.rows for file in files] for job, files in first.files.items()} == {"j1": [2], "j2": [1]}
    for file in first.files["j1"]:
        assert store.size(f"tables/exports/{file.path}") == file.bytes
    assert finished_units(store, "group") == {"shard 7": first}
    assert finished_units(store, "other") == {}
    run_unit(store, "other", "shard 7", work)
    assert len(calls) == 2


def test_a_unit_that_fails_has_no_record_and_is_worked_again(store: Store) -> None:
    def work() -> UnitOutput:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_unit(store, "group", "u", work)
    assert finished_units(store, "group") == {}
    assert run_unit(store, "group", "u", lambda: UnitOutput({}, {"n": 1})).facts == {"n": 1}


@given(st.text(max_size=30))
def test_no_units_name_leads_out_of_its_groups_folder(unit: str) -> None:
    path = record_path("group", unit)
    assert os.path.dirname(os.path.normpath(path)) == "staging/group"
    assert path.endswith(".json")


KILLED = """
import os, signal, sys
from pipeline.storage.store import Store
from pipeline.ledger.work_units import UnitOutput, run_unit
from tests.pipeline.ledger.test_tables import rows_of
Store.write = lambda store, path, data: os.kill(os.getpid(), signal.SIGKILL)  # the record's turn
run_unit(Store(sys.argv[1]), "group", "u", lambda: UnitOutput({"j": {"exports": rows_of("dead")}}))
"""


def test_a_unit_killed_between_its_rows_and_its_record_leaves_no_row(ledger: Ledger) -> None:
    store = ledger.store
    committed(ledger, "before", "a")
    assert python(KILLED, store.root).returncode == -signal.SIGKILL
    left = [path for path in store.files("tables/exports") if "job=j/" in path]
    assert len(left) == 1
    assert finished_units(store, "group") == {}
    record = run_unit(store, "group", "u", lambda: UnitOutput({"j": {"exports": rows_of("b")}}))
    assert ledger.commit("j", "exports", SCHEMA, record.files["j"])
    assert sorted(Ledger(store).read("exports")["tar"].to_pylist()) == ["a", "b"]
    assert left[0] not in [path for _, path in ledger.snapshot("exports")]


def test_rows_that_nobody_committed_are_not_read(ledger: Ledger) -> None:
    write_rows(ledger.store, "j", "exports", rows_of("a"))
    assert ledger.tables() == []
    assert ledger.snapshot("exports") == []
    assert ledger.read("exports").num_rows == 0
    assert ledger.read("exports").schema.names == [*SCHEMA.names, "job"]


def test_a_job_that_is_committed_twice_is_committed_once(ledger: Ledger) -> None:
    assert committed(ledger, "j", "a", "b")
    assert not committed(ledger, "j", "a", "b")
    assert not committed(Ledger(Store(ledger.store.root)), "j", "c")
    assert ledger.read("exports")["tar"].to_pylist() == ["a", "b"]
    assert ledger.versions() == {"exports": 1}


COMMITS = """
import sys
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.pipeline.ledger.test_tables import committed
ledger = Ledger(Store(sys.argv[1]))
print(ledger.read("exports")["tar"].to_pylist(), committed(ledger, "here", "x"), committed(ledger, "there", "y"))
"""


def test_another_process_sees_what_was_committed_and_is_seen(ledger: Ledger) -> None:
    committed(ledger, "here", "a")
    done = python(COMMITS, ledger.store.root)
    assert done.stdout.strip() == "['a'] False True", done.stderr
    assert ledger.read("exports")["tar"].to_pylist() == ["a", "y"]
    assert not committed(ledger, "there", "z")


def test_each_commit_is_a_version_and_an_old_one_stays_as_it_was(ledger: Ledger) -> None:
    assert ledger.versions() == {}
    for number, job in enumerate("abc", start=1):
        committed(ledger, job, job)
        assert ledger.versions() == {"exports": number}
    old = ledger.open("exports", version=2)
    assert old is not None
    assert len(old.file_uris()) == 2
    assert ledger.open("nothing") is None


def test_columns_and_jobs_are_read_alone(ledger: Ledger) -> None:
    for job in "cab":
        committed(ledger, job, f"{job}1", f"{job}2")
    assert ledger.read("exports")["job"].to_pylist() == ["a", "a", "b", "b", "c", "c"]
    some = ledger.read("exports", ["tar"], ["c", "a", "none"])
    assert some.to_pydict() == {"tar": ["a1", "a2", "c1", "c2"], "job": ["a", "a", "c", "c"]}
    assert ledger.read("exports", ["job"], ["b"]).to_pydict() == {"job": ["b", "b"]}
    assert ledger.read("exports", ["pairs", "job"], []).to_pydict() == {"pairs": [], "job": []}
    assert [job for job, _ in ledger.snapshot("exports", iter(["b"]))] == ["b"]


def test_a_job_without_rows_is_committed_too(ledger: Ledger) -> None:
    assert ledger.commit("j", "exports", SCHEMA, [])
    assert not ledger.commit("j", "exports", SCHEMA, [])
    assert ledger.read("exports").num_rows == 0
    assert ledger.tables() == ["exports"]


def test_a_job_is_finished_once_and_last_however_often_it_is_said(ledger: Ledger) -> None:
    committed(ledger, "j1", "a")
    assert ledger.finished("j1") is None
    assert ledger.jobs() == []
    Ledger(ledger.store).finish([job_row("j1", 5)])
    assert ledger.finished("j1") is None  # it was read before
    ledger.refresh()
    assert ledger.finished("j1") == job_row("j1", 5)
    ledger.finish([job_row("j1", 9), job_row("j2", 1)])
    assert [row.job for row in ledger.jobs()] == ["j2", "j1"]
    assert Ledger(ledger.store).finished("j1") == job_row("j1", 5)
    ledger.finish([job_row("j2")])
    assert ledger.versions() == {"exports": 1, "jobs": 2}
    assert sorted(ledger.read("jobs", ["stage"])["job"].to_pylist()) == ["j1", "j2"]
    assert ledger.read("jobs", ["job"]).column_names == ["job"]


@pytest.mark.parametrize("step", [committed, lambda ledger, job, _: ledger.finish([job_row(job)])])
def test_a_commit_that_cannot_be_written_leaves_the_last_version(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, step: Callable[[Ledger, str, str], object]
) -> None:
    step(ledger, "j1", "a")
    versions = ledger.versions()

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "size", refuse)  # it is asked for behind the rows and before the commit
    with pytest.raises(OSError, match="No space"):
        step(ledger, "j2", "b")
    monkeypatch.undo()
    assert ledger.versions() == versions
    step(ledger, "j2", "b")
    assert ledger.versions() == {name: version + 1 for name, version in versions.items()}
