"""Output mixing: an ensemble of several models, by the mean of their outputs for each image."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline.robustness.axes import Floats


def ensemble_outputs(
    outputs: Sequence[NDArray[np.floating[Any]]],
    shares: Sequence[float] | None = None,
    of: Literal["logits", "probabilities"] = "logits",
) -> Floats:
    """Return the mean (images, classes) of several models' logits, weighted by `shares` (equal by default).

    With `of="probabilities"` each model's logits become probabilities first (softmax), and their mean is returned. The
    ensemble that Nguyen et al. 2022 compare with training on the mixture. Raises ValueError for no outputs, shapes that
    differ, values that are not finite, and shares that are negative, all zero, or of another number.
    """
    if not outputs or any(output.ndim != 2 or output.shape != outputs[0].shape for output in outputs):
        raise ValueError(
            f"expected outputs (images, classes) of one shape, found {[output.shape for output in outputs]}"
        )
    weights = np.ones(len(outputs)) if shares is None else np.asarray(shares, np.float64)
    if weights.shape != (len(outputs),) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(
            f"expected a share >= 0 for each of {len(outputs)} models, not all 0, found {weights.tolist()}"
        )
    logits = np.stack([np.asarray(output, np.float64) for output in outputs])
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, found NaN or infinity")
    values = softmax(logits, axis=-1) if of == "probabilities" else logits
    mixed: Floats = np.tensordot(weights / weights.sum(), values, axes=1)
    return mixed


def correct_predictions(outputs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return where (images,) the largest of `outputs` (images, classes) is the label's; the first of equal ones counts.

    Raises ValueError where `labels` (images,) do not match the outputs in number or in range.
    """
    images, classes = outputs.shape
    if labels.shape != (images,) or ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"expected {images} labels from 0 to {classes - 1}, found shape {labels.shape}")
    correct: NDArray[np.bool_] = outputs.argmax(1) == labels
    return correct
