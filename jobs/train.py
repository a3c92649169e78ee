"""Train: each mixture in each size with each seed through `open_clip_train`, several at once, one recipe for all."""

import json
import os
import platform
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.export import export_folder
from jobs.plan import Job, of_stage
from jobs.run import Run
from pipeline.datafiles import write_rows
from pipeline.errors import CuveeError, InputError, StageFailed
from pipeline.hardware import cuda_devices, device_here
from pipeline.identity import digest, redacted
from pipeline.recipes import Recipe, samples_of_passes
from pipeline.schemas import TABLES
from pipeline.training import DONE, FAILED, TrainingResult, train


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


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Train; a run that comes to nothing does not stop the others, and the stage fails at the end and says which."""
    if not run.store.local:
        raise InputError(f"{run.store.root}: training reads local tars; expected a store on this machine")
    _check_devices(run)
    exports = {job.id: export_folder(of_stage(job, "export")[0]) for job in jobs}
    recipes = {job.id: recipe_of(job, _pairs(run, exports[job.id])) for job in jobs}
    total = sum(recipe.samples for recipe in recipes.values())
    seen = dict.fromkeys(recipes, 0)
    task = run.task(f"training {len(jobs)} models", "samples")

    def work(job: Job) -> TrainingResult:
        def on_samples(count: int) -> None:
            seen[job.id] = count
            task(sum(seen.values()), total)

        export, folder = (Path(run.store.path(path)) for path in (exports[job.id], f"trainings/{job.short}"))
        try:
            return train(recipes[job.id], export, Path(job.local["model"]), folder, on_samples)
        except (CuveeError, OSError) as error:
            return TrainingResult(FAILED, redacted(str(error)))

    failed = []
    started = datetime.now(UTC)
    with ThreadPoolExecutor(run.experiment.file.training.parallel) as pool:
        running = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(running):
                job, result = running[future], future.result()
                _record(run, job, result, started)
                if result.outcome != DONE:
                    failed.append(f"{job.name}: {result.outcome} after {result.samples_seen} samples: {result.reason}")
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else those that wait for their turn would still be begun
            raise
    if failed:
        raise StageFailed(
            f"{run.store.root}: {len(failed)} of {len(jobs)} trainings failed; the same command tries them again: "
            + "; ".join(sorted(failed))
        )


def _check_devices(run: Run) -> None:
    """Raise InputError where this machine has not the devices that the recipe asks for."""
    given, path = run.experiment.file.training, run.experiment.path
    device = device_here(given.device)
    if device == "cpu" and given.processes > 1:
        said = f"found {given.processes}, expected 1 on the CPU, over which open_clip_train spreads no training"
        raise InputError(f"{path}: training.processes: {said}; threads and parallel use more cores")
    if device == "cuda" and (found := cuda_devices()) < given.processes:
        said = f"expected {given.processes} CUDA devices, one for each process, found {found}"
        raise InputError(f"{path}: training.device: {said}")


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
        "versions": json.dumps(_versions(), sort_keys=True),
        "host": socket.gethostname(),
        "loss": result.loss,
    }
    owner = job.id if done else digest([job.id, datetime.now(UTC).isoformat()])
    file = write_rows(run.store, owner, "trainings", pa.Table.from_pylist([row], TABLES["trainings"]))
    if done:
        run.finish([(job, [file], {"checkpoint_sha256": result.weights_sha256})], started)
    else:
        run.ledger.commit(owner, "trainings", TABLES["trainings"], [file])


def _versions() -> dict[str, str]:
    """Return the versions of what trains."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "open_clip_torch")}
