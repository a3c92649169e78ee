"""Trainings: `open_clip_train` in a subprocess on a checked export, and what it came to.

Before: every tar of the export is scanned and compared with the manifest. After: the samples seen are counted from
the log, the weights are kept as safetensors in `local-dir:` form. A run that was killed is started again from its
beginning and ends the same, as `pipeline.train_entry` takes the clock out of the shuffling.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, StageFailed
from pipeline.hardware import precision_here
from pipeline.model_folder import CONFIG_FILE, WEIGHTS_FILE, save_as_folder
from pipeline.shards import BadTar, read_pairs

_PROGRESS = re.compile(r"Train Epoch: (\d+) \[\s*(\d+)/(\d+)")
_LOSS = re.compile(r"\bLoss: ([\d.]+|nan|inf)")
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
    ]
)


@dataclass(frozen=True)
class Recipe:
    """What a training is asked to do; `flags` are passed to open_clip_train as they are."""

    samples_seen: int
    batch_size: int
    lr: float
    wd: float
    warmup: int
    precision: str
    seed: int
    threads: int
    flags: Mapping[str, str | int | float | bool]

    @property
    def steps(self) -> int:
        """Batches in the run: as many as `samples_seen` needs, the last one full."""
        return -(-self.samples_seen // self.batch_size)


def check_flags(flags: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a flag that open_clip_train does not know or that the recipe sets itself."""
    from open_clip_train.params import parse_args

    for key, value in flags.items():
        name = key.replace("_", "-")
        if name in _OWN_FLAGS:
            raise InputError(f"{where}.{key}: expected to be set by the recipe's own key, found among flags")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):  # argparse prints its whole usage
                parse_args(_flag(name, value))
        except SystemExit:
            cause = said.getvalue().strip().rpartition("error: ")[2]
            raise InputError(f"{where}.{key}: {value!r}: open_clip_train refuses it: {cause}") from None


def _flag(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    return [] if value is False else [f"--{name}", *str(value).split()]


def scan_export(folder: Path, batch_size: int) -> list[Path]:
    """Return an export's tars; raise StageFailed where one differs from the manifest or holds what no pair holds.

    It must hold a whole batch: open_clip_train's loader drops each pass's last, partial batch, and with nothing but
    that it would wait for ever.
    """
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    if manifest["pairs"] < batch_size:
        raise StageFailed(f"{folder}: holds {manifest['pairs']} pairs, expected at least a batch of {batch_size}")
    for name, said in manifest["tars"].items():
        path = folder / name
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != said["sha256"]:
                raise StageFailed(f"{path}: SHA-256 is {found[:12]}…, manifest.json says {said['sha256'][:12]}…")
            with path.open("rb") as stream:
                pairs = sum(1 for _ in read_pairs(stream))
        except (BadTar, OSError) as error:
            raise StageFailed(f"{path}: {error}") from None
        if pairs != said["pairs"]:
            raise StageFailed(f"{path}: holds {pairs} pairs, manifest.json says {said['pairs']}")
    return [folder / name for name in sorted(manifest["tars"])]


def weights(export: Path) -> dict[str, str]:
    """Return the arguments by which tars are drawn by the manifest's factors; none where a pass reads each tar once."""
    said = json.loads((export / "manifest.json").read_text("utf-8"))
    if "upsampling_factors" not in said:
        return {}
    data = "::".join(f"{export}/{pattern}" for pattern in said["train_data"].split("::"))
    return {"train-data": data, "train-data-upsampling-factors": said["upsampling_factors"]}


def arguments(
    recipe: Recipe, tars: list[Path], model: Path, logs: Path, weighted: Mapping[str, str] | None = None
) -> list[str]:
    """Return the arguments of `open_clip_train`; with `weighted` of an export, tars are drawn with replacement."""
    given = {
        "train-data": "::".join(map(str, tars)),
        "train-num-samples": recipe.steps * recipe.batch_size,
        "dataset-type": "webdataset",
        "model": f"local-dir:{model}",
        "batch-size": recipe.batch_size,
        "lr": recipe.lr,
        "wd": recipe.wd,
        "warmup": recipe.warmup,
        "precision": precision_here(recipe.precision),
        "seed": recipe.seed,
        "workers": 1,
        "epochs": 1,
        "device": "cpu",
        "logs": logs,
        "name": "run",
        "log-every-n-steps": max(1, recipe.steps // 50),
    }
    given |= weighted or {}
    if "log-every-n-steps" in {key.replace("_", "-") for key in recipe.flags}:
        del given["log-every-n-steps"]
    flags = [part for key, value in recipe.flags.items() for part in _flag(key.replace("_", "-"), value)]
    flags += ["--dataset-resampled"] if weighted else []
    return [part for key, value in given.items() for part in (f"--{key}", str(value))] + flags


def environment(threads: int) -> dict[str, str]:
    """Return the subprocess's environment: no look at the network, `threads` threads."""
    quiet = {
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to; `loss` is the last one logged, `seconds` wall time."""

    samples_seen: int
    seconds: float
    loss: float
    weights_sha256: str
    arguments: list[str]


def train(
    recipe: Recipe,
    export: Path,
    model: Path,
    folder: Path,
    on_samples: Callable[[int], None] = lambda seen: None,
) -> TrainingResult:
    """Train `model` (a folder with open_clip's configuration) on an export; leave the trained one in `folder`/model.

    `folder` is made anew: what an earlier, killed run left in it is removed. `on_samples` hears how many were seen.
    Raises StageFailed where the run ends badly, with the log's last line, or saw another number of samples.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "train.log"
    argv = arguments(recipe, scan_export(export, recipe.batch_size), model.resolve(), folder, weights(export))
    command = [sys.executable, "-m", "pipeline.train_entry", *argv]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(recipe.threads),
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                on_samples(_seen(log)[0])
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    seconds = time.monotonic() - started
    seen, loss = _seen(log)
    if process.returncode:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        last = lines[-1][:200] if lines else "no output"
        raise StageFailed(f"{log}: open_clip_train ended with {process.returncode}: {last}")
    if seen != recipe.steps * recipe.batch_size:
        raise StageFailed(f"{log}: saw {seen} samples, expected {recipe.steps * recipe.batch_size}")
    if not loss < float("inf"):
        raise StageFailed(f"{log}: diverged: the last loss is {loss}")
    save_as_folder(folder / "run" / "checkpoints" / "epoch_1.pt", model / CONFIG_FILE, folder / "model")
    shutil.rmtree(folder / "run")
    with (folder / "model" / WEIGHTS_FILE).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    on_samples(seen)
    return TrainingResult(seen, seconds, loss, digest, argv)


def _seen(log: Path) -> tuple[int, float]:
    """Return (samples seen, last loss) by the log's last line of progress; (0, nan) where there is none yet."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        tail = stream.read().decode("utf-8", "replace")
    steps, losses = _PROGRESS.findall(tail), _LOSS.findall(tail)
    return (int(steps[-1][1]) if steps else 0), (float(losses[-1]) if losses else float("nan"))
