"""Evaluate: every trained model on every evaluation set, zero-shot; predictions are kept, so metrics need no model."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.plan import Job, of_stage
from jobs.run import Run
from jobs.score import model_reference
from pipeline.datafiles import write_rows
from pipeline.evaluation_sets import EvaluationSet
from pipeline.metrics import measures, subsampled
from pipeline.models import load
from pipeline.predictions import keep
from pipeline.robustness.intervals import clopper_pearson
from pipeline.schemas import TABLES
from pipeline.shifts import Shift
from pipeline.zeroshot import Predictions, predict


def evaluation_rows(
    predictions: Predictions,
    scale: float,
    about: Mapping[str, Any],
    evaluation: EvaluationSet,
    subsets: Mapping[str, Sequence[int]],
) -> dict[str, pa.Table]:
    """Return the rows of `predictions` and of `evaluations` for a model of a logit scale on one set.

    `about` is their columns of names. `subsets` are the classes of other sets, by whose names the accuracy among them
    is told: `photo@sketch` is that of the images of `photo` which are of a class that `sketch` has.
    """
    n = len(predictions.keys)
    held = keep(predictions.logits, predictions.labels, scale)
    images = {
        **{key: [about[key]] * n for key in ("training", "mixture", "evaluation_set")},
        "key": predictions.keys,
        **held.columns(),
    }
    found = measures(held.judged())
    whole = _accuracy(predictions.correct, n) | found | {"chance": evaluation.chance, "scale": scale}
    rows = [dict(about) | whole | {"classes_of": ""}]
    for name, classes in subsets.items():
        # of the logits themselves, as what is kept of many classes may leave single images undetermined
        some = subsampled(predictions.logits, predictions.labels, np.array(classes))
        marks = {"evaluation_set": f"{about['evaluation_set']}@{name}", "classes_of": name}
        rows.append(dict(about) | _accuracy(some.correct, some.n) | {"chance": 1 / len(classes), **marks})
    return {
        "predictions": pa.Table.from_pydict(images, TABLES["predictions"]),
        "evaluations": pa.Table.from_pylist(rows, TABLES["evaluations"]),
    }


def _accuracy(correct: int, n: int) -> dict[str, Any]:
    low, high = clopper_pearson(correct, n)
    return {"n": n, "correct": correct, "top1": correct / n, "low": low, "high": high}


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Evaluate, one model on one set after another."""
    sets = run.experiment.evaluation_sets()
    task = run.task("evaluating", "model-set pairs")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        started = datetime.now(UTC)
        training = of_stage(job, "train")[0]
        model = load(model_reference(run.store, f"store:trainings/{training.short}/model"))
        evaluation = sets[job.config["set"]]
        about = {"training": training.short, "mixture": job.local["mixture"], **marks(job)}
        corruption, severity = about["corruption"], about["severity"]
        found = predict(model, evaluation, change=Shift(corruption, severity) if corruption else None)
        tables = evaluation_rows(found, model.temperature, about, evaluation, job.config.get("subsets", {}))
        files = [write_rows(run.store, job.id, table, rows) for table, rows in tables.items()]
        run.finish([(job, files, {})], started)
    task(len(jobs), len(jobs))


def marks(job: Job) -> dict[str, Any]:
    """Return the columns of `evaluations` that say what was evaluated."""
    name, corruption = job.config["set"], job.config.get("corruption", "")
    severity = job.config.get("severity", 0)
    return {
        "evaluation_set": f"{name}+{Shift(corruption, severity).name}" if corruption else name,
        "kind": "synthetic" if corruption else "natural",
        "images_of": name,
        "corruption": corruption,
        "severity": severity,
    }
