"""A small store whose signals are there: what `decide` starts from, written without ingest and score."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import Job
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.schemas import signal_table
from tests.support.ingest_experiments import evaluation_set
from tests.support.road_experiment import ROOT

SOURCES = ("laion", "yfcc")


Rows = Sequence[Mapping[str, Any]]
"""Pairs: uid, source, and for each signal a mapping of columns, None where the signal has no row."""


def write_experiment(folder: Path, filters: Mapping[str, Any], **changes: Any) -> Path:
    """Write an experiment with the signals caption_v1, concepts_v1 (cat, dog, …) and published_v1 (similarity)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.tsv").write_text("http://a.test/1.jpg\ta caption\n")
    (folder / "concepts.txt").write_text("cat\ndog\nbird\nfish\n")
    data: dict[str, Any] = {
        "title": "decide",
        "question": "what stays?",
        "store": str(folder / "store"),
        "seed": 7,
        "spark": {"conf": {"spark.sql.shuffle.partitions": "2"}},
        "sources": {
            "laion": {"format": "laion", "files": [str(folder / "rows.tsv")]},
            "yfcc": {"format": "cc12m", "files": [str(folder / "rows.tsv")]},
        },
        "evaluation": {"reference": "one", "sets": {"one": evaluation_set(folder / "evaluation")}},
        "signals": {
            "caption_v1": None,
            "concepts_v1": {"file": str(folder / "concepts.txt")},
            "published_v1": {"numbers": ["similarity"]},
        },
        "filters": dict(filters),
        "mixtures": {"everything": {}},
        "training": {
            "model": str(ROOT / "experiments/models/resnet_64px"),
            "mixtures": ["everything"],
            "samples_seen": 64,
        },
        "report": {"filter": next(iter(filters)), "examples": 0},
    }
    path = folder / "decide.yaml"
    path.write_text(yaml.safe_dump(data | changes, sort_keys=False), "utf-8")
    return path


def opened(path: Path, settings: Sequence[str] = (), spark: Any = None) -> Run:
    """Return the run of an experiment, on a Spark session that is there."""
    run = Run(load_experiment(path, list(settings)), Display())
    if spark is not None:
        run.__dict__["spark"] = spark
    return run


def fill(run: Run, rows: Rows, per_file: int = 1000) -> None:
    """Write the rows of `samples` and of all signals, `per_file` a file, and finish the jobs up to `score`."""
    started, made = datetime.now(UTC), dict[Job, list[DataFile]]()
    ingests = {job.name: job for job in run.plan.ingests()}
    for job in run.plan.until("score"):
        made[job] = []
    for source, ingest in ingests.items():
        made[ingest] = _written(
            run, ingest, "samples", [{"uid": row["uid"]} for row in _of(rows, source)], source, per_file
        )
    for signal in run.experiment.signals:
        for job in run.plan.signal(signal):
            for source in SOURCES if job.name == signal else (job.name.partition("/")[2],):
                mine = [{"uid": row["uid"], **row[signal]} for row in _of(rows, source) if row[signal] is not None]
                made[job] += _written(run, job, signal_table(signal), mine, source, per_file)
    run.finish([(job, files, {}) for job, files in made.items()], started)


def _of(rows: Rows, source: str) -> Rows:
    return [row for row in rows if row["source"] == source]


def _written(
    run: Run, job: Job, table: str, rows: Sequence[dict[str, Any]], source: str, per_file: int
) -> list[DataFile]:
    schema = run.schema(table)
    parts = [rows[start : start + per_file] for start in range(0, len(rows), per_file)]
    full = [[dict.fromkeys(schema.names) | {"source": source} | row for row in part] for part in parts]
    return [write_rows(run.store, job.id, table, pa.Table.from_pylist(part, schema)) for part in full]


def decide(run: Run) -> dict[str, dict[str, str]]:
    """Decide by all filters; return each one's reasons by uid."""
    from jobs.decide import execute

    for job in run.plan.until("decide"):
        if job.stage == "decide":
            execute(run, [job])
    return {name: reasons_of(run, name) for name in run.experiment.rules}


def reasons_of(run: Run, name: str) -> dict[str, str]:
    """Return a filter's reasons by uid; its rows agree with themselves."""
    rows = run.ledger.read("decisions", jobs=[run.plan.decide(name).id]).to_pylist()
    assert all(row["filter"] == name and row["keep"] == (row["reason"] == "") for row in rows)
    found = {row["uid"]: row["reason"] for row in rows}
    assert len(found) == len(rows)
    return found
