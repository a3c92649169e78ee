"""What a model sees of an image: open_clip's own transform, at the cost of a copy where there is nothing to resize."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Pixels = npt.NDArray[np.uint8]


Images = Sequence[Image.Image] | Sequence[Pixels]
"""RGB images of any size: PIL's, or (height, width, 3) uint8."""


class Preprocessing:
    """An open_clip image transform over a batch; the result has the bits of the transform image by image.

    Resizing stays PIL's, with which models are trained: OpenCV's bicubic has another kernel and smooths nothing when it
    shrinks. An image of the wanted size skips it, and conversion and normalisation are done for the batch at once.
    """

    def __init__(self, transform: Any) -> None:
        from open_clip import transform as steps

        *shaping, convert, to_tensor, normalise = transform.transforms
        fitting = (steps.Resize, steps.ResizeKeepRatio, steps.CenterCrop, steps.CenterCropOrPad)
        last = (type(convert), type(to_tensor), type(normalise))
        self._whole = transform
        self._known = bool(shaping) and all(type(step) in fitting for step in shaping)
        self._known &= last == (steps.MaybeConvertMode, steps.MaybeToTensor, steps.Normalize)
        if self._known:
            self._shaping = shaping
            self._size = tuple(shaping[-1].size)
            self._mean = torch.tensor(normalise.mean)[:, None, None]
            self._deviation = torch.tensor(normalise.std)[:, None, None]

    def __call__(self, images: Images) -> Tensor:
        """Return (n, 3, height, width) float32, normalised; n is at least 1."""
        if not self._known:
            return torch.stack([self._whole(_picture(image)) for image in images])
        batch = torch.from_numpy(np.stack([self._fitted(image) for image in images]))
        return batch.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._deviation)

    def _fitted(self, image: Image.Image | Pixels) -> Pixels:
        """Return an image as (height, width, 3) uint8 of the size that the model takes."""
        size = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
        if size != self._size:
            image = _picture(image)
            for step in self._shaping:
                image = step(image)
        return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def _picture(image: Image.Image | Pixels) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
