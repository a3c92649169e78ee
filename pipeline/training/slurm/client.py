"""Slurm by its own commands: a job array submitted by sbatch, and what has become of its tasks by squeue.

No accounting is asked (sacct needs slurmdbd, and many clusters have none): what a training came to is in the file that
its task writes, and squeue tells of the others whether they wait, run, or were ended.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.slurm import Slurm
from pipeline.errors import InputError, StageFailed

ENTRY = "pipeline.training.slurm.worker"


ALIVE = frozenset(
    [
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
        *("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"),
    ]
)
"""States of a task that may still write its result."""


PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "HF_HOME")
"""Variables that a task gets of the launcher's; not the others, as slurmctld keeps them, and some are secrets."""


_PATIENCE = 120.0


_FORMAT = "%j|%K|%T|%N|%r"


@dataclass(frozen=True)
class State:
    """What squeue says of a task: its state, its node ("" where it has none) and the reason for the state."""

    state: str
    node: str
    reason: str

    @property
    def alive(self) -> bool:
        """Whether it may still write its result."""
        return self.state in ALIVE


def check_slurm() -> None:
    """Raise InputError where Slurm's commands are not on this machine."""
    for command in ("sbatch", "squeue"):
        if shutil.which(command) is None:
            said = f"{command} is not on PATH; expected Slurm's commands on the machine that submits the grid"
            raise InputError(f"training.slurm: {said}")


def sbatch_file(name: str, tasks: int, cpus: int, settings: Slurm, folder: Path) -> str:
    """Return the sbatch file of an array of so many tasks, whose files lie in `folder`."""
    asked = {
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
    lines = [f"#SBATCH --{key}={value}" for key, value in asked.items() if value != ""]
    command = shlex.join([sys.executable, "-m", ENTRY, str(folder)])
    # exec, so that the task's process is the training's launcher and hears Slurm's signals
    return "\n".join(["#!/bin/sh", *lines, "#SBATCH --requeue", f'exec {command} "$SLURM_ARRAY_TASK_ID"', ""])


def submit(script: Path, logs: Path) -> str:
    """Submit an sbatch file, to run in this process's folder; return the job's id. Each task has its log in `logs`.

    Raises StageFailed with sbatch's own words where it refuses.
    """
    if re.search(r"[\\\x00-\x1f\x7f]", str(logs)):
        raise InputError(f"{str(logs)!r}: expected a store without backslashes and control characters in its path")
    output = str(logs).replace("%", "%%") + "/%a.log"
    path = os.pathsep.join(one for one in sys.path if one)
    told = ["--parsable", f"--output={output}", f"--export={','.join(PASSED_ON)}", str(script)]
    done = _asked("sbatch", told, {**os.environ, "PYTHONPATH": path})
    return done.strip().partition(";")[0]  # ";" and the cluster's name may follow


def states(names: list[str]) -> dict[tuple[str, int], State]:
    """Return the tasks of the arrays of these names that Slurm knows, by name and number, ended ones for a while."""
    said = _asked(
        "squeue", ["--noheader", "--array", "--states=all", f"--format={_FORMAT}", f"--name={','.join(names)}"]
    )
    found = {}
    for line in said.splitlines():
        name, number, state, node, reason = line.strip().split("|", 4)
        if number.isdecimal():
            found[name, int(number)] = State(state, node, reason)
    return found


def _asked(command: str, arguments: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            [command, *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=False, env=environment
        )
    except FileNotFoundError:
        raise InputError(f"{command} is not on PATH; expected Slurm's commands on this machine") from None
    except subprocess.TimeoutExpired:
        raise StageFailed(f"{command}: no answer in {_PATIENCE:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise StageFailed(f"{command}: {lines[-1] if lines else f'ended with {done.returncode}'}"[:300])
    return done.stdout
