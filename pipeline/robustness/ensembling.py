"""Output mixing: one model out of several, by the mean of what they say of each image."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline.robustness.axes import Floats


def mix_outputs(
    outputs: Sequence[NDArray[np.floating[Any]]],
    shares: Sequence[float] | None = None,
    of: Literal["logits", "probabilities"] = "logits",
) -> Floats:
    """Return the mean (images, classes) of several models' logits, weighted by `shares` (by default alike).

    With `of="probabilities"` each model's logits become probabilities first (softmax), and their mean is returned. The
    ensemble that Nguyen et al. 2022 set beside training on the mixture. Raises ValueError for no
    outputs, shapes that differ, numbers that are not finite, or shares that are negative, all zero, or of another
    number.
    """
    if not outputs or any(one.ndim != 2 or one.shape != outputs[0].shape for one in outputs):
        raise ValueError(f"expected outputs (images, classes) of one shape, found {[one.shape for one in outputs]}")
    given = np.ones(len(outputs)) if shares is None else np.asarray(shares, np.float64)
    if given.shape != (len(outputs),) or not (given >= 0).all() or not 0 < given.sum() < np.inf:
        raise ValueError(f"expected a share >= 0 for each of {len(outputs)} models, not all 0, found {given.tolist()}")
    logits = np.stack([np.asarray(one, np.float64) for one in outputs])
    if not np.isfinite(logits).all():
        raise ValueError("expected finite logits, found NaN or infinity")
    values = softmax(logits, axis=-1) if of == "probabilities" else logits
    mixed: Floats = np.tensordot(given / given.sum(), values, axes=1)
    return mixed


def right(outputs: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return where (images,) the largest of `outputs` (images, classes) is the label's; of equal ones the first counts.

    Raises ValueError where `labels` (images,) fit the outputs in neither number nor range.
    """
    images, classes = outputs.shape
    if labels.shape != (images,) or ((labels < 0) | (labels >= classes)).any():
        raise ValueError(f"expected {images} labels from 0 to {classes - 1}, found shape {labels.shape}")
    found: NDArray[np.bool_] = outputs.argmax(1) == labels
    return found
