"""The rows of `predictions` and `evaluations` for one model on one evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.workflow.plan import Job
from pipeline.evaluation.corruptions import Corruption
from pipeline.evaluation.metrics import accuracy_among, all_metrics
from pipeline.evaluation.predictions import encode_logits
from pipeline.evaluation.zero_shot import Predictions
from pipeline.ledger.schemas import TABLES
from pipeline.robustness.intervals import clopper_pearson


def evaluation_rows(
    predictions: Predictions,
    scale: float,
    about: Mapping[str, Any],
    chance: float,
    subsets: Mapping[str, Sequence[int]],
) -> dict[str, pa.Table]:
    """Return the rows of both tables for the predictions of a model with the logit scale `scale`.

    `about` are the columns of `evaluations` that identify the evaluation, `chance` is the accuracy of a random guess.
    `subsets` are the classes of other sets, by name; each adds the accuracy among these classes: `photo@sketch` is that
    on the images of `photo` whose class `sketch` has.
    """
    n = len(predictions.keys)
    stored = encode_logits(predictions.logits, predictions.labels, scale)
    images = {
        **{key: [about[key]] * n for key in ("training", "mixture", "evaluation_set")},
        "key": predictions.keys,
        **stored.columns(),
    }
    metrics = all_metrics(stored.judged()) | {"chance": chance, "scale": scale, "classes_of": ""}
    rows = [dict(about) | _accuracy(predictions.correct, n) | metrics]
    for name, classes in subsets.items():
        # from the full logits, as the stored form of many classes may leave single images undetermined
        subset_accuracy = accuracy_among(predictions.logits, predictions.labels, np.array(classes))
        subset_columns = {"evaluation_set": f"{about['evaluation_set']}@{name}", "classes_of": name}
        rows.append(
            dict(about)
            | _accuracy(subset_accuracy.correct, subset_accuracy.n)
            | {"chance": 1 / len(classes), **subset_columns}
        )
    return {
        "predictions": pa.Table.from_pydict(images, TABLES["predictions"]),
        "evaluations": pa.Table.from_pylist(rows, TABLES["evaluations"]),
    }


def _accuracy(correct: int, n: int) -> dict[str, Any]:
    low, high = clopper_pearson(correct, n)
    return {"n": n, "correct": correct, "top1": correct / n, "low": low, "high": high}


def evaluation_columns(job: Job) -> dict[str, Any]:
    """Return the columns of `evaluations` that identify what a job evaluates, and which model."""
    about = {key: job.local[key] for key in ("training", "mixture")}
    if "probe" in job.config:
        name, task, corruption, severity = job.config["probe"], "probe", "", 0
        images_of = f"probe:{name}"
    else:
        name, task = job.config["set"], "zero_shot"
        corruption, severity = job.config.get("corruption", ""), job.config.get("severity", 0)
        images_of = name
    return about | {
        "evaluation_set": f"{images_of}+{Corruption(corruption, severity).name}" if corruption else images_of,
        "task": task,
        "kind": "synthetic" if corruption else "natural",
        "images_of": images_of,
        "corruption": corruption,
        "severity": severity,
    }
