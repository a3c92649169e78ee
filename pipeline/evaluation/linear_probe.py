"""A linear probe: logistic regression on frozen image embeddings, fitted on a training split.

As Radford et al. 2021 (section 3.2 and appendix A.3): L-BFGS with at most 1000 steps, an L2 penalty on the weights
that is chosen on a part of the training split. Where they take the features before CLIP's projection, this takes the
unit vectors behind it, which are all that an embedding model needs to give. The loss is convex and starts from zero,
so that nothing is random.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

RESULT_VERSION = 1
"""What SciPy's optimiser fits: raised where a new version gives another probe."""


Vectors = npt.NDArray[np.floating[Any]]


Labels = npt.NDArray[np.integer[Any]]


PENALTIES = tuple(10.0**power for power in range(0, -9, -1))
"""Penalties that are tried, the greatest first. They are on the mean loss: 1 / (C n) of scikit-learn's C."""


STEPS = 1000


BLOCK = 8192
"""Images whose logits are held at once."""


HELD_OUT = 5
"""One of how many training images, by the hash of its key, the penalty is chosen on."""


@dataclass(frozen=True)
class Probe:
    """A fitted probe: weights (d, classes) and biases (classes,), float64, and the penalty they were fitted with."""

    weights: npt.NDArray[np.float64]
    biases: npt.NDArray[np.float64]
    penalty: float

    def logits(self, vectors: Vectors) -> npt.NDArray[np.float32]:
        """Return the logits of vectors (n, d), (n, classes): of a softmax as they are, without a scale."""
        found: npt.NDArray[np.float32] = (vectors @ self.weights + self.biases).astype(np.float32)
        return found


def fit(vectors: Vectors, labels: Labels, classes: int, penalty: float, start: Probe | None = None) -> Probe:
    """Return the probe that minimises mean cross-entropy + penalty / 2 * sum of squared weights.

    `vectors` are (n, d), `labels` (n,) below `classes`; biases bear no penalty. `start` only spares steps. Raises
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
        for start in range(0, n, BLOCK):
            inputs, wanted = vectors[start : start + BLOCK].astype(np.float64), labels[start : start + BLOCK]
            logits = inputs @ weights + biases
            logits -= logits.max(axis=1, keepdims=True)
            own = np.arange(len(wanted)), wanted
            off = np.exp(logits)
            total = off.sum(axis=1, keepdims=True)
            entropy += float(np.log(total).sum() - logits[own].sum()) / n
            off /= total
            off[own] -= 1
            by_weight += inputs.T @ off / n
            by_bias += off.sum(axis=0) / n
        return entropy + penalty / 2 * float((weights**2).sum()), np.concatenate([by_weight.ravel(), by_bias])

    first = np.zeros((d + 1) * classes) if start is None else np.concatenate([start.weights.ravel(), start.biases])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "maxfun": 2 * STEPS})
    return Probe(found.x[: d * classes].reshape(d, classes), found.x[d * classes :], penalty)


def fit_chosen(vectors: Vectors, labels: Labels, keys: Sequence[str], classes: int) -> Probe:
    """Return the probe of the training images with these keys, its penalty the best of `PENALTIES`.

    The best is the one with the highest accuracy on the fifth that is held out, the greatest of several; it is fitted
    anew on all. Where either part is empty, as with few images, raises ValueError; else as `fit`.
    """
    held = np.array([hashlib.sha256(key.encode()).digest()[0] % HELD_OUT == 0 for key in keys], bool)
    if held.all() or not held.any():
        raise ValueError(f"expected training images to fit on and to choose by, found {len(keys)} images in all")
    best, most, probe = PENALTIES[0], -1, None
    for penalty in PENALTIES:
        probe = fit(vectors[~held], labels[~held], classes, penalty, probe)
        right = int((probe.logits(vectors[held]).argmax(axis=1) == labels[held]).sum())
        if right > most:
            best, most = penalty, right
    return fit(vectors, labels, classes, best)
