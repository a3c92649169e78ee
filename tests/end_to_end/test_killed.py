"""A run that is killed in the middle of ingest, of score and of training ends with the tables of one that was not."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support.finished_road import Road
from tests.support.road_experiment import ROOT, command, cuvee

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


VOLATILE = {"seconds", "build_seconds", "host", "arguments", "job"}
"""Columns that tell of the run and not of its result (seconds, host, paths), and the job, which is read anyway."""


def _kill_when(experiment: Path, settings: list[str], reached: Callable[[], bool]) -> None:
    """Start the run, wait until `reached`, and kill it with SIGKILL, by its id."""
    process = subprocess.Popen(
        command("run", str(experiment), *settings), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 900  # the scorer is trained in between
        while not reached():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run never came to where it was to be killed"
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _records(store: Path, prefix: str) -> int:
    return sum(path.name.startswith(prefix) for path in store.glob("staging/*/*.json"))


def _stages(store: Path) -> set[str]:
    return {job.stage for job in Ledger(Store(str(store))).jobs()} if (store / "tables" / "jobs").exists() else set()


def _training_runs(store: Path) -> bool:
    return any(b"Train Epoch" in log.read_bytes() for log in store.glob("trainings/*/train.log"))


@pytest.fixture(scope="module")
def killed(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the same experiment was killed three times, and then run to its end."""
    store = tmp_path_factory.mktemp("killed") / "store"
    settings = ["--set", f"store={store}"]
    _kill_when(road.experiment, settings, lambda: _records(store, "fetch-") >= 1)
    assert "ingest" not in _stages(store) or len(_stages(store)) == 1
    _kill_when(road.experiment, settings, lambda: _records(store, "shards_") >= 1)
    assert "train" not in _stages(store)
    _kill_when(road.experiment, settings, lambda: _training_runs(store))
    assert "evaluate" not in _stages(store)
    done = cuvee("run", str(road.experiment), *settings)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    return store


def test_the_tables_are_those_of_a_run_that_was_not_killed(road: Road, killed: Path) -> None:
    whole, resumed = road.ledger, Ledger(Store(str(killed)))
    assert resumed.tables() == whole.tables()
    for table in whole.tables():
        if table == "jobs":
            continue
        columns = [name for name in whole.read(table).column_names if name not in VOLATILE]
        expected = sorted(map(repr, whole.read(table, columns).to_pylist()))
        assert sorted(map(repr, resumed.read(table, columns).to_pylist())) == expected, table


def test_the_jobs_are_the_same(road: Road, killed: Path) -> None:
    whole, resumed = road.ledger, Ledger(Store(str(killed)))
    assert {job.job for job in resumed.jobs()} == {job.job for job in whole.jobs()}
    assert len(resumed.jobs()) == len(resumed.read("jobs"))


def test_the_exports_are_the_same_bytes(road: Road, killed: Path) -> None:
    expected = {path.relative_to(road.store): path.read_bytes() for path in road.store.glob("exports/**/*.tar")}
    assert {path.relative_to(killed): path.read_bytes() for path in killed.glob("exports/**/*.tar")} == expected


def test_nothing_is_wrong_and_what_is_left_over_can_be_pruned(killed: Path) -> None:
    assert cuvee("verify", str(killed), "--prune").returncode == 0
    assert cuvee("verify", str(killed)).stdout.strip() == "0 differences, 0 leftover files"


def test_no_process_outlives_a_killed_run(killed: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        left = [line for line in _command_lines() if str(killed.parent) in line]
        if not left:
            return
        time.sleep(0.5)
    assert left == []


def _command_lines() -> list[str]:
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return lines
