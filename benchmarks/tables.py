"""A store whose ingest and shard signals are finished with given rows, so that corpus signals run on any table."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from jobs.workflow.experiment import Experiment, load_experiment
from jobs.workflow.plan import Plan
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.ledger.tables import JobRow, Ledger

ROOT = Path(__file__).parent.parent


Tables = Mapping[str, Iterator[pa.Table]]
"""For `samples` and the name of each shard signal its rows, in parts that become a file each."""


def experiment(folder: Path, signals: Mapping[str, Any], **changes: Any) -> Path:
    """Write an experiment of one source with these signals, `folder`/experiment.yaml, and what it names; return it."""
    data = yaml.safe_load((ROOT / "experiments/demo.yaml").read_text("utf-8"))
    (folder / "rows.jsonl").write_text('{"url": "http://a.example/1.jpg", "caption": "a caption"}\n')
    options = {"kind": "jsonl", "columns": {"url": "url", "caption": "caption"}}
    evaluation = folder / "evaluation"
    (evaluation / "test").mkdir(parents=True)
    for file, text in (
        ("classnames.txt", "thing\n"),
        ("zeroshot_classification_templates.txt", "a {c}\n"),
        ("test/nshards.txt", "1\n"),
        ("test/0.tar", ""),
    ):
        (evaluation / file).write_text(text)
    data |= {
        "web": None,
        "store": str(folder / "store"),
        "sources": {"bench": {"format": "table", "files": [str(folder / "rows.jsonl")], "options": options}},
        "models": {"any": {"name": "ViT-B-32", "pretrained": "none"}},
        "signals": {"caption_v1": None, **signals},
        "filters": {"short": {"drop_when": {"short": "caption_v1.words < 1"}}},
        "mixtures": {"all": {}},
        "evaluation": {"reference": "one", "sets": {"one": str(evaluation)}},
        "report": {"filter": "short"},
    }
    data["training"] |= {"mixtures": ["all"], "model": str(ROOT / "experiments/models/resnet_64px")}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(data | changes), "utf-8")
    return path


def finished(path: Path, tables: Tables) -> Experiment:
    """Commit the ingest and every shard signal of an experiment as finished, those that are named with their rows."""
    opened = load_experiment(path, [])
    ledger, plan, now = Ledger(opened.store), Plan(opened), datetime.now(UTC)
    rows = []
    for job in plan.until("score"):
        name = "samples" if job.stage == "ingest" else job.name.partition("/")[0]
        if job.stage != "ingest" and opened.signals[name].scope != "shard":
            continue
        table = name if job.stage == "ingest" else signal_table(name)
        schema = TABLES.get(table) or pa.schema(
            [("uid", pa.string()), ("source", pa.string()), *opened.signals[name].columns()]
        )
        parts = [_whole(part, schema) for part in tables.get(name, iter(()))]
        files = [write_rows(opened.store, job.id, table, part) for part in parts]
        ledger.commit(job.id, table, schema, files)
        counts = {table: sum(file.rows for file in files)}
        inputs = sorted(other.id for other in job.needs)
        rows.append(JobRow(job.id, job.stage, job.name, now, now, counts, job.config, inputs, job.code, {}, {}))
    ledger.finish(rows)
    return opened


def _whole(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a part with the columns that it lacks as nulls."""
    columns = []
    for field in schema:
        column = part[field.name] if field.name in part.column_names else pa.nulls(part.num_rows)
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)
