"""Contamination of each mixture by the evaluation sets, out of the ledger, and what its models' accuracy owes to it."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from filters.rules import NotInEvaluation
from jobs.plan import Job
from jobs.run import Run
from pipeline.contamination import Copies, Near, copies
from pipeline.mixtures import sized
from pipeline.report.shape_robustness import Contamination
from pipeline.schemas import signal_table


def contamination(run: Run) -> list[Contamination]:
    """Return for each trained mixture, in its largest size, and each evaluation set what they have in common.

    Empty where no filter of the experiment asks for the nearest evaluation image, as then no threshold says what a copy
    is.
    """
    rule = asked_rule(run)
    if rule is None:
        return []
    training = run.experiment.file.training
    largest = max(training.sizes, default=None)
    near = Near(rule.pdq_distance, rule.cosine, rule.aligned, rule.min_quality)
    names = {name: sized(name, largest) if largest else name for name in training.mixtures}
    found: list[Contamination] = []
    signal = [job.id for job in run.plan.signal(rule.signal)]
    nearest = run.ledger.read(signal_table(rule.signal), ["uid", "per_set"], signal)
    for name, whole in names.items():
        uids = run.ledger.read("mixtures", ["uid"], [run.plan.blend(whole).id])["uid"]
        mine = nearest.filter(pc.is_in(nearest["uid"], uids.combine_chunks()))
        models = [job for job in run.plan.grid() if job.local["mixture"] == whole]
        for set_name, held in copies(mine["per_set"], near).items():
            found.append(_told(run, name, set_name, held, len(uids), models))
    return found


def asked_rule(run: Run) -> NotInEvaluation | None:
    """Return the rule that says what a copy of an evaluation image is: the report's filter's, or else the first."""
    names = [run.experiment.file.report.filter, *run.experiment.rules]
    return next((rule for name in names for rule in _rules(run, name)), None)


def _rules(run: Run, name: str) -> Iterator[NotInEvaluation]:
    for rule in run.experiment.rules[name].walk():
        if isinstance(rule, NotInEvaluation):
            yield rule
        for other in rule.filters():
            yield from _rules(run, other)


def _told(run: Run, mixture: str, name: str, held: Copies, pairs: int, models: list[Job]) -> Contamination:
    jobs = [one.id for model in models for one in run.plan.evaluate(model) if one.name == f"{model.name}/{name}"]
    rows = run.ledger.read("predictions", ["key", "label", "predicted"], jobs)
    right = pc.equal(rows["label"], rows["predicted"]).to_numpy()
    clean = ~np.isin(rows["key"].to_numpy(zero_copy_only=False), list(held.keys))
    images = len(right) // len(models)
    return {
        "mixture": mixture,
        "set": name,
        "pairs": pairs,
        "copies": held.pairs,
        "images": images,
        "copied_images": images - int(clean.sum()) // len(models),
        "accuracy": float(right.mean()),
        "accuracy_without": float(right[clean].mean()) if clean.any() else None,
    }
