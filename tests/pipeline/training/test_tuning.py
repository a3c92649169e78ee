"""Tuning: what is held out, the loss that judges, a search that goes on where it stopped, and a real one."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.report.stage import tuning_results
from jobs.train.stage import execute as train_all
from jobs.train.tune import execute
from jobs.workflow.plan import export_folder, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.config.tuning import SearchRange
from pipeline.core.sampling import is_held_out
from pipeline.errors import InputError, StageFailed
from pipeline.shards.tar_format import StoredPair, read_pairs
from pipeline.training import task
from pipeline.training.export_scan import scan_export
from pipeline.training.launcher import TrainingResult
from pipeline.training.recipe import TrainingRecipe
from pipeline.training.tuning import HyperparameterSearch, held_out_loss, split_held_out, with_values
from tests.support.scored_store import opened, write_experiment
from tests.support.small_trainings import RECIPE, refused, write_export

FILTERS = {"short": {"drop_when": {"too_short": "caption_v1.words < 1"}}}


MIXTURES = {"everything": {}, "one": {}}


TUNING = "training.tuning={trials: 3, held_out: 0.2, lr: [1.0e-4, 1.0e-2], wd: [0.01, 1.0]}"


SET = (TUNING, "training.mixtures=[everything, one]", "training.batch_size=8", "training.lr=1.0e-3", "training.wd=0.1")


def uids(folder: Path) -> list[str]:
    found = []
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as stream:
            found += [pair.uid for pair in read_pairs(stream)]
    return found


def test_a_split_leaves_every_pair_on_one_side_and_is_the_same_again(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", (20, 20, 10))
    held = split_held_out(export, tmp_path / "one", 0.2, 3)
    left, out = uids(tmp_path / "one"), [pair.uid for pair in held]
    assert sorted(left + out) == sorted(uids(export))
    assert 2 <= len(out) <= 20
    assert [len(tar) for tar in (scan_export(tmp_path / "one", 8),)] == [3]
    split_held_out(export, tmp_path / "two", 0.2, 3)
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()
    }
    assert {pair.uid for pair in split_held_out(export, tmp_path / "three", 0.2, 4)} != set(out)


def test_a_split_that_leaves_nothing_or_holds_out_nothing_is_refused(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", (1, 1, 1))
    share = next(one / 1000 for one in range(1000) if any(is_held_out(uid, one / 1000, 3) for uid in uids(export)))
    assert "every pair would be held out" in refused(lambda: split_held_out(export, tmp_path / "out", share, 3))
    assert "0 pairs are held out, expected at least 2" in refused(
        lambda: split_held_out(export, tmp_path / "out", 1e-9, 3)
    )


@given(st.lists(st.uuids().map(lambda one: one.hex), min_size=1, unique=True), st.integers(0, 9))
def test_a_larger_share_holds_out_what_a_smaller_one_does(some: list[str], seed: int) -> None:
    small, large = ({uid for uid in some if is_held_out(uid, share, seed)} for share in (0.1, 0.4))
    assert small <= large


class Given:
    """An embedder whose vectors are given; the images' files are not looked at but for being images."""

    def __init__(self, images: np.ndarray, texts: np.ndarray) -> None:
        self.images, self.texts = images, texts

    def embed_images(self, images: object, batch_size: int) -> np.ndarray:
        return self.images

    def embed_texts(self, texts: object, batch_size: int) -> np.ndarray:
        return self.texts


def test_the_loss_is_open_clips_own_mean_over_whole_batches(tmp_path: Path) -> None:
    from open_clip.loss import ClipLoss

    export = write_export(tmp_path, (11,))
    with (export / "00000000.tar").open("rb") as stream:
        pairs: list[StoredPair] = list(read_pairs(stream))
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(2, 11, 16)).astype(np.float32)
    images, texts = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    found = held_out_loss(Given(images, texts), 20.0, pairs, 4)
    loss, scale = ClipLoss(), torch.tensor(20.0)
    parts = [loss(torch.tensor(images[at : at + 4]), torch.tensor(texts[at : at + 4]), scale).item() for at in (0, 4)]
    assert found == pytest.approx(np.mean(parts), rel=1e-5)
    whole = loss(torch.tensor(images), torch.tensor(texts), scale).item()
    assert held_out_loss(Given(images, texts), 20.0, pairs, 64) == pytest.approx(whole, rel=1e-5)


RANGES = {"lr": SearchRange(1e-5, 1e-1, log=True), "warmup": SearchRange(0, 50, whole=True)}


START = {"lr": 1e-3, "warmup": 10}


def run_search(count: int, loss: Callable[[float], float | None], seed: int = 1) -> HyperparameterSearch:
    search = HyperparameterSearch(RANGES, START, seed)
    for _ in range(count):
        search.tell(loss(float(search.ask()["lr"])))
    return search


def test_the_first_trial_is_the_recipe_and_all_lie_within_the_ranges() -> None:
    found = run_search(12, lambda lr: abs(math.log10(lr) + 2)).trials
    assert found[0].values == START
    assert all(1e-5 <= one.values["lr"] <= 1e-1 and one.values["warmup"] in range(51) for one in found)


def test_a_search_is_the_same_again_and_finds_better_than_the_start() -> None:
    def loss(lr: float) -> float | None:
        return None if lr > 0.05 else abs(math.log10(lr) + 2)

    one, other = run_search(20, loss), run_search(20, loss)
    assert one.trials == other.trials
    assert one.trials[:8] == run_search(8, loss).trials
    assert one.best is not None
    assert one.best.loss is not None
    assert one.best.loss < 0.5, "half of the start's"


def test_a_search_of_which_all_diverge_has_no_best_and_no_number_is_no_loss() -> None:
    assert run_search(3, lambda lr: None).best is None
    assert run_search(3, lambda lr: math.nan).best is None


def test_values_go_into_the_recipe_and_its_flags() -> None:
    found = with_values(RECIPE, {"lr": 0.5, "warmup": 7, "flags.beta2": 0.95})
    assert (found.lr, found.warmup, found.wd, found.flags["beta2"]) == (0.5, 7, RECIPE.wd, 0.95)


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        ("{trials: 3}", "expected a range of lr, wd, warmup or flags, found none"),
        ("{lr: [0.1, 0.01]}", "lr: expected two numbers, the lower first"),
        ("{wd: [0, 1]}", "wd: expected numbers above 0"),
        ("{lr: [0.01, 0.1]}", "lr: expected a range that holds the recipe's own 0.001"),
        ("{flags: {no-such-flag: [0, 1]}}", "no-such-flag"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path, tuning: str, said: str) -> None:
    path = write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)
    with pytest.raises(InputError) as caught:
        opened(path, [f"training.tuning={tuning}"])
    assert said in str(caught.value)
    assert "tuning" in str(caught.value)


def with_exports(path: Path, settings: tuple[str, ...]) -> Run:
    """Return a run whose mixtures are exported, each as 40 drawn pairs."""
    run = opened(path, settings)
    run.finish([(job, [], {}) for job in run.plan.until("export")], datetime.now(UTC))
    for job in run.plan.targets("tune"):
        write_export(Path(run.store.path(export_folder(needs_of_stage(job, "export")[0]))), (20, 20))
    return run


def test_a_search_goes_on_where_it_was_stopped_and_the_grid_takes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_exports(write_experiment(tmp_path, FILTERS, mixtures=MIXTURES), SET)
    jobs = run.plan.targets("tune")
    assert [job.name for job in jobs] == ["everything", "one"]
    tried: list[tuple[str, float]] = []
    losses = iter([3.0, 2.0, 1.0, 2.5, 0.5, 3.5])

    def train(recipe: TrainingRecipe, export: Path, model: Path, folder: Path, on_samples: object) -> TrainingResult:
        folder.mkdir(parents=True, exist_ok=True)
        tried.append((folder.parent.name, recipe.lr))
        if len(tried) == 4:
            return TrainingResult("killed", "killed by SIGKILL")
        return TrainingResult("diverged", "the loss is nan") if len(tried) == 3 else TrainingResult("done")

    monkeypatch.setattr(task, "train", train)
    monkeypatch.setattr("jobs.train.tune._judged", lambda one: next(losses))
    with pytest.raises(StageFailed, match=r"trial 1: killed: killed by SIGKILL"):
        execute(run, jobs)
    execute(run, jobs)
    assert len(tried) == 7, "six trials, one of them twice"
    for job in jobs:
        row = run.ledger.finished(job.id)
        assert row is not None
        trials = row.facts["trials"]
        assert trials[0]["values"] == {"lr": 1e-3, "wd": 0.1}
        assert row.facts["chosen"] == min((one for one in trials if one["loss"]), key=lambda one: one["loss"])
        assert not run.store.exists(f"staging/{job.id}/trial-0.json")
    told = tuning_results(run)
    assert [(one["mixture"], one["trials"], one["diverged"]) for one in told] == [("everything", 3, 1), ("one", 3, 0)]
    assert [(one["loss"], one["written"]) for one in told] == [(2.5, 3.0), (0.5, 2.0)]
    rates: dict[str, float] = {}

    def last(recipe: TrainingRecipe, export: Path, model: Path, folder: Path, on_samples: object) -> TrainingResult:
        rates[folder.name] = recipe.lr
        return TrainingResult("killed", "enough")

    monkeypatch.setattr(task, "train", last)
    grid = run.plan.grid()
    with pytest.raises(StageFailed, match="2 of 2 trainings failed"):
        train_all(run, grid)
    for job in grid:
        row = run.ledger.finished(needs_of_stage(job, "tune")[0].id)
        assert row is not None
        assert rates[job.short] == row.facts["chosen"]["values"]["lr"]


def test_no_search_leaves_the_grid_as_it_was(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)
    plain, tuned = opened(path, SET[1:]), opened(path, SET)
    assert plain.plan.targets("tune") == []
    assert all(needs_of_stage(job, "tune") == [] for job in plain.plan.grid())
    assert all(len(needs_of_stage(job, "tune")) == 1 for job in tuned.plan.grid())
    more = opened(path, (SET[0].replace("trials: 3", "trials: 4"), *SET[1:]))
    assert {job.id for job in tuned.plan.grid()}.isdisjoint(job.id for job in more.plan.grid())


def test_a_real_search_chooses_by_the_loss_on_held_out_pairs(tmp_path: Path) -> None:
    settings = (
        "training.tuning={trials: 2, held_out: 0.2, samples_seen: 64, lr: [1.0e-4, 1.0e-2]}",
        *("training.batch_size=8", "training.samples_seen=32", "training.threads=1", "training.warmup=1"),
    )
    run = with_exports(write_experiment(tmp_path, FILTERS, mixtures=MIXTURES), settings)
    execute(run, run.plan.targets("tune"))
    facts = run.ledger.finished(run.plan.tune("everything").id).facts  # type: ignore[union-attr]
    assert [0 < one["loss"] < 10 for one in facts["trials"]] == [True, True]
    assert list(Path(run.store.path("staging")).glob("*")) == []
