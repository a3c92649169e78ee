"""The stored form of a model's logits, from which every metric can be computed later without the model.

A metric needs only each logit's distance below the image's greatest one, since softmax does not change when a constant
is added to all logits. As float16 that distance is exact to 11 bits where it matters, near 0, while a cosine as float16
would make classes equal that are a ten-thousandth apart. The greatest logit itself is stored beside it, as float32.

With up to `MAX_WHOLE_CLASSES` classes all distances are stored, in class order. With more, the `STORED_CLASSES` nearest
are stored, nearest first, with their class numbers; the label's is always among them, in the last place where it is not
one of the nearest. The contribution of the other classes to the softmax, at the model's logit scale, is stored as two
sums (`pipeline.evaluation.metrics.RestSums`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.metrics import (
    ImageResults,
    RestSums,
    SubsetAccuracy,
    accuracy_among,
    check_logits,
    image_results,
)

MAX_WHOLE_CLASSES = 200
"""Largest number of classes of which all logits are stored: 400 bytes an image."""


STORED_CLASSES = 50
"""Number of logits that are stored of more classes: 300 bytes an image with the class numbers."""


BLOCK_IMAGES = 4096
"""Images of many classes that are processed at once."""


SMALLEST_OFFSET = np.float16(6e-8)
"""The smallest distance above 0 in float16 (2^-24). Smaller ones are raised to it: no other class becomes the first."""


@dataclass(frozen=True)
class StoredLogits:
    """The stored logits of n images, their labels (n,) int32, and the logit scale that makes them probabilities.

    `first` (n,) float32 is each image's greatest logit, `offsets` (n, k) float16 the logits minus that, `classes`
    (n, k) uint32 their classes, and `rest` the sums over the other classes. The last two are None where all classes are
    stored, in their order.
    """

    labels: npt.NDArray[np.int32]
    scale: float
    first: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float16]
    classes: npt.NDArray[np.uint32] | None = None
    rest: RestSums | None = None

    def judged(self) -> ImageResults:
        """Return the values for the metrics; raise ValueError as `pipeline.evaluation.metrics.image_results` does."""
        return image_results(self.offsets, self.labels, self.scale, self.classes, self.rest)

    def among(self, subset: npt.NDArray[np.integer[Any]]) -> SubsetAccuracy:
        """Return the accuracy among a subset of the classes, as `pipeline.evaluation.metrics.accuracy_among` does.

        Except near the first of all, float16 may make classes equal whose distances differ by less than 1/2000 of them.
        """
        return accuracy_among(self.offsets, self.labels, subset, self.classes)

    def columns(self) -> dict[str, Any]:
        """Return the values as columns of the table `predictions`."""
        n = len(self.labels)
        none = np.zeros(n)
        return {
            "label": self.labels,
            "predicted": self.judged().predicted,
            "logits": _to_binary(self.offsets, "<f2"),
            "classes": pa.array([b""] * n, pa.binary()) if self.classes is None else _to_binary(self.classes, "<u4"),
            "first": self.first,
            "rest": none if self.rest is None else self.rest.weight,
            "rest_squares": none if self.rest is None else self.rest.squares,
            "scale": np.full(n, self.scale),
        }


def encode_logits(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], scale: float) -> StoredLogits:
    """Return the stored form of logits (n, classes); raise ValueError as `pipeline.evaluation.metrics.image_results`
    does.
    """
    check_logits(logits, labels, scale)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"expected labels from 0 to {logits.shape[1] - 1}, found {labels.min()} to {labels.max()}")
    first = logits.max(axis=1)
    if logits.shape[1] <= MAX_WHOLE_CLASSES:
        return StoredLogits(labels, scale, first, _to_float16(logits - first[:, None]))
    blocks = [slice(start, start + BLOCK_IMAGES) for start in range(0, len(labels), BLOCK_IMAGES)]
    classes = np.concatenate([_nearest(logits[rows], labels[rows]) for rows in blocks])
    rest = [_sums_of_rest(logits[rows] - first[rows, None], classes[rows], scale) for rows in blocks]
    offsets = _to_float16(np.take_along_axis(logits, classes, axis=1) - first[:, None])
    sums = RestSums(np.concatenate([block.weight for block in rest]), np.concatenate([block.squares for block in rest]))
    return StoredLogits(labels, scale, first, offsets, classes.astype(np.uint32), sums)


def _nearest(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return each image's `STORED_CLASSES` classes of the greatest logits; the label is last if not among them."""
    classes = np.argsort(-logits, axis=1, kind="stable")[:, :STORED_CLASSES]
    outside = ~(classes == labels[:, None]).any(axis=1)
    classes[outside, -1] = labels[outside]
    return classes


def _sums_of_rest(distances: npt.NDArray[np.float32], classes: npt.NDArray[np.int64], scale: float) -> RestSums:
    """Return the sums over the other classes, from the distances (n, classes) to the greatest logit."""
    weights = np.exp(scale * distances.astype(np.float64))
    np.put_along_axis(weights, classes, 0.0, axis=1)
    return RestSums(weights.sum(axis=1), (weights**2).sum(axis=1))


def decode_logits(rows: pa.Table) -> StoredLogits:
    """Return the logits in rows of `predictions`; raise ValueError unless they are of one model on one set."""
    models_and_sets = {
        (row["training"], row["evaluation_set"]) for row in _distinct_rows(rows, "training", "evaluation_set")
    }
    scales = rows["scale"].unique().to_pylist()
    if len(models_and_sets) != 1 or len(scales) != 1:
        raise ValueError(f"expected predictions of one model on one evaluation set, found {sorted(models_and_sets)}")
    offsets = _from_binary(rows["logits"], "<f2")
    classes = _from_binary(rows["classes"], "<u4") if rows["classes"][0].as_py() else None
    rest = None if classes is None else RestSums(rows["rest"].to_numpy(), rows["rest_squares"].to_numpy())
    return StoredLogits(rows["label"].to_numpy(), scales[0], rows["first"].to_numpy(), offsets, classes, rest)


def _to_float16(distances: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Return distances of at most 0 as float16; none becomes 0 or infinite that was not."""
    offsets = np.maximum(distances, np.float32(np.finfo(np.float16).min)).astype(np.float16)
    return np.where((offsets == 0) & (distances < 0), -SMALLEST_OFFSET, offsets)


def _distinct_rows(rows: pa.Table, *columns: str) -> list[dict[str, Any]]:
    distinct: list[dict[str, Any]] = rows.group_by(list(columns)).aggregate([]).to_pylist()
    return distinct


def _to_binary(values: npt.NDArray[Any], kind: str) -> pa.Array:
    return pa.array([row.tobytes() for row in np.ascontiguousarray(values, dtype=kind)], pa.binary())


def _from_binary(column: pa.ChunkedArray, kind: str) -> npt.NDArray[Any]:
    widths = pc.unique(pc.binary_length(column)).to_pylist()
    if len(widths) != 1:
        raise ValueError(f"expected the same number of logits for each image, found {sorted(widths)} bytes")
    return np.frombuffer(b"".join(column.to_pylist()), kind).reshape(len(column), -1)
