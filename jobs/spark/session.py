"""The Spark session, and how a stage's work is spread over it."""

import os
import shlex
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from jobs.spark import worker_daemon
from jobs.spark.java import java_home, logging_options, new_folder, spark_home
from pipeline.config.experiment import SparkConfig

TASK_ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0"),
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Environment of the tasks: no network access on import, one thread each, as Spark fills the cores with tasks."""


_JAVA_OPTIONS = "spark.driver.extraJavaOptions"


def _submitted_conf() -> dict[str, str]:
    """Return the conf passed to spark-submit, where it has started this process and Spark's Java."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return {}
    SparkContext._ensure_initialized()
    return {key: value for key, value in SparkConf().getAll() if key != "spark.app.name"}  # the submitted file's


def master_of(settings: SparkConfig) -> str:
    """Return the master that Spark runs on: spark-submit's takes precedence over the experiment file's."""
    return _submitted_conf().get("spark.master", settings.master)


def _is_local(master: str) -> bool:
    """Tell whether a master, and so all that it starts, is on this machine."""
    return master.startswith("local") or urlsplit(master).hostname in ("127.0.0.1", "localhost")


def start_session(settings: SparkConfig, name: str, preload: Sequence[str] = ()) -> SparkSession:
    """Return a Spark session that listens on loopback alone where its master is this machine.

    The conf of spark-submit takes precedence over the experiment file. The executors' Python is
    `spark.pyspark.python`, else this one. In local mode, `preload` names modules that workers have from their start;
    elsewhere, their Python may only find them once a task has come.
    """
    scratch = new_folder("spark")
    submitted = _submitted_conf()
    master = master_of(settings)
    effective = {**settings.conf, **submitted}
    options = f"{logging_options(scratch)} {settings.conf.get(_JAVA_OPTIONS, '')}".strip()
    if not submitted:
        os.environ["JAVA_HOME"] = str(java_home())
        os.environ["PYSPARK_SUBMIT_ARGS"] = f"--driver-java-options {shlex.quote(options)} pyspark-shell"
        if master.startswith("local-cluster"):
            os.environ["SPARK_HOME"] = str(spark_home(scratch / "home"))
    os.environ["PYSPARK_PYTHON"] = effective.get("spark.pyspark.python", sys.executable)
    conf = {
        "spark.driver.memory": settings.memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "8",
        "spark.sql.warehouse.dir": str(scratch),
        "spark.local.dir": str(scratch),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
        "spark.sql.ansi.enabled": "true",
        # else tasks of SQL get another environment than those of RDDs, and so a daemon and workers of their own
        "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "false",
        **{f"spark.executorEnv.{key}": value for key, value in TASK_ENVIRONMENT.items()},
    }
    if _is_local(master):
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    if master.partition("[")[0] == "local":
        conf |= {
            "spark.python.daemon.module": worker_daemon.__name__,
            f"spark.executorEnv.{worker_daemon.PRELOAD_VARIABLE}": " ".join(preload),
        }
    builder = SparkSession.builder.master(master).appName(name)
    for key, value in {**conf, **settings.conf, _JAVA_OPTIONS: options, **submitted}.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()
