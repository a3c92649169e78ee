"""Shared by the corpus signals: the tables that they read, as DataFrames, and the writing of their rows."""

from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.spark.frames import table_frame
from jobs.spark.tasks import write_frame
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.schemas import TABLES, signal_table

ScoreResult = tuple[list[DataFile], dict[str, Any]]
"""What `score` of a kind returns: the files that it wrote, and facts for the job's row."""


def stored_pairs(run: Run, columns: list[str]) -> tuple[DataFrame, DataFrame]:
    """Return the `samples` (uid, source, raw_sha256) and the `pairs` (uid and `columns`) behind them."""
    ingests = [job.id for job in run.plan.ingests()]
    samples = table_frame(run.spark, run.ledger, "samples", TABLES["samples"], ["uid", "source", "raw_sha256"], ingests)
    readable = {"problem": [""]}
    return samples, table_frame(run.spark, run.ledger, "pairs", TABLES["pairs"], ["uid", *columns], ingests, readable)


def signal_jobs(run: Run, name: str) -> list[str]:
    """Return the ids of the jobs that wrote a signal's rows."""
    return [job.id for job in run.plan.signal(name)]


def signal_frame(run: Run, name: str, columns: list[str]) -> DataFrame:
    """Return columns of a signal's table."""
    table = signal_table(name)
    return table_frame(run.spark, run.ledger, table, run.schema(table), columns, signal_jobs(run, name))


def spark_ddl(run: Run, job: Job) -> str:
    """Return the schema of a signal's table as Spark writes it, for `mapInArrow`."""
    kinds = {
        pa.string(): "string",
        pa.int32(): "int",
        pa.int64(): "bigint",
        pa.float32(): "float",
        pa.float64(): "double",
        pa.bool_(): "boolean",
        pa.binary(): "binary",
    }
    return ", ".join(f"{field.name} {kinds[field.type]}" for field in run.schema(signal_table(job.name)))


def write_signal(run: Run, job: Job, rows: DataFrame) -> list[DataFile]:
    """Write a signal's rows; return the files."""
    table = signal_table(job.name)
    return write_frame(rows, run.store, job.id, table, run.schema(table)).files[job.id]
