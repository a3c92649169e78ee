"""Tune: of each mixture, a search for the recipe's numbers on pairs that are held out, the same budget for all.

The trials of all mixtures go in rounds, each mixture's next one in each, so they run here or on Slurm as the grid does.
What lies in the staging area, where a takedown clears it away: the pairs that are left and the trials' losses.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from jobs.train.launch import check_local, outcomes, pairs_of, recipe_of
from jobs.workflow.plan import Job, export_folder, of_stage
from jobs.workflow.runner import Run
from pipeline.config.tuning import Values, recipe_values
from pipeline.errors import StageFailed
from pipeline.models.clip import ClipModel
from pipeline.shards.tar_format import StoredPair
from pipeline.training.launcher import DIVERGED, DONE
from pipeline.training.recipe import Recipe
from pipeline.training.task import TrainingTask
from pipeline.training.tuning import Search, held_out_loss, split, with_values


@dataclass
class _Searched:
    """A mixture's search: what its trials train on and are judged by, and the values that are tried now."""

    job: Job
    folder: Path
    recipe: Recipe
    held: Sequence[StoredPair]
    search: Search
    values: Values = field(default_factory=dict)

    def task(self, number: int) -> TrainingTask:
        name = f"{self.job.short}-{number}"
        recipe = with_values(self.recipe, self.values)
        return TrainingTask(name, recipe, self.folder / "fit", Path(self.job.local["model"]), self.folder / "trial")


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Search for every mixture; what is done is not done again after a stop."""
    check_local(run)
    started = datetime.now(UTC)
    searched = [_begun(run, job) for job in jobs]
    trials = jobs[0].config["tuning"]["trials"]
    shown = run.task(f"tuning for {len(jobs)} mixtures", "trials")
    for number in range(trials):
        shown(number * len(jobs), trials * len(jobs))
        _round(run, searched, number)
    shown(trials * len(jobs), trials * len(jobs))
    for one in searched:
        if (best := one.search.best) is None:
            expected = "expected a range with lower ones (training.tuning.lr)"
            raise StageFailed(f"tune {one.job.name}: all {trials} trials diverged at their learning rates, {expected}")
        facts = {"chosen": best.plain(), "trials": [trial.plain() for trial in one.search.trials]}
        run.finish([(one.job, [], facts)], started, staging=[one.job.id])


def chosen_values(run: Run, job: Job) -> Values:
    """Return what the search chose for a training, nothing where there was none."""
    for tuned in of_stage(job, "tune"):
        row = run.ledger.finished(tuned.id)
        if row is None:
            raise StageFailed(f"train {job.name}: expected the search for {tuned.name} to be finished")
        values: Values = row.facts["chosen"]["values"]
        return values
    return {}


def _begun(run: Run, job: Job) -> _Searched:
    given = run.experiment.file.training.tuning
    assert given is not None
    folder = Path(run.store.path(f"staging/{job.id}"))
    export = Path(run.store.path(export_folder(of_stage(job, "export")[0])))
    held = split(export, folder / "fit", given.held_out, job.config["seed"])
    recipe = recipe_of(job, pairs_of(folder / "fit"))
    written = recipe_values(recipe.lr, recipe.wd, recipe.warmup, recipe.flags)
    search = Search(given.ranges(), given.start(written), job.config["seed"])
    return _Searched(job, folder, recipe, held, search)


def _round(run: Run, searched: Sequence[_Searched], number: int) -> None:
    """Do the next trial of each search, but for those that were done before a stop."""
    for one in searched:
        one.values = one.search.ask()
    waiting = {one.task(number).name: one for one in searched if not _record(one, number).exists()}
    failed = []
    tasks = [one.task(number) for one in waiting.values()]
    with closing(outcomes(run, tasks, lambda name, seen: None)) as ended:
        for task, result, again in ended:
            one = waiting[task.name]
            if result.outcome in (DONE, DIVERGED):
                loss = _judged(one) if result.outcome == DONE else None
                body = json.dumps({"values": one.values, "loss": loss}).encode()
                run.store.write(f"staging/{one.job.id}/{_record(one, number).name}", body)
                shutil.rmtree(one.folder / "trial")
            elif not again:
                failed.append(f"{one.job.name}, trial {number}: {result.outcome}: {result.reason}")
    if failed:
        raise StageFailed(f"{run.store.root}: tune: the same command goes on: {'; '.join(sorted(failed))}")
    for one in searched:
        told = json.loads(_record(one, number).read_text("utf-8"))
        if told["values"] != one.values:
            found = f"found {told['values']}, expected {one.values}"
            raise StageFailed(f"{_record(one, number)}: {found}; remove the folder it is in, and run again")
        one.search.tell(told["loss"])


def _record(one: _Searched, number: int) -> Path:
    return one.folder / f"trial-{number}.json"


def _judged(one: _Searched) -> float:
    model = ClipModel(f"local-dir:{one.folder / 'trial' / 'model'}", None)  # `load` would keep every trial's in memory
    return held_out_loss(model, model.temperature, one.held, one.recipe.batch_size)
