"""Error analysis of one model of each mixture: reliability diagrams, accuracy by class, misclassified images.

Arrays in, the report's plain data out (`pipeline.analysis.results`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.results import Calibration, ClassDrops
from pipeline.core.sampling import rank_key
from pipeline.evaluation.metrics import ImageResults, per_class, reliability

MAX_EXAMPLES = 4
"""Up to this many misclassified images are shown for each model and shift."""


MAX_THUMBNAILS = 120
"""Up to this many are shown in total: with at most 112 pixels a side, they are less than 1 MB of the page."""


@dataclass(frozen=True, eq=False)
class SetPredictions:
    """A model's predictions on an evaluation set: the keys of the images, and in the same order the metrics' inputs."""

    mixture: str
    model: str
    keys: Sequence[str]
    images: ImageResults


def calibration(name: str, seen: SetPredictions, scores: Mapping[str, float]) -> Calibration:
    """Return a model's reliability diagram on the set `name`; `scores` hold its ece, nll and brier."""
    n = len(seen.keys)
    return {
        "set": name,
        "mixture": seen.mixture,
        "model": seen.model,
        "images": n,
        "ece": scores["ece"],
        "nll": scores["nll"],
        "brier": scores["brier"],
        "bins": [
            {
                "low": part.low,
                "high": part.high,
                "images": part.n,
                "share": part.n / n,
                "accuracy": part.accuracy,
                "confidence": part.confidence,
            }
            for part in reliability(seen.images)
        ],
    }


def shared_classes(reference: Sequence[str], shift: Sequence[str]) -> list[tuple[int, int]]:
    """Return the numbers of the classes that both sets have, as (in the reference, in the shift), in the shift's order.

    Two sets with the same list of classes share them all. Otherwise classes are matched by name, and a name that occurs
    twice in either set is not shared, because it is ambiguous.
    """
    if list(reference) == list(shift):
        return [(number, number) for number in range(len(shift))]
    number = {name: position for position, name in enumerate(reference)}
    unique_names = {name for name, count in Counter(reference).items() if count == 1}
    unique_names &= {name for name, count in Counter(shift).items() if count == 1}
    return [(number[name], position) for position, name in enumerate(shift) if name in unique_names]


def class_drops(
    name: str,
    reference_classes: Sequence[str],
    shift_classes: Sequence[str],
    models: Sequence[tuple[SetPredictions, SetPredictions]],
) -> ClassDrops:
    """Return the accuracy of each shared class on the reference and on the shift `name`.

    `models` are the predictions of each model on the reference and on the shift; there is at least one model, and all
    were evaluated on the same images. Predictions on a set are over all its classes. Raises ValueError where a label is
    not the number of a class.
    """
    sizes = len(reference_classes), len(shift_classes)
    counts = [np.bincount(seen.images.labels, minlength=n) for seen, n in zip(models[0], sizes, strict=True)]
    pairs = [
        (at_reference, at_shift)
        for at_reference, at_shift in shared_classes(reference_classes, shift_classes)
        if counts[0][at_reference] and counts[1][at_shift]
    ]
    shared = {at_shift for _, at_shift in pairs}
    drops: ClassDrops = {
        "set": name,
        "classes": [shift_classes[at_shift] for _, at_shift in pairs],
        "left_out": [class_name for number, class_name in enumerate(shift_classes) if number not in shared],
        "reference_images": [int(counts[0][at_reference]) for at_reference, _ in pairs],
        "shift_images": [int(counts[1][at_shift]) for _, at_shift in pairs],
        "mixtures": [],
    }
    for reference, shift in models:
        before, after = per_class(reference.images, sizes[0]), per_class(shift.images, sizes[1])
        drops["mixtures"].append(
            {
                "mixture": shift.mixture,
                "model": shift.model,
                "reference": [float(before[at_reference]) for at_reference, _ in pairs],
                "shift": [float(after[at_shift]) for _, at_shift in pairs],
            }
        )
    return drops


def misclassified_positions(seen: SetPredictions, count: int) -> list[int]:
    """Return the positions of at most `count` misclassified images, the first by a hash of their keys.

    Models that misclassify the same images then show the same ones, whatever the order of the rows.
    """
    wrong = np.flatnonzero(~seen.images.right).tolist()
    return sorted(wrong, key=lambda position: rank_key(0, seen.keys[position]))[:count]


def examples_per_model(models: int) -> list[int]:
    """Return how many images are shown for each of so many models (a model counts once for each shift).

    That is `MAX_EXAMPLES`, or fewer, so that the total is at most `MAX_THUMBNAILS`; with more models than that, one
    image for each of the first ones.
    """
    each = min(MAX_EXAMPLES, max(1, MAX_THUMBNAILS // max(1, models)))
    return [each if number < MAX_THUMBNAILS // each else 0 for number in range(models)]
