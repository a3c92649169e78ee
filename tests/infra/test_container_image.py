"""What the image of Kubernetes runs: its entry point starts the command, and its example is an experiment."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
import yaml

from infra.dist import build
from infra.kubernetes.entrypoint import TOLD, command
from jobs.spark.java import java_home
from jobs.workflow.experiment import load_experiment
from tests.support.ingest_experiments import evaluation_set
from tests.support.road_experiment import ROOT

SPARK = Path(pyspark.__file__).parent


ENTRYPOINT = ROOT / "infra/kubernetes/entrypoint.py"


def test_a_driver_that_spark_starts_runs_the_command_from_the_zip(tmp_path: Path) -> None:
    """With the arguments that Spark gives a driver's container, its master being this machine."""
    packed = build(tmp_path / "dist")[1]
    properties = tmp_path / "spark.properties"
    properties.write_text("spark.master=local[1]\nspark.app.name=test\n")
    told = ["driver", "--properties-file", str(properties), "--class", "org.apache.spark.deploy.PythonRunner"]
    done = subprocess.run(
        [sys.executable, str(ENTRYPOINT), *told, str(ROOT / "infra/submit.py"), "funnel", "nowhere"],
        cwd=tmp_path,
        env={
            **os.environ,
            "JAVA_HOME": str(java_home(tmp_path / "java")),
            "SPARK_HOME": str(SPARK),
            "SPARK_DRIVER_BIND_ADDRESS": "127.0.0.1",
            "PYTHONPATH": str(packed),
            "PYSPARK_PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr  # Spark hands all that the command says to its own output
    assert "cuvee: nowhere: no store" in said
    assert done.returncode == 2


def test_an_executor_says_what_its_backend_asks_for() -> None:
    told = {variable: f"<{variable}>" for variable in TOLD.values()}
    told |= {"SPARK_HOME": "/spark", "JAVA_HOME": "/java", "SPARK_EXECUTOR_MEMORY": "1g"}
    told |= {f"SPARK_JAVA_OPT_{number}": f"-Done={number}" for number in (10, 9, 0)}
    made = command(["executor"], told)
    assert made[:4] == ["/java/bin/java", "-Done=0", "-Done=9", "-Done=10"]
    assert made[made.index("--podName") + 1] == "<SPARK_EXECUTOR_POD_NAME>"
    [jar] = (SPARK / "jars").glob("spark-kubernetes_*.jar")
    with zipfile.ZipFile(jar) as classes:
        backend = classes.read("org/apache/spark/scheduler/cluster/k8s/KubernetesExecutorBackend$.class")
        names = classes.read("org/apache/spark/deploy/k8s/Constants$.class")
    assert all(flag.encode() in backend for flag in TOLD)
    assert all(variable.encode() in names for variable in (*TOLD.values(), "SPARK_JAVA_OPT_", "SPARK_EXECUTOR_MEMORY"))


@pytest.mark.parametrize("told", [["executor"], ["driver"], []])
def test_what_spark_has_not_started_is_one_line(told: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPARK_")}
    done = subprocess.run(
        [sys.executable, str(ENTRYPOINT), *told], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_the_example_is_an_experiment(tmp_path: Path) -> None:
    given = yaml.safe_load((ROOT / "infra/kubernetes/base/experiment.yaml").read_text("utf-8"))
    path = tmp_path / "experiment.yaml"
    path.write_text(given["data"]["experiment.yaml"], "utf-8")
    pq.write_table(pa.table({"URL": ["http://a.test/1.jpg"], "TEXT": ["a"]}), tmp_path / "1.parquet")
    here = {
        "sources.web.files": f"[{tmp_path}/*.parquet]",
        "evaluation.sets.photo": evaluation_set(tmp_path / "photo"),
        "training.model": str(ROOT / "experiments/models/resnet_64px"),
    }
    experiment = load_experiment(path, [f"{key}={value}" for key, value in here.items()])
    assert list(experiment.rules) == ["basic", "exact", "not_evaluated", "clip_top", "filtered"]
