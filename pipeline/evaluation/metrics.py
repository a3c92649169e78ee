"""Classification metrics from a model's logits: pure functions that can be computed at any time.

Everything starts from `judged`, which reduces logits to a few numbers for each image; a metric is a function of these.
Probabilities are softmax(scale * logits): CLIP's logits are cosines, and its learned logit scale turns them into the
logits that it was trained with (Radford et al. 2021, figure 3). No metric depends on the order of the images, nor on
that of the classes except for equal logits, where the class with the lower number ranks first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


Integers = npt.NDArray[np.int32]


BINS = 15
"""Number of equal-width bins of the calibration error and the reliability diagram (Guo et al. 2017, section 2 and
table 1)."""


@dataclass(frozen=True)
class ImageResults:
    """The values of n images that the metrics need, each (n,): float64 except for the first three, which are int32.

    `rank` is the number of classes that rank before the label, 0 where the label is predicted. `confidence` is the
    probability of the predicted class, `log_likelihood` the natural logarithm of the label's probability, `squares` the
    sum of the squared probabilities of all classes.
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
        is_right: npt.NDArray[np.bool_] = self.rank == 0
        return is_right


@dataclass(frozen=True)
class RestSums:
    """The sums over the classes whose logits were not stored, for each image, (n,) float64.

    `weight` is the sum of exp(scale * (logit - greatest)) over them, `squares` the sum of its squares.
    """

    weight: Floats
    squares: Floats


def check_logits(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]], scale: float) -> None:
    """Raise ValueError where there is no image, a logit is NaN or infinite, or the scale is not above 0."""
    if not len(labels) or logits.ndim != 2 or len(logits) != len(labels) or not logits.shape[1]:
        raise ValueError(f"expected logits of at least one image and class, found {logits.shape} and {labels.shape}")
    if not np.isfinite(logits).all():
        raise ValueError(f"expected finite logits, found {int((~np.isfinite(logits)).sum())} that are not")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"expected a logit scale above 0, found {scale}")


def image_results(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    scale: float = 1.0,
    classes: npt.NDArray[np.integer[Any]] | None = None,
    rest: RestSums | None = None,
) -> ImageResults:
    """Return the values for the metrics of logits (n, k) with labels (n,); probabilities are softmax(scale * logits).

    `classes` (n, k) are the class numbers of the columns where these are not 0 to k - 1; they must include each image's
    greatest logit and its label, and `rest` then sums over the other classes. Raises ValueError where there is no
    image, a logit is NaN or infinite, a label is no class of its row, or the scale is not above 0.
    """
    check_logits(logits, labels, scale)
    numbers = np.broadcast_to(np.arange(logits.shape[1]), logits.shape) if classes is None else classes
    is_label = numbers == labels[:, None]
    if not (is_label.sum(axis=1) == 1).all():
        raise ValueError(f"expected each label once among its image's classes, found {labels[~is_label.any(axis=1)]}")
    exact = logits.astype(np.float64)
    label_logits = exact[is_label][:, None]
    ranks_before = (exact > label_logits) | ((exact == label_logits) & (numbers < labels[:, None]))
    greatest = exact.max(axis=1, keepdims=True)
    predicted = np.where(exact == greatest, numbers, np.iinfo(np.int32).max).min(axis=1)
    # summed in increasing order, so that the order of the classes cannot change the last digit
    weights = np.exp(np.sort(scale * (exact - greatest), axis=1))
    total = weights.sum(axis=1) + (0.0 if rest is None else rest.weight)
    squares = (weights**2).sum(axis=1) + (0.0 if rest is None else rest.squares)
    return ImageResults(
        labels.astype(np.int32),
        predicted.astype(np.int32),
        ranks_before.sum(axis=1).astype(np.int32),
        1 / total,
        scale * (label_logits - greatest)[:, 0] - np.log(total),
        squares / total**2,
    )


def top_k(images: ImageResults, k: int) -> float:
    """Return the share of images whose label is among the first k classes; 1 where there are at most k classes."""
    return float((images.rank < k).mean())


def per_class(images: ImageResults, classes: int) -> Floats:
    """Return the accuracy on the images of each class, (classes,); NaN for a class without images.

    Raises ValueError where a label is no class.
    """
    if images.labels.max() >= classes:
        raise ValueError(f"expected labels below {classes}, found {images.labels.max()}")
    counts = np.bincount(images.labels, minlength=classes)
    right = np.bincount(images.labels[images.right], minlength=classes)
    accuracies: Floats = np.divide(right, counts, out=np.full(classes, np.nan), where=counts > 0)
    return accuracies


def mean_per_class(images: ImageResults) -> float:
    """Return the mean of the per-class accuracies over the classes that have images."""
    return float(np.nanmean(per_class(images, int(images.labels.max()) + 1)))


def negative_log_likelihood(images: ImageResults) -> float:
    """Return the mean of -ln p(label), in nats."""
    return float(-images.log_likelihood.mean())


def brier_score(images: ImageResults) -> float:
    """Return the mean over images of the sum over classes of (p - [label])², 0 to 2 (Brier 1950)."""
    return float((images.squares - 2 * np.exp(images.log_likelihood) + 1).mean())


@dataclass(frozen=True)
class Bin:
    """The images with a confidence above `low` and at most `high`: their number, accuracy and mean confidence.

    Accuracy and confidence are None where there are no images.
    """

    low: float
    high: float
    n: int
    accuracy: float | None
    confidence: float | None


def reliability(images: ImageResults, bins: int = BINS) -> list[Bin]:
    """Return the bins of a reliability diagram, of equal width from 0 to 1 (Guo et al. 2017, section 2)."""
    bin_numbers = np.searchsorted(np.arange(1, bins) / bins, images.confidence)
    diagram = []
    for number in range(bins):
        inside = bin_numbers == number
        n = int(inside.sum())
        accuracy = float(images.right[inside].mean()) if n else None
        confidence = float(images.confidence[inside].mean()) if n else None
        diagram.append(Bin(number / bins, (number + 1) / bins, n, accuracy, confidence))
    return diagram


def calibration_error(images: ImageResults, bins: int = BINS) -> float:
    """Return the expected calibration error, 0 to 1: the mean of |accuracy - confidence| over the bins of
    `reliability`, weighted by their share of the images (Guo et al. 2017, equation 3).
    """
    filled = [bin_ for bin_ in reliability(images, bins) if bin_.accuracy is not None and bin_.confidence is not None]
    gaps = [bin_.n * abs((bin_.accuracy or 0.0) - (bin_.confidence or 0.0)) for bin_ in filled]
    return sum(gaps) / len(images.labels)


def selective_risk(images: ImageResults) -> Floats:
    """Return the share of errors among the k most confident images for k from 1 to n, (n,): the risk-coverage curve
    (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).

    Images of equal confidence have no order: each counts the mean of their errors.
    """
    _, group, counts = np.unique(-images.confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=~images.right, minlength=len(counts)) / counts
    n = len(images.labels)
    risk: Floats = np.cumsum(np.repeat(errors, counts)) / np.arange(1, n + 1)
    return risk


def area_under_risk_coverage(images: ImageResults) -> float:
    """Return the area under the risk-coverage curve, the mean of `selective_risk`, 0 to 1: lower is better."""
    return float(selective_risk(images).mean())


METRICS = ("top1", "top5", "mean_per_class", "nll", "brier", "ece", "aurc")
"""The keys of `measures`, which are columns of the table `evaluations`."""


def all_metrics(images: ImageResults) -> dict[str, float]:
    """Return every metric of `METRICS` by name."""
    return {
        "top1": top_k(images, 1),
        "top5": top_k(images, 5),
        "mean_per_class": mean_per_class(images),
        "nll": negative_log_likelihood(images),
        "brier": brier_score(images),
        "ece": calibration_error(images),
        "aurc": area_under_risk_coverage(images),
    }


@dataclass(frozen=True)
class SubsetAccuracy:
    """Accuracy among a subset of the classes: `correct` of the `n` images of these classes.

    `undetermined` of the others could be right or wrong given the stored logits; they count as wrong.
    """

    n: int
    correct: int
    undetermined: int = 0


def accuracy_among(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    subset: npt.NDArray[np.integer[Any]],
    classes: npt.NDArray[np.integer[Any]] | None = None,
) -> SubsetAccuracy:
    """Return the accuracy on the images of the classes in `subset` alone, without the logits of other classes.

    This is how a reference set is measured for a shift with fewer classes, such as ImageNet-A, -R and ObjectNet (Taori
    et al. 2020; Hendrycks et al. 2021). `logits`, `labels` and `classes` are as in `judged`. With `classes`, an image
    is undetermined where its label is the last of its row, whose logit need not be the next greatest after the others,
    and no other class of its row is in the subset. Raises ValueError where no image is of these classes.
    """
    selected = np.isin(labels, subset)
    if not selected.any():
        raise ValueError(f"expected images of the {len(subset)} classes, found none")
    selected_logits, selected_labels = logits[selected].astype(np.float64), labels[selected]
    numbers = (
        np.broadcast_to(np.arange(logits.shape[1]), selected_logits.shape) if classes is None else classes[selected]
    )
    in_subset = np.isin(numbers, subset)
    undetermined = np.zeros(len(selected_labels), bool)
    if classes is not None:
        undetermined = (numbers[:, -1] == selected_labels) & (in_subset.sum(axis=1) == 1)
    subset_logits = np.where(in_subset, selected_logits, -np.inf)
    predicted = np.where(
        subset_logits == subset_logits.max(axis=1, keepdims=True), numbers, np.iinfo(np.int32).max
    ).min(axis=1)
    return SubsetAccuracy(
        int(selected.sum()), int(((predicted == selected_labels) & ~undetermined).sum()), int(undetermined.sum())
    )
