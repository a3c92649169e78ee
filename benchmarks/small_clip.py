"""A small CLIP model, trained within a minute, for benchmarks that need embeddings where no weights can be had."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

from benchmarks.albums import Image, Shown
from pipeline.models.clip import ClipModel

Embed = Callable[[Sequence[Image]], npt.NDArray[np.float16]]
"""What turns RGB images into unit vectors, (n, d) float16."""


CONFIG = Path(__file__).parents[1] / "experiments/models/resnet_64px/open_clip_config.json"


BATCH, WARMUP, RATE = 64, 20, 1e-3


def trained(shown: Sequence[Shown], samples: int, seed: int = 0) -> Embed:
    """Return the product's embedding by a model trained on so many samples of images and their captions."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(CONFIG, folder)
        model: Any = open_clip.CLIP(**json.loads(CONFIG.read_text("utf-8"))["model_cfg"])
        _fit(model, shown, samples, np.random.default_rng(seed))
        save_file(model.state_dict(), Path(folder) / "open_clip_model.safetensors")
        clip = ClipModel(f"local-dir:{folder}", None)

    def embed(images: Sequence[Image]) -> npt.NDArray[np.float16]:
        return clip.embed_images([Pillow.fromarray(image) for image in images], 128).astype(np.float16)

    return embed


def _fit(model: Any, shown: Sequence[Shown], samples: int, rng: np.random.Generator) -> None:
    """Train with CLIP's loss (Radford et al. 2021), AdamW and a cosine schedule, in bfloat16 where autocast says so."""
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    pixels = torch.stack([_pixels(one.image, side) for one in shown])
    words = list(dict.fromkeys(one.caption for one in shown))
    captions = open_clip.SimpleTokenizer(context_length=model.context_length)(words)
    spoken = torch.tensor([words.index(one.caption) for one in shown])
    steps, loss_of = samples // BATCH, open_clip.ClipLoss()
    optimiser = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.98), 1e-6, 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / WARMUP) * (1 + np.cos(np.pi * step / steps)) / 2
    )
    model.train()
    for _ in range(steps):
        rows = torch.from_numpy(rng.choice(len(shown), BATCH, replace=False))
        with torch.autocast("cpu", torch.bfloat16):
            seen, said, scale = model(pixels[rows], captions[spoken[rows]])
            loss = loss_of(seen, said, scale)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _pixels(image: Image, side: int) -> torch.Tensor:
    """Return what the model's preprocessing makes of an image: the middle square, at its side, about 0."""
    picture = Pillow.fromarray(image)
    scale = side / min(picture.size)
    picture = picture.resize([max(side, round(length * scale)) for length in picture.size], Pillow.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in picture.size)
    values = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) / 255
    return torch.from_numpy((values - 0.5) / 0.25).permute(2, 0, 1)
