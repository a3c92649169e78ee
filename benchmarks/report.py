"""`cuvee report` on a grid of 210 trainings: five mixtures, three sizes, fourteen seeds, each on eight evaluations.

The road of experiments/dilution.yaml is run up to its exports, on a smaller web of the same evaluation sets. What the
trainings and evaluations would have written is planted: accuracies that grow with the size along a line of each
mixture's own, logits of every image. Then the command itself is run, a process of its own, its start included.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import norm

from benchmarks.processes import ROOT, watched
from jobs.evaluate.rows import evaluation_columns, evaluation_rows
from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import Job
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run, execute
from pipeline.evaluation.datasets import EvaluationSet
from pipeline.evaluation.zero_shot import Predictions
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.mixtures.names import base_name

SEEDS, SIZES, SCALE, ASKED = 14, (40, 80, 160), 100.0, 60


Images = tuple[list[str], npt.NDArray[np.int32]]


def settings(folder: Path) -> list[str]:
    """Return what is set in dilution.yaml: where it lies, and a smaller web, scorer and grid."""
    return [
        f"store={folder}/store",
        f"web.folder={folder}/web",
        "web.pairs=60",
        "web.sizes={yfcc: 400, wit: 400, shutterstock: 200}",
        "models.scorer.trained.samples_seen=1280",
        f"training.seeds={list(range(SEEDS))}",
        f"training.sizes={list(SIZES)}",
    ]


def written(folder: Path) -> Path:
    """Write dilution.yaml with its web's files where `folder` is; return its path."""
    text = (ROOT / "experiments/dilution.yaml").read_text("utf-8").replace("build/dilution", str(folder))
    path = folder / "report.yaml"
    path.write_text(text.replace("experiments/models", str(ROOT / "experiments/models")), "utf-8")
    return path


def drawn(run: Run, training: Job, job: Job, evaluation: EvaluationSet, images: Images) -> dict[str, pa.Table]:
    """Return the rows of an evaluation that was not made: right as often as the mixture, size and set would have it."""
    keys, labels = images
    mixture, size = base_name(training.local["mixture"]), int(training.local["mixture"].partition("@")[2])
    height = 0.2 * run.experiment.file.training.mixtures.index(mixture) if job.config["set"] != "photo" else 0.0
    rng = np.random.default_rng([*job.name.encode()])
    right = rng.random(len(keys)) < norm.cdf(0.4 * np.log2(size / SIZES[0]) - 0.6 + height)
    logits = rng.normal(0, 0.05, (len(keys), len(evaluation.classes))).astype(np.float32)
    wrong = (labels + rng.integers(1, len(evaluation.classes), len(keys))) % len(evaluation.classes)
    logits[np.arange(len(keys)), np.where(right, labels, wrong)] = 0.4
    return evaluation_rows(Predictions(keys, labels, logits), SCALE, evaluation_columns(job), evaluation.chance, {})


def plant(run: Run) -> int:
    """Finish the grid and its evaluations without training; return how many trainings there are."""
    now, sets = datetime.now(UTC), run.experiment.evaluation_sets()
    images = {}
    for name, one in sets.items():
        found = list(one.images())
        images[name] = [image.key for image in found], np.array([image.label for image in found], np.int32)
    grid = run.plan.grid()
    for training in grid:
        row = dict.fromkeys(TABLES["trainings"].names, "") | {
            "training": training.short,
            "mixture": training.local["mixture"],
            "seed": training.config["seed"],
            "outcome": "done",
            "samples_seen": 19_200,
            "resumed_from": 0,
            "seconds": 65.0,
            "loss": 1.0,
        }
        rows = pa.Table.from_pylist([row], TABLES["trainings"])
        run.finish([(training, [write_rows(run.store, training.id, "trainings", rows)], {})], now)
        made = []
        for job in run.plan.evaluate(training):
            name = job.config["set"]
            tables = drawn(run, training, job, sets[name], images[name])
            made.append((job, [write_rows(run.store, job.id, table, part) for table, part in tables.items()], {}))
        run.finish(made, now)
    return len(grid)


def measure(folder: Path | None = None) -> dict[str, Any]:
    """Return the seconds and the memory of the command; `folder` is where a store is left, if any."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="cuvee-report-") as scratch:
            return measure(Path(scratch))
    path, told = written(folder), settings(folder)
    run = execute(load_experiment(path, told), "export", Display())
    trainings = plant(run)
    command = [
        sys.executable,
        "-m",
        "jobs.cli.main",
        "report",
        str(path),
        *(part for one in told for part in ("--set", one)),
    ]
    seconds, peak, said = watched(command)
    page = Path(said.strip().splitlines()[-1])
    report = json.loads(page.with_name("report.json").read_text("utf-8"))
    beside = len(run.experiment.file.evaluation.models)
    assert {len(one["models"]) for one in report["trends"]} == {trainings + beside}
    assert [one["trainings"] for one in report["cost"]] == [trainings // 5] * 5
    figure = {"trainings": trainings, "evaluations": 8, "seconds": round(seconds, 1), "asked_at_most": ASKED}
    return {"report": figure | {"peak_bytes": peak, "page_bytes": page.stat().st_size}}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    print(measure(place))
