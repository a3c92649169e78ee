"""Experiments that are all ingest: sources of a test's own, on a web of a test's own, and little behind them."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support.hostile_web import jpeg
from tests.support.road_experiment import ROOT

TABLE: dict[str, Any] = {"kind": "jsonl", "columns": {"url": "url", "caption": "caption", "record_id": "id"}}
"""The options of a source whose file `write_rows` wrote."""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> str:
    """Write JSON lines, text as it is; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


def write_tar(path: Path, members: Mapping[str, bytes]) -> str:
    """Write a plain tar; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def evaluation_set(folder: Path) -> str:
    """Write an evaluation set of one image in CLIP_benchmark's layout; return the folder."""
    write_tar(folder / "test" / "0.tar", {"0.jpg": jpeg(5), "0.cls": b"0"})
    (folder / "classnames.txt").write_text("thing\nother\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\n")
    (folder / "test" / "nshards.txt").write_text("1\n")
    return str(folder)


def write_ingest(folder: Path, sources: Mapping[str, Any], hosts: Mapping[str, str], **changes: Any) -> Path:
    """Write `folder`/ingest.yaml, its store beside it; `changes` replace or, for `ingest`, complete its sections."""
    data: dict[str, Any] = {
        "title": "ingest",
        "question": "what becomes of each row?",
        "store": str(folder / "store"),
        "sources": dict(sources),
        "ingest": {
            "hosts": dict(hosts),
            "per_host": {"at_once": 16, "per_second": 500},
            "attempts": 1,
            "timeout": 5,
            "resize": {"mode": "keep_ratio", "size": 64, "quality": 90, "min_side": 8},
        },
        "evaluation": {"reference": "one", "sets": {"one": evaluation_set(folder / "evaluation")}},
        "signals": {"caption_v1": None},
        "filters": {"short": {"drop_when": {"caption_too_short": "caption_v1.words < 1"}}},
        "mixtures": {"everything": {}},
        "training": {
            "model": str(ROOT / "experiments/models/resnet_64px"),
            "mixtures": ["everything"],
            "samples_seen": 64,
        },
        "report": {"filter": "short", "examples": 0},
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if key == "ingest" else value
    path = folder / "ingest.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return path


def ledger_of(experiment: Path) -> Ledger:
    """Return the ledger of an experiment's store, opened anew."""
    return Ledger(Store(str(experiment.parent / "store")))


def by_uid(rows: pa.Table) -> dict[str, dict[str, Any]]:
    """Return a table's rows by their uid; no uid may stand twice."""
    found = {row["uid"]: row for row in rows.to_pylist()}
    assert len(found) == rows.num_rows
    return found
