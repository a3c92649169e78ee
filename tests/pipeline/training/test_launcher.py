"""Trainings: only a checked export is trained on, a stopped run ends the same, and what comes to nothing says why."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.export.manifest import export_digest
from pipeline.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from pipeline.models.clip import load_clip
from pipeline.shards.tar_format import TAR_BLOCK_BYTES, TAR_END, pair_bytes
from pipeline.training import export_scan, launcher
from pipeline.training.export_scan import scan_export
from pipeline.training.launcher import TrainingResult, train, training_environment
from sources.world.pictures import Picture, render_file
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES
from tests.support.road_experiment import ROOT
from tests.support.small_trainings import MODEL, RECIPE, processes_of, refused, wait_until, write_export


def say_it_is_so(folder: Path, name: str) -> None:
    """Make the manifest's SHA-256 of a tar the one that it has, so that only its content can give it away."""
    said = json.loads((folder / "manifest.json").read_text())
    said["tars"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(said))


def test_the_environment_looks_at_no_network_and_keeps_its_threads() -> None:
    found = training_environment(3)
    assert (found["OMP_NUM_THREADS"], found["HF_HUB_OFFLINE"], found["WANDB_MODE"]) == ("3", "1", "disabled")


def test_a_whole_exports_tars_are_returned_in_order(tmp_path: Path) -> None:
    folder = write_export(tmp_path, (3, 4, 2))
    assert scan_export(folder, 9) == [folder / f"{number:08d}.tar" for number in range(3)]


def test_a_tar_is_read_once_for_all_trainings_and_again_once_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_export(tmp_path, (3, 4))
    read, real = list[str](), export_scan._read
    monkeypatch.setattr(export_scan, "_read", lambda path: (read.append(path.name), real(path))[1])
    with ThreadPoolExecutor(4) as pool:
        assert len({tuple(tars) for tars in pool.map(lambda _: scan_export(folder, 7), range(8))}) == 1
    assert read == ["00000000.tar", "00000001.tar"]
    path = folder / "00000001.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert refused(lambda: scan_export(folder, 7)).startswith(f"{path}: SHA-256 is ")
    assert read[2:] == ["00000001.tar"]


def test_an_export_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    said = refused(lambda: scan_export(write_export(tmp_path, (3, 4)), 8))
    assert said == f"{tmp_path}: holds 7 pairs, expected at least a batch of 8"


@pytest.mark.parametrize("place", [0, 600, -1, 0.5])
def test_a_flipped_byte_is_found_wherever_it_is(tmp_path: Path, place: float) -> None:
    path = write_export(tmp_path, (2, 2)) / "00000001.tar"
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if 0 < place < 1 else int(place)] ^= 1
    path.write_bytes(content)
    assert refused(lambda: scan_export(tmp_path, 2)).startswith(f"{path}: SHA-256 is ")


def test_a_missing_tar_is_found(tmp_path: Path) -> None:
    path = write_export(tmp_path, (2, 2)) / "00000000.tar"
    path.unlink()
    assert str(path) in refused(lambda: scan_export(tmp_path, 2))


@pytest.mark.parametrize("told", [False, True])
def test_a_tar_that_is_cut_at_a_pairs_end_is_found(tmp_path: Path, told: bool) -> None:
    path = write_export(tmp_path, (3,)) / "00000000.tar"
    stream, pair = (
        path.read_bytes(),
        pair_bytes(
            "0" * 31 + "2",
            render_file(Picture((9, 2), CLASSES[2], list(STYLES)[2]))[0],
            f"a {list(STYLES)[2]} of a {CLASSES[2]}",
            {"n": 2},
        ),
    )
    assert stream.endswith(pair + TAR_END)
    path.write_bytes(stream[: -len(pair) - len(TAR_END)])
    if told:
        say_it_is_so(tmp_path, path.name)
    said = "holds 2 pairs, manifest.json says 3" if told else "SHA-256 is "
    assert refused(lambda: scan_export(tmp_path, 2)).startswith(f"{path}: {said}")


def test_a_tar_that_is_cut_inside_a_pair_or_holds_what_no_pair_holds_is_found(tmp_path: Path) -> None:
    path = write_export(tmp_path, (3,)) / "00000000.tar"
    whole = path.read_bytes()
    last_json = whole.rindex(b'{"n":2}')
    for content in (
        whole[: last_json - TAR_BLOCK_BYTES],
        whole[: last_json + 3],
        whole.replace(b"2.json\0", b"2.pyd\0\0", 1),
    ):
        assert content != whole
        path.write_bytes(content)
        say_it_is_so(tmp_path, path.name)
        assert refused(lambda: scan_export(tmp_path, 2)).startswith(f"{path}: ")


def test_an_export_of_which_a_process_may_get_too_little_is_refused(tmp_path: Path) -> None:
    folder = write_export(tmp_path, (3, 4, 5))
    assert len(scan_export(folder, 6, 2)) == 3
    said = refused(lambda: scan_export(folder, 8, 2))
    assert "3 tars are too few or too small for 2 processes: one may get 3 pairs, expected at least 4" in said
    assert "one may get 0 pairs" in refused(lambda: scan_export(folder, 4, 4))


STARTED = "2026-11-27 | INFO | Start epoch 0\n"


WORKER = "RuntimeError: DataLoader worker (pid 12) is killed by signal: Killed. \n"


AGENT = """[rank1]: RuntimeError: the cause
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
  exitcode  : 1
"""


@pytest.mark.parametrize(
    ("code", "said", "loss", "kernel", "outcome", "reason"),
    [
        (0, STARTED, 1.5, False, "done", ""),
        (0, STARTED, float("nan"), False, "diverged", "the loss is nan"),
        (0, STARTED, float("inf"), True, "diverged", "the loss is inf"),
        (1, STARTED + "MemoryError\n", 1.5, False, "out_of_memory", "ended with 1: MemoryError"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried\n", 1.5, False, "out_of_memory", "CUDA out of memory"),
        (-9, STARTED, 1.5, True, "out_of_memory", "killed by the kernel, as memory ran out"),
        (-9, STARTED, 1.5, False, "killed", "killed by SIGKILL"),
        (1, STARTED + WORKER, 1.5, False, "killed", "killed by SIGKILL"),
        (1, STARTED + WORKER, 1.5, True, "out_of_memory", "killed by the kernel, as memory ran out"),
        (-15, STARTED, 1.5, True, "killed", "killed by SIGTERM"),
        (1, AGENT, 1.5, False, "failed", "open_clip_train ended with 1: RuntimeError: the cause"),
        (3, "ValueError: it\nand then some\n", 1.5, False, "failed", "open_clip_train ended with 3: ValueError: it"),
        (3, "a  word\n\n", 1.5, False, "failed", "open_clip_train ended with 3: a word"),
        (3, "", 1.5, False, "failed", "open_clip_train ended with 3: no output"),
        (1, "OSError: https://me:secret@there/x is gone", 1.5, False, "failed", "OSError: https://there/x is gone"),
        (1, "ValueError: " + "long " * 900, 1.5, False, "failed", "ValueError: long long"),
    ],
)
def test_what_a_training_came_to_is_known_by_its_end(
    code: int, said: str, loss: float, kernel: bool, outcome: str, reason: str
) -> None:
    found = launcher._outcome_of(code, said, loss, kernel)
    assert found[0] == outcome
    assert reason in found[1]
    assert len(found[1]) < 300
    assert "secret" not in found[1]


def test_progress_is_read_over_epochs_and_whatever_form_a_loss_has() -> None:
    line = "x | Train Epoch: {} [ 40/192 (21%)] Data (t): 0.1 Contrastive_loss: 9.0 (9.0) Loss: {} (1.0)\n"
    assert launcher._progress(STARTED) is None
    assert launcher._progress(line.format(0, "2.5") + line.format(2, "1.25e+06")) == (424, 1.25e6)
    found = launcher._progress(line.format(0, "nan"))
    assert found is not None
    assert found[1] != found[1]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("export"), (17, 17))


def test_a_run_goes_on_from_a_whole_state_of_the_same_tars_alone(tmp_path: Path) -> None:
    state, read = tmp_path / "state.pt", tmp_path / "read"
    assert not launcher._is_resumable(state, read, "d")
    with zipfile.ZipFile(state, "w") as zipped:
        zipped.writestr("data.pkl", b"0" * 500)
    assert not launcher._is_resumable(state, read, "d")
    read.write_text("d")
    assert launcher._is_resumable(state, read, "d")
    assert not launcher._is_resumable(state, read, "e")
    state.write_bytes(state.read_bytes()[:-1])
    assert not launcher._is_resumable(state, read, "d")


def test_a_training_that_cannot_start_says_so_and_goes_on_from_no_torn_state(export: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    state = folder / "run" / "checkpoints" / "epoch_latest.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"PK\x03\x04 the beginning of a zip")
    (folder / "train.log").write_text("MemoryError of an earlier attempt")
    result = train(replace(RECIPE, flags={"no-such-flag": 1}), export, MODEL, folder)
    assert (result.outcome, result.samples_seen, result.weights_sha256) == ("failed", 0, "")
    assert result.reason.startswith("open_clip_train ended with 2: ")
    assert "no-such-flag" in result.reason
    assert "--resume" not in result.arguments
    assert sorted(path.name for path in folder.rglob("*")) == ["export_digest", "run", "train.log"]


def test_a_training_out_of_memory_is_an_outcome(export: Path, tmp_path: Path) -> None:
    result = train(replace(RECIPE, flags={"force-context-length": 10**12}), export, MODEL, tmp_path / "run")
    assert result.outcome == "out_of_memory"
    assert "can't allocate memory" in result.reason


def test_a_training_that_diverges_is_stopped_and_keeps_nothing_to_go_on_from(export: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, lr=1e30, warmup=0, samples_seen=20_000, flags={"log-every-n-steps": 1})
    result = train(recipe, export, MODEL, tmp_path / "run")
    assert (result.outcome, result.reason) == ("diverged", "the loss is nan")
    assert 0 < result.samples_seen < 20_000
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["train.log"]
    assert wait_until(lambda: not processes_of(tmp_path / "run"), 120)


@pytest.fixture(scope="module")
def trained(export: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult]:
    """The folder and the result of a training that nothing disturbed."""
    folder, heard = tmp_path_factory.mktemp("trained") / "run", list[int]()
    result = train(RECIPE, export, MODEL, folder, heard.append)
    assert (result.outcome, result.reason, result.resumed_from) == ("done", "", 0)
    assert result.samples_seen == heard[-1] == 192
    assert heard == sorted(heard)
    assert 0 < result.loss < 20
    assert result.seconds > 0
    tars = [
        {"tar": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in export.glob("*.tar")
    ]
    assert result.export_digest == export_digest(tars)
    return folder, result


def test_a_trained_model_is_a_folder_that_loads_and_no_pickle_stays(trained: tuple[Path, TrainingResult]) -> None:
    folder, result = trained
    weights = (folder / "model" / WEIGHTS_FILE).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == result.weights_sha256
    assert sorted(path.name for path in folder.iterdir()) == ["model", "train.log"]
    assert (folder / "model" / CONFIG_FILE).read_bytes() == (MODEL / CONFIG_FILE).read_bytes()
    assert load_clip(f"local-dir:{folder / 'model'}").embed_texts(["a photo"], 1).shape == (1, 128)


def test_a_killed_training_is_an_outcome_and_goes_on_from_its_last_epoch_to_the_very_same_weights(
    export: Path, trained: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def kill(seen: int) -> None:
        if seen > 48:  # in the second of four epochs, or later
            os.kill(min(processes_of(folder)), signal.SIGKILL)

    killed = train(RECIPE, export, MODEL, folder, kill)
    assert (killed.outcome, killed.reason, killed.weights_sha256) == ("killed", "killed by SIGKILL", "")
    assert 48 < killed.samples_seen < 192
    assert not (folder / "model").exists()
    result = train(RECIPE, export, MODEL, folder)
    assert result.outcome == "done"
    assert result.resumed_from in (48, 96, 144)
    assert (result.samples_seen, result.loss) == (192, trained[1].loss)
    assert result.weights_sha256 == trained[1].weights_sha256
    assert sorted(path.name for path in folder.iterdir()) == ["model", "train.log"]


TRAINS = """
import sys
from pathlib import Path
from pipeline.training.launcher import train
from tests.support.small_trainings import MODEL, RECIPE
train(RECIPE, Path(sys.argv[1]), MODEL, Path(sys.argv[2]))
"""


def test_a_killed_launcher_leaves_no_child_and_the_run_ends_the_same_when_it_is_started_again(
    export: Path, trained: tuple[Path, TrainingResult], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    log = folder / "train.log"
    launcher = subprocess.Popen([sys.executable, "-c", TRAINS, str(export), str(folder)], cwd=ROOT)
    try:
        assert wait_until(lambda: log.exists() and b"Train Epoch" in log.read_bytes(), 300)
        assert len(processes_of(folder)) > 1
    finally:
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
    assert wait_until(lambda: not processes_of(folder), 120), "the training outlived its launcher"
    assert not (folder / "model").exists()
    assert b"Train Epoch: 3" not in log.read_bytes()
    (folder / "model").mkdir()
    (folder / "model" / WEIGHTS_FILE).write_text("by the killed run")
    assert train(RECIPE, export, MODEL, folder).weights_sha256 == trained[1].weights_sha256
