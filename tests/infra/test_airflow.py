"""The DAG in a real Airflow: `make test-airflow` makes its environment and runs it on a small web."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.workflow.stages import STAGES
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support.road_experiment import ROOT, write_experiment
from tests.support.small_trainings import processes_of, wait_until

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1800)]


AIRFLOW = ROOT / "build" / "airflow-venv" / "bin" / "airflow"


DEMO = yaml.safe_load((ROOT / "experiments" / "demo.yaml").read_text("utf-8"))


TINY: dict[str, Any] = {
    "web": {"kind": "world", "seed": 11, "pairs": 60, "sizes": {}, "evaluation_images": 24},
    "sources": {name: DEMO["sources"][name] for name in ("yfcc", "laion")},
    "models": {},
    "signals": {"caption_v1": None, "image_v1": None},
    "filters": {"basic": DEMO["filters"]["basic"]},
    "mixtures": {"all_filtered": {"filter": "basic"}},
    "training": {
        "model": str(ROOT / "experiments/models/resnet_64px"),
        "mixtures": ["all_filtered"],
        "samples_seen": 64,
        "precision": "fp32",
    },
    "report": {"filter": "basic", "examples": 4},
}
"""The demo without what takes its time: two of its sources, no scorer, one filter, one training of seconds."""


INTERVAL = "2026-11-26T02:00:00"
"""The end of an interval; its first day is the one before."""


def environment(home: Path, experiment: Path) -> dict[str, str]:
    """Return what Airflow is told: SQLite, nothing beyond this machine, and what its worker would find."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CUVEE", "OPENLINEAGE"))
    }
    transport = {"type": "file", "log_file_path": str(home / "lineage.jsonl"), "append": True}
    return own | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "infra" / "airflow" / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "cuvee",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"}),
        "CUVEE_EXPERIMENT": str(experiment),
        "NO_COLOR": "1",
    }


def airflow(home: Path, experiment: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [AIRFLOW, *arguments],
        env=environment(home, experiment),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Airflow's home, with its database, the experiment and its store."""
    assert AIRFLOW.exists(), "expected Airflow's environment; make test-airflow makes it"
    folder = tmp_path_factory.mktemp("airflow")
    home = folder / "home"
    home.mkdir()
    experiment = write_experiment(folder, folder / "store", folder / "web", **TINY)
    done = airflow(home, experiment, "db", "migrate")
    assert done.returncode == 0, done.stderr[-4000:]
    return home, experiment, folder / "store"


def test_an_interval_goes_down_the_road_and_does_nothing_the_second_time(place: tuple[Path, Path, Path]) -> None:
    home, experiment, store = place
    listed = airflow(home, experiment, "dags", "list-import-errors", "--output", "json")
    assert (listed.returncode, listed.stdout.splitlines()[-1]) == (0, "[]"), listed.stdout
    first = airflow(home, experiment, "dags", "test", "cuvee", INTERVAL)
    assert first.returncode == 0, (first.stdout + first.stderr)[-6000:]
    ledger = Ledger(Store(str(store)))
    jobs = ledger.jobs()
    assert {job.stage for job in jobs} == set(STAGES) - {"tune"}, "which nothing asked for"
    snapshots = {job.config["about"]["snapshot"] for job in jobs if job.stage == "ingest"}
    assert snapshots == {"2026-11-25"}
    assert (store / "reports" / "road" / "index.html").exists()

    told = [json.loads(line) for line in (home / "lineage.jsonl").read_text("utf-8").splitlines()]
    completed = {one["job"]["name"] for one in told if one["eventType"] == "COMPLETE"}
    assert completed == {"cuvee", *(f"cuvee.{stage}" for stage in STAGES), "cuvee.fresh"}
    assert {one["job"]["namespace"] for one in told} == {"cuvee"}

    versions = ledger.versions()
    second = airflow(home, experiment, "dags", "test", "cuvee", INTERVAL)
    said = second.stdout + second.stderr
    assert second.returncode == 0, said[-6000:]
    assert said.count("nothing to do: all ") == len(STAGES)
    assert Ledger(Store(str(store))).versions() == versions


def test_a_schedule_that_brought_nothing_is_not_fresh(place: tuple[Path, Path, Path]) -> None:
    _, experiment, store = place
    python = str(ROOT / ".venv" / "bin" / "python")

    def fresh(*arguments: str) -> "subprocess.CompletedProcess[str]":
        asked = [python, str(ROOT / "infra" / "fresh.py"), str(experiment), *arguments]
        return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert fresh("--hours", "2").returncode == 0
    late = fresh("--since", "2999-01-01")
    assert late.returncode == 1
    assert late.stderr.startswith(
        f"cuvee: {store}: road: expected a report since 2999-01-01 00:00:00 UTC, the newest is"
    )
    assert fresh("--set", f"store={store}-none", "--hours", "2").stderr.strip().endswith("none was finished")


def test_a_task_that_is_killed_leaves_no_process_and_no_lock_behind(place: tuple[Path, Path, Path]) -> None:
    """Airflow kills what its operator has started, and nothing below that, with SIGKILL."""
    _, experiment, store = place
    submit = str(ROOT / "infra" / "airflow" / "bin" / "spark-submit")
    settings = ["--set", "sources.yfcc.snapshot=another"]
    arguments = ["--master", "local[2]", str(ROOT / "infra" / "submit.py"), "ingest", str(experiment), *settings]
    started = subprocess.Popen([submit, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: (store / "locks").exists(), 120)
        assert len(processes_of(experiment)) >= 3  # the wrapper, Java, the driver
    finally:
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
    assert wait_until(lambda: not processes_of(experiment), 60)
    assert not (store / "locks").exists()
