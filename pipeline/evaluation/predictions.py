"""What is kept of a model's logits, so that every metric can be computed later without the model.

A metric needs how far each class lies below the image's first, which softmax does not tell from the logit itself. As
float16 that distance is exact to 11 bits where it matters, near 0, while a cosine as float16 would make classes equal
that are a ten-thousandth apart. The first class's own logit lies beside it, as float32.

Of up to `WHOLE` classes every distance is kept, in class order. Of more, `KEPT` are, the nearest first, with the
numbers of their classes; the label's is always among them, in the last place where it is not one of the first. What
the others add to softmax, at the model's logit scale, is kept as two sums (`pipeline.evaluation.metrics.Rest`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.metrics import Judged, Rest, Subsampled, check, judged, subsampled

WHOLE = 200
"""Classes up to which all logits are kept: 400 bytes an image."""


KEPT = 50
"""Logits that are kept of more classes: 300 bytes an image with their classes' numbers."""


BLOCK = 4096
"""Images of many classes that are worked on at once."""


NEAREST = np.float16(6e-8)
"""The least distance above 0 in float16 (2^-24): what is less is raised to it, so that no other class becomes first."""


@dataclass(frozen=True)
class Kept:
    """The kept logits of n images: their labels (n,) int32, and the logit scale by which they are probabilities.

    `first` (n,) float32 is each image's greatest logit, `offsets` (n, k) float16 the logits less that, and `classes`
    (n, k) uint32 their classes, with `rest` of the others; both are None where k is all classes, in their order.
    """

    labels: npt.NDArray[np.int32]
    scale: float
    first: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float16]
    classes: npt.NDArray[np.uint32] | None = None
    rest: Rest | None = None

    def judged(self) -> Judged:
        """Return what the metrics need of each image; raise ValueError as `pipeline.evaluation.metrics.judged` does."""
        return judged(self.offsets, self.labels, self.scale, self.classes, self.rest)

    def among(self, subset: npt.NDArray[np.integer[Any]]) -> Subsampled:
        """Return the accuracy among some classes, as `pipeline.evaluation.metrics.subsampled` does.

        Where it is not the first of all, float16 may not tell a class from one whose distance is within 1/2000 of its.
        """
        return subsampled(self.offsets, self.labels, subset, self.classes)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table `predictions` that hold this."""
        n = len(self.labels)
        none = np.zeros(n)
        return {
            "label": self.labels,
            "predicted": self.judged().predicted,
            "logits": _binary(self.offsets, "<f2"),
            "classes": pa.array([b""] * n, pa.binary()) if self.classes is None else _binary(self.classes, "<u4"),
            "first": self.first,
            "rest": none if self.rest is None else self.rest.weight,
            "rest_squares": none if self.rest is None else self.rest.squares,
            "scale": np.full(n, self.scale),
        }


def keep(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], scale: float) -> Kept:
    """Return what is kept of logits (n, classes); raise ValueError as `pipeline.evaluation.metrics.judged` does."""
    check(logits, labels, scale)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"expected labels from 0 to {logits.shape[1] - 1}, found {labels.min()} to {labels.max()}")
    first = logits.max(axis=1)
    if logits.shape[1] <= WHOLE:
        return Kept(labels, scale, first, _offsets(logits - first[:, None]))
    blocks = [slice(start, start + BLOCK) for start in range(0, len(labels), BLOCK)]
    classes = np.concatenate([_nearest(logits[rows], labels[rows]) for rows in blocks])
    rest = [_rest(logits[rows] - first[rows, None], classes[rows], scale) for rows in blocks]
    offsets = _offsets(np.take_along_axis(logits, classes, axis=1) - first[:, None])
    sums = Rest(np.concatenate([one.weight for one in rest]), np.concatenate([one.squares for one in rest]))
    return Kept(labels, scale, first, offsets, classes.astype(np.uint32), sums)


def _nearest(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return each image's `KEPT` classes of the greatest logits, the label in the last place if not among them."""
    classes = np.argsort(-logits, axis=1, kind="stable")[:, :KEPT]
    outside = ~(classes == labels[:, None]).any(axis=1)
    classes[outside, -1] = labels[outside]
    return classes


def _rest(distances: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], scale: float) -> Rest:
    """Return what the other classes add to softmax, by distances (n, classes) from the greatest logit."""
    weights = np.exp(scale * distances.astype(np.float64))
    np.put_along_axis(weights, classes, 0.0, axis=1)
    return Rest(weights.sum(axis=1), (weights**2).sum(axis=1))


def read_kept(rows: pa.Table) -> Kept:
    """Return what rows of `predictions` hold; raise ValueError unless they are of one model on one evaluation set."""
    whose = {(row["training"], row["evaluation_set"]) for row in _distinct(rows, "training", "evaluation_set")}
    scales = rows["scale"].unique().to_pylist()
    if len(whose) != 1 or len(scales) != 1:
        raise ValueError(f"expected predictions of one model on one evaluation set, found {sorted(whose)}")
    offsets = _array(rows["logits"], "<f2")
    classes = _array(rows["classes"], "<u4") if rows["classes"][0].as_py() else None
    rest = None if classes is None else Rest(rows["rest"].to_numpy(), rows["rest_squares"].to_numpy())
    return Kept(rows["label"].to_numpy(), scales[0], rows["first"].to_numpy(), offsets, classes, rest)


def _offsets(distances: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Return distances of at most 0 as float16, none of which is 0 or infinite where it was not."""
    held = np.maximum(distances, np.float32(np.finfo(np.float16).min)).astype(np.float16)
    return np.where((held == 0) & (distances < 0), -NEAREST, held)


def _distinct(rows: pa.Table, *columns: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.group_by(list(columns)).aggregate([]).to_pylist()
    return found


def _binary(values: npt.NDArray[Any], kind: str) -> pa.Array:
    return pa.array([row.tobytes() for row in np.ascontiguousarray(values, dtype=kind)], pa.binary())


def _array(column: pa.ChunkedArray, kind: str) -> npt.NDArray[Any]:
    widths = pc.unique(pc.binary_length(column)).to_pylist()
    if len(widths) != 1:
        raise ValueError(f"expected as many logits of each image, found {sorted(widths)} bytes")
    return np.frombuffer(b"".join(column.to_pylist()), kind).reshape(len(column), -1)
