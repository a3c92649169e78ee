"""The grid of trainings: which there are, what becomes of those that fail, and what the ledger keeps of each."""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import jobs.train.stage
from jobs.cli.main import main
from jobs.train import launch
from jobs.train.stage import execute
from jobs.workflow.plan import Job, export_folder, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.errors import InputError, StageFailed
from pipeline.export.manifest import manifest
from pipeline.models.checkpoint import WEIGHTS_FILE
from pipeline.provenance.verify import files_owned_by_jobs, verify
from pipeline.training import task
from pipeline.training.launcher import TrainingResult
from pipeline.training.recipe import TrainingRecipe
from pipeline.training.task import TrainingTask
from tests.support.scored_store import opened, write_experiment
from tests.support.small_trainings import MODEL

FILTERS = {"short": {"drop_when": {"too_short": "caption_v1.words < 1"}}}


MIXTURES = {"everything": {}, "one": {}, "two": {"total": 500, "shortage": "shrink"}}


NOW = datetime(2026, 1, 1, tzinfo=UTC)


PASSES = ("training.epochs=2", "training.samples_seen=null")


GRID = ("training.mixtures=[one, two]", "training.seeds=[0, 1]")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)


def names(run: Run) -> list[str]:
    return [job.name for job in run.plan.grid()]


def with_exports(run: Run, pairs: int = 1000) -> list[Job]:
    """Write the manifests of what the grid trains on; return its jobs."""
    for job in run.plan.grid():
        tars = [{"tar": "00000000.tar", "pairs": pairs, "bytes": 1, "sha256": "0"}]
        run.store.write(
            f"{export_folder(needs_of_stage(job, 'export')[0])}/manifest.json", manifest("m", "j", {}, tars)
        )
    return run.plan.grid()


Trains = Callable[[TrainingRecipe, Path, Path, Path, Callable[[int], None]], TrainingResult]


def trains(run: Run, fails: dict[str, Exception | TrainingResult]) -> Trains:
    """Return what stands for a training: it leaves weights behind, or fails as it is told for a job of this name."""
    by_folder = {job.short: job.name for job in run.plan.grid()}

    def train(
        recipe: TrainingRecipe, export: Path, model: Path, folder: Path, on_samples: Callable[[int], None]
    ) -> TrainingResult:
        failure = fails.get(by_folder[folder.name])
        if isinstance(failure, Exception):
            raise failure
        if failure is not None:
            return failure
        weights = folder / "model" / WEIGHTS_FILE
        weights.parent.mkdir(parents=True)
        weights.write_bytes(folder.name.encode())
        on_samples(recipe.samples)
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        return TrainingResult("done", "", recipe.samples, 0, 2.0, 1.5, sha256, "d" * 64, ["--train-data", f"{export}"])

    return train


def rows(run: Run) -> dict[tuple[str, int, str], Any]:
    return {(row["mixture"], row["seed"], row["outcome"]): row for row in run.ledger.read("trainings").to_pylist()}


def test_what_fails_is_recorded_with_its_reason_and_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(path, GRID)
    grid = with_exports(run)
    log = f"{run.store.path('trainings')}/x/train.log"
    fails: dict[str, Exception | TrainingResult] = {
        "one/1": TrainingResult("diverged", "the loss is nan", 24, 8, 1.0, float("nan"), "", "e" * 64, ["--lr", "9"]),
        "two/0": StageFailed(f"{log}: SHA-256 is wrong"),
        "two/1": OSError(28, "No space left on device"),
    }
    monkeypatch.setattr(task, "train", trains(run, fails))
    with pytest.raises(StageFailed) as caught:
        execute(run, grid)
    said = str(caught.value)
    assert "3 of 4 trainings failed" in said
    assert "one/1: diverged after 24 samples: the loss is nan; two/0: failed after 0 samples: " in said
    assert "No space left on device" in said
    assert "\n" not in said
    found = rows(run)
    assert set(found) == {("one", 0, "done"), ("one", 1, "diverged"), ("two", 0, "failed"), ("two", 1, "failed")}
    failed = found["one", 1, "diverged"]
    assert (failed["reason"], failed["samples_seen"], failed["resumed_from"]) == ("the loss is nan", 24, 8)
    assert (failed["checkpoint"], failed["checkpoint_sha256"], failed["arguments"]) == ("", "", "--lr 9")
    assert found["two", 0, "failed"]["reason"] == "trainings/x/train.log: SHA-256 is wrong"
    done = found["one", 0, "done"]
    assert (done["reason"], done["export_digest"]) == ("", "d" * 64)
    assert done["arguments"].startswith("--train-data exports/one/")
    assert set(json.loads(done["versions"])) == {"python", "torch", "open_clip_torch"}
    assert [job.name for job in grid if run.ledger.finished(job.id)] == ["one/0"]
    assert [name for name in files_owned_by_jobs(run.ledger) if name.startswith("trainings")] == [
        f"{done['checkpoint']}/{WEIGHTS_FILE}"
    ]

    again = opened(path, GRID)
    monkeypatch.setattr(task, "train", trains(again, {"two/1": fails["two/1"]}))
    with pytest.raises(StageFailed, match="1 of 3 trainings failed"):
        execute(again, [job for job in again.plan.grid() if not again.ledger.finished(job.id)])
    monkeypatch.setattr(task, "train", trains(again, {}))
    execute(again, [job for job in again.plan.grid() if not again.ledger.finished(job.id)])
    assert all(again.ledger.finished(job.id) for job in again.plan.grid())
    every = again.ledger.read("trainings").to_pylist()
    assert (
        sorted(row["outcome"] for row in every)
        == ["diverged", "done", "done", "done", "done", "failed"] + ["failed"] * 2
    )
    assert {row["training"] for row in every} == {job.short for job in grid}
    assert [one for one in verify(again.ledger, False, lambda *_: None) if "trainings" in str(one)] == []


def test_a_grid_of_which_one_fails_ends_with_exit_1_and_the_others_are_evaluated(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(path, GRID)
    run.finish([(job, [], {}) for job in run.plan.until("export")], datetime.now(UTC))
    with_exports(run)
    fails: dict[str, Exception | TrainingResult] = {"two/0": TrainingResult("killed", "killed by SIGKILL", 8)}
    monkeypatch.setattr(task, "train", trains(run, fails))
    monkeypatch.setattr(
        "jobs.evaluate.stage.execute", lambda run, jobs: run.finish([(job, [], {}) for job in jobs], NOW)
    )
    told = path.parent / "road.prom"
    settings = [part for one in (*GRID, f"metrics.file={told}") for part in ("--set", one)]
    for stage, count in (("train", 4), ("report", 1)):
        assert main([stage, str(path), *settings]) == 1
        last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cuvee: ")]
        assert len(last) == 1
        assert f"1 of {count} trainings failed; the same command tries them again: two/0: killed after 8" in last[0]
        assert 'outcome="failed",reason="StageFailed",stage="train"' in told.read_text()
    now = opened(path, GRID)
    assert now.ledger.tables() == ["jobs", "trainings"]
    left = [job.name for job in now.plan.until("report") if not now.ledger.finished(job.id)]
    assert left == ["two/0", "two/0/one", "decide"]
    monkeypatch.setattr(task, "train", trains(run, {}))
    assert main(["evaluate", str(path), *settings]) == 0
    before = opened(path, GRID).ledger.versions()
    assert main(["evaluate", str(path), *settings]) == 0
    assert opened(path, GRID).ledger.versions() == before


@pytest.mark.parametrize(
    ("budget", "epochs", "samples"),
    [
        ("training={samples_seen: 640, batch_size: 64}", 1, 640),
        ("training={samples_seen: 640, batch_size: 64, checkpoints: 4}", 4, 768),
        ("training={epochs: 3, batch_size: 64}", 3, 2880),
        ("training={epochs: 3, batch_size: 64, processes: 4}", 3, 2880),
    ],
)
def test_a_budget_is_the_same_samples_or_the_same_passes(path: Path, budget: str, epochs: int, samples: int) -> None:
    run = opened(path, [budget, f"training.model={MODEL}", "training.mixtures=[one]"])
    [job] = with_exports(run)
    recipe = jobs.train.stage.recipe_of(job, 1000)
    assert (recipe.epochs, recipe.samples) == (epochs, samples)
    assert ("epochs" in job.config) != ("samples_seen" in job.config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.epochs=2"], "training: expected exactly one of samples_seen and epochs, found both"),
        (["training.samples_seen=null"], "expected exactly one of samples_seen and epochs, found neither"),
        (
            ["training.epochs=2", "training.samples_seen=null", "training.checkpoints=2"],
            "training.checkpoints: found 2",
        ),
        (["training.processes=3"], "training.batch_size: found 128, expected a multiple of training.processes, 3"),
        (["training.processes=0"], "training.processes"),
        (["training.device=tpu"], "training.device"),
        (["training.sizes=[5, 9, 5]"], "training.sizes: found 5 more than once"),
        (["training.sizes=[0]"], "training.sizes"),
        (["training.sizes=[400, 501]"], "training.sizes: found 501, expected at most mixtures.two.total, 500"),
        (["training.mixtures=[none]", "training.sizes=[5]"], "unknown mixture 'none'"),
        (["training.mixtures=['one@5']"], "unknown mixture 'one@5'"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_line(path: Path, settings: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(path, [*GRID[:1], *settings])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_grid_is_mixtures_by_sizes_by_seeds_and_a_size_is_a_mixture_of_that_total(path: Path) -> None:
    run = opened(path, [*GRID, "training.sizes=[100, 400]"])
    assert names(run) == [f"{name}@{size}/{seed}" for name in ("one", "two") for size in (100, 400) for seed in (0, 1)]
    blends = {job.name: job for job in run.plan.targets("blend")}
    assert list(blends) == ["everything", "one", "two", "one@100", "one@400", "two@100", "two@400"]
    for size in (100, 400):
        for name in ("one", "two"):
            assert blends[f"{name}@{size}"].config == blends[name].config | {"total": size}
    assert names(opened(path, GRID)) == ["one/0", "one/1", "two/0", "two/1"]


def test_the_size_is_no_part_of_a_recipe(path: Path) -> None:
    whole, sized = opened(path).plan.grid(), opened(path, ["training.sizes=[100]"]).plan.grid()
    assert [job.config for job in whole] == [job.config for job in sized]
    assert whole[0].id != sized[0].id


def test_an_interrupted_grid_stops_what_runs_and_begins_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun, ended = opened(path, [*GRID, "training.parallel=2"]), list[int](), list[int]()

    def train(
        recipe: TrainingRecipe, export: Path, model: Path, folder: Path, on_samples: Callable[[int], None]
    ) -> TrainingResult:
        begun.append(recipe.seed)
        try:
            while recipe.seed:  # as a training does that looks at its process
                time.sleep(0.01)
                on_samples(0)
        finally:
            ended.append(recipe.seed)
        return TrainingResult("done", "", recipe.samples)

    monkeypatch.setattr(task, "train", train)
    recipe = launch.recipe_of(run.plan.grid()[0], 960)
    tasks = [TrainingTask(str(number), replace(recipe, seed=number), path, path, path) for number in range(9)]
    with closing(launch.run_trainings(run, tasks, lambda name, seen: None)) as results:
        assert next(results)[0].name == "0"
    assert set(ended) == set(begun) < set(range(4))  # two at once, and one may have come in for the first


@pytest.mark.parametrize(
    ("settings", "devices", "said"),
    [
        (["training.processes=2"], 0, "training.processes: found 2, expected 1 on the CPU"),
        (["training.processes=2", "training.device=cpu"], 4, "training.processes: found 2, expected 1 on the CPU"),
        (["training.device=cuda"], 0, "training.device: expected 1 CUDA devices, one for each process, found 0"),
        (["training.processes=4"], 2, "training.device: expected 4 CUDA devices, one for each process, found 2"),
        (["training.processes=2"], 2, ""),
        (["training.device=cpu"], 0, ""),
    ],
)
def test_devices_that_are_not_here_are_refused_before_a_training_starts(
    path: Path, settings: list[str], devices: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: devices > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: devices)
    run = opened(path, ["training.mixtures=[one]", *settings])
    jobs_ = with_exports(run)
    monkeypatch.setattr(task, "train", trains(run, {}))
    if not said:
        execute(run, jobs_)
        return
    with pytest.raises(InputError) as caught:
        execute(run, jobs_)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
