"""Numbers about an image's pixels and sizes."""

from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.contract import Columns, PairBatch


def entropy(grey: npt.NDArray[np.uint8]) -> float:
    """Return Shannon's entropy of the 256 grey levels, in bits (0 to 8)."""
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    share = counts[counts > 0] / grey.size
    return float(-(share * np.log2(share)).sum())


def sharpness(grey: npt.NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian, a measure of focus (Pech-Pacheco et al. 2000)."""
    deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1]
    return float(deviation[0, 0] ** 2)


def colourfulness(image: npt.NDArray[np.uint8]) -> float:
    """Return the mean over the pixels of an RGB image of the largest channel minus the smallest, 0 to 255."""
    red, green, blue = cv2.split(image)
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return float(cv2.mean(spread)[0])


class ImageSignal:
    """Sizes in pixels as published and as stored, aspect (long side over short), bytes, light, contrast and colour."""

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("original_width", pa.int32()),
            ("original_height", pa.int32()),
            ("short_side", pa.int32()),
            ("aspect", pa.float32()),
            ("bytes", pa.int64()),
            ("entropy", pa.float32()),
            ("sharpness", pa.float32()),
            ("luminance", pa.float32()),
            ("colourfulness", pa.float32()),
        ]
    )

    def compute(self, batch: PairBatch) -> Columns:
        """Return the columns; `short_side` and `aspect` are the original's, the rest is of the stored image.

        `luminance` is the mean grey level (0 to 255); `colourfulness` is as the function of that name says.
        """
        rows: list[dict[str, Any]] = []
        for image, sample, pair in zip(batch.images, batch.samples, batch.pairs, strict=True):
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            sides = sorted((sample["original_width"], sample["original_height"]))
            rows.append(
                {
                    **{key: sample[key] for key in ("width", "height", "original_width", "original_height")},
                    "short_side": sides[0],
                    "aspect": sides[1] / sides[0],
                    "bytes": len(pair.jpg),
                    "entropy": entropy(grey),
                    "sharpness": sharpness(grey),
                    "luminance": float(cv2.mean(grey)[0]),
                    "colourfulness": colourfulness(image),
                }
            )
        return {name: [row[name] for row in rows] for name in self.columns.names}
