"""The types of the analyses' results as they are in the report's JSON: robustness, calibration, classes, mistakes.

Accuracies and confidences are fractions between 0 and 1. In the error analysis, the model of a mixture is that of its
largest size and the first seed; `model` is the name of its training.
"""

from typing import TypedDict


class ReliabilityBin(TypedDict):
    """The images whose confidence is above `low` and at most `high`: their number and their share of all.

    `accuracy` and the mean `confidence` are None for an empty bin.
    """

    low: float
    high: float
    images: int
    share: float
    accuracy: float | None
    confidence: float | None


class Calibration(TypedDict):
    """A model's reliability diagram on the reference or a natural shift (`pipeline.evaluation.metrics.reliability`).

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
    """The classes that have images in the reference and in a natural shift, and the models' accuracies on each.

    `reference_images` and `shift_images` count the images of each class; `left_out` names the shift's other classes.
    """

    set: str
    classes: list[str]
    left_out: list[str]
    reference_images: list[int]
    shift_images: list[int]
    mixtures: list[ClassAccuracies]


class Mistake(TypedDict):
    """A misclassified image: its key in the evaluation set, its class and the predicted one.

    `thumbnail` is a JPEG data URL, None where the image was refused; `refused` is then the reason.
    """

    key: str
    label: str
    predicted: str
    thumbnail: str | None
    refused: str


class Mistakes(TypedDict):
    """How many of a natural shift's images a model misclassifies, and some of them as examples, chosen by hash."""

    set: str
    mixture: str
    model: str
    images: int
    wrong: int
    examples: list[Mistake]


class RobustnessPoint(TypedDict):
    """One mixture's accuracy on the reference and a shift, and its effective robustness (fractions)."""

    mixture: str
    reference: float
    shift: float
    effective: float | None


class Robustness(TypedDict):
    """One shift: the line fitted to its points after the probit transform of both accuracies."""

    set: str
    slope: float | None
    intercept: float | None
    r2: float | None
    points: list[RobustnessPoint]


class Estimate(TypedDict):
    """A number with its 95 % bootstrap interval."""

    estimate: float
    low: float
    high: float


class TrendModel(TypedDict):
    """One trained model on the reference and a shift (fractions); `size` counts training pairs.

    `effective` is its effective robustness relative to the baseline's line, None where there is no line.
    """

    model: str
    mixture: str
    size: int
    seed: int
    reference: float
    shift: float
    effective: Estimate | None


class Baseline(TypedDict):
    """The line that effective robustness is relative to, on probit axes, and the models that it was fitted on."""

    fitted_on: list[str]
    slope: float
    intercept: float
    r2: float
    draws: int


class BandPoint(TypedDict):
    """A mixture's line and the ends of its 95 % band at one accuracy on the reference (fractions)."""

    reference: float
    line: float
    low: float
    high: float


class TrendGroup(TypedDict):
    """One mixture's line over its sizes; slope and intercept are on probit axes."""

    mixture: str
    models: int
    slope: Estimate
    intercept: Estimate
    band: list[BandPoint]


class Trend(TypedDict):
    """All models on one shift, natural or synthetic. `without` names mixtures that have no line of their own; `why`
    is the reason why there is no baseline. `moved` counts accuracies of 0 or 1 that were moved inside by half an image.
    """

    set: str
    kind: str
    axis: str
    moved: int
    baseline: Baseline | None
    why: str
    models: list[TrendModel]
    groups: list[TrendGroup]
    without: list[str]


class SizeAccuracy(TypedDict):
    """Accuracy of a mixture in one size on a set: mean, minimum and maximum over its seeds (fractions)."""

    set: str
    mixture: str
    size: int
    seeds: int
    mean: float
    least: float
    most: float


class RankingRow(TypedDict):
    """A mixture on a set: the mean accuracy of its models of the largest size, and how far it is behind the first.

    `behind` is the first's mean minus this one's (fraction), None for the first itself. `effective` is the mean
    effective robustness of all its models relative to the baseline's line; None on the reference, or where there is no
    line. `kind` is "reference", "natural" or "synthetic".
    """

    set: str
    kind: str
    mixture: str
    size: int
    seeds: int
    accuracy: Estimate
    behind: Estimate | None
    effective: Estimate | None


class FilterEffect(TypedDict):
    """The effect of a filter on one shift: `mixture` is `plain` with the filter, and both were trained.

    `reference` and `accuracy` are the mixture's mean accuracy minus that of `plain`, on the reference and under the
    shift. `moved` is its models' mean distance from the line of `plain` (fraction); `extrapolated` of its models lie
    outside that line's range on the reference.
    """

    set: str
    kind: str
    mixture: str
    plain: str
    reference: Estimate
    accuracy: Estimate
    moved: Estimate | None
    extrapolated: int


class EnsembleResult(TypedDict):
    """Output mixing: the ensemble of the sources' models, relative to the same line as the mixture; `gain` is how far
    it lies above the mixture (fractions).
    """

    effective: Estimate
    verdict: str
    gain: Estimate


class ForecastResult(TypedDict):
    """The mixture's line as predicted from its sources' lines and shares: `weights` by source, and `miss`, the mean
    distance of the mixture's models from it (fraction). `within` says whether the noise of images and seeds alone
    explains the miss; `why` is the reason why there is no forecast.
    """

    why: str
    weights: dict[str, Estimate]
    miss: Estimate | None
    within: bool | None


class DilutionResult(TypedDict):
    """A mixture's robustness on one shift compared with its sources (`pipeline.robustness.dilution`).

    `sources` are mixtures of one source each, `best` the one of them that the mixture is compared with; `effective` is
    the mixture's mean distance from its line (fraction).
    """

    set: str
    kind: str
    mixture: str
    sources: list[str]
    best: str
    effective: Estimate
    verdict: str
    extrapolated: int
    margin: Estimate | None
    span: str
    ensemble: EnsembleResult | None
    forecast: ForecastResult


class Contamination(TypedDict):
    """The overlap of a mixture and an evaluation set, by the thresholds of the filter against it.

    Of the mixture's `pairs`, `copies` resemble one of the set's `images`; `copied_images` of the images are resembled.
    `accuracy` is that of the mixture's models (the mean over its seeds), `accuracy_without` that without those images
    (None where no other images are left).
    """

    mixture: str
    set: str
    pairs: int
    copies: int
    images: int
    copied_images: int
    accuracy: float
    accuracy_without: float | None


class TrainingCost(TypedDict):
    """The cost of a mixture's trainings: their number, the samples seen, and the sum of their wall-clock seconds."""

    mixture: str
    trainings: int
    samples: int
    seconds: float


class TuningResult(TypedDict):
    """The result of the search for a mixture's training settings: the chosen `values` by key, their `loss` on pairs
    that were held out, and `written`, the loss of the settings as written (None where it diverged).
    """

    mixture: str
    trials: int
    diverged: int
    values: dict[str, float]
    loss: float
    written: float | None
