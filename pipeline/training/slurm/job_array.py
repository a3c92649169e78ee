"""A grid of trainings as Slurm job arrays that outlive their launcher: submitted once, found again, polled to the end.

In the store, `slurm/<array>/` has an array's sbatch file, its tasks and their results, a file each, its logs, and
`submitted` with the job's id. A training's file goes when its result is recorded, and the folder with the last one.
A launcher that was killed finds the files and goes on; where it was killed before sbatch answered, squeue tells by the
array's name whether it was submitted.
"""

import json
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.slurm import Slurm
from pipeline.core.redaction import redacted
from pipeline.errors import StageFailed
from pipeline.training.launcher import FAILED, KILLED, OUT_OF_MEMORY, TrainingResult, seen_so_far
from pipeline.training.slurm.client import State, check_slurm, sbatch_file, states, submit
from pipeline.training.task import TrainingTask, write_json

LATE = 30.0
"""Seconds in which a result may come to be seen behind the end of its task, by way of a shared file system."""


SILENCE = 600.0
"""Seconds in which squeue may fail: the controller restarts, say."""


MOST = 1000
"""Tasks of an array: Slurm's own default limit is 1001."""


@dataclass
class Submitted:
    """A training that was submitted: the array's folder, its number in it, and which attempt it is, from 1."""

    folder: Path
    number: int
    task: TrainingTask
    attempt: int
    _ended: float = field(default=0.0, init=False)

    @property
    def key(self) -> tuple[str, int]:
        """The array's name and the task's number, as squeue says them."""
        return f"cuvee-{self.folder.name}", self.number

    @property
    def job(self) -> str:
        """The id of Slurm's job, "" where sbatch had not answered when the launcher was killed."""
        path = self.folder / "submitted"
        return path.read_text("utf-8") if path.exists() else ""

    @property
    def _result(self) -> Path:
        return self.folder / "results" / f"{self.number}.json"

    @property
    def answered(self) -> bool:
        """Whether its task has written what it came to."""
        return self._result.exists()

    def result(self, state: State | None) -> TrainingResult | None:
        """Return what it came to, by its file, or by Slurm's `state` where that ended it; None while it may go on."""
        if self.answered:
            return TrainingResult(**json.loads(self._result.read_text("utf-8")))
        if state is not None and state.alive:
            return None
        if state is None or state.state in ("COMPLETED", "FAILED"):
            self._ended = self._ended or time.monotonic()
            if time.monotonic() - self._ended < LATE:
                return None
        outcome, reason = _end(state)
        if outcome == FAILED:
            reason += f": {self._last_words()}"
        seen, host = seen_so_far(self.task.folder), state.node if state else ""
        return TrainingResult(outcome, f"job {self.job or self.key[0]}_{self.number}: {reason}", seen, host=host)

    def _last_words(self) -> str:
        log = self.folder / "logs" / f"{self.number}.log"
        lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
        said = [line.strip() for line in lines if line.strip()]
        return redacted(said[-1])[:200] if said else "no output"

    def forget(self) -> None:
        """Remove its files, and the folder with the last of them; its task, if it should begin yet, does nothing."""
        (self.folder / "tasks" / f"{self.number}.json").unlink(missing_ok=True)
        self._result.unlink(missing_ok=True)
        if not any((self.folder / "tasks").glob("*.json")):
            shutil.rmtree(self.folder, ignore_errors=True)


def _end(state: State | None) -> tuple[str, str]:
    """Return outcome and reason of a task that Slurm ended before it could write what it came to."""
    if state is None:
        return KILLED, "Slurm knows it no more, and it left no result"
    said = f"Slurm: {state.state}" + (f", {state.reason}" if state.reason not in ("", "None") else "")
    if state.state == "OUT_OF_MEMORY":
        return OUT_OF_MEMORY, said
    failed = state.state in ("COMPLETED", "FAILED") and not state.reason.startswith("RaisedSignal")
    return (FAILED if failed else KILLED), said


def submitted(root: Path) -> list[Submitted]:
    """Return the trainings of a store that were submitted and whose results are not recorded; `root` is its `slurm`."""
    found = []
    for path in sorted(root.glob("*/tasks/*.json")):
        plain = json.loads(path.read_text("utf-8"))
        task = TrainingTask.from_plain(plain["task"])
        found.append(Submitted(path.parent.parent, int(path.stem), task, plain["attempt"]))
    return found


def refuse_submitted(root: Path, names: Sequence[str] | None = None) -> None:
    """Raise StageFailed where trainings, or those of these names, may be running as Slurm's tasks."""
    found = [one for one in submitted(root) if names is None or one.task.name in names]
    if found:
        jobs = " ".join(sorted({one.job or one.key[0] for one in found}))
        raise StageFailed(
            f"{root}: {len(found)} trainings were submitted to Slurm as {jobs} and are not recorded; end them with "
            f"`cuvee train` on their experiment, or with `scancel {jobs}` and by removing that folder"
        )


def run_on_slurm(
    root: Path,
    tasks: Sequence[TrainingTask],
    settings: Slurm,
    on_samples: Callable[[str, int], None],
    say: Callable[[str], None],
) -> Generator[tuple[TrainingTask, TrainingResult, bool], None, None]:
    """Yield each training with what it came to, and whether it is tried again: one that Slurm ended is, a few times.

    Its files are removed when the next is asked for, so whoever is killed before it has recorded one gets it again.
    """
    check_slurm()
    waiting = _found_again(root, tasks, say)
    new = [task for task in tasks if task.name not in waiting]
    for start in range(0, len(new), MOST):
        waiting |= _submit(root, [(task, 1) for task in new[start : start + MOST]], settings, say)
    answered = time.monotonic()
    while waiting:
        try:
            known = states(sorted({one.key[0] for one in waiting.values()}))
            answered = time.monotonic()
        except StageFailed as error:
            if time.monotonic() - answered > SILENCE:
                raise StageFailed(f"{error}; the trainings go on, and the same command finds them again") from None
            known = None
        for name, one in list(waiting.items()):
            asked = known is not None or one.answered
            result = one.result((known or {}).get(one.key)) if asked else None
            if result is None:
                on_samples(name, seen_so_far(one.task.folder))
                continue
            by_slurm = result.outcome == KILLED and not one.answered
            again = by_slurm and one.attempt < settings.attempts
            yield one.task, result, again
            one.forget()
            del waiting[name]
            if again:
                waiting |= _submit(root, [(one.task, one.attempt + 1)], settings, say)
        if waiting:
            time.sleep(settings.poll)


def _found_again(root: Path, tasks: Sequence[TrainingTask], say: Callable[[str], None]) -> dict[str, Submitted]:
    """Return the trainings that a launcher which was killed had submitted, by name."""
    wanted = {task.name for task in tasks}
    found = {one.task.name: one for one in submitted(root) if one.task.name in wanted}
    doubtful = [one for one in found.values() if not one.job and not one.answered]
    known: Mapping[tuple[str, int], State] = states(sorted({one.key[0] for one in doubtful})) if doubtful else {}
    for one in doubtful:
        if one.key not in known:  # never submitted: sbatch had not been asked, or had refused
            one.forget()
            del found[one.task.name]
    if found:
        jobs = ", ".join(sorted({one.job or one.key[0] for one in found.values()}))
        say(f"  {len(found)} trainings are Slurm's already: job array {jobs}")
    return found


def _submit(
    root: Path, attempts: Sequence[tuple[TrainingTask, int]], settings: Slurm, say: Callable[[str], None]
) -> dict[str, Submitted]:
    """Submit trainings as one array; return them by name."""
    folder = root / uuid.uuid4().hex[:12]
    for part in ("tasks", "results", "logs"):
        (folder / part).mkdir(parents=True)
    made = {}
    for number, (task, attempt) in enumerate(attempts):
        made[task.name] = Submitted(folder, number, task, attempt)
        write_json(folder / "tasks" / f"{number}.json", {"task": task.to_plain(), "attempt": attempt})
    cpus = settings.cpus or max(task.recipe.threads * task.recipe.processes for task, _ in attempts)
    script = folder / "array.sbatch"
    script.write_text(sbatch_file(f"cuvee-{folder.name}", len(made), cpus, settings, folder.absolute()), "utf-8")
    try:
        job = submit(script, folder.absolute() / "logs")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / "submitted").write_text(job, "utf-8")
    say(f"  submitted {len(made)} trainings as Slurm's job array {job}")
    return made
