"""A model as a folder in open_clip's `local-dir:` form. torch, slow to import, is loaded only to write one."""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

CONFIG_FILE = "open_clip_config.json"


WEIGHTS_FILE = "open_clip_model.safetensors"


class NonFiniteWeights(ValueError):
    """A checkpoint holds a weight that is infinite or NaN."""


def save_as_folder(checkpoint: Path, config: Path, folder: Path) -> None:
    """Convert a checkpoint of open_clip_train to a folder in `local-dir:` form: its configuration and safetensors.

    The checkpoint is read with weights_only, so a pickle in it cannot run code. Raises NotFinite, and writes nothing,
    where a weight is infinite or NaN.
    """
    import torch
    from safetensors.torch import save_file

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    weights = {key.removeprefix("module."): value.contiguous() for key, value in state.items()}
    if not_finite := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise NonFiniteWeights(f"{len(not_finite)} of {len(weights)} weights are not finite ({not_finite[0]} is one)")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS_FILE)
    shutil.copyfile(config, folder / CONFIG_FILE)


def check_folder(folder: Path, where: str) -> dict[str, Any]:
    """Return a model folder's configuration; raise InputError where it is not in open_clip's `local-dir:` form."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{where}: {path}: no such file; expected a folder with {CONFIG_FILE}") from None
    except ValueError as error:
        raise InputError(f"{where}: {path}: not JSON: {error}") from None
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise InputError(f"{where}: {path}: expected the key 'model_cfg'")
    return config
