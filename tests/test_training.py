"""Trainings: only a checked export is trained on, a killed run ends the same, and every failure is one line."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import hardware
from pipeline.errors import InputError, StageFailed
from pipeline.exports import manifest, sizes
from pipeline.model_folder import CONFIG_FILE, WEIGHTS_FILE
from pipeline.models import load
from pipeline.shards import BLOCK, END, ShardWriter, pair_bytes
from pipeline.store import Store
from pipeline.training import Recipe, arguments, check_flags, environment, scan_export, train
from sources.world.pictures import Picture, file_of
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "experiments" / "models" / "resnet_64px"
RECIPE = Recipe(
    samples_seen=190, batch_size=8, lr=1e-3, wd=0.1, warmup=2, precision="fp32", seed=3, threads=1, flags={}
)


def write_export(folder: Path, per_tar: tuple[int, ...]) -> Path:
    """Write an export of drawn pairs with so many in each tar."""
    tars, store, number = [], Store(str(folder)), 0
    for tar, count in enumerate(per_tar):
        name = f"{tar:08d}.tar"
        with store.create(name) as stream:
            writer = ShardWriter(stream)
            for _ in range(count):
                kind, style = CLASSES[number % len(CLASSES)], list(STYLES)[number % len(STYLES)]
                jpg = file_of(Picture((9, number), kind, style))[0]
                writer.append(pair_bytes(f"{number:032x}", jpg, f"a {style} of a {kind}", {"n": number}))
                number += 1
            digest = writer.close()
        tars.append({"tar": name, "pairs": count, "bytes": writer.bytes, "sha256": digest})
    store.write("manifest.json", manifest("m", "job", {}, tars))
    store.write("sizes.json", sizes(tars))
    return folder


def say_it_is_so(folder: Path, name: str) -> None:
    """Make the manifest's SHA-256 of a tar the one that it has, so that only its content can give it away."""
    said = json.loads((folder / "manifest.json").read_text())
    said["tars"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(said))


def refused(call: Callable[[], object], kind: type[Exception] = StageFailed) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


@given(st.integers(1, 10**7), st.integers(1, 4096))
def test_the_steps_are_as_few_as_see_the_samples_in_full_batches(samples: int, batch: int) -> None:
    steps = replace(RECIPE, samples_seen=samples, batch_size=batch).steps
    assert (steps - 1) * batch < samples <= steps * batch


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"batch-size": 3}, "training.flags.batch-size: expected to be set by the recipe's own key"),
        ({"train_data": "pipe:rm"}, "training.flags.train_data: expected to be set by the recipe's own key"),
        ({"no-such-flag": 1}, "training.flags.no-such-flag: 1: open_clip_train refuses it: "),
        ({"beta1": "much"}, "training.flags.beta1: 'much': open_clip_train refuses it: "),
        ({"grad-checkpointing": "please"}, "open_clip_train refuses it"),
        ({"beta1": 0.9, "accum-freq": "a\nb"}, "open_clip_train refuses it"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(flags: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: check_flags(flags, "training.flags"), InputError)


def test_flags_that_open_clip_train_knows_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    flags = {"beta1": 0.8, "grad_checkpointing": True, "lock-text": False, "log-every-n-steps": 7, "aug-cfg": "a=1 b=2"}
    check_flags(flags, "training.flags")
    given = arguments(replace(RECIPE, flags=flags), [Path("/e/0.tar"), Path("/e/1.tar")], Path("/m"), Path("/out"))
    assert given.count("--log-every-n-steps") == 1
    assert given[given.index("--log-every-n-steps") + 1] == "7"
    assert given[given.index("--aug-cfg") + 1 :][:2] == ["a=1", "b=2"]
    assert "--grad-checkpointing" in given
    assert "--lock-text" not in given
    assert given[given.index("--train-data") + 1] == "/e/0.tar::/e/1.tar"
    assert given[given.index("--train-num-samples") + 1] == "192"
    assert capfd.readouterr().err == ""


def test_the_environment_looks_at_no_network_and_keeps_its_threads() -> None:
    found = environment(3)
    assert (found["OMP_NUM_THREADS"], found["HF_HUB_OFFLINE"], found["WANDB_MODE"]) == ("3", "1", "disabled")


def test_a_whole_exports_tars_are_returned_in_order(tmp_path: Path) -> None:
    folder = write_export(tmp_path, (3, 4, 2))
    assert scan_export(folder, 9) == [folder / f"{number:08d}.tar" for number in range(3)]


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
            file_of(Picture((9, 2), CLASSES[2], list(STYLES)[2]))[0],
            f"a {list(STYLES)[2]} of a {CLASSES[2]}",
            {"n": 2},
        ),
    )
    assert stream.endswith(pair + END)
    path.write_bytes(stream[: -len(pair) - len(END)])
    if told:
        say_it_is_so(tmp_path, path.name)
    said = "holds 2 pairs, manifest.json says 3" if told else "SHA-256 is "
    assert refused(lambda: scan_export(tmp_path, 2)).startswith(f"{path}: {said}")


def test_a_tar_that_is_cut_inside_a_pair_or_holds_what_no_pair_holds_is_found(tmp_path: Path) -> None:
    path = write_export(tmp_path, (3,)) / "00000000.tar"
    whole = path.read_bytes()
    last_json = whole.rindex(b'{"n":2}')
    for content in (whole[: last_json - BLOCK], whole[: last_json + 3], whole.replace(b"2.json\0", b"2.pyd\0\0", 1)):
        assert content != whole
        path.write_bytes(content)
        say_it_is_so(tmp_path, path.name)
        assert refused(lambda: scan_export(tmp_path, 2)).startswith(f"{path}: ")


def test_a_training_that_cannot_start_names_its_log(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", (8,))
    recipe = replace(RECIPE, flags={"no-such-flag": 1})
    said = refused(lambda: train(recipe, export, MODEL, tmp_path / "run"))
    assert said.startswith(f"{tmp_path / 'run' / 'train.log'}: open_clip_train ended with 2: ")
    assert "no-such-flag" in said
    assert not (tmp_path / "run" / "model").exists()


TRAINS = """
import sys
from pathlib import Path
from pipeline.training import train
from tests.test_training import MODEL, RECIPE
train(RECIPE, Path(sys.argv[1]), MODEL, Path(sys.argv[2]))
"""


def processes_of(folder: Path) -> list[int]:
    """Return the processes, zombies aside, whose arguments name a training's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def wait_until(reached: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if reached():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("export"), (17, 17))


@pytest.fixture(scope="module")
def trained(export: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the digest of a training that nothing disturbed."""
    folder, heard = tmp_path_factory.mktemp("trained") / "run", list[int]()
    result = train(RECIPE, export, MODEL, folder, heard.append)
    assert result.samples_seen == heard[-1] == 192
    assert heard == sorted(heard)
    assert 0 < result.loss < 20
    assert result.seconds > 0
    return folder, result.weights_sha256


def test_a_trained_model_is_a_folder_that_loads_and_no_pickle_stays(trained: tuple[Path, str]) -> None:
    folder, digest = trained
    weights = (folder / "model" / WEIGHTS_FILE).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == digest
    assert sorted(path.name for path in folder.iterdir()) == ["model", "train.log"]
    assert (folder / "model" / CONFIG_FILE).read_bytes() == (MODEL / CONFIG_FILE).read_bytes()
    assert load(f"local-dir:{folder / 'model'}").embed_texts(["a photo"], 1).shape == (1, 128)


def test_a_training_killed_in_the_middle_leaves_no_child_and_ends_the_same_when_run_again(
    export: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    log = folder / "train.log"
    launcher = subprocess.Popen([sys.executable, "-c", TRAINS, str(export), str(folder)], cwd=ROOT)
    try:
        assert wait_until(lambda: log.exists() and b"Train Epoch" in log.read_bytes(), 120)
        assert len(processes_of(folder)) > 1
    finally:
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
    assert wait_until(lambda: not processes_of(folder), 30), "the training outlived its launcher"
    assert not (folder / "model").exists()
    assert b"[192/" not in log.read_bytes().replace(b" ", b"")
    (folder / "left over").write_text("by the killed run")
    assert train(RECIPE, export, MODEL, folder).weights_sha256 == trained[1]
    assert not (folder / "left over").exists()


@pytest.mark.parametrize(("quick", "expected"), [(True, "amp_bf16"), (False, "fp32")])
def test_the_precision_auto_is_what_the_processor_is_quick_in(
    quick: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: quick)
    for asked, said in (("auto", expected), ("fp32", "fp32"), ("amp_bf16", "amp_bf16")):
        given = arguments(replace(RECIPE, precision=asked), [Path("/e/0.tar")], Path("/m"), Path("/out"))
        assert given[given.index("--precision") + 1] == said
