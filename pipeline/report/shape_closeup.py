"""The report's numbers about one model of each mixture: its calibration, its classes, its mistakes.

The model is the mixture's of the largest size and the first seed; `model` is its training's name. As in
`pipeline.report.shape`, of which this is a part, accuracies and confidences are fractions between 0 and 1.
"""

from __future__ import annotations

from typing import TypedDict


class ReliabilityBin(TypedDict):
    """The images whose confidence is above `low` and at most `high`: their number and their share of all.

    `accuracy` and their mean `confidence` are None where there are none.
    """

    low: float
    high: float
    images: int
    share: float
    accuracy: float | None
    confidence: float | None


class Calibration(TypedDict):
    """A model's reliability diagram on the reference or a natural shift, as `pipeline.metrics.reliability` has it.

    `ece` (0 to 1), `nll` (nats) and `brier` (0 to 2) are those of the table `evaluations`.
    """

    set: str
    mixture: str
    model: str
    images: int
    ece: float
    nll: float
    brier: float
    bins: list[ReliabilityBin]


class ClassAccuracies(TypedDict):
    """A model's accuracy on each class of `ClassDrops.classes`, in that order, on the reference and on the shift."""

    mixture: str
    model: str
    reference: list[float]
    shift: list[float]


class ClassDrops(TypedDict):
    """The classes that have images on the reference and on a natural shift, and the models' accuracies on each.

    `reference_images` and `shift_images` count the images of each class; `left_out` names the shift's other classes.
    """

    set: str
    classes: list[str]
    left_out: list[str]
    reference_images: list[int]
    shift_images: list[int]
    mixtures: list[ClassAccuracies]


class Mistake(TypedDict):
    """A wrongly answered image: its key in the set, its class and the predicted one.

    `thumbnail` is a JPEG data URL, None where the image was refused; then `refused` says why.
    """

    key: str
    label: str
    predicted: str
    thumbnail: str | None
    refused: str


class Mistakes(TypedDict):
    """How many of a natural shift's images a model answers wrongly, and some of them to look at, chosen by hash."""

    set: str
    mixture: str
    model: str
    images: int
    wrong: int
    examples: list[Mistake]
