"""Error analysis of one model of each mixture, from the ledger and the evaluation sets' images."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

import pyarrow.compute as pc

from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.analysis.error_analysis import (
    SetPredictions,
    calibration,
    class_drops,
    examples_per_model,
    misclassified_positions,
)
from pipeline.analysis.results import Calibration, ClassDrops, Mistake, Mistakes
from pipeline.errors import StageFailed
from pipeline.evaluation.datasets import EvaluationSet
from pipeline.evaluation.predictions import decode_logits
from pipeline.images.normalize import RefusedImage
from pipeline.images.thumbnails import thumbnail_url
from pipeline.mixtures.names import base_name, sized_name

PREDICTION_COLUMNS = [
    "training",
    "evaluation_set",
    "key",
    "label",
    "logits",
    "classes",
    "first",
    "rest",
    "rest_squares",
    "scale",
]


SCORE_COLUMNS = ["ece", "nll", "brier"]


class ErrorAnalysis(TypedDict):
    """The report's error analysis of one model of each mixture."""

    calibration: list[Calibration]
    classes: list[ClassDrops]
    mistakes: list[Mistakes]


def representative_trainings(run: Run) -> list[Job]:
    """Return a training for each mixture, in the order of the experiment file: its largest size with the first seed."""
    training = run.experiment.file.training
    largest = max(training.sizes, default=None)
    names = [sized_name(name, largest) if largest else name for name in training.mixtures]
    first_seed = {job.local["mixture"]: job for job in reversed(run.plan.grid())}
    return [first_seed[name] for name in names]


def analyse_errors(run: Run) -> ErrorAnalysis:
    """Return the error analysis of the mixtures' models on the reference and the natural shifts, all of them evaluated.

    Raises StageFailed where an image that was evaluated is no longer in its set.
    """
    trainings = representative_trainings(run)
    sets = run.experiment.evaluation_sets()
    reference = run.experiment.file.evaluation.reference
    names = [reference, *(name for name in sets if name != reference)]
    jobs = {name: [_evaluated_on(run, training, name) for training in trainings] for name in names}
    ids = [job.id for set_jobs in jobs.values() for job in set_jobs]
    rows = run.ledger.read("evaluations", ["classes_of", *SCORE_COLUMNS], ids).to_pylist()
    scores = {row["job"]: row for row in rows if not row["classes_of"]}
    predictions = {name: _predictions(run, trainings, jobs[name]) for name in names}
    shifts = names[1:]
    return {
        "calibration": [
            calibration(name, model, scores[job.id])
            for name in names
            for job, model in zip(jobs[name], predictions[name], strict=True)
        ],
        "classes": [
            class_drops(
                name,
                sets[reference].classes,
                sets[name].classes,
                list(zip(predictions[reference], predictions[name], strict=True)),
            )
            for name in shifts
        ],
        "mistakes": _mistakes([sets[name] for name in shifts], predictions),
    }


def _evaluated_on(run: Run, training: Job, name: str) -> Job:
    """Return the job that evaluated a training on an uncorrupted evaluation set."""
    uncorrupted = (job for job in run.plan.evaluate(training) if "set" in job.config and "corruption" not in job.config)
    return next(job for job in uncorrupted if job.config["set"] == name)


def _predictions(run: Run, trainings: Sequence[Job], jobs: Sequence[Job]) -> list[SetPredictions]:
    """Return each training's predictions on a set; the table is read once for all of them."""
    rows = run.ledger.read("predictions", PREDICTION_COLUMNS, [job.id for job in jobs])
    predictions = []
    for training, job in zip(trainings, jobs, strict=True):
        # sorted by key, so that no sum depends on the order of the table's rows
        job_rows = rows.filter(pc.equal(rows["job"], job.id)).sort_by("key")
        mixture = base_name(training.local["mixture"])
        predictions.append(
            SetPredictions(mixture, training.name, job_rows["key"].to_pylist(), decode_logits(job_rows).judged())
        )
    return predictions


def _mistakes(shifts: Sequence[EvaluationSet], predictions: Mapping[str, Sequence[SetPredictions]]) -> list[Mistakes]:
    """Return each model's mistakes on each shift; where the limit is reached, only the first mixtures have images."""
    count = len(predictions[shifts[0].name]) if shifts else 0
    counts = iter(examples_per_model(count * len(shifts)))
    counts_by_model = [[next(counts) for _ in shifts] for _ in range(count)]
    mistakes: list[Mistakes] = []
    for number, shift in enumerate(shifts):
        models = predictions[shift.name]
        chosen = [
            misclassified_positions(model, limits[number])
            for model, limits in zip(models, counts_by_model, strict=True)
        ]
        keys = {model.keys[at] for model, positions in zip(models, chosen, strict=True) for at in positions}
        thumbnails = _thumbnails(shift, keys)
        mistakes += [
            {
                "set": shift.name,
                "mixture": model.mixture,
                "model": model.model,
                "images": len(model.keys),
                "wrong": int((~model.images.right).sum()),
                "examples": [_mistake(shift, model, at, thumbnails[model.keys[at]]) for at in positions],
            }
            for model, positions in zip(models, chosen, strict=True)
        ]
    return mistakes


def _mistake(shift: EvaluationSet, predictions: SetPredictions, position: int, image: str | RefusedImage) -> Mistake:
    return {
        "key": predictions.keys[position],
        "label": shift.classes[predictions.images.labels[position]],
        "predicted": shift.classes[predictions.images.predicted[position]],
        "thumbnail": None if isinstance(image, RefusedImage) else image,
        "refused": f"{image.outcome}: {image.detail}" if isinstance(image, RefusedImage) else "",
    }


def _thumbnails(shift: EvaluationSet, keys: Collection[str]) -> dict[str, str | RefusedImage]:
    """Return thumbnails of a set's images by key; an image that ingest would refuse is refused here too."""
    thumbnails: dict[str, str | RefusedImage] = {}
    images = shift.images()
    while len(thumbnails) < len(keys):
        if (image := next(images, None)) is None:
            missing = sorted(set(keys) - thumbnails.keys())
            raise StageFailed(
                f"evaluation set {shift.name}: expected the image {missing[0]!r}, which was evaluated, found none"
            )
        if image.key in keys and image.key not in thumbnails:
            thumbnails[image.key] = thumbnail_url(image.data)
    return thumbnails
