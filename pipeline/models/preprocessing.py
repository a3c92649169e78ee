"""Image preprocessing: open_clip's own transform, at the cost of a copy where there is nothing to resize."""

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
    """An open_clip image transform over a batch, bit for bit equal to the transform of each image.

    Resizing stays PIL's, with which the models are trained: OpenCV's bicubic has another kernel and no antialiasing
    when it shrinks. An image of the right size skips it, and conversion and normalisation are done once per batch.
    """

    def __init__(self, transform: Any) -> None:
        from open_clip import transform as steps

        *geometry, convert, to_tensor, normalise = transform.transforms
        geometric_steps = (steps.Resize, steps.ResizeKeepRatio, steps.CenterCrop, steps.CenterCropOrPad)
        final_types = (type(convert), type(to_tensor), type(normalise))
        self._transform = transform
        self._is_known = bool(geometry) and all(type(step) in geometric_steps for step in geometry)
        self._is_known &= final_types == (steps.MaybeConvertMode, steps.MaybeToTensor, steps.Normalize)
        if self._is_known:
            self._geometry = geometry
            self._size = tuple(geometry[-1].size)
            self._mean = torch.tensor(normalise.mean)[:, None, None]
            self._deviation = torch.tensor(normalise.std)[:, None, None]

    def __call__(self, images: Images) -> Tensor:
        """Return (n, 3, height, width) float32, normalised; n is at least 1."""
        if not self._is_known:
            return torch.stack([self._transform(_to_image(image)) for image in images])
        batch = torch.from_numpy(np.stack([self._to_model_size(image) for image in images]))
        return batch.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._deviation)

    def _to_model_size(self, image: Image.Image | Pixels) -> Pixels:
        """Return an image as (height, width, 3) uint8 in the model's input size."""
        size = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
        if size != self._size:
            image = _to_image(image)
            for step in self._geometry:
                image = step(image)
        return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def _to_image(image: Image.Image | Pixels) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)
