"""A training of a grid as whoever runs it gets it, a thread of the launcher or a task of Slurm's: the same one work."""

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.hardware import cuda_devices, device_here
from pipeline.core.redaction import redacted
from pipeline.errors import CuveeError, InputError
from pipeline.training.launcher import FAILED, TrainingResult, train
from pipeline.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingTask:
    """What is trained on what, and where it is left; `name` is the training's, the first digits of its job's id."""

    name: str
    recipe: Recipe
    export: Path
    model: Path
    folder: Path

    def run(self, on_samples: Callable[[int], None] = lambda seen: None) -> TrainingResult:
        """Train, here and now; what comes to nothing is a result too."""
        try:
            return train(self.recipe, self.export, self.model, self.folder, on_samples)
        except (CuveeError, OSError) as error:
            return TrainingResult(FAILED, redacted(str(error)))

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        paths = {key: str(getattr(self, key).absolute()) for key in ("export", "model", "folder")}
        return {"name": self.name, "recipe": {**asdict(self.recipe), "flags": dict(self.recipe.flags)}, **paths}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "TrainingTask":
        """Return what `to_plain` wrote."""
        paths = (Path(plain[key]) for key in ("export", "model", "folder"))
        return cls(plain["name"], Recipe(**plain["recipe"]), *paths)


def check_devices(device: str, processes: int, where: str) -> None:
    """Raise InputError where this machine has not the devices that a recipe asks for; `where` stands before the key."""
    found = device_here(device)
    if found == "cpu" and processes > 1:
        said = f"found {processes}, expected 1 on the CPU, over which open_clip_train spreads no training"
        raise InputError(f"{where}.processes: {said}; threads and parallel use more cores")
    if found == "cuda" and (devices := cuda_devices()) < processes:
        said = f"expected {processes} CUDA devices, one for each process, found {devices}"
        raise InputError(f"{where}.device: {said}")


def write_json(path: Path, value: Any) -> None:
    """Write a small file that appears whole or not at all, for a process of another machine to read."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")
    draft.write_text(json.dumps(value, sort_keys=True), "utf-8")
    os.replace(draft, path)
