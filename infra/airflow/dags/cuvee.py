"""The road as an Airflow DAG: a task for each stage, run by spark-submit, for one data interval after the other.

An interval is the snapshot of what the sources have published by its end: its first day is the `snapshot` of every
source, which is part of each ingest's id. So an interval that is run twice does nothing the second time, and a task
that is tried again goes on where it was stopped. Of two runs at once the second waits for the store's lock.

Read from the environment, as Airflow reads this file without arguments:

    CUVEE_HOME         the project's folder, with .venv in it (default: the one that this file is in)
    CUVEE_EXPERIMENT   the experiment file (default: experiments/demo.yaml), relative to that
    CUVEE_SETTINGS     more `--set` settings, KEY=VALUE as a shell splits them; Airflow's templates may stand in them,
                       as in sources.yfcc.files=[s3://published/{{ ds }}/*.tsv]
    CUVEE_SCHEDULE     the schedule, as cron writes it, in UTC (default: 0 2 * * *)
"""

import os
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, chain, task

STAGES = ("ingest", "score", "decide", "blend", "export", "tune", "train", "evaluate", "report")


HOME = Path(os.environ.get("CUVEE_HOME") or Path(__file__).resolve().parents[3])


EXPERIMENT = HOME / os.environ.get("CUVEE_EXPERIMENT", "experiments/demo.yaml")


WAIT = 6 * 3600
"""Seconds in which another command may have the store."""


def settings() -> list[str]:
    """Return the arguments by which an interval's experiment differs from the file, as templates."""
    sources = yaml.safe_load(EXPERIMENT.read_text("utf-8"))["sources"]
    snapshots = [f'sources.{name}.snapshot="{{{{ data_interval_start | ds }}}}"' for name in sources]
    given = [*snapshots, *shlex.split(os.environ.get("CUVEE_SETTINGS", ""))]
    return [part for one in given for part in ("--set", one)]


with DAG(
    "cuvee",
    description="Ingest what the sources published, and take it down the road to the report",
    schedule=CronDataIntervalTimetable(os.environ.get("CUVEE_SCHEDULE", "0 2 * * *"), timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=24),
    },
) as dag:
    stages = [
        SparkSubmitOperator(
            task_id=stage,
            name=f"cuvee {stage}",
            application=str(HOME / "infra" / "submit.py"),
            application_args=[stage, str(EXPERIMENT), *settings(), "--wait", str(WAIT)],
            env_vars={"PATH": f"{HOME / 'infra' / 'airflow' / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        )
        for stage in STAGES
    ]

    @task(retries=0)
    def fresh(since: str, arguments: list[str]) -> None:
        """Fail where the report is older than the interval's end: the schedule has run, and yet nothing came of it."""
        python = HOME / ".venv" / "bin" / "python"
        asked = [python, HOME / "infra" / "fresh.py", EXPERIMENT, *arguments, "--since", since]
        subprocess.run(asked, check=True, cwd=HOME)

    chain(*stages, fresh("{{ data_interval_end }}", settings()))
