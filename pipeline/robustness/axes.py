"""The axes on which models lie on a line: transforms of accuracies, and their inverses.

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

    `bounded` says that 0 and 1 have finite values; on the other axes they are infinite.
    """

    name: str
    forward: Callable[[ArrayLike], Floats]
    inverse: Callable[[ArrayLike], Floats]
    bounded: bool = False


def _as_floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64)


PROBIT = Axis("probit", lambda accuracy: _as_floats(ndtri(accuracy)), lambda value: _as_floats(ndtr(value)))


LOGIT = Axis("logit", lambda accuracy: _as_floats(logit(accuracy)), lambda value: _as_floats(expit(value)))


LINEAR = Axis("linear", _as_floats, _as_floats, bounded=True)


AXES = {axis.name: axis for axis in (PROBIT, LOGIT, LINEAR)}


@dataclass(frozen=True, eq=False)
class AxisValues:
    """Accuracies on an axis (float64, same shape), and how many of them were moved off 0 or 1 for it."""

    values: Floats
    moved: int


def to_axis(axis: Axis, accuracy: ArrayLike, n: int) -> AxisValues:
    """Return accuracies (fractions of `n` images, any shape) on an axis, kept within [0.5 / n, 1 - 0.5 / n].

    The bounds are half an image away from none and from all, the usual correction for rates of 0 and 1 (Macmillan and
    Kaplan 1985). On the linear axis 0 and 1 are finite, so nothing is moved. Raises ValueError for an accuracy
    outside [0, 1] or n < 1.
    """
    values = np.asarray(accuracy, np.float64)
    if n < 1:
        raise ValueError(f"expected n >= 1 images, found {n}")
    if not ((values >= 0) & (values <= 1)).all():  # NaN fails too
        raise ValueError(f"expected accuracies between 0 and 1, found {values[~((values >= 0) & (values <= 1))][0]}")
    if axis.bounded:
        return AxisValues(values, 0)
    clipped = np.clip(values, 0.5 / n, 1 - 0.5 / n)
    return AxisValues(axis.forward(clipped), int((clipped != values).sum()))
