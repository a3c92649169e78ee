"""The seeds of a training: what an epoch draws depends on the run's seed, the process and the epoch, and on no more."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import webdataset
from open_clip_train import data as loading
from open_clip_train import main as training
from open_clip_train.params import parse_args

from pipeline.export.manifest import reading_options
from pipeline.training import entry_point
from pipeline.training.export_scan import scan_export
from pipeline.training.recipe import open_clip_arguments, sampling_arguments
from tests.support.small_trainings import MODEL, RECIPE, write_export


@pytest.fixture(params=["each tar once", "tars by weight"])
def export(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = write_export(tmp_path, (17, 17, 9))
    if request.param == "tars by weight":
        said = json.loads((folder / "manifest.json").read_text())
        tars = [{"tar": name, **one, "factor": 1.5} for name, one in said["tars"].items()]
        (folder / "manifest.json").write_text(json.dumps(said | reading_options(tars)))
    return folder


@pytest.fixture
def epochs(export: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run these epochs one after another in a loader of their own; return a digest of each one's batches and draws."""
    for module, name in ((webdataset, "shuffle"), (loading, "pytorch_worker_seed"), (training, "train_one_epoch")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back after the test

    def drawn(numbers: Sequence[int], seed: int = 3, rank: int = 0) -> list[str]:
        found = list[str]()

        def train_one_epoch(_: Any, data: Any, loss: Any, epoch: int, *rest: Any, **more: Any) -> None:
            state = hashlib.sha256(torch.rand(3).numpy().tobytes())  # what a dropout would draw
            data["train"].set_epoch(epoch)
            for images, texts in data["train"].dataloader:
                state.update(images.numpy().tobytes() + texts.numpy().tobytes())
            found.append(state.hexdigest())

        monkeypatch.setattr(training, "train_one_epoch", train_one_epoch)
        entry_point.make_deterministic()
        recipe = replace(RECIPE, seed=seed, samples_seen=4 * 96)  # more than two passes in an epoch
        tars = scan_export(export, recipe.batch_size)
        args = parse_args(open_clip_arguments(recipe, tars, MODEL, export, sampling_arguments(export)))
        args.world_size, args.rank = 1, rank
        transform = open_clip.image_transform(64, is_train=True)
        tokenizer = open_clip.SimpleTokenizer(context_length=16)
        data = {"train": loading.get_wds_dataset(args, transform, True, epoch=numbers[0], tokenizer=tokenizer)}
        for number in numbers:
            training.train_one_epoch(None, data, None, number, None, None, None, None, args)
        return found

    return drawn


def test_an_epoch_draws_the_same_wherever_a_run_began_and_unlike_any_other(epochs: Callable[..., list[str]]) -> None:
    whole = epochs([0, 1, 2])
    torch.manual_seed(99)  # as another run would leave it
    assert epochs([1, 2]) == whole[1:]
    assert epochs([2]) == whole[2:]
    others = [*whole, *epochs([0], seed=4), *epochs([0], rank=1)]
    assert len(set(others)) == len(others)


def test_the_fused_optimizer_steps_as_open_clips_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "optim", training.optim)  # put back after the test
    torch.manual_seed(0)
    weights = [torch.randn(40, 30), torch.randn(30)]
    stepped = []
    for fused in (False, True):
        if fused:
            entry_point.use_fused_adamw()
        mine = [torch.nn.Parameter(one.clone()) for one in weights]
        groups = [{"params": mine[1:], "weight_decay": 0.0}, {"params": mine[:1], "weight_decay": 0.1}]
        optimizer = training.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6)
        assert bool(optimizer.defaults["fused"]) is fused
        for step in range(5):
            for one in mine:
                one.grad = torch.sin(one.detach() * (step + 1))
            optimizer.step()
        stepped.append([one.detach() for one in mine])
    for plain, other in zip(*stepped, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-5, atol=1e-6)
