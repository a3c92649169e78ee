"""Train: each mixture in each size with each seed through `open_clip_train`, one recipe for all.

Several in parallel on this machine, or each as a task of a Slurm job array: the trainings and their results are the
same.
"""

import json
import os
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.train.launch import check_local_store, pair_count, recipe_of, run_trainings
from jobs.train.tune import chosen_values
from jobs.workflow.plan import Job, export_folder, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.core.digests import digest
from pipeline.errors import JobsFailed
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.training.launcher import DONE, TrainingResult
from pipeline.training.task import TrainingTask
from pipeline.training.tuning import with_values


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Train; a failed run does not stop the others, but the stage fails at the end and names it."""
    check_local_store(run)
    by_name = {job.short: job for job in jobs}
    tasks = [_task(run, job) for job in jobs]
    total = sum(task.recipe.samples for task in tasks)
    samples_seen = dict.fromkeys(by_name, 0)
    show_progress = run.task(f"training {len(jobs)} models", "samples")

    def on_samples(name: str, count: int) -> None:
        samples_seen[name] = count
        show_progress(sum(samples_seen.values()), total)

    failed = []
    started = datetime.now(UTC)
    with closing(run_trainings(run, tasks, on_samples)) as results:
        for task, result, is_retried in results:
            job = by_name[task.name]
            _record(run, job, result, started)
            message = f"{job.name}: {result.outcome} after {result.samples_seen} samples: {result.reason}"
            if is_retried:
                run.display.say(f"  {message}; it is submitted again")
            elif result.outcome != DONE:
                failed.append(message)
            else:
                on_samples(task.name, result.samples_seen)
    if failed:
        raise JobsFailed(
            f"{run.store.root}: {len(failed)} of {len(jobs)} trainings failed; the same command tries them again: "
            + "; ".join(sorted(failed))
        )


def _task(run: Run, job: Job) -> TrainingTask:
    export = export_folder(needs_of_stage(job, "export")[0])
    exported, folder = (Path(run.store.path(path)) for path in (export, f"trainings/{job.short}"))
    recipe = with_values(recipe_of(job, pair_count(exported)), chosen_values(run, job))
    return TrainingTask(job.short, recipe, exported, Path(job.local["model"]), folder)


def _record(run: Run, job: Job, result: TrainingResult, started: datetime) -> None:
    """Commit the row of `trainings`, and finish the job where the training is done.

    A failed training is committed under an id of its own, so that the job remains unfinished and can be run again.
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
