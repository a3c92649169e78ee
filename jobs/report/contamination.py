"""Contamination of each mixture by the evaluation sets, from the ledger, and its effect on the models' accuracy."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.rules.base import NotInEvaluation
from jobs.report.robustness import GridPredictions
from jobs.workflow.runner import Run
from pipeline.analysis.contamination import CopyThresholds, SetCopies, find_copies
from pipeline.analysis.results import Contamination
from pipeline.ledger.schemas import signal_table
from pipeline.mixtures.names import sized_name


def contamination(run: Run, grid: GridPredictions) -> list[Contamination]:
    """Return the overlap of each trained mixture, in its largest size, and each evaluation set.

    Empty where no filter of the experiment uses the nearest evaluation image, because there is then no threshold that
    defines a copy.
    """
    rule = copy_rule(run)
    if rule is None:
        return []
    training = run.experiment.file.training
    largest = max(training.sizes, default=None)
    thresholds = CopyThresholds(rule.pdq_distance, rule.cosine, rule.aligned, rule.min_quality)
    rows: list[Contamination] = []
    signal = [job.id for job in run.plan.signal(rule.signal)]
    nearest = run.ledger.read(signal_table(rule.signal), ["uid", "per_set"], signal)
    for name in training.mixtures:
        mixture = sized_name(name, largest) if largest else name
        uids = run.ledger.read("mixtures", ["uid"], [run.plan.blend(mixture).id])["uid"]
        nearest_rows = nearest.filter(pc.is_in(nearest["uid"], uids.combine_chunks()))
        models = [model for model in grid.trained if model.mixture == name]
        size = max(model.size for model in models)
        for set_name, set_copies in find_copies(nearest_rows["per_set"], thresholds).items():
            right = np.stack([model.right[set_name] for model in models if model.size == size])
            rows.append(_contamination_row(name, set_name, set_copies, len(uids), right, grid.keys[set_name]))
    return rows


def copy_rule(run: Run) -> NotInEvaluation | None:
    """Return the rule that defines a copy of an evaluation image: that of the report's filter, or else the first."""
    names = [run.experiment.file.report.filter, *run.experiment.rules]
    return next((rule for name in names for rule in _rules(run, name)), None)


def _rules(run: Run, name: str) -> Iterator[NotInEvaluation]:
    for rule in run.experiment.rules[name].walk():
        if isinstance(rule, NotInEvaluation):
            yield rule
        for other in rule.filters():
            yield from _rules(run, other)


def _contamination_row(
    mixture: str, set_name: str, set_copies: SetCopies, pairs: int, right: NDArray[np.bool_], keys: pa.ChunkedArray
) -> Contamination:
    """Return a row of the report; the columns of `right` (models, images) are in the order of `keys`."""
    clean = ~np.isin(keys.to_numpy(zero_copy_only=False), list(set_copies.keys))
    return {
        "mixture": mixture,
        "set": set_name,
        "pairs": pairs,
        "copies": set_copies.pairs,
        "images": len(clean),
        "copied_images": len(clean) - int(clean.sum()),
        "accuracy": float(right.mean()),
        "accuracy_without": float(right[:, clean].mean()) if clean.any() else None,
    }
