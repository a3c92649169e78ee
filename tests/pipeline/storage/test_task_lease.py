"""Leases: of several attempts one works; a dead holder's place is taken, and a holder that was taken for dead stops."""

import threading
import time
import uuid
from pathlib import Path

import pytest

import pipeline.storage.task_lease
from pipeline.errors import StageFailed
from pipeline.storage.store import Store
from pipeline.storage.task_lease import hold_lease
from tests.support.s3 import BUCKET, S3

FOLDER, SHORT = "staging/job/leases-1/lane", 1.0


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> Store:
    return Store(str(tmp_path / "s") if request.param == "folder" else f"s3://{BUCKET}/{uuid.uuid4().hex}/s")


def never() -> bool:
    return False


def test_of_many_writers_one_claims_a_file(store: Store) -> None:
    barrier, won = threading.Barrier(8), []

    def claim(number: int) -> None:
        barrier.wait(10)
        won.append(store.claim("a/b", str(number).encode()))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(won) == [False] * 7 + [True]
    assert not store.claim("a/b", b"late")


def test_attempts_at_the_same_work_never_overlap(store: Store) -> None:
    at_once, most, worked = [0], [0], []

    def attempt(number: int) -> None:
        with hold_lease(store, FOLDER, never, SHORT) as mine:
            assert mine
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            time.sleep(2 * SHORT)  # longer than a lease lasts that is not renewed
            worked.append(number)
            at_once[0] -= 1

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, sorted(worked)) == ([1], [0, 1, 2])


def test_who_waits_does_nothing_where_the_other_has_done_it_all(store: Store) -> None:
    finished, took = threading.Event(), []

    def second() -> None:
        with hold_lease(store, FOLDER, finished.is_set, SHORT) as mine:
            took.append(mine)

    with hold_lease(store, FOLDER, never, SHORT) as mine:
        other = threading.Thread(target=second)
        other.start()
        time.sleep(2 * SHORT)
        assert (mine, took) == (True, [])
        finished.set()
        other.join(30)
    assert took == [False]


def test_the_lease_of_one_that_died_is_taken_when_it_has_not_changed_for_long_enough(store: Store) -> None:
    assert store.claim(f"{FOLDER}/000000", b"a process that was killed")
    started = time.monotonic()
    with hold_lease(store, FOLDER, never, SHORT) as mine:
        assert mine
        assert time.monotonic() - started >= SHORT
        assert store.files(FOLDER) == [f"{FOLDER}/000000", f"{FOLDER}/000001"]


def test_one_that_was_taken_for_dead_ends_before_it_goes_on(store: Store) -> None:
    lost = threading.Event()
    with hold_lease(store, FOLDER, never, SHORT, lost.set):
        assert store.claim(f"{FOLDER}/000001", b"another attempt")
        assert lost.wait(60)


def test_one_that_cannot_renew_ends_before_another_may_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, lost, lease = Store(str(tmp_path)), threading.Event(), 4 * SHORT
    write = Store.write

    def refuse(self: Store, relative: str, data: bytes) -> None:
        if data != pipeline.storage.task_lease._FREE:
            raise StageFailed("the endpoint does not answer")
        write(self, relative, data)

    with hold_lease(store, FOLDER, never, lease, lost.set):
        assert not lost.wait(1.5 * lease)
        monkeypatch.setattr(Store, "write", refuse)
        started = time.monotonic()
        assert lost.wait(60)
        assert lease / 3 < time.monotonic() - started < lease


def test_a_lease_is_let_go_at_once_by_one_that_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), hold_lease(store, FOLDER, never, 60):
        raise ZeroDivisionError
    started = time.monotonic()
    with hold_lease(store, FOLDER, never, 60) as mine:
        assert mine
    assert time.monotonic() - started < 50  # and not after 60 s, when nobody else would hold it
