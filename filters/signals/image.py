"""Numbers about an image's pixels and sizes."""

from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.signals.base import ColumnValues, PairBatch

RESULT_VERSION = 1
"""Version of OpenCV's results: increased where a new version gives other numbers."""


Pixels = npt.NDArray[np.uint8]


MAX_GREY_SPREAD_LEVELS = 8
"""The largest difference between a pixel's channels, of 255 levels, in a grey image. A grey JPEG decodes with 0; an
image that was scanned or stored in colour differs by rounding of quantised chroma: 10 at most with noise of +-8 in each
channel at quality 95, 5 with +-4. Of 1,200 photographs, paintings and cartoons (PACS) those that have any colour reach
11 and more, half of them 84 and more."""


MAX_BORDER_LEVELS = 8
"""The most grey levels that a flat border may span: in a JPEG, blocks of 8 pixels at the picture's edge ring by more,
whole blocks within a border by less, at qualities from 50."""


MIN_BORDER_SHARE = 0.05
"""The least share of a side that is a flat border. Our choice: 3.5 % of PACS's photographs reach it, mostly sky."""


def entropy(grey: Pixels) -> float:
    """Return Shannon's entropy of the 256 grey levels, in bits (0 to 8)."""
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    share = counts[counts > 0] / grey.size
    return float(-(share * np.log2(share)).sum())


def sharpness(grey: Pixels) -> float:
    """Return the variance of the Laplacian, a measure of focus (Pech-Pacheco et al. 2000)."""
    deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1]
    return float(deviation[0, 0] ** 2)


def channel_spread(image: Pixels) -> Pixels:
    """Return the largest channel minus the smallest of each pixel of an RGB image, (height, width) uint8."""
    red, green, blue = cv2.split(image)
    spread: Pixels = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return spread


def colourfulness(spread: Pixels) -> float:
    """Return the mean of the channel spread, 0 to 255."""
    return float(cv2.mean(spread)[0])


def is_greyscale(spread: Pixels) -> bool:
    """Return whether the channels differ by at most `MAX_GREY_SPREAD_LEVELS` in every pixel."""
    return bool(cv2.norm(spread, cv2.NORM_INF) <= MAX_GREY_SPREAD_LEVELS)


def _flat_lines(grey: Pixels) -> int:
    """Return the number of rows from the top that together span at most BORDER_LEVELS."""
    darkest, brightest, _, _ = cv2.minMaxLoc(grey[:1])
    if brightest - darkest > MAX_BORDER_LEVELS:  # as in most images: no further row needs to be read
        return 0
    highest = np.maximum.accumulate(cv2.reduce(grey, 1, cv2.REDUCE_MAX).ravel())
    lowest = np.minimum.accumulate(cv2.reduce(grey, 1, cv2.REDUCE_MIN).ravel())
    return int(np.count_nonzero(highest - lowest <= MAX_BORDER_LEVELS))


def flat_border(grey: Pixels) -> float:
    """Return the share, 0 to 1, of an image's height or width, whichever is larger, that is a border of one grey.

    The border of the height are the rows above and below the picture (letterbox), that of the width the columns beside
    it; each of the four borders separately spans at most BORDER_LEVELS. A plain image is all border: 1.
    """
    shares = []
    for lines in (grey, cv2.transpose(grey)):
        shares.append((_flat_lines(lines) + _flat_lines(lines[::-1])) / len(lines))
    return min(1.0, max(shares))


class ImageSignal:
    """Sizes in pixels as published and as stored, aspect (long side over short), bytes, light, contrast and colour.

    `format` is that of the fetched file, in lower case, `raw_bytes` its size, and `animated` whether it has more than
    one frame, of which the first is stored. `has_flat_border` says that `flat_border` is at least BORDER_SHARE.
    """

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("original_width", pa.int32()),
            ("original_height", pa.int32()),
            ("short_side", pa.int32()),
            ("aspect", pa.float32()),
            ("bytes", pa.int64()),
            ("raw_bytes", pa.int64()),
            ("format", pa.string()),
            ("animated", pa.bool_()),
            ("entropy", pa.float32()),
            ("sharpness", pa.float32()),
            ("luminance", pa.float32()),
            ("colourfulness", pa.float32()),
            ("greyscale", pa.bool_()),
            ("flat_border", pa.float32()),
            ("has_flat_border", pa.bool_()),
        ]
    )

    def compute(self, batch: PairBatch) -> ColumnValues:
        """Return the columns; `short_side` and `aspect` are those of the original, the others of the stored image.

        `luminance` is the mean grey level (0 to 255); the others are computed by the functions of the same names.
        """
        rows = [
            _size_columns(sample) | {"bytes": len(pair.jpg)} | _pixel_columns(image)
            for image, sample, pair in zip(batch.images, batch.samples, batch.pairs, strict=True)
        ]
        return {name: [row[name] for row in rows] for name in self.columns.names}


def _size_columns(sample: Mapping[str, Any]) -> dict[str, Any]:
    short, long = sorted((sample["original_width"], sample["original_height"]))
    return {
        **{key: sample[key] for key in ("width", "height", "original_width", "original_height", "raw_bytes", "format")},
        "short_side": short,
        "aspect": long / short,
        "animated": sample["frames"] > 1,
    }


def _pixel_columns(image: Pixels) -> dict[str, Any]:
    grey, spread = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), channel_spread(image)
    border = flat_border(grey)
    return {
        "entropy": entropy(grey),
        "sharpness": sharpness(grey),
        "luminance": float(cv2.mean(grey)[0]),
        "colourfulness": colourfulness(spread),
        "greyscale": is_greyscale(spread),
        "flat_border": border,
        "has_flat_border": border >= MIN_BORDER_SHARE,
    }
