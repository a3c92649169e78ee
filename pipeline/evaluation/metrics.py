"""Metrics of classification from what a model says of each image: pure functions, computed at any time.

Everything starts from `judged`, which turns logits into a few numbers for each image; a metric is a function of
these. Probabilities are softmax(scale * logits): CLIP's logits are cosines, which its own learned logit scale makes
into those that it was trained with (Radford et al. 2021, figure 3). No metric depends on the order of the images, nor
on that of the classes but where logits are equal: then the class with the lower number goes first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


Integers = npt.NDArray[np.int32]


BINS = 15
"""Bins of equal width of the calibration error and its diagram (Guo et al. 2017, section 2 and table 1)."""


@dataclass(frozen=True)
class Judged:
    """What the metrics need of n images, each (n,): float64 but for the first three, which are int32.

    `rank` is how many classes stand before the label's, 0 where it is predicted. `confidence` is the predicted class's
    probability, `log_likelihood` the natural logarithm of the label's, `squares` the sum of all classes' squared.
    """

    labels: Integers
    predicted: Integers
    rank: Integers
    confidence: Floats
    log_likelihood: Floats
    squares: Floats

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each image's predicted class is its label, (n,)."""
        right: npt.NDArray[np.bool_] = self.rank == 0
        return right


@dataclass(frozen=True)
class Rest:
    """The classes that are not among the logits, for each image, (n,) float64: sum of exp(scale * (logit - greatest)),
    and the sum of that squared, over them.
    """

    weight: Floats
    squares: Floats


def check(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]], scale: float) -> None:
    """Raise ValueError where there is no image, a logit is NaN or infinite, or the scale is not above 0."""
    if not len(labels) or logits.ndim != 2 or len(logits) != len(labels) or not logits.shape[1]:
        raise ValueError(f"expected logits of at least one image and class, found {logits.shape} and {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError(f"expected finite logits, found {int((~np.isfinite(logits)).sum())} that are not")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"expected a logit scale above 0, found {scale}")


def judged(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    scale: float = 1.0,
    classes: npt.NDArray[np.integer[Any]] | None = None,
    rest: Rest | None = None,
) -> Judged:
    """Return what logits (n, k) say of images with labels (n,); probabilities are softmax(scale * logits).

    `classes` (n, k) are the class numbers of the columns where these are not 0 to k - 1; then an image's greatest logit
    of all and its label's are among them, and `rest` is of the classes that are not. Raises ValueError where there is
    no image, a logit is NaN or infinite, a label is no class of its row, or the scale is not above 0.
    """
    check(logits, labels, scale)
    numbers = np.broadcast_to(np.arange(logits.shape[1]), logits.shape) if classes is None else classes
    at_label = numbers == labels[:, None]
    if not (at_label.sum(axis=1) == 1).all():
        raise ValueError(f"expected each label once among its image's classes, found {labels[~at_label.any(axis=1)]}")
    plain = logits.astype(np.float64)
    own = plain[at_label][:, None]
    before = (plain > own) | ((plain == own) & (numbers < labels[:, None]))
    greatest = plain.max(axis=1, keepdims=True)
    least_number = np.where(plain == greatest, numbers, np.iinfo(np.int32).max).min(axis=1)
    # summed from the least to the greatest, so that the order of the classes cannot change the last digit
    weights = np.exp(np.sort(scale * (plain - greatest), axis=1))
    total = weights.sum(axis=1) + (0.0 if rest is None else rest.weight)
    squares = (weights**2).sum(axis=1) + (0.0 if rest is None else rest.squares)
    return Judged(
        labels.astype(np.int32),
        least_number.astype(np.int32),
        before.sum(axis=1).astype(np.int32),
        1 / total,
        scale * (own - greatest)[:, 0] - np.log(total),
        squares / total**2,
    )


def top_k(images: Judged, k: int) -> float:
    """Return the share of images whose label is among the first k classes; 1 where there are no more than k."""
    return float((images.rank < k).mean())


def per_class(images: Judged, classes: int) -> Floats:
    """Return the accuracy on the images of each class, (classes,); NaN for a class without images.

    Raises ValueError where a label is no class.
    """
    if images.labels.max() >= classes:
        raise ValueError(f"expected labels below {classes}, found {images.labels.max()}")
    counts = np.bincount(images.labels, minlength=classes)
    right = np.bincount(images.labels[images.right], minlength=classes)
    found: Floats = np.divide(right, counts, out=np.full(classes, np.nan), where=counts > 0)
    return found


def mean_per_class(images: Judged) -> float:
    """Return the mean of the classes' accuracies, over those that have images."""
    return float(np.nanmean(per_class(images, int(images.labels.max()) + 1)))


def negative_log_likelihood(images: Judged) -> float:
    """Return the mean of -ln p(label), in nats."""
    return float(-images.log_likelihood.mean())


def brier(images: Judged) -> float:
    """Return the mean over images of the sum over classes of (p - [label])², 0 to 2 (Brier 1950)."""
    return float((images.squares - 2 * np.exp(images.log_likelihood) + 1).mean())


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is above `low` and at most `high`: how many, their accuracy, their mean confidence.

    The last two are None where there are none.
    """

    low: float
    high: float
    n: int
    accuracy: float | None
    confidence: float | None


def reliability(images: Judged, bins: int = BINS) -> list[Bin]:
    """Return the bins of a reliability diagram, of equal width from 0 to 1 (Guo et al. 2017, section 2)."""
    place = np.searchsorted(np.arange(1, bins) / bins, images.confidence)
    found = []
    for number in range(bins):
        inside = place == number
        n = int(inside.sum())
        accuracy = float(images.right[inside].mean()) if n else None
        confidence = float(images.confidence[inside].mean()) if n else None
        found.append(Bin(number / bins, (number + 1) / bins, n, accuracy, confidence))
    return found


def calibration_error(images: Judged, bins: int = BINS) -> float:
    """Return the expected calibration error, 0 to 1: the mean of |accuracy - confidence| over `reliability`'s bins,
    each with its share of the images as weight (Guo et al. 2017, equation 3).
    """
    held = [one for one in reliability(images, bins) if one.accuracy is not None and one.confidence is not None]
    gaps = [one.n * abs((one.accuracy or 0.0) - (one.confidence or 0.0)) for one in held]
    return sum(gaps) / len(images.labels)


def selective_risk(images: Judged) -> Floats:
    """Return the share of errors among the k most confident images for k from 1 to n, (n,): the risk-coverage curve
    (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).

    Images of equal confidence come in no order: each takes an equal part of their errors.
    """
    _, group, counts = np.unique(-images.confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=~images.right, minlength=len(counts)) / counts
    n = len(images.labels)
    risk: Floats = np.cumsum(np.repeat(errors, counts)) / np.arange(1, n + 1)
    return risk


def selective_area(images: Judged) -> float:
    """Return the area under the risk-coverage curve, the mean of `selective_risk`, 0 to 1: lower is better."""
    return float(selective_risk(images).mean())


METRICS = ("top1", "top5", "mean_per_class", "nll", "brier", "ece", "aurc")
"""The names of `measures`, which are columns of the table `evaluations`."""


def measures(images: Judged) -> dict[str, float]:
    """Return every metric of `METRICS` by name."""
    return {
        "top1": top_k(images, 1),
        "top5": top_k(images, 5),
        "mean_per_class": mean_per_class(images),
        "nll": negative_log_likelihood(images),
        "brier": brier(images),
        "ece": calibration_error(images),
        "aurc": selective_area(images),
    }


@dataclass(frozen=True)
class Subsampled:
    """Accuracy among some of the classes: of `n` images of these, `correct` ones.

    `undetermined` of the others could be right or wrong by what was kept of their logits; they count as wrong.
    """

    n: int
    correct: int
    undetermined: int = 0


def subsampled(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    subset: npt.NDArray[np.integer[Any]],
    classes: npt.NDArray[np.integer[Any]] | None = None,
) -> Subsampled:
    """Return the accuracy on the images of the classes `subset` alone, the logits of other classes left out.

    So is a reference set measured for a shift that holds fewer classes, as ImageNet-A, -R and ObjectNet do (Taori et
    al. 2020; Hendrycks et al. 2021). `logits`, `labels` and `classes` are as in `judged`; with
    `classes`, an image is undetermined where its label is the last of its row, whose logit need not be the greatest
    below the others', and no other class of its row is in the subset. Raises ValueError where no image is of them.
    """
    mine = np.isin(labels, subset)
    if not mine.any():
        raise ValueError(f"expected images of the {len(subset)} classes, found none")
    taken, wanted = logits[mine].astype(np.float64), labels[mine]
    numbers = np.broadcast_to(np.arange(logits.shape[1]), taken.shape) if classes is None else classes[mine]
    inside = np.isin(numbers, subset)
    unknown = np.zeros(len(wanted), bool)
    if classes is not None:
        unknown = (numbers[:, -1] == wanted) & (inside.sum(axis=1) == 1)
    left = np.where(inside, taken, -np.inf)
    first = np.where(left == left.max(axis=1, keepdims=True), numbers, np.iinfo(np.int32).max).min(axis=1)
    return Subsampled(int(mine.sum()), int(((first == wanted) & ~unknown).sum()), int(unknown.sum()))
