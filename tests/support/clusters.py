"""What the tests on a cluster share: the zip of this code, and a road without training, which may lie in a bucket."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.workflow.demo_web import publish
from jobs.workflow.experiment import load_experiment
from jobs.workflow.progress import Display
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.end_to_end.test_killed import VOLATILE
from tests.support.clip_models import saved
from tests.support.road_experiment import ROOT, cuvee, write_experiment

QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


CONF = {
    "spark.executor.memory": "512m",
    "spark.executor.extraJavaOptions": QUICK,
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.quantile": "0.1",
    "spark.speculation.multiplier": "1.01",
    "spark.speculation.minTaskRuntime": "200ms",
    "spark.task.maxFailures": "4",
}
"""Speculation as eager as it can be set; Spark starts a second attempt on another host than the first's alone."""


@dataclass(frozen=True)
class Small:
    """An experiment with all signals on an untrained model, and its finished store in a folder, made in local mode."""

    experiment: Path
    store: Store


def small_road(folder: Path) -> Small:
    """Run the experiment up to its exports in local mode; return it and its store."""
    demo = yaml.safe_load((ROOT / "experiments/demo.yaml").read_text("utf-8"))
    changes: dict[str, Any] = {
        "web": {"kind": "world", "seed": 11, "pairs": 60, "sizes": {"shutterstock": 120}, "evaluation_images": 24},
        "sources": {name: demo["sources"][name] for name in ("yfcc", "laion", "shutterstock")},
        "models": {"scorer": {"folder": saved(folder / "model").removeprefix("local-dir:")}},
        "ingest": {"pairs_per_shard": 20, "per_host": {"at_once": 4, "per_second": 40}},
        "export": {"pairs_per_tar": 60},
    }
    experiment = write_experiment(folder, folder / "store", folder / "web", **changes)
    data = yaml.safe_load(experiment.read_text("utf-8"))
    data["evaluation"]["sets"] = {name: data["evaluation"]["sets"][name] for name in ("photo", "sketch")}
    experiment.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    web = load_experiment(experiment, []).file.web
    assert web is not None
    publish(web, Display())
    done = cuvee("run", str(experiment), "--until", "export")
    assert done.returncode == 0, done.stderr
    return Small(experiment, Store(str(folder / "store")))


def zipped(folder: Path) -> Path:
    """Build the zip of this code; return it."""
    subprocess.run([sys.executable, "infra/dist.py", str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "cuvee.zip"


def submitting(master: str, packed: Path, *arguments: str, **conf: str) -> "subprocess.Popen[str]":
    """Start `infra/submit.py`, from a folder in which no module of ours lies."""
    pairs = [word for key, value in {**CONF, **conf}.items() for word in ("--conf", f"{key}={value}")]
    command = [sys.executable, str(ROOT / "infra/submit.py"), "--master", master, "--zip", str(packed), *pairs]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.Popen(
        [*command, *arguments],
        cwd=packed.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows_of(ledger: Ledger, table: str, without: set[str]) -> list[str]:
    """Return a table's rows as sorted text, but for what tells of the run, and of some columns."""
    columns = [name for name in ledger.read(table).column_names if name not in VOLATILE | without]
    return sorted(map(repr, ledger.read(table, columns).to_pylist()))
