"""Train: each mixture in each size with each seed through `open_clip_train`, one recipe for all.

Several at once on this machine, or each as a task of a Slurm job array: what is run and what is kept is the same.
"""

import json
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.export import export_folder
from jobs.plan import Job, of_stage
from jobs.run import Run
from pipeline.datafiles import write_rows
from pipeline.errors import InputError, StageFailed
from pipeline.identity import digest
from pipeline.recipes import Recipe, samples_of_passes
from pipeline.schemas import TABLES
from pipeline.slurm_grid import refuse_submitted, run_on_slurm
from pipeline.training import DONE, TrainingResult
from pipeline.training_task import TrainingTask, check_devices


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


Outcomes = Generator[tuple[TrainingTask, TrainingResult, bool], None, None]
"""Each training as it ends, with what it came to, and whether it is being tried again."""


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Train; a run that comes to nothing does not stop the others, and the stage fails at the end and says which."""
    if not run.store.local:
        raise InputError(f"{run.store.root}: training reads local tars; expected a store on this machine")
    by_name = {job.short: job for job in jobs}
    tasks = [_task(run, job) for job in jobs]
    total = sum(task.recipe.samples for task in tasks)
    seen = dict.fromkeys(by_name, 0)
    shown = run.task(f"training {len(jobs)} models", "samples")

    def on_samples(name: str, count: int) -> None:
        seen[name] = count
        shown(sum(seen.values()), total)

    failed = []
    started = datetime.now(UTC)
    with closing(_outcomes(run, tasks, on_samples)) as outcomes:
        for task, result, again in outcomes:
            job = by_name[task.name]
            _record(run, job, result, started)
            said = f"{job.name}: {result.outcome} after {result.samples_seen} samples: {result.reason}"
            if again:
                run.display.say(f"  {said}; it is submitted again")
            elif result.outcome != DONE:
                failed.append(said)
            else:
                on_samples(task.name, result.samples_seen)
    if failed:
        raise StageFailed(
            f"{run.store.root}: {len(failed)} of {len(jobs)} trainings failed; the same command tries them again: "
            + "; ".join(sorted(failed))
        )


def _task(run: Run, job: Job) -> TrainingTask:
    export = export_folder(of_stage(job, "export")[0])
    exported, folder = (Path(run.store.path(path)) for path in (export, f"trainings/{job.short}"))
    return TrainingTask(job.short, recipe_of(job, _pairs(run, export)), exported, Path(job.local["model"]), folder)


def _outcomes(run: Run, tasks: Sequence[TrainingTask], on_samples: Callable[[str, int], None]) -> Outcomes:
    given, root = run.experiment.file.training, Path(run.store.path("slurm"))
    if given.slurm:
        return run_on_slurm(root, tasks, given.slurm, on_samples, run.display.say)
    check_devices(given.device, given.processes, f"{run.experiment.path}: training")
    refuse_submitted(root, [task.name for task in tasks])
    return _here(tasks, given.parallel, on_samples)


def _here(tasks: Sequence[TrainingTask], parallel: int, on_samples: Callable[[str, int], None]) -> Outcomes:
    """Train on this machine, so many at once."""
    with ThreadPoolExecutor(parallel) as pool:
        running = {pool.submit(task.run, partial(on_samples, task.name)): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result(), False
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else those that wait for their turn would still be begun
            raise


def _pairs(run: Run, export: str) -> int:
    said: dict[str, int] = json.loads(run.store.read(f"{export}/manifest.json"))
    return said["pairs"]


def _record(run: Run, job: Job, result: TrainingResult, started: datetime) -> None:
    """Commit the row of `trainings`, and finish the job where it is done.

    What came to nothing is committed under an id of its own, so that the job is still to be done, and can be.
    """
    done = result.outcome == DONE
    root = str(run.store.path(""))
    row: dict[str, Any] = {
        "training": job.short,
        "mixture": job.local["mixture"],
        "seed": job.config["seed"],
        "model": Path(job.local["model"]).name,
        "outcome": result.outcome,
        "reason": result.reason.replace(root, ""),
        "samples_seen": result.samples_seen,
        "resumed_from": result.resumed_from,
        "seconds": result.seconds,
        "checkpoint": f"trainings/{job.short}/model" if done else "",
        "checkpoint_sha256": result.weights_sha256,
        "export_digest": result.export_digest,
        "arguments": " ".join(part.replace(root, "").replace(os.getcwd() + "/", "") for part in result.arguments),
        "versions": json.dumps(result.versions, sort_keys=True),
        "host": result.host,
        "loss": result.loss,
    }
    owner = job.id if done else digest([job.id, datetime.now(UTC).isoformat()])
    file = write_rows(run.store, owner, "trainings", pa.Table.from_pylist([row], TABLES["trainings"]))
    if done:
        run.finish([(job, [file], {"checkpoint_sha256": result.weights_sha256})], started)
    else:
        run.ledger.commit(owner, "trainings", TABLES["trainings"], [file])
