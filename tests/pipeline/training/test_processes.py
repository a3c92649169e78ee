"""A training in two processes: it sees what was asked, says who was killed, leaves none behind, and ends the same."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.training import launcher
from pipeline.training.launcher import TrainingResult, train
from tests.support.small_trainings import MODEL, RECIPE, processes_of, wait_until, write_export

TWO = replace(RECIPE, processes=2)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("export"), (17, 9, 17))


@pytest.fixture
def run(export: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainingResult]:
    """Train in two processes on the CPU, as `tests.support.entry_point_on_cpu` makes it possible."""
    monkeypatch.setattr(launcher, "ENTRY_MODULE", "tests.support.entry_point_on_cpu")
    return lambda folder, on_samples=lambda seen: None: train(TWO, export, MODEL, folder, on_samples)


@pytest.mark.slow  # four trainings, each in two processes
def test_two_processes_see_what_was_asked_and_go_on_to_the_very_same_weights(
    run: Callable[..., TrainingResult], tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole")
    assert (whole.outcome, whole.reason, whole.samples_seen) == ("done", "", 192)
    folder = tmp_path / "run"

    def kill_the_last_begun(seen: int) -> None:  # a process of the training, or its loader's
        if seen > 48 and (mine := processes_of(folder)):  # one that is ending has no arguments any more
            os.kill(max(mine), signal.SIGKILL)

    killed = run(folder, kill_the_last_begun)
    assert (killed.outcome, killed.reason) == ("killed", "killed by SIGKILL")
    assert wait_until(lambda: not processes_of(folder), 120), "a process outlived its training"

    def kill_the_first_begun(seen: int) -> None:  # torchrun's own
        if seen > 144 and (mine := processes_of(folder)):
            os.kill(min(mine), signal.SIGKILL)

    again = run(folder, kill_the_first_begun)
    assert (again.outcome, again.reason) == ("killed", "killed by SIGKILL")
    assert again.resumed_from >= 48
    assert wait_until(lambda: not processes_of(folder), 120), "a process outlived torchrun"
    done = run(folder)
    assert (done.outcome, done.samples_seen) == ("done", 192)
    assert done.resumed_from >= 144
    assert (done.weights_sha256, done.loss) == (whole.weights_sha256, whole.loss)


def test_without_that_open_clip_train_cannot_and_the_reason_is_its_own(export: Path, tmp_path: Path) -> None:
    result = train(TWO, export, MODEL, tmp_path / "run")
    assert result.outcome == "failed"
    assert "ValueError: DistributedDataParallel device_ids and output_device arguments only work with" in result.reason
