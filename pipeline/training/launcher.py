"""Trainings: `open_clip_train` in a subprocess on a checked export, and its result.

Before: every tar of the export is scanned and compared with the manifest. After: the samples seen are counted from the
log, and the weights are stored as safetensors in `local-dir:` form. A run that was killed resumes from its last whole
epoch with the same result, as `pipeline.training.entry_point` seeds each epoch separately. A failed run is an outcome
with its reason, not an error, so that it does not stop the others of a grid.
"""

import hashlib
import json
import math
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from pipeline.core.redaction import redact
from pipeline.export.manifest import export_digest
from pipeline.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, NonFiniteWeights, save_as_folder
from pipeline.training.export_scan import scan_export
from pipeline.training.recipe import TrainingRecipe, open_clip_arguments, sampling_arguments

DONE, DIVERGED, OUT_OF_MEMORY, KILLED, FAILED = "done", "diverged", "out_of_memory", "killed", "failed"
"""The outcomes of a training."""


ENTRY_MODULE = "pipeline.training.entry_point"


_DIGEST_FILE = "export_digest"


_POLL_S = 0.2


_STOP_TIMEOUT_S = 10.0


_PROGRESS = re.compile(r"Train Epoch: (\d+) \[\s*(\d+)/(\d+).*\bLoss: (\S+)")


_RESUMED = re.compile(r"=> resuming checkpoint .* \(epoch (\d+)\)")


_OUT_OF_MEMORY_TEXT = re.compile(
    r"\bMemoryError\b|out of memory|can't allocate memory|not enough memory", re.IGNORECASE
)


_SIGKILL_TEXT = re.compile(r"killed by signal: Killed|Signal 9 \(SIGKILL\)")


# not the last line of torchrun's own traceback, ChildFailedError, which names no cause
_EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]:\s*)?((?:\w+\.)*(?!ChildFailed)\w*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE
)


def training_environment(threads: int) -> dict[str, str]:
    """Return the subprocess's environment: no network access, `threads` threads, other processes over loopback.

    Without Slurm's variables, from which open_clip_train would take the task's rank, 0, for every process.
    """
    settings = {
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {**inherited, **settings, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training: `reason` is one line, "" where it is done; `loss` is the last one logged.

    `seconds` are the wall time of the last attempt, which resumed from `resumed_from` samples that an earlier one had
    seen. `export_digest` is of the tars that were read; `host` and `versions` are those of the machine it ran on.
    """

    outcome: str
    reason: str = ""
    samples_seen: int = 0
    resumed_from: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    weights_sha256: str = ""
    export_digest: str = ""
    arguments: list[str] = field(default_factory=list)
    host: str = field(default_factory=socket.gethostname)
    versions: dict[str, str] = field(default_factory=lambda: library_versions())


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that train."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "open_clip_torch")}


def train(
    recipe: TrainingRecipe,
    export: Path,
    model: Path,
    folder: Path,
    on_samples: Callable[[int], None] = lambda seen: None,
) -> TrainingResult:
    """Train `model` (a folder with open_clip's configuration) on an export; leave the trained one in `folder`/model.

    Where an earlier attempt on the same tars left the state of a whole epoch in `folder`, the training resumes from it;
    else `folder` is created anew. `on_samples` is called with the number of samples seen. Raises StageFailed where the
    export cannot be trained on.
    """
    tars = scan_export(export, recipe.batch_size, recipe.processes)
    manifest_tars = json.loads((export / "manifest.json").read_text("utf-8"))["tars"]
    digest = export_digest([{"tar": name, "sha256": tar["sha256"]} for name, tar in manifest_tars.items()])
    log, state = folder / "train.log", folder / "run" / "checkpoints" / "epoch_latest.pt"
    resume = state if _is_resumable(state, folder / "run" / _DIGEST_FILE, digest) else None
    if resume:
        (folder / "run" / "out.log").unlink(missing_ok=True)  # open_clip_train refuses to start where it exists
    else:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "run").mkdir(parents=True)
        (folder / "run" / _DIGEST_FILE).write_text(digest)
    argv = open_clip_arguments(recipe, tars, model.resolve(), folder, sampling_arguments(export), resume)
    log_start, kills_before, started = log.stat().st_size if resume else 0, _kernel_kills(), time.monotonic()
    exit_code = _run_watched(_command(recipe, argv), log, recipe, on_samples)
    seconds, log_bytes = time.monotonic() - started, log.read_bytes()
    attempt = log_bytes[log_start:].decode("utf-8", "replace")
    seen, loss = _progress(log_bytes.decode("utf-8", "replace")) or (0, math.nan)
    resumed_epochs = _RESUMED.findall(attempt)
    resumed_from = int(resumed_epochs[-1]) * recipe.steps * recipe.batch_size if resumed_epochs else 0
    outcome, reason = _outcome_of(exit_code, attempt, loss, _kernel_kills() > kills_before)
    weights_sha256 = ""
    if outcome == DONE and seen != recipe.samples:
        outcome, reason = FAILED, f"saw {seen} samples, expected {recipe.samples}"
    if outcome == DONE:
        try:
            save_as_folder(state, model / CONFIG_FILE, folder / "model")
        except NonFiniteWeights as error:
            outcome, reason = DIVERGED, str(error)
        else:
            with (folder / "model" / WEIGHTS_FILE).open("rb") as stream:
                weights_sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            on_samples(seen)
    if outcome in (DONE, DIVERGED):  # a diverged run is not resumed
        shutil.rmtree(folder / "run", ignore_errors=True)
    return TrainingResult(outcome, reason, seen, resumed_from, seconds, loss, weights_sha256, digest, argv)


def _is_resumable(state: Path, digest_file: Path, digest: str) -> bool:
    """Return whether a run can resume from a state: it is complete, and no takedown has changed the tars since."""
    if not state.exists() or not digest_file.exists():
        return False
    return digest_file.read_text() == digest and zipfile.is_zipfile(state)  # a zip's end is written last


def _command(recipe: TrainingRecipe, argv: list[str]) -> list[str]:
    if recipe.processes == 1:
        return [sys.executable, "-m", ENTRY_MODULE, *argv]
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(recipe.processes)]
    # after "--", else torchrun would take --logs for its own flag
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "--", ENTRY_MODULE, *argv]


def _run_watched(command: list[str], log: Path, recipe: TrainingRecipe, on_samples: Callable[[int], None]) -> int:
    """Run a training to its end, or until its loss is NaN; return its exit code, negative for a signal."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=training_environment(recipe.threads),
        )
        try:
            while True:
                try:
                    return process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    progress = _progress(_tail(log))
                on_samples(progress[0] if progress else 0)
                if progress and math.isnan(progress[1]) and recipe.precision != "amp":  # amp's scaler skips such a step
                    return 0
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a training and all its processes by closing their standard input; kill it after a timeout."""
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _outcome_of(code: int, log_text: str, loss: float, kernel_killed: bool) -> tuple[str, str]:
    """Return outcome and reason by the exit code, the attempt's log, its last loss, and whether the kernel killed a
    process meanwhile, as it does when memory runs out.
    """
    if code == 0:
        return (DONE, "") if math.isfinite(loss) else (DIVERGED, f"the loss is {loss}")
    lines = [line for line in log_text.splitlines() if line.strip()]
    last = (_EXCEPTION.findall(log_text) or lines or ["no output"])[-1]
    reason = redact(" ".join(f"open_clip_train ended with {code}: {last}".split()))[:240]
    if _OUT_OF_MEMORY_TEXT.search(log_text):
        return OUT_OF_MEMORY, reason
    if code == -signal.SIGKILL or _SIGKILL_TEXT.search(log_text):
        if kernel_killed:
            return OUT_OF_MEMORY, "killed by the kernel, as memory ran out"
        return KILLED, "killed by SIGKILL"
    if code < 0:
        return KILLED, f"killed by {signal.Signals(-code).name}"
    return FAILED, reason


def _kernel_kills() -> int:
    """Return how often this machine's kernel has killed a process for lack of memory, 0 where that is unknown."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text("utf-8").splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))


def logged_samples(folder: Path) -> int:
    """Return the samples that a training in this folder has seen, by its log; 0 where there is none."""
    log = folder / "train.log"
    progress = _progress(_tail(log)) if log.exists() else None
    return progress[0] if progress else 0


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        return stream.read().decode("utf-8", "replace")


def _progress(text: str) -> tuple[int, float] | None:
    """Return (samples seen, last loss) by a log's last progress line; None where there is none yet."""
    matches = _PROGRESS.findall(text)
    if not matches:
        return None
    epoch, samples, samples_per_epoch, loss = matches[-1]
    return int(epoch) * int(samples_per_epoch) + int(samples), float(loss)
