"""Tune: for each mixture, a search for the recipe's hyperparameters on held-out pairs, the same budget for all.

The trials run in rounds, each with the next trial of every mixture, on this machine or on Slurm as the grid does. The
remaining pairs and the trials' losses are in the staging area, which a takedown clears.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from jobs.train.launch import check_local_store, pair_count, recipe_of, run_trainings
from jobs.workflow.plan import Job, export_folder, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.config.tuning import HyperparameterValues, recipe_values
from pipeline.errors import StageFailed
from pipeline.models.clip import ClipModel
from pipeline.shards.tar_format import StoredPair
from pipeline.training.launcher import DIVERGED, DONE
from pipeline.training.recipe import TrainingRecipe
from pipeline.training.task import TrainingTask
from pipeline.training.tuning import HyperparameterSearch, held_out_loss, split_held_out, with_values


@dataclass
class _MixtureSearch:
    """A mixture's search: what its trials train on and are evaluated on, and the values of the current trial."""

    job: Job
    folder: Path
    recipe: TrainingRecipe
    held_out_pairs: Sequence[StoredPair]
    search: HyperparameterSearch
    values: HyperparameterValues = field(default_factory=dict)

    def task(self, number: int) -> TrainingTask:
        name = f"{self.job.short}-{number}"
        recipe = with_values(self.recipe, self.values)
        return TrainingTask(name, recipe, self.folder / "fit", Path(self.job.local["model"]), self.folder / "trial")


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Search for every mixture; finished trials are not repeated after a stop."""
    check_local_store(run)
    started = datetime.now(UTC)
    searches = [_start_search(run, job) for job in jobs]
    trials = jobs[0].config["tuning"]["trials"]
    show_progress = run.task(f"tuning for {len(jobs)} mixtures", "trials")
    for number in range(trials):
        show_progress(number * len(jobs), trials * len(jobs))
        _run_round(run, searches, number)
    show_progress(trials * len(jobs), trials * len(jobs))
    for mixture in searches:
        if (best := mixture.search.best) is None:
            expected = "expected a range with lower ones (training.tuning.lr)"
            raise StageFailed(
                f"tune {mixture.job.name}: all {trials} trials diverged at their learning rates, {expected}"
            )
        facts = {"chosen": best.plain(), "trials": [trial.plain() for trial in mixture.search.trials]}
        run.finish([(mixture.job, [], facts)], started, staging=[mixture.job.id])


def chosen_values(run: Run, job: Job) -> HyperparameterValues:
    """Return the values that the search chose for a training, none where there was no search."""
    for tune_job in needs_of_stage(job, "tune"):
        row = run.ledger.finished(tune_job.id)
        if row is None:
            raise StageFailed(f"train {job.name}: expected the search for {tune_job.name} to be finished")
        values: HyperparameterValues = row.facts["chosen"]["values"]
        return values
    return {}


def _start_search(run: Run, job: Job) -> _MixtureSearch:
    tuning = run.experiment.file.training.tuning
    assert tuning is not None
    folder = Path(run.store.path(f"staging/{job.id}"))
    export = Path(run.store.path(export_folder(needs_of_stage(job, "export")[0])))
    held_out = split_held_out(export, folder / "fit", tuning.held_out, job.config["seed"])
    recipe = recipe_of(job, pair_count(folder / "fit"))
    recipe_numbers = recipe_values(recipe.lr, recipe.wd, recipe.warmup, recipe.flags)
    search = HyperparameterSearch(tuning.ranges(), tuning.start(recipe_numbers), job.config["seed"])
    return _MixtureSearch(job, folder, recipe, held_out, search)


def _run_round(run: Run, searches: Sequence[_MixtureSearch], number: int) -> None:
    """Run the next trial of each search, except those that were finished before a stop."""
    for mixture in searches:
        mixture.values = mixture.search.ask()
    pending = {mixture.task(number).name: mixture for mixture in searches if not _trial_path(mixture, number).exists()}
    failed = []
    tasks = [mixture.task(number) for mixture in pending.values()]
    with closing(run_trainings(run, tasks, lambda name, seen: None)) as results:
        for task, result, is_retried in results:
            mixture = pending[task.name]
            if result.outcome in (DONE, DIVERGED):
                loss = _judged(mixture) if result.outcome == DONE else None
                body = json.dumps({"values": mixture.values, "loss": loss}).encode()
                run.store.write(f"staging/{mixture.job.id}/{_trial_path(mixture, number).name}", body)
                shutil.rmtree(mixture.folder / "trial")
            elif not is_retried:
                failed.append(f"{mixture.job.name}, trial {number}: {result.outcome}: {result.reason}")
    if failed:
        raise StageFailed(f"{run.store.root}: tune: the same command goes on: {'; '.join(sorted(failed))}")
    for mixture in searches:
        record = json.loads(_trial_path(mixture, number).read_text("utf-8"))
        if record["values"] != mixture.values:
            found = f"found {record['values']}, expected {mixture.values}"
            raise StageFailed(f"{_trial_path(mixture, number)}: {found}; remove the folder it is in, and run again")
        mixture.search.tell(record["loss"])


def _trial_path(mixture: _MixtureSearch, number: int) -> Path:
    return mixture.folder / f"trial-{number}.json"


def _judged(mixture: _MixtureSearch) -> float:
    # not `load`, which would keep every trial's model in memory
    model = ClipModel(f"local-dir:{mixture.folder / 'trial' / 'model'}", None)
    return held_out_loss(model, model.temperature, mixture.held_out_pairs, mixture.recipe.batch_size)
