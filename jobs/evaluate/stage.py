"""Evaluate: every model on every evaluation of the experiment; predictions are stored, so metrics need no model."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from jobs.evaluate.embedding_tasks import probe_rows, retrieval_rows
from jobs.evaluate.rows import evaluation_columns, evaluation_rows
from jobs.workflow.plan import Job, model_reference
from jobs.workflow.runner import Run
from pipeline.errors import StageFailed
from pipeline.evaluation.corruptions import Corruption
from pipeline.evaluation.zero_shot import class_vectors, predict
from pipeline.ledger.data_files import write_rows
from pipeline.models.clip import ClipModel, load_clip
from pipeline.models.embedder import Vectors


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Evaluate, one model on one set after another."""
    task = run.task("evaluating", "model-set pairs")
    class_vectors_by_set: dict[str, Vectors] = {}
    loaded_reference = ""
    for number, job in enumerate(jobs):
        task(number, len(jobs))
        started = datetime.now(UTC)
        reference = model_reference(run.store, job.local["model"])
        if reference != loaded_reference:
            loaded_reference, class_vectors_by_set = reference, {}
        model = load_clip(reference)
        facts: dict[str, Any] = {}
        if "probe" in job.config:
            tables, facts = probe_rows(run, job, model)
        elif "retrieval" in job.config:
            tables = retrieval_rows(run, job, model)
        else:
            tables = zero_shot_rows(run, job, model, class_vectors_by_set)
        files = [write_rows(run.store, job.id, table, rows) for table, rows in tables.items()]
        run.finish([(job, files, facts)], started)
    task(len(jobs), len(jobs))


def zero_shot_rows(
    run: Run, job: Job, model: ClipModel, class_vectors_by_set: dict[str, Vectors]
) -> dict[str, pa.Table]:
    """Return the rows of a set, or of a corruption of it; `class_vectors_by_set` caches the model's class vectors."""
    name, about = job.config["set"], evaluation_columns(job)
    evaluation = run.experiment.evaluation_sets()[name]
    if name not in class_vectors_by_set:
        class_vectors_by_set[name] = class_vectors(model, evaluation)
    corruption = Corruption(about["corruption"], about["severity"]) if about["corruption"] else None
    scale = model.temperature
    if not (math.isfinite(scale) and scale > 0):
        raise StageFailed(f"{job.name}: expected a model with a logit scale above 0, found {scale}")
    predictions = predict(model, evaluation, change=corruption, classes=class_vectors_by_set[name])
    return evaluation_rows(predictions, scale, about, evaluation.chance, job.config.get("subsets", {}))
