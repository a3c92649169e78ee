"""The grid on a real Slurm: `make test-slurm` starts one of one node on loopback, and sets SLURM_CONF."""

import os
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.workflow.plan import export_folder, needs_of_stage
from pipeline.training.launcher import logged_samples
from pipeline.training.slurm.job_array import submitted_trainings
from tests.jobs.train.test_grid import FILTERS, MIXTURES, rows
from tests.support.road_experiment import ROOT, command
from tests.support.scored_store import opened, write_experiment
from tests.support.small_trainings import processes_of, wait_until, write_export

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


SAMPLES, EPOCHS = 832, 8


TRAINING = (
    "training.mixtures=[one]",
    "training.seeds=[0, 1]",
    f"training.samples_seen={SAMPLES}",
    f"training.checkpoints={EPOCHS}",
    "training.batch_size=8",
    "training.threads=1",
    "training.warmup=2",
)


SLURM = "training.slurm={partition: main, time: '10', poll: 0.2, array_limit: 2}"


def slurm(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def store_of(folder: Path, *settings: str) -> tuple[Path, list[str]]:
    """Write a store of which the exports are there and the trainings are not; return its experiment and settings."""
    path = write_experiment(folder, FILTERS, mixtures=MIXTURES)
    given = [*TRAINING, *settings]
    run = opened(path, given)
    for job in run.plan.grid():
        write_export(Path(run.store.path(export_folder(needs_of_stage(job, "export")[0]))), (17, 17))
    run.finish([(job, [], {}) for job in run.plan.until("export")], datetime.now(UTC))
    return path, [part for one in given for part in ("--set", one)]


def trains(path: Path, settings: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("train", str(path), *settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def weights(path: Path, settings: list[str]) -> dict[int, str]:
    found = rows(opened(path, settings[1::2]))
    return {seed: row["checkpoint_sha256"] for (_, seed, outcome), row in found.items() if outcome == "done"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The weights of the same grid on this machine, which nothing disturbs."""
    path, settings = store_of(tmp_path_factory.mktemp("here"), "training.parallel=2")
    done = trains(path, settings)
    assert done.wait(500) == 0, done.communicate()[1]
    found = weights(path, settings)
    assert sorted(found) == [0, 1]
    return found


def folders(path: Path, settings: list[str]) -> dict[int, Path]:
    """Return each seed's training folder."""
    run = opened(path, settings[1::2])
    return {job.config["seed"]: Path(run.store.path(f"trainings/{job.short}")) for job in run.plan.grid()}


def in_the_middle(folder: Path, epochs: int = 1) -> Callable[[], bool]:
    """Tell whether a training has behind it so many epochs, and not all."""
    return lambda: SAMPLES // EPOCHS * epochs < logged_samples(folder) < SAMPLES


def test_a_grid_of_which_tasks_are_cancelled_and_requeued_and_the_launcher_is_killed_ends_with_the_same_weights(
    here: dict[int, str], tmp_path: Path
) -> None:
    path, settings = store_of(tmp_path, SLURM)
    root, folder = tmp_path / "store" / "slurm", folders(path, settings)
    launcher = trains(path, settings)
    assert wait_until(in_the_middle(folder[0]), 240), launcher.poll()
    tasks = {one.task.recipe.seed: one for one in submitted_trainings(root)}
    [job] = {one.job for one in tasks.values()}
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    slurm("scancel", f"{job}_{tasks[0].number}")
    assert wait_until(in_the_middle(folder[1]), 240)
    slurm("scontrol", "requeue", f"{job}_{tasks[1].number}")
    assert wait_until(lambda: not processes_of(folder[0]), 60), "a cancelled training outlived its task"
    assert slurm("squeue", "--noheader", "--format=%i", f"--jobs={job}")

    again = trains(path, settings)
    _, told = again.communicate(timeout=600)
    assert again.returncode == 0, told
    assert f"2 trainings are Slurm's already: job array {job}" in told
    assert "killed after" in told
    assert "it is submitted again" in told
    run = opened(path, settings[1::2])
    found = rows(run)
    assert set(found) == {("one", 0, "killed"), ("one", 0, "done"), ("one", 1, "done")}
    killed = found["one", 0, "killed"]
    assert killed["reason"].startswith(f"job {job}_{tasks[0].number}: Slurm: CANCELLED")
    assert (killed["host"], killed["checkpoint"]) == ("node1", "")
    assert SAMPLES // EPOCHS < killed["samples_seen"] < SAMPLES
    for seed in (0, 1):
        row = found["one", seed, "done"]
        assert row["samples_seen"] == SAMPLES
        assert row["resumed_from"] >= SAMPLES // EPOCHS, "it began anew"
        assert row["resumed_from"] % (SAMPLES // EPOCHS) == 0
    assert weights(path, settings) == here
    assert not any(root.iterdir())
    assert slurm("squeue", "--noheader") == ""
    third = trains(path, settings)
    assert "nothing to do" in third.communicate(timeout=120)[1]


def test_what_fails_on_a_node_is_recorded_as_it_is_here_and_is_not_tried_again(tmp_path: Path) -> None:
    path, settings = store_of(
        tmp_path, SLURM, "training.lr=1e30", "training.warmup=0", "training.flags={log-every-n-steps: 1}"
    )
    run = trains(path, settings)
    _, told = run.communicate(timeout=400)
    assert run.returncode == 1, told
    assert told.splitlines()[-1].startswith(f"cuvee: {tmp_path}/store: 2 of 2 trainings failed")
    found = rows(opened(path, settings[1::2]))
    assert {key[1:]: row["reason"] for key, row in found.items()} == {
        (seed, "diverged"): "the loss is nan" for seed in (0, 1)
    }
    assert not any((tmp_path / "store" / "slurm").iterdir())


def test_what_slurm_refuses_is_one_line(tmp_path: Path) -> None:
    path, settings = store_of(tmp_path, "training.slurm={partition: none}")
    run = trains(path, settings)
    _, told = run.communicate(timeout=200)
    assert run.returncode == 1
    assert told.splitlines()[-1] == "cuvee: sbatch: sbatch: error: Batch job submission failed: " + (
        "Invalid partition name specified"
    )
    assert not any((tmp_path / "store" / "slurm").iterdir())


def test_no_secret_of_the_launchers_reaches_slurm(tmp_path: Path) -> None:
    path, settings = store_of(tmp_path, SLURM.replace("partition: main", "partition: main, attempts: 1"))
    environment: dict[str, Any] = {**os.environ, "AWS_SECRET_ACCESS_KEY": "s3cr3t-do-not-keep-me"}
    root, folder = tmp_path / "store" / "slurm", folders(path, settings)
    launcher = subprocess.Popen(
        command("train", str(path), *settings), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert wait_until(lambda: any(processes_of(one) for one in folder.values()), 200)
        jobs = {one.job for one in submitted_trainings(root)}
        for process in (one for place in folder.values() for one in processes_of(place)):
            assert b"s3cr3t" not in Path(f"/proc/{process}/environ").read_bytes()
    finally:
        slurm("scancel", *jobs)
    _, told = launcher.communicate(timeout=200)
    assert launcher.returncode == 1
    assert "2 of 2 trainings failed" in told
    assert {row["outcome"] for row in rows(opened(path, settings[1::2])).values()} == {"killed"}
    state = Path(os.environ["SLURM_CONF"]).parent / "ctld"
    assert not [one for one in state.rglob("*") if one.is_file() and b"s3cr3t" in one.read_bytes()]
