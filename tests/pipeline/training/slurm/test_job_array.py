"""What is asked of Slurm, and what is made of its answers, as far as that can be known without it."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.main import main
from pipeline.config.slurm import SlurmConfig
from pipeline.errors import InputError, StageFailed
from pipeline.training.launcher import training_environment
from pipeline.training.slurm import client, job_array, worker
from pipeline.training.slurm.client import TaskState, sbatch_script
from pipeline.training.slurm.job_array import check_none_submitted, run_on_slurm, submitted_trainings
from pipeline.training.task import TrainingTask, write_json
from tests.jobs.train.test_grid import FILTERS, GRID, MIXTURES, with_exports
from tests.support.scored_store import opened, write_experiment
from tests.support.small_trainings import MODEL, RECIPE, refused

SETTINGS = SlurmConfig(poll=0.01)


def task(folder: Path, name: str = "a" * 16) -> TrainingTask:
    return TrainingTask(name, RECIPE, folder / "export", MODEL, folder / "trainings" / name)


@pytest.mark.parametrize(
    "given",
    [
        {"partition": "main\n#SBATCH --uid=0"},
        {"partition": "main; rm -rf /"},
        {"partition": "-main"},
        {"account": "$(id)"},
        {"qos": "a b"},
        {"memory": "4GB"},
        {"time": "soon"},
        {"time": 86400},
        {"gpus": -1},
        {"nodes": 2},
    ],
)
def test_what_is_no_name_or_time_or_size_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    path = write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)
    said = refused(lambda: opened(path, [f"training.slurm={json.dumps(given)}"]), InputError)
    assert f"training.slurm.{next(iter(given))}" in said


def test_an_sbatch_file_says_what_the_section_says_and_quotes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "it's $(id) `here`"
    settings = SlurmConfig(partition="gpu,long", time="1-00:00:00", gpus=2, memory="8G", array_limit=3)
    lines = sbatch_script("cuvee-x", 5, 4, settings, folder).splitlines()
    assert lines[0] == "#!/bin/sh"
    assert set(lines[1:-1]) == {
        f"#SBATCH --{one}"
        for one in (
            *("job-name=cuvee-x", "array=0-4%3", "partition=gpu,long", "time=1-00:00:00", "nodes=1", "ntasks=1"),
            *("cpus-per-task=4", "gpus-per-task=2", "mem=8G", "open-mode=append", "requeue"),
        )
    }
    script = tmp_path / "array.sbatch"
    script.write_text("\n".join([*lines[:-1], lines[-1].replace("exec ", "exec printf '%s\\n' ", 1)]))
    done = subprocess.run(
        ["/bin/sh", script], capture_output=True, text=True, check=True, env={"SLURM_ARRAY_TASK_ID": "3"}
    )
    assert done.stdout.splitlines()[1:] == ["-m", "pipeline.training.slurm.worker", str(folder), "3"]


def test_how_slurm_is_asked_is_no_part_of_a_training(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)
    here, there = opened(path, GRID), opened(path, [*GRID, "training.slurm={partition: main, cpus: 7}"])
    assert [job.id for job in here.plan.grid()] == [job.id for job in there.plan.grid()]
    said = refused(lambda: opened(path, ["training.slurm={gpus: 0}", "training.device=cuda"]), InputError)
    assert "training: slurm.gpus: expected 1, one for each process, found 0" in said


def test_without_slurm_it_is_one_line_that_names_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from datetime import UTC, datetime

    path = write_experiment(tmp_path, FILTERS, mixtures=MIXTURES)
    run = opened(path, GRID)
    run.finish([(job, [], {}) for job in run.plan.until("export")], datetime.now(UTC))
    with_exports(run)
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = [part for one in (*GRID, "training.slurm={}") for part in ("--set", one)]
    assert main(["train", str(path), *settings]) == 2
    last = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert last == [
        "cuvee: training.slurm: sbatch is not on PATH; expected Slurm's commands on the machine that submits the grid"
    ]
    assert not Path(run.store.path("slurm")).exists()


def test_a_training_sees_nothing_of_slurms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not [name for name in training_environment(1) if name.startswith("SLURM_")]


class Cluster:
    """Stands for Slurm's two commands: it keeps what was submitted, and says of each task what the test has it say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrays: list[Path] = []
        self.said: dict[tuple[str, int], TaskState] = {}
        monkeypatch.setattr(job_array, "check_slurm", lambda: None)
        monkeypatch.setattr(job_array, "submit", self.submit)
        monkeypatch.setattr(job_array, "states", self.states)

    def submit(self, script: Path, logs: Path) -> str:
        self.arrays.append(script.parent)
        for path in (script.parent / "tasks").glob("*.json"):
            self.said[f"cuvee-{script.parent.name}", int(path.stem)] = TaskState("RUNNING", "node1", "None")
        return str(len(self.arrays))

    def states(self, names: Sequence[str]) -> dict[tuple[str, int], TaskState]:
        return {key: state for key, state in self.said.items() if key[0] in names}

    def end(self, array: Path, number: int, state: str, reason: str = "None") -> None:
        self.said[f"cuvee-{array.name}", number] = TaskState(state, "node1", reason)


@pytest.mark.parametrize(
    ("state", "reason", "outcome"),
    [
        ("CANCELLED", "None", "killed"),
        ("TIMEOUT", "TimeLimit", "killed"),
        ("NODE_FAIL", "None", "killed"),
        ("OUT_OF_MEMORY", "OutOfMemory", "out_of_memory"),
        ("FAILED", "RaisedSignal:9(Killed)", "killed"),
        ("FAILED", "JobLaunchFailure", "failed"),
        ("COMPLETED", "None", "failed"),
    ],
)
def test_what_slurm_ends_is_what_it_was_and_is_tried_again_where_it_was_killed(
    state: str, reason: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_array, "RESULT_DELAY_S", 0.02)
    cluster, told = Cluster(monkeypatch), list[str]()
    root = tmp_path / "slurm"
    running = run_on_slurm(root, [task(tmp_path)], SlurmConfig(poll=0.01, attempts=2), lambda *_: None, told.append)
    attempts = []
    for _ in range(2 if outcome == "killed" else 1):
        states, cluster.states = cluster.states, lambda names: _ended(cluster, state, reason, names)  # type: ignore[method-assign]
        monkeypatch.setattr(job_array, "states", cluster.states)
        _, result, again = next(running)
        attempts.append((result.outcome, again))
        assert result.reason.startswith(f"job {len(cluster.arrays)}_0: Slurm: {state}")
        assert (result.host, result.weights_sha256) == ("node1", "")
        cluster.states = states  # type: ignore[method-assign]
    assert attempts == ([("killed", True), ("killed", False)] if outcome == "killed" else [(outcome, False)])
    assert list(running) == []
    assert not any(root.iterdir())


def _ended(cluster: Cluster, state: str, reason: str, names: Sequence[str]) -> dict[tuple[str, int], TaskState]:
    return {(name, 0): TaskState(state, "node1", reason) for name in names}


def test_a_launcher_that_was_killed_finds_its_array_and_submits_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch)
    root, tasks = tmp_path / "slurm", [task(tmp_path, "a" * 16), task(tmp_path, "b" * 16), task(tmp_path, "c" * 16)]

    class Killed(BaseException):
        pass

    def dies(name: str, count: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        next(run_on_slurm(root, tasks[:2], SETTINGS, dies, lambda text: None))
    [array] = cluster.arrays
    assert [one.task.name for one in submitted_trainings(root)] == ["a" * 16, "b" * 16]
    assert "2 trainings were submitted to Slurm as 1 and" in refused(lambda: check_none_submitted(root))
    check_none_submitted(root, ["c" * 16])
    done = {"outcome": "done", "samples_seen": 7, "host": "node9", "versions": {}}
    write_json(array / "results" / "0.json", done)
    (array / "submitted").unlink()  # killed before sbatch's answer was written: squeue knows the name
    told = list[str]()
    running = run_on_slurm(root, tasks, SETTINGS, lambda *_: None, told.append)
    first, result, again = next(running)
    assert (first.name, result.samples_seen, result.host, again) == ("a" * 16, 7, "node9", False)
    assert len(cluster.arrays) == 2
    assert len(list((cluster.arrays[1] / "tasks").iterdir())) == 1
    write_json(array / "results" / "1.json", done)
    write_json(cluster.arrays[1] / "results" / "0.json", done)
    assert sorted(one.name for one, _, _ in running) == ["b" * 16, "c" * 16]
    assert not any(root.iterdir())
    assert "2 trainings are Slurm's already" in told[0]


def test_what_was_never_submitted_is_given_up_and_its_task_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(monkeypatch)
    root = tmp_path / "slurm"
    lost = job_array._submit(root, [(task(tmp_path), 1)], SETTINGS, lambda text: None)["a" * 16]
    (lost.folder / "submitted").unlink()
    cluster.said.clear()
    running = run_on_slurm(root, [task(tmp_path)], SETTINGS, lambda *_: None, lambda text: None)

    def finished(names: Sequence[str]) -> dict[tuple[str, int], TaskState]:
        write_json(cluster.arrays[1] / "results" / "0.json", {"outcome": "done"})
        return {}

    monkeypatch.setattr(job_array, "states", lambda names: {} if len(cluster.arrays) == 1 else finished(names))
    assert [result.outcome for _, result, _ in running] == ["done"]
    assert not lost.folder.exists()
    assert worker.main([str(lost.folder), "0"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert not (tmp_path / "trainings").exists()


def test_a_controller_that_is_silent_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    root, failures = tmp_path / "slurm", [3]

    def silent(names: Sequence[str]) -> dict[tuple[str, int], TaskState]:
        if failures[0]:
            failures[0] -= 1
            raise StageFailed("squeue: Unable to contact slurm controller")
        write_json(cluster.arrays[0] / "results" / "0.json", {"outcome": "done"})
        return cluster.said

    monkeypatch.setattr(job_array, "states", silent)
    [(_, result, _)] = run_on_slurm(root, [task(tmp_path)], SETTINGS, lambda *_: None, lambda text: None)
    assert (result.outcome, failures) == ("done", [0])
    monkeypatch.setattr(job_array, "SQUEUE_TIMEOUT_S", 0.05)
    failures[0] = 1 << 30
    said = refused(lambda: list(run_on_slurm(root, [task(tmp_path)], SETTINGS, lambda *_: None, lambda text: None)))
    assert "Unable to contact slurm controller; the trainings go on, and the same command finds them again" in said


def test_a_command_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in (
        ("sbatch", "echo 'sbatch: error: a' >&2; echo 'sbatch: error: no such partition' >&2; exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert refused(lambda: client.submit(tmp_path / "x", tmp_path)) == "sbatch: sbatch: error: no such partition"
    assert "backslashes" in refused(lambda: client.submit(tmp_path / "x", tmp_path / "a\\b"), InputError)
