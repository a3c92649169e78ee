"""The recipe of a training, and the arguments of `open_clip_train` for it."""

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.hardware import resolve_device, resolve_precision
from pipeline.errors import InputError

_OWN_FLAGS = frozenset(
    [
        "train-data",
        "train-data-upsampling-factors",
        "train-num-samples",
        "dataset-type",
        "model",
        "batch-size",
        "lr",
        "wd",
        "warmup",
        "precision",
        "seed",
        "workers",
        "epochs",
        "device",
        "logs",
        "name",
        "resume",
        "pretrained",
        "report-to",
        "save-frequency",
        "save-most-recent",
        "dist-url",
        "dist-backend",
        "horovod",
        "no-set-device-rank",
    ]
)


@dataclass(frozen=True)
class TrainingRecipe:
    """The recipe of a training; `flags` are passed to open_clip_train unchanged.

    `samples_seen` are divided into `epochs` of equal length, open_clip's own; a run can resume after each of them.
    `batch_size` is the total over all `processes`, `threads` are per process. `device` and `precision` may be `auto`.
    """

    samples_seen: int
    batch_size: int
    lr: float
    wd: float
    warmup: int
    precision: str
    seed: int
    threads: int
    flags: Mapping[str, str | int | float | bool]
    epochs: int = 1
    device: str = "cpu"
    processes: int = 1

    @property
    def steps(self) -> int:
        """Batches in an epoch: the fewest that see `samples_seen` in full batches and epochs of equal length."""
        return -(-self.samples_seen // (self.batch_size * self.epochs))

    @property
    def samples(self) -> int:
        """Samples that the whole run sees, `samples_seen` or a little more."""
        return self.epochs * self.steps * self.batch_size


def samples_in_passes(passes: int, pairs: int, batch_size: int) -> int:
    """Return the samples in `passes` passes over an export; each pass has its whole batches only, as in the loader."""
    return passes * (pairs // batch_size) * batch_size


def check_flags(flags: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a flag that open_clip_train does not know or that the recipe sets itself."""
    from open_clip_train.params import parse_args

    for key, value in flags.items():
        name = key.replace("_", "-")
        if name in _OWN_FLAGS:
            raise InputError(f"{where}.{key}: expected to be set by the recipe's own key, found among flags")
        usage = io.StringIO()
        try:
            with contextlib.redirect_stderr(usage):  # argparse prints its usage
                parse_args(_flag(name, value))
        except SystemExit:
            cause = usage.getvalue().strip().rpartition("error: ")[2]
            raise InputError(f"{where}.{key}: {value!r}: open_clip_train refuses it: {cause}") from None


def _flag(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    return [] if value is False else [f"--{name}", *str(value).split()]


def sampling_arguments(export: Path) -> dict[str, str]:
    """Return the arguments that sample tars by the manifest's factors; none where a pass reads each tar once."""
    manifest = json.loads((export / "manifest.json").read_text("utf-8"))
    if "upsampling_factors" not in manifest:
        return {}
    data = "::".join(f"{export}/{pattern}" for pattern in manifest["train_data"].split("::"))
    return {"train-data": data, "train-data-upsampling-factors": manifest["upsampling_factors"]}


def open_clip_arguments(
    recipe: TrainingRecipe,
    tars: list[Path],
    model: Path,
    logs: Path,
    weighted: Mapping[str, str] | None = None,
    resume: Path | None = None,
) -> list[str]:
    """Return the arguments of `open_clip_train`; with `weighted` (see `weights`), tars are sampled with replacement.

    It saves its state after each epoch in one file, replaced when the new one is complete; `resume` is that file.
    """
    device = resolve_device(recipe.device)
    options = {
        "train-data": "::".join(map(str, tars)),
        "train-num-samples": recipe.steps * recipe.batch_size,
        "dataset-type": "webdataset",
        "model": f"local-dir:{model}",
        "batch-size": recipe.batch_size // recipe.processes,
        "lr": recipe.lr,
        "wd": recipe.wd,
        "warmup": recipe.warmup,
        "precision": resolve_precision(recipe.precision, device),
        "seed": recipe.seed,
        "workers": 1,
        "epochs": recipe.epochs,
        "save-frequency": 0,
        "device": device,
        "logs": logs,
        "name": "run",
        "log-every-n-steps": max(1, recipe.epochs * recipe.steps // 50),
    }
    options |= weighted or {}
    if resume:
        options["resume"] = resume
    if "log-every-n-steps" in {key.replace("_", "-") for key in recipe.flags}:
        del options["log-every-n-steps"]
    flags = [part for key, value in recipe.flags.items() for part in _flag(key.replace("_", "-"), value)]
    flags += ["--dataset-resampled"] if weighted else []
    return [part for key, value in options.items() for part in (f"--{key}", str(value))] + [
        "--save-most-recent",
        *flags,
    ]
