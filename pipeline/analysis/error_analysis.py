"""A closer look at one model of each mixture: its reliability diagrams, its classes, and what it gets wrong.

Arrays in, the report's plain data out (`pipeline.analysis.results`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.results import Calibration, ClassDrops
from pipeline.core.sampling import rank_key
from pipeline.evaluation.metrics import Judged, per_class, reliability

MOST_EXAMPLES = 4
"""Wrongly answered images that are shown of a model on a shift."""


MOST_THUMBNAILS = 120
"""Those that are shown in all: of at most 112 pixels a side, they are less than 1 MB of the page."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model says of the images of a set: their keys, and in the same order what the metrics need of them."""

    mixture: str
    model: str
    keys: Sequence[str]
    images: Judged


def calibration(name: str, seen: Seen, scores: Mapping[str, float]) -> Calibration:
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
                "low": one.low,
                "high": one.high,
                "images": one.n,
                "share": one.n / n,
                "accuracy": one.accuracy,
                "confidence": one.confidence,
            }
            for one in reliability(seen.images)
        ],
    }


def shared_classes(reference: Sequence[str], shift: Sequence[str]) -> list[tuple[int, int]]:
    """Return the numbers of the classes that both sets have, as (in the reference, in the shift), in the shift's order.

    Two sets of the same list of classes share them all. Else classes are told by their names, and a name that stands
    twice in either set is shared by none, as it could be either class.
    """
    if list(reference) == list(shift):
        return [(number, number) for number in range(len(shift))]
    number = {name: place for place, name in enumerate(reference)}
    once = {name for name, count in Counter(reference).items() if count == 1}
    once &= {name for name, count in Counter(shift).items() if count == 1}
    return [(number[name], place) for place, name in enumerate(shift) if name in once]


def class_drops(
    name: str,
    reference_classes: Sequence[str],
    shift_classes: Sequence[str],
    models: Sequence[tuple[Seen, Seen]],
) -> ClassDrops:
    """Return the accuracy of each shared class on the reference and on the shift `name`.

    `models` are what each says of the reference and of the shift; there is at least one, and all were asked about the
    same images. On either set all of its classes are told apart. Raises ValueError where a label is no class.
    """
    sizes = len(reference_classes), len(shift_classes)
    counts = [np.bincount(one.images.labels, minlength=n) for one, n in zip(models[0], sizes, strict=True)]
    pairs = [
        (one, other)
        for one, other in shared_classes(reference_classes, shift_classes)
        if counts[0][one] and counts[1][other]
    ]
    kept = {other for _, other in pairs}
    found: ClassDrops = {
        "set": name,
        "classes": [shift_classes[other] for _, other in pairs],
        "left_out": [one for place, one in enumerate(shift_classes) if place not in kept],
        "reference_images": [int(counts[0][one]) for one, _ in pairs],
        "shift_images": [int(counts[1][other]) for _, other in pairs],
        "mixtures": [],
    }
    for reference, shift in models:
        before, after = per_class(reference.images, sizes[0]), per_class(shift.images, sizes[1])
        found["mixtures"].append(
            {
                "mixture": shift.mixture,
                "model": shift.model,
                "reference": [float(before[one]) for one, _ in pairs],
                "shift": [float(after[other]) for _, other in pairs],
            }
        )
    return found


def wrong_images(seen: Seen, count: int) -> list[int]:
    """Return the places of `count` wrongly answered images, or of all there are, the first by a hash of their keys.

    So models that are wrong about the same images show the same ones, whatever the order of the rows.
    """
    wrong = np.flatnonzero(~seen.images.right).tolist()
    return sorted(wrong, key=lambda place: rank_key(0, seen.keys[place]))[:count]


def examples_each(models: int) -> list[int]:
    """Return how many images are shown of each of so many models (a model counts once for each shift).

    That is `MOST_EXAMPLES`, or fewer, so that they are not above `MOST_THUMBNAILS`: of more models than these, one each
    of the first.
    """
    each = min(MOST_EXAMPLES, max(1, MOST_THUMBNAILS // max(1, models)))
    return [each if place < MOST_THUMBNAILS // each else 0 for place in range(models)]
