"""Trainings of an experiment begun here or on Slurm, and told of as they end: the grid's, and a search's trials."""

import json
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.errors import InputError
from pipeline.training.launcher import TrainingResult
from pipeline.training.recipe import Recipe, samples_of_passes
from pipeline.training.slurm.job_array import refuse_submitted, run_on_slurm
from pipeline.training.task import TrainingTask, check_devices

Outcomes = Generator[tuple[TrainingTask, TrainingResult, bool], None, None]
"""Each training as it ends, with what it came to, and whether it is being tried again."""


def recipe_of(job: Job, pairs: int) -> Recipe:
    """Return the recipe that a training job's configuration describes, on an export of so many pairs."""
    config = job.config
    passes = config.get("epochs")
    return Recipe(
        samples_seen=samples_of_passes(passes, pairs, config["batch_size"]) if passes else config["samples_seen"],
        batch_size=config["batch_size"],
        lr=config["lr"],
        wd=config["wd"],
        warmup=config["warmup"],
        precision=config["precision"],
        seed=config["seed"],
        threads=config["threads"],
        flags=config["flags"],
        epochs=passes or config["checkpoints"],
        device=config["device"],
        processes=config["processes"],
    )


def pairs_of(export: Path) -> int:
    """Return how many pairs an export holds, copies counted."""
    said: dict[str, int] = json.loads((export / "manifest.json").read_text("utf-8"))
    return said["pairs"]


def check_local(run: Run) -> None:
    """Raise InputError where the store is not on this machine."""
    if not run.store.local:
        raise InputError(f"{run.store.root}: training reads local tars; expected a store on this machine")


def outcomes(run: Run, tasks: Sequence[TrainingTask], on_samples: Callable[[str, int], None]) -> Outcomes:
    """Train, on this machine or on Slurm as the experiment asks; yield each training as it ends."""
    given, root = run.experiment.file.training, Path(run.store.path("slurm"))
    if given.slurm:
        return run_on_slurm(root, tasks, given.slurm, on_samples, run.display.say)
    check_devices(given.device, given.processes, f"{run.experiment.path}: training")
    refuse_submitted(root, [task.name for task in tasks])
    return _here(tasks, given.parallel, on_samples)


class _Stopped(Exception):
    """The launcher ends before its trainings."""


def _here(tasks: Sequence[TrainingTask], parallel: int, on_samples: Callable[[str, int], None]) -> Outcomes:
    """Train on this machine, so many at once; where the caller goes no further, those that run are stopped."""
    stopped = threading.Event()

    def heard(name: str, seen: int) -> None:  # in a training's thread, every time that it looks at its process
        if stopped.is_set():
            raise _Stopped(name)
        on_samples(name, seen)

    with ThreadPoolExecutor(parallel) as pool:
        running = {pool.submit(task.run, partial(heard, task.name)): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result(), False
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)  # else those that wait for their turn would still be begun
            raise
