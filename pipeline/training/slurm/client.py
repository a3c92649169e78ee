"""Slurm through its commands: sbatch submits a job array, squeue gives the states of its tasks.

Accounting is not used (sacct needs slurmdbd, which many clusters do not have): a training's result is in the file that
its task writes, and squeue says of the others whether they are pending, running or ended.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.slurm import SlurmConfig
from pipeline.errors import InputError, StageFailed

WORKER_MODULE = "pipeline.training.slurm.worker"


ALIVE_STATES = frozenset(
    [
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
        *("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
    ]
)
"""States of a task that may still write its result."""


PASSED_VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "HF_HOME",
)
"""The launcher's variables that a task gets; not the others, as slurmctld stores them, and some are secrets."""


_COMMAND_TIMEOUT_S = 120.0


_SQUEUE_FORMAT = "%j|%K|%T|%N|%r"


@dataclass(frozen=True)
class TaskState:
    """A task in squeue's output: its state, its node ("" where it has none) and the reason for the state."""

    state: str
    node: str
    reason: str

    @property
    def alive(self) -> bool:
        """Whether the task may still write its result."""
        return self.state in ALIVE_STATES


def check_slurm() -> None:
    """Raise InputError where Slurm's commands are not on this machine."""
    for command in ("sbatch", "squeue"):
        if shutil.which(command) is None:
            message = f"{command} is not on PATH; expected Slurm's commands on the machine that submits the grid"
            raise InputError(f"training.slurm: {message}")


def sbatch_script(name: str, tasks: int, cpus: int, settings: SlurmConfig, folder: Path) -> str:
    """Return the sbatch file of an array of `tasks` tasks, whose files are in `folder`."""
    options = {
        "job-name": name,
        "array": f"0-{tasks - 1}%{settings.array_limit}",
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": cpus,
        "gpus-per-task": settings.gpus or "",
        "mem": settings.memory,
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value != ""]
    command = shlex.join([sys.executable, "-m", WORKER_MODULE, str(folder)])
    # exec, so that the task's process is the training's launcher and receives Slurm's signals
    return "\n".join(["#!/bin/sh", *lines, "#SBATCH --requeue", f'exec {command} "$SLURM_ARRAY_TASK_ID"', ""])


def submit(script: Path, logs: Path) -> str:
    """Submit an sbatch file, to run in this process's folder; return the job's id. Each task logs to a file in `logs`.

    Raises StageFailed with sbatch's message where it refuses, InputError where the path of `logs` cannot be passed.
    """
    if re.search(r"[\\\x00-\x1f\x7f]", str(logs)):
        raise InputError(f"{str(logs)!r}: expected a store without backslashes and control characters in its path")
    output = str(logs).replace("%", "%%") + "/%a.log"
    python_path = os.pathsep.join(entry for entry in sys.path if entry)
    options = ["--parsable", f"--output={output}", f"--export={','.join(PASSED_VARIABLES)}", str(script)]
    stdout = _run_command("sbatch", options, {**os.environ, "PYTHONPATH": python_path})
    return stdout.strip().partition(";")[0]  # ";" and the cluster's name may follow


def task_states(names: list[str]) -> dict[tuple[str, int], TaskState]:
    """Return the states of the tasks of the arrays with these names, by name and number.

    Slurm lists ended tasks only for some time.
    """
    stdout = _run_command(
        "squeue", ["--noheader", "--array", "--states=all", f"--format={_SQUEUE_FORMAT}", f"--name={','.join(names)}"]
    )
    by_task = {}
    for line in stdout.splitlines():
        name, number, state, node, reason = line.strip().split("|", 4)
        if number.isdecimal():
            by_task[name, int(number)] = TaskState(state, node, reason)
    return by_task


def _run_command(command: str, arguments: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        completed = subprocess.run(
            [command, *arguments],
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        raise InputError(f"{command} is not on PATH; expected Slurm's commands on this machine") from None
    except subprocess.TimeoutExpired:
        raise StageFailed(f"{command}: no answer in {_COMMAND_TIMEOUT_S:.0f} s") from None
    if completed.returncode:
        lines = [line.strip() for line in completed.stderr.splitlines() if line.strip()]
        raise StageFailed(f"{command}: {lines[-1] if lines else f'ended with {completed.returncode}'}"[:300])
    return completed.stdout
