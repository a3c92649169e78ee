"""What models answered on a set of images, and draws of it as if the images had been collected anew."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.robustness.axes import Axis, Floats, Placed, place

#: Image weights held at once while drawing (float32): 16 MB, whatever the number of images and draws.
_BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class Measured:
    """Correct answers of several models on one evaluation set of `n` images.

    `correct` (models,) counts them; `answers` (models, n) float32 is 1 where a model was right on an image, or None
    where only the counts are known. Make one with `of_counts` or `of_answers`.
    """

    correct: NDArray[np.int64]
    n: int
    answers: NDArray[np.float32] | None = None

    @classmethod
    def of_counts(cls, correct: ArrayLike, n: int) -> "Measured":
        """Return what counts (models,) of `n` images say; raise ValueError for other shapes or counts outside 0..n."""
        counts = np.asarray(correct)
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or n < 1:
            raise ValueError(
                f"expected counts (models,) of n >= 1 images, found {counts.dtype} {counts.shape}, n = {n}"
            )
        if ((counts < 0) | (counts > n)).any():
            raise ValueError(f"expected counts between 0 and {n}, found {counts.min()} to {counts.max()}")
        return cls(counts.astype(np.int64), n)

    @classmethod
    def of_answers(cls, answers: ArrayLike) -> "Measured":
        """Return what a matrix (models, images) of 0/1 or bool says; raise ValueError for another shape or value."""
        right = np.asarray(answers)
        if right.ndim != 2 or right.shape[1] < 1:
            raise ValueError(f"expected a matrix (models, images), found shape {right.shape}")
        if not np.isin(right, (0, 1)).all():
            raise ValueError("expected 1 where a model was right and 0 elsewhere, found another value")
        return cls(right.astype(bool).sum(1), right.shape[1], right.astype(np.float32))

    @property
    def accuracy(self) -> Floats:
        """The accuracies (models,), fractions."""
        return self.correct / self.n

    def draw(self, draws: int, seed: np.random.SeedSequence) -> Floats:
        """Return accuracies (draws, models) on sets of `n` images drawn with replacement from this one (Efron 1979).

        With answers, a draw takes the same images for all models, so that what they share cancels in differences. With
        counts alone each model's count is binomial, apart from the others': the noise that models share is then taken
        for noise of each, which is too wide for differences and too narrow for a whole line's height. A count of 0 or n
        never changes in a draw.
        """
        rng = np.random.default_rng(seed)
        if self.answers is None:
            return rng.binomial(self.n, self.accuracy, (draws, len(self.correct))) / self.n
        found, step = np.empty((draws, len(self.correct))), max(1, _BLOCK // self.n)
        for start in range(0, draws, step):
            rows = min(step, draws - start)
            images = rng.integers(0, self.n, (rows, self.n)) + self.n * np.arange(rows)[:, None]
            times = np.bincount(images.ravel(), minlength=rows * self.n).reshape(rows, self.n)
            # Whole numbers up to n < 2^24 are exact in float32, so the order of models changes no digit.
            found[start : start + rows] = times.astype(np.float32) @ self.answers.T
        return found / self.n


@dataclass(frozen=True, eq=False)
class Evidence:
    """The same models, in the same order, on the reference set and under a shift.

    `same_images` says that image i of both is one picture, as under a synthetic shift: a draw then takes the same
    images from both. Raises ValueError where the sets do not fit each other.
    """

    reference: Measured
    shift: Measured
    same_images: bool = False

    def __post_init__(self) -> None:
        if len(self.reference.correct) != len(self.shift.correct):
            raise ValueError(
                f"expected the same models on both sets, found {len(self.reference.correct)} and "
                f"{len(self.shift.correct)}"
            )
        known = self.reference.answers is not None and self.shift.answers is not None
        if self.same_images and not (known and self.reference.n == self.shift.n):
            raise ValueError(
                "expected a matrix of answers on the same images for both sets, found none or other images"
            )

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self.reference.correct)

    def places(self, axis: Axis) -> tuple[Placed, Placed]:
        """Return the places (models,) on the reference and under the shift, and how many were moved off 0 or 1."""
        return place(axis, self.reference.accuracy, self.reference.n), place(axis, self.shift.accuracy, self.shift.n)

    def draw(self, axis: Axis, draws: int, seed: int) -> tuple[Floats, Floats]:
        """Return places (draws, models) on the reference and under the shift, on images drawn anew."""
        first, second = np.random.SeedSequence(seed).spawn(2)
        x = self.reference.draw(draws, first)
        y = self.shift.draw(draws, first if self.same_images else second)
        return place(axis, x, self.reference.n).values, place(axis, y, self.shift.n).values
