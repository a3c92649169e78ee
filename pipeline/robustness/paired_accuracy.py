"""Correct predictions of several models on a set of images, and bootstrap draws that resample the images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.robustness.axes import Axis, AxisValues, Floats, to_axis

#: Image weights in memory at once while drawing (float32): 16 MB, whatever the number of images and draws.
_BLOCK_WEIGHTS = 4_000_000


@dataclass(frozen=True, eq=False)
class SetAccuracies:
    """Correct predictions of several models on one evaluation set of `n` images.

    `correct` (models,) counts them; `answers` (models, n) float32 is 1 where a model was correct on an image and 0
    elsewhere, or None where only the counts are known. Construct it with `of_counts` or `of_answers`.
    """

    correct: NDArray[np.int64]
    n: int
    answers: NDArray[np.float32] | None = None

    @classmethod
    def from_counts(cls, correct: ArrayLike, n: int) -> "SetAccuracies":
        """Construct from counts (models,) of `n` images; raise ValueError for other shapes or counts outside 0..n."""
        counts = np.asarray(correct)
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or n < 1:
            raise ValueError(
                f"expected counts (models,) of n >= 1 images, found {counts.dtype} {counts.shape}, n = {n}"
            )
        if ((counts < 0) | (counts > n)).any():
            raise ValueError(f"expected counts between 0 and {n}, found {counts.min()} to {counts.max()}")
        return cls(counts.astype(np.int64), n)

    @classmethod
    def from_correct(cls, answers: ArrayLike) -> "SetAccuracies":
        """Construct from a matrix (models, images) of 0/1 or bool; raise ValueError for another shape or value."""
        matrix = np.asarray(answers)
        if matrix.ndim != 2 or matrix.shape[1] < 1:
            raise ValueError(f"expected a matrix (models, images), found shape {matrix.shape}")
        if not np.isin(matrix, (0, 1)).all():
            raise ValueError("expected 1 where a model was correct and 0 elsewhere, found another value")
        return cls(matrix.astype(bool).sum(1), matrix.shape[1], matrix.astype(np.float32))

    @property
    def accuracy(self) -> Floats:
        """The accuracies (models,), fractions."""
        return self.correct / self.n

    def draw(self, draws: int, seed: np.random.SeedSequence) -> Floats:
        """Return accuracies (draws, models) on sets of `n` images drawn with replacement from this one (Efron 1979).

        With `answers`, a draw takes the same images for all models, so that their common noise cancels in differences.
        With counts alone each model's count is binomial, independent of the others: the common noise is then treated as
        noise of each model, which makes intervals too wide for differences and too narrow for a line's height. A count
        of 0 or n never changes in a draw.
        """
        rng = np.random.default_rng(seed)
        if self.answers is None:
            return rng.binomial(self.n, self.accuracy, (draws, len(self.correct))) / self.n
        correct, step = np.empty((draws, len(self.correct))), max(1, _BLOCK_WEIGHTS // self.n)
        for start in range(0, draws, step):
            rows = min(step, draws - start)
            images = rng.integers(0, self.n, (rows, self.n)) + self.n * np.arange(rows)[:, None]
            times = np.bincount(images.ravel(), minlength=rows * self.n).reshape(rows, self.n)
            # Whole numbers up to n < 2^24 are exact in float32, so the order of models changes no digit.
            correct[start : start + rows] = times.astype(np.float32) @ self.answers.T
        return correct / self.n


@dataclass(frozen=True, eq=False)
class PairedAccuracies:
    """The same models, in the same order, on the reference set and under a shift.

    `same_images` says that image i of both sets is the same picture, as under a synthetic shift: a draw then takes the
    same images from both. Raises ValueError where the two sets do not match.
    """

    reference: SetAccuracies
    shift: SetAccuracies
    same_images: bool = False

    def __post_init__(self) -> None:
        if len(self.reference.correct) != len(self.shift.correct):
            raise ValueError(
                f"expected the same models on both sets, found {len(self.reference.correct)} and "
                f"{len(self.shift.correct)}"
            )
        per_image = self.reference.answers is not None and self.shift.answers is not None
        if self.same_images and not (per_image and self.reference.n == self.shift.n):
            raise ValueError(
                "expected a matrix of answers on the same images for both sets, found none or other images"
            )

    @property
    def models(self) -> int:
        """The number of models."""
        return len(self.reference.correct)

    def places(self, axis: Axis) -> tuple[AxisValues, AxisValues]:
        """Return the axis values (models,) on the reference and under the shift, and how many were moved off 0 or 1."""
        return to_axis(axis, self.reference.accuracy, self.reference.n), to_axis(
            axis, self.shift.accuracy, self.shift.n
        )

    def draw(self, axis: Axis, draws: int, seed: int) -> tuple[Floats, Floats]:
        """Return axis values (draws, models) on the reference and under the shift, for resampled images."""
        reference_seed, shift_seed = np.random.SeedSequence(seed).spawn(2)
        x = self.reference.draw(draws, reference_seed)
        y = self.shift.draw(draws, reference_seed if self.same_images else shift_seed)
        return to_axis(axis, x, self.reference.n).values, to_axis(axis, y, self.shift.n).values
