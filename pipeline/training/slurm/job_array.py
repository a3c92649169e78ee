"""A grid of trainings as Slurm job arrays that outlive their launcher: submitted once, recovered, polled to the end.

In the store, `slurm/<array>/` has an array's sbatch file, its tasks and their results (a file each), its logs, and
`submitted` with the job's id. A training's file is removed when its result is recorded, the folder with the last one.
A launcher that was killed finds the files and continues; if it was killed before sbatch answered, squeue says by the
array's name whether it was submitted.
"""

import json
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.slurm import SlurmConfig
from pipeline.core.redaction import redact
from pipeline.errors import StageFailed
from pipeline.training.launcher import FAILED, KILLED, OUT_OF_MEMORY, TrainingResult, logged_samples
from pipeline.training.slurm.client import TaskState, check_slurm, sbatch_script, submit
from pipeline.training.slurm.client import task_states as states
from pipeline.training.task import TrainingTask, write_json

RESULT_DELAY_S = 30.0
"""Seconds after the end of a task in which its result may become visible on a shared file system."""


SQUEUE_TIMEOUT_S = 600.0
"""Seconds for which squeue may fail, while the controller restarts for example."""


MAX_ARRAY_TASKS = 1000
"""Tasks of an array at most: Slurm's default limit is 1001."""


@dataclass
class SubmittedTraining:
    """A submitted training: the array's folder, its number in the array, and its attempt, counted from 1."""

    folder: Path
    number: int
    task: TrainingTask
    attempt: int
    _ended_at: float = field(default=0.0, init=False)

    @property
    def key(self) -> tuple[str, int]:
        """The array's name and the task's number, as in squeue's output."""
        return f"cuvee-{self.folder.name}", self.number

    @property
    def job(self) -> str:
        """The id of the Slurm job, "" where sbatch had not answered when the launcher was killed."""
        path = self.folder / "submitted"
        return path.read_text("utf-8") if path.exists() else ""

    @property
    def _result(self) -> Path:
        return self.folder / "results" / f"{self.number}.json"

    @property
    def answered(self) -> bool:
        """Whether the task has written its result."""
        return self._result.exists()

    def result(self, state: TaskState | None) -> TrainingResult | None:
        """Return the result, by its file, or by Slurm's `state` where Slurm ended it; None while it may still come."""
        if self.answered:
            return TrainingResult(**json.loads(self._result.read_text("utf-8")))
        if state is not None and state.alive:
            return None
        if state is None or state.state in ("COMPLETED", "FAILED"):
            self._ended_at = self._ended_at or time.monotonic()
            if time.monotonic() - self._ended_at < RESULT_DELAY_S:
                return None
        outcome, reason = _outcome_by_slurm(state)
        if outcome == FAILED:
            reason += f": {self._last_log_line()}"
        seen, host = logged_samples(self.task.folder), state.node if state else ""
        return TrainingResult(outcome, f"job {self.job or self.key[0]}_{self.number}: {reason}", seen, host=host)

    def _last_log_line(self) -> str:
        log = self.folder / "logs" / f"{self.number}.log"
        lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
        nonempty = [line.strip() for line in lines if line.strip()]
        return redact(nonempty[-1])[:200] if nonempty else "no output"

    def forget(self) -> None:
        """Remove the training's files, and the folder with the last of them; a task that still starts does nothing."""
        (self.folder / "tasks" / f"{self.number}.json").unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)
        if not any((self.folder / "tasks").glob("*.json")):
            shutil.rmtree(self.folder, ignore_errors=True)


def _outcome_by_slurm(state: TaskState | None) -> tuple[str, str]:
    """Return outcome and reason of a task that Slurm ended before it could write its result."""
    if state is None:
        return KILLED, "no longer known to Slurm, and it left no result"
    reason = f"Slurm: {state.state}" + (f", {state.reason}" if state.reason not in ("", "None") else "")
    if state.state == "OUT_OF_MEMORY":
        return OUT_OF_MEMORY, reason
    failed = state.state in ("COMPLETED", "FAILED") and not state.reason.startswith("RaisedSignal")
    return (FAILED if failed else KILLED), reason


def submitted_trainings(root: Path) -> list[SubmittedTraining]:
    """Return the submitted trainings of a store whose results are not recorded; `root` is its folder `slurm`."""
    trainings = []
    for path in sorted(root.glob("*/tasks/*.json")):
        fields = json.loads(path.read_text("utf-8"))
        task = TrainingTask.from_plain(fields["task"])
        trainings.append(SubmittedTraining(path.parent.parent, int(path.stem), task, fields["attempt"]))
    return trainings


def check_none_submitted(root: Path, names: Sequence[str] | None = None) -> None:
    """Raise StageFailed where trainings (with `names`, one of these) may be running as Slurm tasks."""
    running = [training for training in submitted_trainings(root) if names is None or training.task.name in names]
    if running:
        jobs = " ".join(sorted({training.job or training.key[0] for training in running}))
        raise StageFailed(
            f"{root}: {len(running)} trainings were submitted to Slurm as {jobs} and are not recorded; end them with "
            f"`cuvee train` on their experiment, or with `scancel {jobs}` and by removing that folder"
        )


def run_on_slurm(
    root: Path,
    tasks: Sequence[TrainingTask],
    settings: SlurmConfig,
    on_samples: Callable[[str, int], None],
    say: Callable[[str], None],
) -> Generator[tuple[TrainingTask, TrainingResult, bool], None, None]:
    """Yield each training with its result, and whether it is retried: one that Slurm ended gets
    `settings.attempts` attempts in all.

    A training's files are removed when the next is requested, so a caller that is killed before it has recorded a
    result gets it again.
    """
    check_slurm()
    waiting = _recover_submitted(root, tasks, say)
    new = [task for task in tasks if task.name not in waiting]
    for start in range(0, len(new), MAX_ARRAY_TASKS):
        waiting |= _submit(root, [(task, 1) for task in new[start : start + MAX_ARRAY_TASKS]], settings, say)
    last_answer = time.monotonic()
    while waiting:
        try:
            task_states = states(sorted({training.key[0] for training in waiting.values()}))
            last_answer = time.monotonic()
        except StageFailed as error:
            if time.monotonic() - last_answer > SQUEUE_TIMEOUT_S:
                raise StageFailed(f"{error}; the trainings go on, and the same command finds them again") from None
            task_states = None
        for name, training in list(waiting.items()):
            is_known = task_states is not None or training.answered
            result = training.result((task_states or {}).get(training.key)) if is_known else None
            if result is None:
                on_samples(name, logged_samples(training.task.folder))
                continue
            by_slurm = result.outcome == KILLED and not training.answered
            retry = by_slurm and training.attempt < settings.attempts
            yield training.task, result, retry
            training.forget()
            del waiting[name]
            if retry:
                waiting |= _submit(root, [(training.task, training.attempt + 1)], settings, say)
        if waiting:
            time.sleep(settings.poll)


def _recover_submitted(
    root: Path, tasks: Sequence[TrainingTask], say: Callable[[str], None]
) -> dict[str, SubmittedTraining]:
    """Return the trainings that a killed launcher had submitted, by name."""
    names = {task.name for task in tasks}
    trainings = {training.task.name: training for training in submitted_trainings(root) if training.task.name in names}
    unconfirmed = [training for training in trainings.values() if not training.job and not training.answered]
    task_states: Mapping[tuple[str, int], TaskState] = (
        states(sorted({training.key[0] for training in unconfirmed})) if unconfirmed else {}
    )
    for training in unconfirmed:
        if training.key not in task_states:  # never submitted: sbatch had not been called, or had refused
            training.forget()
            del trainings[training.task.name]
    if trainings:
        jobs = ", ".join(sorted({training.job or training.key[0] for training in trainings.values()}))
        say(f"  {len(trainings)} trainings are Slurm's already: job array {jobs}")
    return trainings


def _submit(
    root: Path, attempts: Sequence[tuple[TrainingTask, int]], settings: SlurmConfig, say: Callable[[str], None]
) -> dict[str, SubmittedTraining]:
    """Submit trainings as one array; return them by name."""
    folder = root / uuid.uuid4().hex[:12]
    for subfolder in ("tasks", "results", "logs"):
        (folder / subfolder).mkdir(parents=True)
    trainings = {}
    for number, (task, attempt) in enumerate(attempts):
        trainings[task.name] = SubmittedTraining(folder, number, task, attempt)
        write_json(folder / "tasks" / f"{number}.json", {"task": task.to_plain(), "attempt": attempt})
    cpus = settings.cpus or max(task.recipe.threads * task.recipe.processes for task, _ in attempts)
    script = folder / "array.sbatch"
    script.write_text(sbatch_script(f"cuvee-{folder.name}", len(trainings), cpus, settings, folder.absolute()), "utf-8")
    try:
        job = submit(script, folder.absolute() / "logs")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / "submitted").write_text(job, "utf-8")
    say(f"  submitted {len(trainings)} trainings as Slurm's job array {job}")
    return trainings
