"""The closer look at one model of each mixture, out of the ledger and the evaluation sets' images."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

import pyarrow.compute as pc

from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.analysis.error_analysis import Seen, calibration, class_drops, examples_each, wrong_images
from pipeline.analysis.results import Calibration, ClassDrops, Mistake, Mistakes
from pipeline.errors import StageFailed
from pipeline.evaluation.datasets import EvaluationSet
from pipeline.evaluation.predictions import read_kept
from pipeline.images.normalize import Refused
from pipeline.images.thumbnails import thumbnail
from pipeline.mixtures.names import sized, unsized

KEPT = ["training", "evaluation_set", "key", "label", "logits", "classes", "first", "rest", "rest_squares", "scale"]


SCORES = ["ece", "nll", "brier"]


class Closeup(TypedDict):
    """What the report says of one model of each mixture."""

    calibration: list[Calibration]
    classes: list[ClassDrops]
    mistakes: list[Mistakes]


def representatives(run: Run) -> list[Job]:
    """Return a training for each mixture, in the order of the file: that of its largest size with the first seed."""
    given = run.experiment.file.training
    largest = max(given.sizes, default=None)
    names = [sized(name, largest) if largest else name for name in given.mixtures]
    first = {job.local["mixture"]: job for job in reversed(run.plan.grid())}
    return [first[name] for name in names]


def closeup(run: Run) -> Closeup:
    """Return what the mixtures' models say on the reference and the natural shifts, which are all evaluated.

    Raises StageFailed where an image that was evaluated is no longer in its set.
    """
    trainings = representatives(run)
    sets = run.experiment.evaluation_sets()
    reference = run.experiment.file.evaluation.reference
    names = [reference, *(name for name in sets if name != reference)]
    jobs = {name: [_evaluated_on(run, training, name) for training in trainings] for name in names}
    ids = [job.id for some in jobs.values() for job in some]
    rows = run.ledger.read("evaluations", ["classes_of", *SCORES], ids).to_pylist()
    scores = {row["job"]: row for row in rows if not row["classes_of"]}
    seen = {name: _seen(run, trainings, jobs[name]) for name in names}
    shifts = names[1:]
    return {
        "calibration": [
            calibration(name, one, scores[job.id])
            for name in names
            for job, one in zip(jobs[name], seen[name], strict=True)
        ],
        "classes": [
            class_drops(
                name, sets[reference].classes, sets[name].classes, list(zip(seen[reference], seen[name], strict=True))
            )
            for name in shifts
        ],
        "mistakes": _mistakes([sets[name] for name in shifts], seen),
    }


def _evaluated_on(run: Run, training: Job, name: str) -> Job:
    """Return the job that evaluated a training on a set as it is."""
    plain = (job for job in run.plan.evaluate(training) if "set" in job.config and "corruption" not in job.config)
    return next(job for job in plain if job.config["set"] == name)


def _seen(run: Run, trainings: Sequence[Job], jobs: Sequence[Job]) -> list[Seen]:
    """Return what each training's model says of a set; its predictions are read once for all of them."""
    rows = run.ledger.read("predictions", KEPT, [job.id for job in jobs])
    found = []
    for training, job in zip(trainings, jobs, strict=True):
        # by key, so that no sum depends on the order in which a table is written
        mine = rows.filter(pc.equal(rows["job"], job.id)).sort_by("key")
        mixture = unsized(training.local["mixture"])
        found.append(Seen(mixture, training.name, mine["key"].to_pylist(), read_kept(mine).judged()))
    return found


def _mistakes(shifts: Sequence[EvaluationSet], seen: Mapping[str, Sequence[Seen]]) -> list[Mistakes]:
    """Return each model's mistakes on each shift; where not all can have images to show, the first mixtures have."""
    count = len(seen[shifts[0].name]) if shifts else 0
    each = iter(examples_each(count * len(shifts)))
    shown = [[next(each) for _ in shifts] for _ in range(count)]
    found: list[Mistakes] = []
    for place, shift in enumerate(shifts):
        models = seen[shift.name]
        chosen = [wrong_images(one, some[place]) for one, some in zip(models, shown, strict=True)]
        wanted = {one.keys[at] for one, places in zip(models, chosen, strict=True) for at in places}
        pictures = _pictures(shift, wanted)
        found += [
            {
                "set": shift.name,
                "mixture": one.mixture,
                "model": one.model,
                "images": len(one.keys),
                "wrong": int((~one.images.right).sum()),
                "examples": [_mistake(shift, one, at, pictures[one.keys[at]]) for at in places],
            }
            for one, places in zip(models, chosen, strict=True)
        ]
    return found


def _mistake(shift: EvaluationSet, one: Seen, at: int, picture: str | Refused) -> Mistake:
    return {
        "key": one.keys[at],
        "label": shift.classes[one.images.labels[at]],
        "predicted": shift.classes[one.images.predicted[at]],
        "thumbnail": None if isinstance(picture, Refused) else picture,
        "refused": f"{picture.outcome}: {picture.detail}" if isinstance(picture, Refused) else "",
    }


def _pictures(shift: EvaluationSet, wanted: Collection[str]) -> dict[str, str | Refused]:
    """Return small pictures of a set's images by key; an image that ingest would refuse is refused here too."""
    found: dict[str, str | Refused] = {}
    images = shift.images()
    while len(found) < len(wanted):
        if (image := next(images, None)) is None:
            missing = sorted(set(wanted) - found.keys())
            raise StageFailed(f"evaluation set {shift.name}: expected the image {missing[0]!r}, which was evaluated")
        if image.key in wanted and image.key not in found:
            found[image.key] = thumbnail(image.data)
    return found
