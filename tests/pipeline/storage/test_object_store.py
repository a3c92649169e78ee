"""The store and the ledger on S3: one contract for a folder and a bucket, and commits that no other writer loses."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

import pipeline.ledger.tables
from pipeline.errors import CuveeError, StageFailed
from pipeline.ledger.tables import Ledger
from pipeline.ledger.work_units import UnitOutput, finished_units, run_unit
from pipeline.storage.object_store import RangeReader
from pipeline.storage.store import Store
from tests.pipeline.ledger.test_tables import committed, failing, job_row, rows_of
from tests.support.s3 import BUCKET, S3


@pytest.fixture
def remote(s3: S3) -> Store:
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}/store")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same contract for both."""
    return Store(str(tmp_path / "store")) if request.param == "folder" else request.getfixturevalue("remote")


@pytest.fixture
def ledger(remote: Store) -> Ledger:
    return Ledger(remote)


def key_of(store: Store, relative: str) -> str:
    return store.path(relative).removeprefix(f"{BUCKET}/")


def elsewhere(store: Store, relative: str, data: bytes | None) -> None:
    """Write or remove a file as another process does, without the store's file system."""
    client = None if store.local else botocore.session.get_session().create_client("s3", region_name="us-east-1")
    if client and data is None:
        client.delete_object(Bucket=BUCKET, Key=key_of(store, relative))
    elif client:
        client.put_object(Bucket=BUCKET, Key=key_of(store, relative), Body=data)
    elif data is None:
        os.unlink(store.path(relative))
    else:
        os.makedirs(os.path.dirname(store.path(relative)), exist_ok=True)
        Path(store.path(relative)).write_bytes(data)


def test_what_is_written_is_read_listed_and_removed(store: Store) -> None:
    assert store.files("") == store.files("a") == []
    for path in ("a/b/c", "a/bc", "a/b/d/e", "ab"):
        store.write(path, path.encode())
    store.write("a/empty", b"")
    assert store.files("a") == ["a/b/c", "a/b/d/e", "a/bc", "a/empty"]
    assert store.files("a/b/c") == ["a/b/c"]
    assert (store.read("a/bc"), store.size("a/bc"), store.size("a/empty")) == (b"a/bc", 4, 0)
    assert [store.exists(path) for path in ("a", "a/b", "a/b/c", "a/x", "", "a/b/cc")] == [True] * 3 + [
        False,
        True,
        False,
    ]
    for _ in range(2):
        store.remove("a/b")
    assert store.files("") == ["a/bc", "a/empty", "ab"]
    with pytest.raises(FileNotFoundError):
        store.read("a/b/c")
    with pytest.raises(FileNotFoundError):
        store.open("a/b/c")


def test_what_others_write_and_remove_is_seen_at_once(store: Store) -> None:
    for data in (b"1", b"22"):
        assert (store.exists("s/u.json"), store.files("s")) == (False, [])
        elsewhere(store, "s/u.json", data)
        assert (store.exists("s/u.json"), store.files("s"), store.size("s/u.json")) == (True, ["s/u.json"], len(data))
        assert store.read("s/u.json") == data
        elsewhere(store, "s/u.json", data * 3)
        assert (store.size("s/u.json"), store.read("s/u.json")) == (3 * len(data), data * 3)
        elsewhere(store, "s/u.json", None)


def test_a_file_whose_writer_fails_does_not_appear_and_an_old_one_stays(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        failing(store, "a/b")
    assert store.files("") == []
    store.write("a/b", b"first")
    with pytest.raises(ZeroDivisionError):
        failing(store, "a/b")
    assert (store.read("a/b"), store.files("")) == (b"first", ["a/b"])


def test_any_part_of_a_file_is_read(store: Store) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    with store.create("a/big") as stream:
        stream.write(data)
    with store.open("a/big") as stream:
        for place, size in ((2_000_000, 10), (5, 300_000), (len(data) - 7, 7), (0, 1)):
            stream.seek(place)
            assert stream.read(size) == data[place : place + size]
        stream.seek(-3, os.SEEK_END)
        assert (stream.read(), stream.read(), stream.tell()) == (data[-3:], b"", len(data))
        stream.seek(0)
        assert hashlib.file_digest(stream, "sha256").digest() == hashlib.sha256(data).digest()  # type: ignore[arg-type]
    with store.create("a/array.npy") as stream:
        np.save(stream, np.arange(5))
    with store.open("a/array.npy") as stream:
        assert np.load(stream, allow_pickle=False).tolist() == [0, 1, 2, 3, 4]
    with store.create("a/rows.parquet") as stream:
        pq.write_table(pa.table({"a": [1, 2]}), stream)
    with store.arrow("a/rows.parquet") as stream:
        assert pq.read_table(stream).to_pydict() == {"a": [1, 2]}
    assert sorted(os.listdir(store.local_folder("a"))) == ["array.npy", "big", "rows.parquet"]


def test_ranges_are_short_behind_a_jump_and_grow_when_read_on() -> None:
    asked = []

    def fetch(start: int, end: int) -> bytes:
        asked.append((start, end - start))
        return bytes(end - start)

    stream = io.BufferedReader(RangeReader(100 << 20, fetch), RangeReader.MOST)
    for place in (50 << 20, 10 << 20):
        stream.seek(place)
        stream.read(1000)
    assert asked == [(50 << 20, RangeReader.LEAST), (10 << 20, RangeReader.LEAST)]
    stream.seek(0)
    asked.clear()
    assert sum(iter(lambda: len(stream.read(10_240)), 0)) == 100 << 20
    assert len(asked) < 20
    assert sum(size for _, size in asked) == 100 << 20
    stream.seek(7)
    asked.clear()
    assert len(stream.read()) == (100 << 20) - 7
    assert len(asked) <= 2


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/", "./a", "a/../../x", "..", "a/.", "//", "/etc/passwd"])
def test_no_path_leads_out_of_the_store(store: Store, path: str) -> None:
    for ask in (store.path, store.uri, store.exists, store.files, store.size, store.open, store.read, store.remove):
        with pytest.raises(ValueError, match="within the store"):
            ask(path)
    with pytest.raises(CuveeError):
        store.write(path, b"")
    with pytest.raises(ValueError, match="within the store"), store.create(path):
        pass


def test_only_what_is_named_is_removed(store: Store) -> None:
    for path in ("a/*", "a/[b]", "a/b", "a/c"):
        store.write(path, b"")
    store.remove("a/*")
    store.remove("a/[b]")
    with pytest.raises(ValueError, match="found the store"):
        store.remove("")
    assert store.files("") == ["a/b", "a/c"]


def test_a_store_that_can_be_written_is_left_as_it_was(store: Store) -> None:
    store.check_writable()
    assert store.files("") == []
    assert not store.exists("")


def test_units_are_worked_once(store: Store) -> None:
    calls: list[int] = []

    def work() -> UnitOutput:
        calls.append(1)
        return UnitOutput({"j": {"exports": rows_of("a", "b")}}, {"n": 1})

    first = run_unit(store, "group", "shard 7", work)
    assert run_unit(store, "group", "shard 7", work) == first
    assert (len(calls), finished_units(store, "group")) == (1, {"shard 7": first})


def test_a_mark_of_an_empty_folder_is_no_file(remote: Store, s3: S3) -> None:
    s3.client.put_object(Bucket=BUCKET, Key=key_of(remote, "a") + "/", Body=b"")
    remote.write("a/b", b"")
    assert remote.files("") == ["a/b"]


def test_a_large_file_whose_parts_do_not_arrive_leaves_nothing(
    remote: Store, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = s3fs.S3FileSystem._call_s3

    async def refuse(self: Any, method: str, *given: Any, **named: Any) -> Any:
        if method == "upload_part" and named["PartNumber"] == 2:
            raise botocore.exceptions.ReadTimeoutError(endpoint_url=s3.endpoint)
        return await call(self, method, *given, **named)

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 << 20)
    data = bytes(11 << 20)
    with remote.create("whole") as stream:
        stream.write(data)
    assert remote.size("whole") == len(data)
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refuse)
    with pytest.raises(StageFailed, match="whole2: Read timeout"), remote.create("whole2") as stream:
        stream.write(data)
    assert not remote.exists("whole2")
    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=BUCKET)


def _in_a_fork(store: Store) -> None:
    store.write("from/child", store.read("from/parent"))


def test_a_forked_process_has_a_file_system_of_its_own(remote: Store) -> None:
    remote.write("from/parent", b"1")
    assert pickle.loads(pickle.dumps(remote)) == remote
    children = [multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(remote,)) for _ in range(3)]
    for child in children:
        child.start()
    remote.write("from/parent", b"1")
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert remote.files("from") == ["from/child", "from/parent"]


def test_commits_and_finished_jobs_are_read_back_and_old_versions_stay(ledger: Ledger) -> None:
    assert (ledger.open("exports"), ledger.tables(), ledger.read("exports").num_rows) == (None, [], 0)
    for number, job in enumerate("abc", start=1):
        assert committed(ledger, job, job)
        assert not committed(Ledger(ledger.store), job, job)
        assert ledger.versions() == {"exports": number}
    old = ledger.open("exports", version=2)
    assert old is not None
    assert len(old.file_uris()) == 2
    assert ledger.read("exports", ["tar"], ["a", "c"]).to_pydict() == {"tar": ["a", "c"], "job": ["a", "c"]}
    for _ in range(2):
        ledger.finish([job_row("a", 5), job_row("b", 1)])
    assert [row.job for row in Ledger(ledger.store).jobs()] == ["b", "a"]
    assert ledger.versions() == {"exports": 3, "jobs": 1}


@pytest.fixture(params=["folder", "s3"])
def any_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return Ledger(Store(str(tmp_path / "s")) if request.param == "folder" else request.getfixturevalue("remote"))


def test_many_writers_at_once_lose_no_commit(any_ledger: Ledger) -> None:
    """On a table that none has created, so that the creations meet too."""
    store, failed = any_ledger.store, []
    meet = threading.Barrier(6)

    def write(job: str) -> None:
        try:
            meet.wait(30)
            committed(Ledger(store), job, job)
            Ledger(store).finish([job_row(job)])
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            failed.append(error)

    threads = [threading.Thread(target=write, args=(f"j{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert any_ledger.read("exports")["tar"].to_pylist() == [f"j{number}" for number in range(6)]
    assert sorted(row.job for row in any_ledger.jobs()) == [f"j{number}" for number in range(6)]
    assert any_ledger.versions() == {"exports": 6, "jobs": 6}


@pytest.mark.parametrize("job", ["same", "other"])
def test_of_two_writers_of_a_version_one_wins_and_the_other_tries_again(
    any_ledger: Ledger, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(any_ledger, "first", "a")
    any_ledger.finish([job_row("first")])
    write: Callable[..., None] = pipeline.ledger.tables._write

    def overtaken(step: Callable[[], object]) -> None:
        def later(*given: Any) -> None:
            monkeypatch.setattr(pipeline.ledger.tables, "_write", write)
            step()
            write(*given)

        monkeypatch.setattr(pipeline.ledger.tables, "_write", later)

    rival = Ledger(any_ledger.store)
    overtaken(lambda: committed(rival, job, "rival"))
    assert committed(any_ledger, "same", "mine") is (job == "other")
    assert sorted(any_ledger.read("exports")["tar"].to_pylist()) == (
        ["a", "mine", "rival"] if job == "other" else ["a", "rival"]
    )
    overtaken(lambda: rival.finish([job_row(job)]))
    any_ledger.finish([job_row("same"), job_row("third")])
    assert sorted(any_ledger.read("jobs")["job"].to_pylist()) == sorted({"first", "same", "third", job})


def test_a_version_is_written_by_a_conditional_put(ledger: Ledger, s3: S3) -> None:
    """The endpoint itself keeps the second writer of a version out."""
    committed(ledger, "j", "a")
    key = key_of(ledger.store, "tables/exports/_delta_log/00000000000000000001.json")
    with pytest.raises(botocore.exceptions.ClientError, match="PreconditionFailed"):
        s3.client.put_object(Bucket=BUCKET, Key=key, Body=b"", IfNoneMatch="*")
    assert json.loads(s3.get(key).splitlines()[0])
