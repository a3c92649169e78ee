"""A shrunken road: the demo's experiment on a smaller web, for the tests that run it from end to end."""

import json
import subprocess
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import yaml

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]


SETS = ("photo", "clipart", "sketch", "painting", "lowlight", "infrared")


SMALL: dict[str, Any] = {
    "web": {"kind": "world", "seed": 11, "pairs": 100, "sizes": {"shutterstock": 1200}, "evaluation_images": 60},
    "training": {
        "model": str(ROOT / "experiments/models/resnet_64px"),
        "mixtures": ["yfcc_only", "all_filtered"],
        "samples_seen": 1280,
    },
    "mixtures": {
        "clean_slice": {"filter": "basic", "sources": ["shutterstock"]},
        "yfcc_only": {"sources": ["yfcc"]},
        "all_filtered": {"filter": "filtered"},
    },
    "models": {"scorer": {"trained": {"mixture": "clean_slice", "samples_seen": 16000}}},
    "ingest": {"pairs_per_shard": 150, "timeout": 20},
    "export": {"pairs_per_tar": 150},
    "report": {"examples": 12},
}


def write_experiment(folder: Path, store: Path, web_folder: Path, /, **changes: Any) -> Path:
    """Write a small experiment file, `folder`/road.yaml, with its store and web where it is told; return its path."""
    data = yaml.safe_load((ROOT / "experiments/demo.yaml").read_text("utf-8"))
    for key, value in (SMALL | changes).items():
        merge = isinstance(value, dict) and key in ("web", "training", "ingest", "report")
        data[key] = {**data[key], **value} if merge else value
    data["store"] = str(store)
    data["web"]["folder"] = str(web_folder)
    for source in data["sources"].values():
        source["files"] = [pattern.replace("build/demo/web", str(web_folder)) for pattern in source["files"]]
    data["evaluation"]["sets"] = {name: f"{web_folder}/evaluation/{name}" for name in SETS}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "road.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return path


def command(*arguments: str) -> list[str]:
    """Return the command line of `cuvee` with these arguments."""
    return [sys.executable, "-m", "jobs.cli.main", *arguments]


def cuvee(*arguments: str, timeout: float = 1500) -> "subprocess.CompletedProcess[str]":
    """Run `cuvee` from the project's root in a process of its own; return what it came to."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def cuvee_here(*arguments: str, spark: "SparkSession | None" = None) -> "subprocess.CompletedProcess[str]":
    """Run `cuvee` from the project's root in this process, on a Spark session that is there; return what it came to.

    A process that starts and imports all that it needs takes 2 to 4 s, and one that starts Spark as much again.
    """
    from jobs.cli.main import main
    from jobs.workflow.progress import Display
    from jobs.workflow.runner import Run

    out, err = StringIO(), StringIO()
    with ExitStack() as during:
        for context in (chdir(ROOT), redirect_stdout(out), redirect_stderr(err)):
            during.enter_context(context)
        during.enter_context(mock.patch.object(Display.__init__, "__defaults__", (err,)))
        during.enter_context(mock.patch.object(Run, "spark", spark or mock.PropertyMock(side_effect=NoSpark)))
        try:
            code = main(list(arguments))
        except SystemExit as ended:  # of argparse
            code = ended.code if isinstance(ended.code, int) else 1
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


class NoSpark(AssertionError):
    """A command asks for Spark, and the test has given it no session."""


def answered(*arguments: str) -> Any:
    """Run `cuvee … --json` in this process, expect exit 0, and return its answer."""
    done = cuvee_here(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
