"""Train: each mixture with each seed through `open_clip_train`, several at once, one recipe for all."""

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.export import export_folder
from jobs.plan import Job, of_stage
from jobs.run import Run
from pipeline.datafiles import write_rows
from pipeline.errors import CuveeError, InputError, StageFailed
from pipeline.schemas import TABLES
from pipeline.training import Recipe, TrainingResult, train

DONE = "done"


def recipe_of(job: Job) -> Recipe:
    """Return the recipe that a training job's configuration describes."""
    config = job.config
    return Recipe(
        samples_seen=config["samples_seen"],
        batch_size=config["batch_size"],
        lr=config["lr"],
        wd=config["wd"],
        warmup=config["warmup"],
        precision=config["precision"],
        seed=config["seed"],
        threads=config["threads"],
        flags=config["flags"],
    )


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Train; a run that fails does not stop the others, and the stage fails at the end and says which."""
    if not run.store.local:
        raise InputError(f"{run.store.root}: training reads local tars; expected a store on this machine")
    recipes = {job.id: recipe_of(job) for job in jobs}
    total = sum(recipe.steps * recipe.batch_size for recipe in recipes.values())
    seen = dict.fromkeys(recipes, 0)
    task = run.task(f"training {len(jobs)} models", "samples")

    def work(job: Job) -> TrainingResult:
        def on_samples(count: int) -> None:
            seen[job.id] = count
            task(sum(seen.values()), total)

        export = Path(run.store.path(export_folder(of_stage(job, "export")[0])))
        folder = Path(run.store.path(f"trainings/{job.short}"))
        return train(recipes[job.id], export, Path(job.local["model"]), folder, on_samples)

    failed = []
    started = datetime.now(UTC)
    with ThreadPoolExecutor(run.experiment.file.training.parallel) as pool:
        running = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(running):
            job = running[future]
            try:
                _record(run, job, future.result(), started)
            except CuveeError as error:
                failed.append(f"{job.name}: {error}")
    if failed:
        raise StageFailed(f"{len(failed)} of {len(jobs)} trainings failed: {'; '.join(failed)}")


def _record(run: Run, job: Job, result: TrainingResult, started: datetime) -> None:
    root = str(run.store.path(""))
    row: dict[str, Any] = {
        "training": job.short,
        "mixture": job.local["mixture"],
        "seed": job.config["seed"],
        "model": Path(job.local["model"]).name,
        "outcome": DONE,
        "samples_seen": result.samples_seen,
        "seconds": result.seconds,
        "checkpoint": f"trainings/{job.short}/model",
        "checkpoint_sha256": result.weights_sha256,
        "arguments": " ".join(part.replace(root, "").replace(os.getcwd() + "/", "") for part in result.arguments),
        "host": socket.gethostname(),
        "loss": result.loss,
    }
    file = write_rows(run.store, job.id, "trainings", pa.Table.from_pylist([row], TABLES["trainings"]))
    run.finish([(job, [file], {"checkpoint_sha256": result.weights_sha256})], started)
