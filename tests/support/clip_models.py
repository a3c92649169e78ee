"""Small untrained CLIP models in open_clip's `local-dir:` form, and pairs with images to score."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import open_clip
import torch
from safetensors.torch import save_file

from pipeline.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from pipeline.shards.tar_format import StoredPair

Weights = dict[str, torch.Tensor]


TINY: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


CAPTIONS = [
    "a dog",
    "",
    "a dog",
    "two very long words: antidisestablishmentarianism, floccinaucinihilipilification " * 3,
]


def without_image_directions(weights: Weights) -> None:
    """Make every image's embedding zero."""
    weights["visual.proj"][:] = 0


def untrained(config: dict[str, Any] = TINY, seed: int = 0) -> Any:
    """Return a model with random weights in evaluation mode."""
    torch.manual_seed(seed)
    plain = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    kind = open_clip.CustomTextCLIP if plain.pop("custom_text", False) else open_clip.CLIP
    return kind(**plain).eval()


def saved(
    folder: Path, config: dict[str, Any] = TINY, seed: int = 0, change: Callable[[Weights], None] | None = None
) -> str:
    """Write an untrained model, its weights changed by `change`; return its reference."""
    weights = {key: value.contiguous() for key, value in untrained(config, seed).state_dict().items()}
    if change is not None:
        change(weights)
    folder.mkdir(parents=True)
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 32}}))
    return f"local-dir:{folder}"


def texture(seed: int, height: int = 32, width: int = 32) -> npt.NDArray[np.uint8]:
    """Return a random coloured texture, (height, width, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image: npt.NDArray[np.uint8] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return image


def stored_pairs(captions: Sequence[str]) -> list[StoredPair]:
    """Return a pair for each caption, with images of several sizes."""
    return [
        StoredPair(
            f"{number:032x}",
            cv2.imencode(".jpg", texture(number, 32 + 8 * (number % 3), 32 + 5 * (number % 2)))[1].tobytes(),
            caption,
            {},
            0,
            0,
        )
        for number, caption in enumerate(captions)
    ]
