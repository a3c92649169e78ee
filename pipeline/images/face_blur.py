"""Blurring of faces: the published boxes, oriented as their image, and the blur within them."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.records import Box

FACE_NOT_BLURRED = "face_not_blurred"
"""The outcome of an image whose boxes are invalid or could not be blurred: it is not stored."""


EXIF_ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""EXIF orientations (CIPA DC-008, tag 274): swap x and y, then mirror x, then mirror y, to make the image upright."""


def orient_boxes(faces: Sequence[Box], orientation: int) -> list[Box]:
    """Return the boxes with an area, oriented as their image; raise ValueError for an invalid box.

    Published boxes are assumed to refer to the image as img2dataset decodes it, without its EXIF orientation (OpenCV's
    IMREAD_UNCHANGED ignores it), as DataComp's boxes do (`bbox_col` in its download_upstream.py).
    """
    swap, mirror_x, mirror_y = EXIF_ORIENTATIONS[orientation]
    boxes = []
    for box in faces:
        left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)  # detectors report boxes beyond the edge
        if any(math.isnan(side) for side in box) or left > right or top > bottom:
            raise ValueError(f"expected left, top, right, bottom, found {box}")
        if swap:
            left, top, right, bottom = top, left, bottom, right
        if mirror_x:
            left, right = 1 - right, 1 - left
        if mirror_y:
            top, bottom = 1 - bottom, 1 - top
        if left < right and top < bottom:
            boxes.append((left, top, right, bottom))
    return boxes


def blur(img: npt.NDArray[np.uint8], bbox_list: Sequence[Box]) -> npt.NDArray[np.uint8]:
    """Return an image, (height, width) or (height, width, 3) uint8, with its boxes blurred.

    The method of ImageNet's faces (Yang et al. 2021, https://arxiv.org/abs/2103.06191, appendix) and of DataComp: a
    Gaussian with a sigma of a tenth of the largest box's longer side, boxes widened by a tenth of their own longer
    side, and the mask blurred likewise. img2dataset 1.47's own blurrer cuts the kernel at one sigma, which blurs half
    as much.
    """
    height, width = img.shape[:2]
    mask, largest = np.zeros((height, width), np.float32), 0
    for left, top, right, bottom in bbox_list:
        x, y = math.floor(left * width), math.floor(top * height)
        end_x, end_y = math.ceil(right * width), math.ceil(bottom * height)
        side = max(end_x - x, end_y - y)
        largest, margin = max(largest, side), math.ceil(0.1 * side)
        mask[max(y - margin, 0) : end_y + margin, max(x - margin, 0) : end_x + margin] = 1
    soft = _gaussian(mask, 0.1 * largest)
    return np.asarray(cv2.blendLinear(_gaussian(img, 0.1 * largest), img, soft, 1 - soft), np.uint8)


def _gaussian(image: npt.NDArray[Any], sigma: float) -> npt.NDArray[Any]:
    """Return an image blurred by `sigma` pixels; a wide blur is computed on a smaller copy, to bound its time."""
    height, width = image.shape[:2]
    shrink = max(1, int(sigma / 4))
    small = cv2.resize(image, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def blur_for_resizer(img: npt.NDArray[np.uint8], bbox_list: Sequence[Box]) -> npt.NDArray[np.uint8]:
    """Blur for the Resizer, which turns exceptions into their text: `FACE_NOT_BLURRED` in the text marks a failure."""
    try:
        return blur(img, bbox_list)
    except Exception as error:
        raise ValueError(f"{FACE_NOT_BLURRED}: {error or type(error).__name__}") from error
