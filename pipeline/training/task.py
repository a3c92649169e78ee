"""A training of a grid as a unit of work, run in the same way by a thread of the launcher or by a Slurm task."""

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.hardware import cuda_device_count, resolve_device
from pipeline.core.redaction import redact
from pipeline.errors import CuveeError, InputError
from pipeline.training.launcher import FAILED, TrainingResult, train
from pipeline.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class TrainingTask:
    """A training: its recipe, export, model and output folder; `name` is the first digits of its job's id."""

    name: str
    recipe: TrainingRecipe
    export: Path
    model: Path
    folder: Path

    def run(self, on_samples: Callable[[int], None] = lambda seen: None) -> TrainingResult:
        """Train in this process; a failure is returned as a result."""
        try:
            return train(self.recipe, self.export, self.model, self.folder, on_samples)
        except (CuveeError, OSError) as error:
            return TrainingResult(FAILED, redact(str(error)))

    def to_plain(self) -> dict[str, Any]:
        """Return the task as JSON-compatible data."""
        paths = {key: str(getattr(self, key).absolute()) for key in ("export", "model", "folder")}
        return {"name": self.name, "recipe": {**asdict(self.recipe), "flags": dict(self.recipe.flags)}, **paths}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "TrainingTask":
        """Return what `to_plain` wrote."""
        paths = (Path(plain[key]) for key in ("export", "model", "folder"))
        return cls(plain["name"], TrainingRecipe(**plain["recipe"]), *paths)


def check_devices(device: str, processes: int, where: str) -> None:
    """Raise InputError where this machine lacks the devices that a recipe needs; `where` is the prefix of the key."""
    resolved = resolve_device(device)
    if resolved == "cpu" and processes > 1:
        message = f"found {processes}, expected 1 on the CPU, where open_clip_train does not distribute a training"
        raise InputError(f"{where}.processes: {message}; threads and parallel use more cores")
    if resolved == "cuda" and (devices := cuda_device_count()) < processes:
        message = f"expected {processes} CUDA devices, one for each process, found {devices}"
        raise InputError(f"{where}.device: {message}")


def write_json(path: Path, value: Any) -> None:
    """Write a small file atomically, for a process on another machine to read."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")
    draft.write_text(json.dumps(value, sort_keys=True), "utf-8")
    os.replace(draft, path)
