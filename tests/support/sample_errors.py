"""Made-up answers of one model for each mixture, as the report's page shows them: surer than right, class by class."""

import copy
import functools
from collections.abc import Callable
from typing import TypedDict

import numpy as np

from pipeline.analysis.error_analysis import (
    SetPredictions,
    calibration,
    class_drops,
    examples_per_model,
    misclassified_positions,
)
from pipeline.analysis.results import Calibration, ClassDrops, Mistakes
from pipeline.evaluation.metrics import all_metrics, image_results

CLASSES = (
    *("aeroplane", "bicycle", "bird", "bowl", "clock", "dog", "guitar", "lighthouse", "mushroom"),
    *("steam locomotive", "teapot", "umbrella", "windmill", "zebra"),
)


IMAGES = 600


class Closeup(TypedDict):
    """The report's keys about one model of each mixture."""

    calibration: list[Calibration]
    classes: list[ClassDrops]
    mistakes: list[Mistakes]


def answers(mixture: str, name: str, skill: float, seed: int, images: int = IMAGES) -> SetPredictions:
    """Return what a made-up model says of a set: the better the greater its skill, which differs by class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % len(CLASSES)
    logits = rng.normal(size=(images, len(CLASSES)))
    logits[np.arange(images), labels] += skill + 0.8 * np.sin(labels)
    keys = [f"{name}{number:05d}" for number in range(images)]
    return SetPredictions(mixture, f"{mixture}/0", keys, image_results(logits, labels, 1.6))


@functools.cache
def _made(mixtures: tuple[str, ...], sets: tuple[str, ...], thumbnail: Callable[[int], str]) -> Closeup:
    seen = {
        (mixture, name): answers(mixture, name, 2.4 + 0.2 * (place % 5) - 0.35 * far, 10 * place + far)
        for place, mixture in enumerate(mixtures)
        for far, name in enumerate(sets)
    }
    shifts = sets[1:]
    each = iter(examples_per_model(len(mixtures) * len(shifts)))
    mistakes: list[Mistakes] = []
    for name, mixture in ((name, mixture) for name in shifts for mixture in mixtures):
        one = seen[mixture, name]
        mistakes.append(
            {
                "set": name,
                "mixture": mixture,
                "model": one.model,
                "images": IMAGES,
                "wrong": int((~one.images.right).sum()),
                "examples": [
                    {
                        "key": one.keys[at],
                        "label": CLASSES[one.images.labels[at]],
                        "predicted": CLASSES[one.images.predicted[at]],
                        "thumbnail": None if at % 29 == 0 else thumbnail(at),
                        "refused": "too_many_pixels: 20000 x 20000" if at % 29 == 0 else "",
                    }
                    for at in misclassified_positions(one, next(each))
                ],
            }
        )
    return {
        "calibration": [
            calibration(name, seen[mixture, name], all_metrics(seen[mixture, name].images))
            for name in sets
            for mixture in mixtures
        ],
        "classes": [
            class_drops(name, CLASSES, CLASSES, [(seen[one, sets[0]], seen[one, name]) for one in mixtures])
            for name in shifts
        ],
        "mistakes": mistakes,
    }


def sample_closeup(mixtures: tuple[str, ...], sets: tuple[str, ...], thumbnail: Callable[[int], str]) -> Closeup:
    """Return the same answers at every call, of mixtures on sets of which the first is the reference."""
    return copy.deepcopy(_made(mixtures, sets, thumbnail))
