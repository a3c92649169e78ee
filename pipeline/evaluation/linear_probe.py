"""A linear probe: logistic regression on frozen image embeddings, fitted on a training split.

As in Radford et al. 2021 (section 3.2 and appendix A.3): L-BFGS with at most 1000 steps and an L2 penalty on the
weights, chosen on a held-out part of the training split. They use the features before CLIP's projection; this uses the
unit vectors after it, which every embedding model can give. The loss is convex and the optimisation starts from zero,
so nothing is random.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

RESULT_VERSION = 1
"""Version of the probes that SciPy's optimiser fits: incremented where a new release changes them."""


Vectors = npt.NDArray[np.floating[Any]]


Labels = npt.NDArray[np.integer[Any]]


PENALTIES = tuple(10.0**power for power in range(0, -9, -1))
"""Penalties to try, largest first. They are relative to the mean loss: 1 / (C n) in terms of scikit-learn's C."""


MAX_STEPS = 1000


BLOCK_IMAGES = 8192
"""Images whose logits are in memory at once."""


HELD_OUT_ONE_IN = 5
"""The penalty is chosen on one of this many training images, by the hash of the key."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe: weights (d, classes) and biases (classes,), float64, and the penalty they were fitted with."""

    weights: npt.NDArray[np.float64]
    biases: npt.NDArray[np.float64]
    penalty: float

    def logits(self, vectors: Vectors) -> npt.NDArray[np.float32]:
        """Return the logits (n, classes) of vectors (n, d); the softmax takes them without a scale."""
        logits: npt.NDArray[np.float32] = (vectors @ self.weights + self.biases).astype(np.float32)
        return logits


def fit(vectors: Vectors, labels: Labels, classes: int, penalty: float, start: Probe | None = None) -> Probe:
    """Return the probe that minimises mean cross-entropy + penalty / 2 * sum of squared weights.

    `vectors` are (n, d), `labels` (n,) below `classes`; biases are not penalised. `start` only saves steps. Raises
    ValueError where there is no image, a label is no class, a vector is not finite, or the penalty is not above 0.
    """
    if not len(labels) or vectors.shape[:1] != labels.shape:
        raise ValueError(f"expected a label for each of at least one vector, found {labels.shape} of {vectors.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    if not np.isfinite(vectors).all() or not penalty > 0:
        raise ValueError(f"expected finite vectors and a penalty above 0, found {penalty}")
    n, d = vectors.shape

    def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights, biases = flat[: d * classes].reshape(d, classes), flat[d * classes :]
        entropy, by_weight, by_bias = 0.0, penalty * weights, np.zeros(classes)
        for start in range(0, n, BLOCK_IMAGES):
            inputs, block_labels = (
                vectors[start : start + BLOCK_IMAGES].astype(np.float64),
                labels[start : start + BLOCK_IMAGES],
            )
            logits = inputs @ weights + biases
            logits -= logits.max(axis=1, keepdims=True)
            label_cells = np.arange(len(block_labels)), block_labels
            residuals = np.exp(logits)
            sums = residuals.sum(axis=1, keepdims=True)
            entropy += float(np.log(sums).sum() - logits[label_cells].sum()) / n
            residuals /= sums
            residuals[label_cells] -= 1
            by_weight += inputs.T @ residuals / n
            by_bias += residuals.sum(axis=0) / n
        return entropy + penalty / 2 * float((weights**2).sum()), np.concatenate([by_weight.ravel(), by_bias])

    initial = np.zeros((d + 1) * classes) if start is None else np.concatenate([start.weights.ravel(), start.biases])
    optimum = minimize(
        loss, initial, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS}
    )
    return Probe(optimum.x[: d * classes].reshape(d, classes), optimum.x[d * classes :], penalty)


def fit_with_best_penalty(vectors: Vectors, labels: Labels, keys: Sequence[str], classes: int) -> Probe:
    """Return the probe of the training images with these keys, with the best penalty of `PENALTIES`.

    The best penalty has the highest accuracy on the fifth of the images that is held out; of several the largest. The
    probe is then fitted on all images. Raises ValueError where either part is empty, as with few images, and as `fit`.
    """
    held_out = np.array([hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_ONE_IN == 0 for key in keys], bool)
    if held_out.all() or not held_out.any():
        raise ValueError(f"expected training images to fit on and to choose by, found {len(keys)} images in all")
    best_penalty, best_correct, probe = PENALTIES[0], -1, None
    for penalty in PENALTIES:
        probe = fit(vectors[~held_out], labels[~held_out], classes, penalty, probe)
        correct = int((probe.logits(vectors[held_out]).argmax(axis=1) == labels[held_out]).sum())
        if correct > best_correct:
            best_penalty, best_correct = penalty, correct
    return fit(vectors, labels, classes, best_penalty)
