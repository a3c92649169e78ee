"""Runs an experiment's trainings (the grid and a search's trials) on this machine or on Slurm."""

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
from pipeline.training.recipe import TrainingRecipe, samples_in_passes
from pipeline.training.slurm.job_array import check_none_submitted, run_on_slurm
from pipeline.training.task import TrainingTask, check_devices

TrainingResults = Generator[tuple[TrainingTask, TrainingResult, bool], None, None]
"""Each training as it ends, with its result, and whether it is being retried."""


def recipe_of(job: Job, pairs: int) -> TrainingRecipe:
    """Return the recipe that a training job's configuration describes, on an export of `pairs` pairs."""
    config = job.config
    passes = config.get("epochs")
    return TrainingRecipe(
        samples_seen=samples_in_passes(passes, pairs, config["batch_size"]) if passes else config["samples_seen"],
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


def pair_count(export: Path) -> int:
    """Return how many pairs an export holds, counting copies."""
    manifest: dict[str, int] = json.loads((export / "manifest.json").read_text("utf-8"))
    return manifest["pairs"]


def check_local_store(run: Run) -> None:
    """Raise InputError where the store is not on this machine."""
    if not run.store.local:
        raise InputError(f"{run.store.root}: training reads local tars; expected a store on this machine")


def run_trainings(run: Run, tasks: Sequence[TrainingTask], on_samples: Callable[[str, int], None]) -> TrainingResults:
    """Train on this machine or on Slurm, as the experiment says; yield each training as it ends."""
    settings, root = run.experiment.file.training, Path(run.store.path("slurm"))
    if settings.slurm:
        return run_on_slurm(root, tasks, settings.slurm, on_samples, run.display.say)
    check_devices(settings.device, settings.processes, f"{run.experiment.path}: training")
    check_none_submitted(root, [task.name for task in tasks])
    return _run_local(tasks, settings.parallel, on_samples)


class _Stopped(Exception):
    """The launcher stops before its trainings have ended."""


def _run_local(tasks: Sequence[TrainingTask], parallel: int, on_samples: Callable[[str, int], None]) -> TrainingResults:
    """Train on this machine, `parallel` at a time; where the caller stops iterating, running trainings are stopped."""
    stopped = threading.Event()

    def report_samples(name: str, seen: int) -> None:  # in a training's thread, every time that it polls its process
        if stopped.is_set():
            raise _Stopped(name)
        on_samples(name, seen)

    with ThreadPoolExecutor(parallel) as pool:
        tasks_by_future = {pool.submit(task.run, partial(report_samples, task.name)): task for task in tasks}
        try:
            for future in as_completed(tasks_by_future):
                yield tasks_by_future[future], future.result(), False
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)  # else the pending ones would still be started
            raise
