"""Contamination of each mixture by the evaluation sets, out of the ledger, and what its models' accuracy owes to it."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.rules.base import NotInEvaluation
from jobs.report.robustness import Grid
from jobs.workflow.runner import Run
from pipeline.analysis.contamination import Copies, Near, copies
from pipeline.analysis.results import Contamination
from pipeline.ledger.schemas import signal_table
from pipeline.mixtures.names import sized


def contamination(run: Run, grid: Grid) -> list[Contamination]:
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
    found: list[Contamination] = []
    signal = [job.id for job in run.plan.signal(rule.signal)]
    nearest = run.ledger.read(signal_table(rule.signal), ["uid", "per_set"], signal)
    for name in training.mixtures:
        whole = sized(name, largest) if largest else name
        uids = run.ledger.read("mixtures", ["uid"], [run.plan.blend(whole).id])["uid"]
        mine = nearest.filter(pc.is_in(nearest["uid"], uids.combine_chunks()))
        models = [one for one in grid.trained if one.mixture == name]
        size = max(one.size for one in models)
        for set_name, held in copies(mine["per_set"], near).items():
            right = np.stack([one.right[set_name] for one in models if one.size == size])
            found.append(_told(name, set_name, held, len(uids), right, grid.keys[set_name]))
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


def _told(
    mixture: str, name: str, held: Copies, pairs: int, right: NDArray[np.bool_], keys: pa.ChunkedArray
) -> Contamination:
    """Return a row of the report; `right` (models, images) is in the order of `keys`."""
    clean = ~np.isin(keys.to_numpy(zero_copy_only=False), list(held.keys))
    return {
        "mixture": mixture,
        "set": name,
        "pairs": pairs,
        "copies": held.pairs,
        "images": len(clean),
        "copied_images": len(clean) - int(clean.sum()),
        "accuracy": float(right.mean()),
        "accuracy_without": float(right[:, clean].mean()) if clean.any() else None,
    }
