"""One command at a time works on a store: the second waits or is told who has it, and who died has it no more."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.main import main
from pipeline.ledger.tables import Ledger
from pipeline.storage import store_lock
from pipeline.storage.store import Store
from pipeline.storage.store_lock import LockHolder, other_holders
from pipeline.storage.store_lock import store_lock as held
from tests.jobs.train.test_grid import FILTERS, MIXTURES
from tests.support.road_experiment import ROOT, command
from tests.support.scored_store import opened, write_experiment
from tests.support.small_trainings import refused, wait_until

HOLDS = """
import sys, time
from pipeline.storage.store import Store
from pipeline.storage.store_lock import store_lock
with store_lock(Store(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of either kind, new to each test."""
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    request.getfixturevalue("s3")
    return Store(f"s3://bucket/{tmp_path.name}")


@pytest.fixture
def holder(store: Store) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the store until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, store.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


def left(store: Store) -> list[str]:
    return store.files("")


def test_the_second_is_told_who_has_it_and_the_store_is_as_before(
    store: Store, holder: "subprocess.Popen[str]"
) -> None:
    files = left(store)
    said = refused(lambda: held(store).__enter__())
    for part in (
        f"{store.root}: held by process {holder.pid} on {os.uname().nodename} since 20",
        "-c",
        "--wait SECONDS",
    ):
        assert part in said
    assert left(store) == files
    assert len(files) == 1


def test_the_second_waits_and_gets_it(
    store: Store, holder: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    assert holder.stdin
    began = time.monotonic()
    threading.Timer(1.0, holder.stdin.close).start()
    with held(store, 300):
        assert 1.0 <= time.monotonic() - began < 200
        [path] = left(store)
        assert json.loads(store.read(path))["pid"] == os.getpid()
    assert left(store) == []
    assert f"waiting for process {holder.pid} on " in capsys.readouterr().err


def test_a_holder_that_was_killed_has_it_no_more(store: Store, holder: "subprocess.Popen[str]") -> None:
    os.kill(holder.pid, signal.SIGKILL)
    assert wait_until(lambda: not store_lock._start_of(holder.pid), 60)  # a zombie, as nobody has waited for it
    with held(store):
        assert len(left(store)) == 1
    assert left(store) == []


def test_of_many_at_once_never_two_have_it_and_each_gets_it(store: Store) -> None:
    inside, most, done = [0], [0], list[int]()
    guard = threading.Lock()

    def work(number: int) -> None:
        with held(store, 100):
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with guard:
                inside[0] -= 1
                done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (sorted(done), most) == (list(range(6)), [1])
    assert left(store) == []


def beating(name: str) -> bool:
    """Tell whether a holder of this process still beats."""
    return any(thread.name == f"beat of {name}" for thread in threading.enumerate())


def planted(store: Store, **changes: Any) -> LockHolder:
    """Write who is said to hold the store: a process of another machine, but for what changes."""
    one = LockHolder(
        "f" * 32, "far", "far boot container", 1, "1", "2026-11-28 01:00:00+00:00", "cuvee run x", time.time()
    )
    one = replace(one, held=True, **changes)
    store_lock._write(store, one)
    return one


def test_another_machines_process_has_it_while_it_beats(store: Store) -> None:
    planted(store)
    assert "held by process 1 on far since 2026-11-28 01:00:00+00:00: cuvee run x;" in refused(
        lambda: held(store).__enter__()
    )
    planted(store, beat=time.time() - store_lock.HEARTBEAT_TIMEOUT_S - 1)
    with held(store):
        assert [one.name for one in other_holders(store)] != ["f" * 32]
    assert left(store) == []


@pytest.mark.parametrize("start", ["", "other"])
def test_a_process_of_the_same_id_that_began_later_is_another(tmp_path: Path, start: str) -> None:
    store = Store(str(tmp_path / "store"))
    own = store_lock._start_of(os.getpid())
    assert own
    planted(store, place=store_lock._place(), pid=os.getpid(), start=start or own)
    if not start:
        refused(lambda: held(store).__enter__())
        return
    with held(store):
        pass
    assert not Path(store.root).joinpath("locks").exists()


def test_it_beats_while_it_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "HEARTBEAT_INTERVAL_S", 0.05)
    with held(store):
        [path] = left(store)
        first = json.loads(store.read(path))
        assert wait_until(lambda: json.loads(store.read(path))["beat"] > first["beat"], 60)
        assert {**json.loads(store.read(path)), "beat": 0} == {**first, "beat": 0}
    assert left(store) == []


@pytest.mark.parametrize("seen", [False, True], ids=["before its look", "after its look"])
def test_it_goes_when_another_has_taken_the_store_whenever_in_its_beat_that_was(
    store: Store, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    monkeypatch.setattr(store_lock, "HEARTBEAT_INTERVAL_S", 0.05)
    with held(store):
        [path] = left(store)
        name = Path(path).stem
        if seen:  # as if the file had been removed just after the look for it
            monkeypatch.setattr(Store, "exists", lambda self, relative: True)
        other = planted(store)
        store.remove(path)
        assert wait_until(lambda: not beating(name), 60)
        assert left(store) == [store_lock._path(other.name)]
    assert left(store) == [store_lock._path(other.name)]


def test_what_is_no_lock_is_said(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for text in (b"{", b"[]", json.dumps({"name": "x"}).encode()):
        store.write("locks/x.json", text)
        said = refused(lambda: held(store).__enter__())
        assert said.startswith(f"{tmp_path}/locks/x.json: expected who holds the store")


def test_no_secret_of_a_command_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/cuvee", "run", "x", "--set", "a=https://me:secret@there/x?sig=secret"])
    store = Store(str(tmp_path / "store"))
    with held(store):
        [path] = left(store)
        said = json.loads(store.read(path))
    assert said["command"].startswith("cuvee run x --set ")
    assert "secret" not in json.dumps(said)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["run", "decide", "takedown", "prune"])
def test_each_command_that_writes_asks_for_the_store_and_those_that_read_do_not(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)
    run = opened(path)
    run.finish([(job, [], {}) for job in run.plan.until("decide")], datetime.now(UTC))
    (tmp_path / "list").write_text("http://a.test/1.jpg\n")
    takedown = ["takedown", str(run.store.root), "--list", str(tmp_path / "list"), "--reason", "asked"]
    prune = ["verify", str(run.store.root), "--prune"]
    arguments = {
        "run": ["run", str(path), "--until", "decide"],
        "decide": ["decide", str(path)],
        "takedown": takedown,
        "prune": prune,
    }[name]
    planted(run.store)
    versions = run.ledger.versions()
    assert main([*arguments, "--wait", "0.1"]) == 1
    assert "held by process 1 on far" in capsys.readouterr().err.splitlines()[-1]
    assert Ledger(run.store).versions() == versions
    assert main(["funnel", str(run.store.root)]) == 0
    assert main([*takedown, "--dry-run"]) == 0
    shutil.rmtree(run.store.path("locks"))
    assert main(arguments) == 0
    if name in ("run", "decide"):
        assert Ledger(run.store).versions() == versions
    assert not Path(run.store.path("locks")).exists()


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "long"])
def test_a_wait_is_a_number_of_seconds(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "x.yaml", f"--wait={text}"])
    assert ended.value.code == 2
    assert "--wait" in capsys.readouterr().err


@pytest.mark.slow  # two of Spark
def test_an_interval_that_is_run_by_two_at_once_is_run_once(tmp_path: Path) -> None:
    """Two schedules start the same stage at once: one works, the other waits, and then has nothing to do."""
    path = write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)
    run = opened(path)
    run.finish([(job, [], {}) for job in run.plan.until("score")], datetime.now(UTC))
    both = [
        subprocess.Popen(command("decide", str(path), "--wait", "200"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [one.communicate(timeout=300)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    assert sorted("nothing to do" in text for text in told) == [False, True], told
    assert len(Ledger(run.store).read("jobs")) == len(run.plan.until("decide"))
