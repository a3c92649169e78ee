"""A road on a Spark standalone cluster against S3, whole and with a worker lost on the way: as in local mode."""

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.standalone.cluster import Cluster, born
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support.clusters import Small, rows_of, small_road, submitting, zipped
from tests.support.road_experiment import answered
from tests.support.s3 import BUCKET, S3, SECRET, bucket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Place:
    """What the runs have in common."""

    small: Small
    cluster: Cluster
    zip: Path
    s3: S3

    def start(self, name: str, **conf: str) -> "tuple[Store, subprocess.Popen[str]]":
        """Submit the road to the cluster; return its store and the process."""
        store = Store(f"s3://{BUCKET}/{name}")
        told = ["run", str(self.small.experiment), "--until", "export", "--set", f"store={store.root}"]
        return store, submitting(self.cluster.url, self.zip, *told, **conf)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("cluster")
    with bucket(folder) as s3:
        small = small_road(folder / "road")
        packed = zipped(folder / "dist")
        cluster = Cluster(folder / "spark")
        cluster.start()
        try:
            yield Place(small, cluster, packed, s3)
        finally:
            cluster.stop()


def _same(place: Place, store: Store, attempts: bool) -> None:
    """Compare all tables and exports with those of local mode; of fetches only how they ended, without `attempts`."""
    local, remote = Ledger(place.small.store), Ledger(store)
    assert {job.job for job in remote.jobs()} == {job.job for job in local.jobs()}
    assert remote.tables() == local.tables()
    for table in local.tables():
        if table == "jobs":
            continue
        found, expected = (_rows(ledger, table, attempts) for ledger in (remote, local))
        assert expected
        assert found == expected, table
    digests = [
        sorted((job.name, job.facts["digest"]) for job in one.jobs() if job.stage == "export")
        for one in (local, remote)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3
    for path in place.small.store.files("exports"):
        if path.endswith((".tar", "sizes.json", "croissant.json")):
            assert store.read(path) == place.small.store.read(path), path


def _rows(ledger: Ledger, table: str, attempts: bool) -> list[str]:
    if table != "fetches" or attempts:
        return rows_of(ledger, table, set())
    kept = [name for name in ("uid", "final", "outcome", "status", "bytes") if name in ledger.read(table).column_names]
    return sorted(repr(row) for row in ledger.read(table, kept).to_pylist() if row["final"])


def test_a_road_on_the_cluster_is_the_one_of_local_mode(place: Place, tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.mkdir()
    conf = {"spark.ui.enabled": "true", "spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri()}
    conf["spark.eventLog.compress"] = "false"
    store, process = place.start("whole", **conf)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    _same(place, store, attempts=True)
    assert answered("verify", store.root)["differences"] == []
    digest = hashlib.sha256(place.zip.read_bytes()).hexdigest()
    assert {job.versions["cuvee.zip"] for job in Ledger(store).jobs()} == {digest}
    assert not any("cuvee.zip" in job.versions for job in Ledger(place.small.store).jobs())
    # what Spark kept of the run: its events, with the whole conf and environment, and the workers' folders
    kept = [
        path.read_bytes() for folder in (events, place.cluster.folder) for path in folder.rglob("*") if path.is_file()
    ]
    assert any(b"SparkListenerEnvironmentUpdate" in data for data in kept)
    lines = [line for path in events.rglob("*") if path.is_file() for line in path.read_bytes().splitlines()]
    started = [json.loads(line)["Task Info"] for line in lines if b'"SparkListenerTaskStart"' in line]
    assert any(task["Speculative"] for task in started), f"none of {len(started)} attempts"
    assert not any(SECRET.encode() in data for data in kept)
    assert SECRET not in out + err
    assert not any(SECRET.encode() in place.s3.get(key) for key in place.s3.keys("whole"))


def _wait(reached: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, "\n".join(map(str, process.communicate()))
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _units(store: Store, prefix: str) -> int:
    return sum(path.rpartition("/")[2].startswith(prefix) for path in store.files("staging"))


def _lose(place: Place, name: str) -> None:
    lost = place.cluster.kill(name)
    assert len(lost) > 1, "no executor ran on it"
    deadline = time.monotonic() + 30
    while any(born(pid) for pid in lost):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_worker_lost_in_the_middle_of_ingest_and_of_score_changes_nothing(place: Place) -> None:
    store, process = place.start("lost")
    _wait(lambda: _units(store, "fetch-") >= 2, process)
    _lose(place, "worker-1")
    place.cluster.add(3)
    _wait(lambda: _units(store, "shards_") >= 2, process)
    _lose(place, "worker-2")
    place.cluster.add(4)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    _same(place, store, attempts=False)
    assert answered("verify", store.root)["differences"] == []
