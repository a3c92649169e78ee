"""Trainings: `open_clip_train` in a subprocess on a checked export, and what it came to.

Before: every tar of the export is scanned and compared with the manifest. After: the samples seen are counted from the
log, the weights are kept as safetensors in `local-dir:` form. A run that was killed goes on from its last whole epoch
and ends the same, as `pipeline.training.entry_point` seeds each epoch by itself. A run that comes to nothing is an
outcome with its reason, not an error: the others of a grid are none of its business.
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

from pipeline.core.redaction import redacted
from pipeline.export.manifest import export_digest
from pipeline.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, NotFinite, save_as_folder
from pipeline.training.export_scan import scan_export
from pipeline.training.recipe import Recipe, arguments, weights

DONE, DIVERGED, OUT_OF_MEMORY, KILLED, FAILED = "done", "diverged", "out_of_memory", "killed", "failed"
"""What a training comes to."""


ENTRY = "pipeline.training.entry_point"


_READ = "export_digest"


_POLL = 0.2


_PATIENCE = 10.0


_PROGRESS = re.compile(r"Train Epoch: (\d+) \[\s*(\d+)/(\d+).*\bLoss: (\S+)")


_RESUMED = re.compile(r"=> resuming checkpoint .* \(epoch (\d+)\)")


_NO_MEMORY = re.compile(r"\bMemoryError\b|out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


_SIGKILL = re.compile(r"killed by signal: Killed|Signal 9 \(SIGKILL\)")


# of torchrun's own traceback, which names no cause, the last line is not one
_EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]:\s*)?((?:\w+\.)*(?!ChildFailed)\w*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE
)


def environment(threads: int) -> dict[str, str]:
    """Return the subprocess's environment: no look at the network, `threads` threads, other processes by loopback.

    Nothing of Slurm's, of which open_clip_train would take each process's rank: that of the task, 0 for all.
    """
    quiet = {
        "WANDB_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {**own, **quiet, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to: `reason` is one line, "" where it is done; `loss` is the last one logged.

    `seconds` are the wall time of the attempt that ended it, which went on from `resumed_from` samples that an earlier
    one had seen. `export_digest` is of the tars that were read, `host` and `versions` are of where it ran.
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
    versions: dict[str, str] = field(default_factory=lambda: versions_here())


def versions_here() -> dict[str, str]:
    """Return the versions of what trains."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "open_clip_torch")}


def train(
    recipe: Recipe,
    export: Path,
    model: Path,
    folder: Path,
    on_samples: Callable[[int], None] = lambda seen: None,
) -> TrainingResult:
    """Train `model` (a folder with open_clip's configuration) on an export; leave the trained one in `folder`/model.

    Where an earlier attempt left the state of a whole epoch in `folder`, and read the same tars, it goes on from there;
    else `folder` is made anew. `on_samples` hears how many were seen. Raises StageFailed where the export cannot be
    trained on.
    """
    tars = scan_export(export, recipe.batch_size, recipe.processes)
    listed = json.loads((export / "manifest.json").read_text("utf-8"))["tars"]
    digest = export_digest([{"tar": name, "sha256": one["sha256"]} for name, one in listed.items()])
    log, state = folder / "train.log", folder / "run" / "checkpoints" / "epoch_latest.pt"
    resume = state if _whole(state, folder / "run" / _READ, digest) else None
    if resume:
        (folder / "run" / "out.log").unlink(missing_ok=True)  # where it is, open_clip_train refuses to start
    else:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "run").mkdir(parents=True)
        (folder / "run" / _READ).write_text(digest)
    argv = arguments(recipe, tars, model.resolve(), folder, weights(export), resume)
    begin, kills, started = log.stat().st_size if resume else 0, _kernel_kills(), time.monotonic()
    code = _watched(_command(recipe, argv), log, recipe, on_samples)
    seconds, said = time.monotonic() - started, log.read_bytes()
    attempt = said[begin:].decode("utf-8", "replace")
    seen, loss = _progress(said.decode("utf-8", "replace")) or (0, math.nan)
    resumed = _RESUMED.findall(attempt)
    before = int(resumed[-1]) * recipe.steps * recipe.batch_size if resumed else 0
    outcome, reason = _ended(code, attempt, loss, _kernel_kills() > kills)
    weights_sha256 = ""
    if outcome == DONE and seen != recipe.samples:
        outcome, reason = FAILED, f"saw {seen} samples, expected {recipe.samples}"
    if outcome == DONE:
        try:
            save_as_folder(state, model / CONFIG_FILE, folder / "model")
        except NotFinite as error:
            outcome, reason = DIVERGED, str(error)
        else:
            with (folder / "model" / WEIGHTS_FILE).open("rb") as stream:
                weights_sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            on_samples(seen)
    if outcome in (DONE, DIVERGED):  # another attempt at what diverged would only go on from there
        shutil.rmtree(folder / "run", ignore_errors=True)
    return TrainingResult(outcome, reason, seen, before, seconds, loss, weights_sha256, digest, argv)


def _whole(state: Path, read: Path, digest: str) -> bool:
    """Tell whether a run can go on from a state: it is all there, and no takedown has changed the tars since."""
    if not state.exists() or not read.exists():
        return False
    return read.read_text() == digest and zipfile.is_zipfile(state)  # a zip's end is written last


def _command(recipe: Recipe, argv: list[str]) -> list[str]:
    if recipe.processes == 1:
        return [sys.executable, "-m", ENTRY, *argv]
    spread = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(recipe.processes)]
    # after "--", as it would take --logs for a flag of its own
    return [sys.executable, "-m", "torch.distributed.run", *spread, "-m", "--", ENTRY, *argv]


def _watched(command: list[str], log: Path, recipe: Recipe, on_samples: Callable[[int], None]) -> int:
    """Run a training to its end, or until its loss is no number; return its exit code, negative for a signal."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(recipe.threads),
        )
        try:
            while True:
                try:
                    return process.wait(_POLL)
                except subprocess.TimeoutExpired:
                    found = _progress(_tail(log))
                on_samples(found[0] if found else 0)
                if found and math.isnan(found[1]) and recipe.precision != "amp":  # its scaler skips such a step
                    return 0
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a training and all its processes, by the end of their standard input; kill what does not hear it."""
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ended(code: int, said: str, loss: float, kernel_killed: bool) -> tuple[str, str]:
    """Return outcome and reason by the exit code, what the attempt logged, its last loss, and whether the kernel killed
    a process meanwhile, as it does where memory runs out.
    """
    if code == 0:
        return (DONE, "") if math.isfinite(loss) else (DIVERGED, f"the loss is {loss}")
    lines = [line for line in said.splitlines() if line.strip()]
    last = (_EXCEPTION.findall(said) or lines or ["no output"])[-1]
    reason = redacted(" ".join(f"open_clip_train ended with {code}: {last}".split()))[:240]
    if _NO_MEMORY.search(said):
        return OUT_OF_MEMORY, reason
    if code == -signal.SIGKILL or _SIGKILL.search(said):
        if kernel_killed:
            return OUT_OF_MEMORY, "killed by the kernel, as memory ran out"
        return KILLED, "killed by SIGKILL"
    if code < 0:
        return KILLED, f"killed by {signal.Signals(-code).name}"
    return FAILED, reason


def _kernel_kills() -> int:
    """Return how often this machine's kernel has killed a process for memory, 0 where it does not say."""
    try:
        said = dict(line.split() for line in Path("/proc/vmstat").read_text("utf-8").splitlines())
    except OSError:
        return 0
    return int(said.get("oom_kill", 0))


def seen_so_far(folder: Path) -> int:
    """Return the samples that a training in this folder has seen, by its log; 0 where it has none."""
    log = folder / "train.log"
    found = _progress(_tail(log)) if log.exists() else None
    return found[0] if found else 0


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        return stream.read().decode("utf-8", "replace")


def _progress(text: str) -> tuple[int, float] | None:
    """Return (samples seen, last loss) by a log's last line of progress; None where there is none yet."""
    found = _PROGRESS.findall(text)
    if not found:
        return None
    epoch, samples, each, loss = found[-1]
    return int(epoch) * int(each) + int(samples), float(loss)
