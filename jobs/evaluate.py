"""Evaluate: every trained model on every evaluation set, zero-shot; predictions are kept, so metrics need no model."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from filters.contract import embeddings_to_binary
from jobs.plan import Job, of_stage
from jobs.run import Run
from jobs.score import model_reference
from pipeline.datafiles import write_rows
from pipeline.evaluation_sets import EvaluationSet
from pipeline.models import load
from pipeline.robustness.intervals import clopper_pearson
from pipeline.schemas import TABLES
from pipeline.zeroshot import Predictions, predict


def evaluation_rows(
    predictions: Predictions, training: str, mixture: str, evaluation: EvaluationSet
) -> dict[str, pa.Table]:
    """Return the rows of `predictions` and the row of `evaluations` for one model on one set."""
    n = len(predictions.keys)
    low, high = clopper_pearson(predictions.correct, n)
    about = {"training": training, "mixture": mixture, "evaluation_set": evaluation.name}
    images = {
        **{key: [value] * n for key, value in about.items()},
        "key": predictions.keys,
        "label": predictions.labels,
        "predicted": predictions.predicted,
        "logits": embeddings_to_binary(predictions.logits),
    }
    summary = about | {
        "n": n,
        "correct": predictions.correct,
        "top1": predictions.correct / n,
        "low": low,
        "high": high,
        "chance": evaluation.chance,
    }
    return {
        "predictions": pa.Table.from_pydict(images, TABLES["predictions"]),
        "evaluations": pa.Table.from_pylist([summary], TABLES["evaluations"]),
    }


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Evaluate, one model on one set after another."""
    sets = run.experiment.evaluation_sets()
    task = run.task("evaluating", "model-set pairs")
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        started = datetime.now(UTC)
        training = of_stage(job, "train")[0]
        model = load(model_reference(run.store, f"store:trainings/{training.short}/model"))
        evaluation = sets[job.local["set"]]
        tables = evaluation_rows(predict(model, evaluation), training.short, job.local["mixture"], evaluation)
        files = [write_rows(run.store, job.id, table, rows) for table, rows in tables.items()]
        run.finish([(job, files, {})], started)
    task(len(jobs), len(jobs))
