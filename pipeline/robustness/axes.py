"""The axes on which models lie on a line: an accuracy becomes a place on the axis, and back.

Linear and probit: Recht et al. 2019; logit: the ImageNet testbed of Taori et al. 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """An increasing transform of accuracies (0 to 1) and its inverse; both keep an array's shape.

    `bounded` says that 0 and 1 have a place of their own; elsewhere they lie at infinity.
    """

    name: str
    forward: Callable[[ArrayLike], Floats]
    inverse: Callable[[ArrayLike], Floats]
    bounded: bool = False


def _same(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64)


PROBIT = Axis("probit", lambda accuracy: _same(ndtri(accuracy)), lambda place: _same(ndtr(place)))


LOGIT = Axis("logit", lambda accuracy: _same(logit(accuracy)), lambda place: _same(expit(place)))


LINEAR = Axis("linear", _same, _same, bounded=True)


AXES = {axis.name: axis for axis in (PROBIT, LOGIT, LINEAR)}


@dataclass(frozen=True, eq=False)
class Placed:
    """Accuracies on an axis (float64, the shape they had), and how many were moved off 0 or 1 for it."""

    values: Floats
    moved: int


def place(axis: Axis, accuracy: ArrayLike, n: int) -> Placed:
    """Return accuracies (fractions of `n` images, any shape) on an axis, kept within [0.5 / n, 1 - 0.5 / n].

    The bounds are half an image away from none and from all, the usual correction for rates of 0 and 1 (Macmillan and
    Kaplan 1985). The linear axis has a place for 0 and 1, so nothing is moved there. Raises ValueError for an accuracy
    outside [0, 1] or n < 1.
    """
    given = np.asarray(accuracy, np.float64)
    if n < 1:
        raise ValueError(f"expected n >= 1 images, found {n}")
    if not ((given >= 0) & (given <= 1)).all():  # NaN fails too
        raise ValueError(f"expected accuracies between 0 and 1, found {given[~((given >= 0) & (given <= 1))][0]}")
    if axis.bounded:
        return Placed(given, 0)
    inside = np.clip(given, 0.5 / n, 1 - 0.5 / n)
    return Placed(axis.forward(inside), int((inside != given).sum()))
