"""Bad input: one line that names the file, the key, what was found and what was expected; exit 2; nothing written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.cli.main import main
from sources.world.publish import publish_world
from tests.support.ingest_experiments import write_ingest
from tests.support.road_experiment import ROOT, answered, command, cuvee, cuvee_here, write_experiment

TINY = {"pairs": 32, "evaluation_images": 24, "sizes": {}}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny web, already published."""
    folder = tmp_path_factory.mktemp("web")
    publish_world(folder, seed=11, pairs=TINY["pairs"], evaluation_images=TINY["evaluation_images"])
    return folder


def _refused(done: Any, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    last = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert len(last) == 1, done.stderr
    assert last[0].startswith("cuvee: ")
    for word in words:
        assert word in last[0], last[0]


WRONG = {
    "key": ("ingest.timeouts=3", ["ingest.timeouts", "timeout"]),
    "source": ("mixtures.yfcc_only={sources: [flickr]}", ["mixtures.yfcc_only", "flickr", "shutterstock"]),
    "format": ("sources.yfcc.format=yfcc200m", ["sources.yfcc.format", "yfcc200m", "did you mean 'yfcc", "redcaps"]),
    "filter": ("mixtures.all_filtered={filter: filtred}", ["mixtures.all_filtered", "filtred", "filtered"]),
    "mixture": ("training.mixtures=[everything]", ["training.mixtures", "everything", "all_filtered"]),
    "evaluation set": ("evaluation.reference=imagenet", ["evaluation", "imagenet", "photo"]),
    "signal": ("filters.clip_top.by=clip_v2.similarity", ["filters.clip_top", "clip_v2", "clip_v1"]),
    "column": ("filters.clip_top.by=clip_v1.cosine", ["filters.clip_top", "cosine", "similarity"]),
    "predicate": ("filters.basic.drop_when={x: \"reflect('a','b')\"}", ["filters.basic", "reflect"]),
    "model": ("signals.clip_v1={model: scorr}", ["signals.clip_v1.model", "scorr", "scorer"]),
    "flag": ("training.flags={learning-rate: 3}", ["training.flags.learning-rate", "open_clip_train"]),
    "type": ("training.batch_size=many", ["training.batch_size", "many"]),
    "setting": ("ingest", ["--set ingest", "key.path=value"]),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_the_experiment_file_gets_wrong(
    what: str, web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting, words = WRONG[what]
    store = tmp_path / "store"
    experiment = write_experiment(tmp_path, store, web)
    code = main(["run", str(experiment), "--set", setting])  # in this process, which has imported it all
    _refused(SimpleNamespace(returncode=code, stderr=capsys.readouterr().err), *words)
    assert not store.exists()


def test_a_missing_experiment_file(tmp_path: Path) -> None:
    _refused(cuvee_here("run", str(tmp_path / "none.yaml")), "none.yaml", "no such file")


def test_a_missing_published_file(web: Path, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, tmp_path / "store", web)
    done = cuvee_here("run", str(experiment), "--set", "web=null", "--set", "sources.yfcc.files=[nowhere/*.tsv]")
    _refused(done, "sources.yfcc.files", "nowhere/*.tsv")
    assert not (tmp_path / "store").exists()


def test_a_missing_evaluation_set(web: Path, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, tmp_path / "store", web)
    done = cuvee_here("run", str(experiment), "--set", "web=null", "--set", "evaluation.sets.photo=nowhere")
    _refused(done, "evaluation.sets.photo", "nowhere/classnames.txt")


def test_missing_real_images_are_one_line(tmp_path: Path) -> None:
    done = cuvee_here(
        "run", "experiments/domains.yaml", "--set", "web.tars=nowhere", "--set", f"store={tmp_path}/store"
    )
    _refused(done, "web.tars", "nowhere")
    assert not (tmp_path / "store").exists()


def test_an_unwritable_store(web: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    experiment = write_experiment(tmp_path, tmp_path / "file" / "store", web)
    _refused(cuvee_here("run", str(experiment)), str(tmp_path / "file"), "cannot be written")


def test_no_store_to_ask(tmp_path: Path) -> None:
    for asked in (["funnel", str(tmp_path)], ["verify", str(tmp_path)], ["trace", str(tmp_path), "x"]):
        _refused(cuvee_here(*asked), str(tmp_path), "no store")


@pytest.fixture
def malformed(tmp_path: Path) -> Path:
    """An experiment whose CC12M file has one line of three columns, line 3; its images lie inside, so none is asked."""
    lines = [f"http://127.0.0.1:9/{n}.jpg\tcaption {n}" for n in range(32)]
    (tmp_path / "cc12m.tsv").write_text("\n".join([*lines[:2], "http://a.test/1.jpg\tone\ttwo", *lines[2:]]) + "\n")
    return write_ingest(tmp_path, {"cc12m": {"format": "cc12m", "files": [str(tmp_path / "cc12m.tsv")]}}, {})


def test_a_malformed_row_names_its_file_and_line_and_nothing_is_written(malformed: Path, spark: SparkSession) -> None:
    done = cuvee_here("ingest", str(malformed), "--set", "ingest.malformed_rows=0", spark=spark)
    _refused(done, "sources.cc12m", "cc12m.tsv line 3", "3 columns", "ingest.malformed_rows")
    assert not list((malformed.parent / "store").rglob("*.parquet"))


def test_a_malformed_row_is_a_counted_outcome_and_so_is_an_address_inside(malformed: Path, spark: SparkSession) -> None:
    done = cuvee_here("ingest", str(malformed), spark=spark)
    assert done.returncode == 0, done.stderr
    assert "cc12m: 1 malformed rows of 33; the first: cc12m.tsv line 3" in done.stderr
    [cc12m] = answered("funnel", str(malformed.parent / "store"))
    assert cc12m["published"] == 33
    assert cc12m["stages"][0]["dropped"] == {"malformed": 1, "address_refused": 32}


def test_sigterm_ends_a_command_and_what_it_has_started(tmp_path: Path) -> None:
    large = {"kind": "world", "seed": 11, "pairs": 3000, "evaluation_images": 60}
    experiment = write_experiment(tmp_path, tmp_path / "store", tmp_path / "web", web=large)
    running = subprocess.Popen(command("run", str(experiment)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    started = _drawing(running.pid)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=300)
    assert (running.returncode, said.splitlines()[-1]) == (130, "cuvee: interrupted; the same command resumes")
    deadline = time.monotonic() + 60  # what keeps account of shared memory ends once the others have
    while left := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _drawing(pid: int) -> list[str]:
    """Return the children of a process that draws a web, once both that draw are at work."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = children.read_text().split()
        if len(found) >= 3 and all(_seconds(one) > 3 for one in found[-2:]):  # theirs and that of what they share
            return found
        time.sleep(0.2)
    pytest.fail("no process drew the web")


def _seconds(pid: str) -> float:
    """Return the processor time of a process, in seconds."""
    spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


def test_what_needs_no_model_waits_for_no_torch() -> None:
    stages = "jobs.ingest.stage, jobs.decide, jobs.blend, jobs.export.stage, jobs.report.stage"
    script = f"import sys, jobs.workflow.experiment, jobs.workflow.runner, {stages}\n"
    script += "print(sorted({'torch', 'open_clip', 'faiss', 'albumentations'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_teaches() -> None:
    done = cuvee("--help")
    assert done.returncode == 0
    for word in ("run", "trace", "funnel", "verify", "exit codes", "experiments/demo.yaml"):
        assert word in done.stdout
