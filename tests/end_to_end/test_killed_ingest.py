"""An ingest that is killed at ten random moments ends as one that was not: no pair lost, none doubled."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.end_to_end.test_killed import VOLATILE
from tests.support.hostile_web import HostileWeb
from tests.support.ingest_experiments import TABLE, write_ingest, write_rows
from tests.support.road_experiment import ROOT, answered, command, cuvee

ROWS, KILLS = 800, 10


@pytest.fixture(scope="module")
def experiment(site: HostileWeb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of slow images, with dead links among them: about ten seconds of fetching."""
    folder = tmp_path_factory.mktemp("killed_ingest")
    rows = [
        {"id": str(n), "url": f"http://h{n % 32}.site.test/slow?s=0.1&n={n}", "caption": f"number {n}"}
        if n % 10
        else {"id": str(n), "url": f"http://dead.site.test/status?is=404&n={n}", "caption": "dead"}
        for n in range(ROWS)
    ]
    source = {"format": "table", "files": [write_rows(folder / "rows.jsonl", rows)], "options": TABLE}
    return write_ingest(
        folder, {"rows": source}, site.hosts, ingest={"pairs_per_shard": 20, "per_host": {"at_once": 1}}
    )


def _ingest(experiment: Path, store: Path) -> list[str]:
    return command("ingest", str(experiment), "--set", f"store={store}")


def _kill_at(experiment: Path, store: Path, records: int, later: float) -> None:
    """Start the ingest, wait until so many units are finished and a little longer, and kill it."""
    process = subprocess.Popen(
        _ingest(experiment, store), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while process.poll() is None and sum(1 for _ in store.glob("staging/*/*.json")) < records:
        assert time.monotonic() < deadline, f"it never finished {records} units"
        time.sleep(0.01)
    time.sleep(later)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_at_random_moments_change_nothing(experiment: Path, tmp_path: Path) -> None:
    whole, store = tmp_path / "whole", tmp_path / "killed"
    assert cuvee(*_ingest(experiment, whole)[3:]).returncode == 0
    [job] = Ledger(Store(str(whole))).jobs()
    shards = len(job.facts["shards"])
    chance = random.Random(20261124)
    for records in sorted(chance.sample(range(2 * shards - 2), KILLS)):  # a unit for reading, one for fetching each
        _kill_at(experiment, store, records, chance.uniform(0, 0.2))
    done = cuvee(*_ingest(experiment, store)[3:])
    assert done.returncode == 0, done.stderr
    before, after = Ledger(Store(str(whole))), Ledger(Store(str(store)))
    assert {job.job for job in after.jobs()} == {job.job for job in before.jobs()}
    for table in ("pairs", "fetches", "samples"):
        columns = [name for name in before.read(table).column_names if name not in VOLATILE]
        assert _rows(after, table, columns) == _rows(before, table, columns), table
    uids = Counter(after.read("samples")["uid"].to_pylist())
    assert set(uids.values()) == {1}
    assert len(uids) == ROWS * 9 // 10
    assert answered("verify", str(store))["differences"] == []
    assert cuvee("verify", str(store), "--prune").returncode == 0
    assert answered("verify", str(store)) == {"differences": [], "leftovers": []}


def _rows(ledger: Ledger, table: str, columns: list[str]) -> list[str]:
    return sorted(map(repr, ledger.read(table, columns).to_pylist()))
