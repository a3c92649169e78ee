"""Units of work that survive a kill: each writes a completion record last, and is skipped where the record exists.

A job is split into units (a shard, a tar, a partition). A task runs a unit and writes its rows as Parquet files
and then its record, `staging/<job>/<unit>.json`, which names them. When all units of a job have a record, the
driver commits the files. A killed run finds the records when it is run again and does only the missing units; the
files of a unit without a record are in no snapshot, and `cuvee verify` finds them.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.storage.store import Store

_SAFE = re.compile(r"[^A-Za-z0-9_.=-]+")


@dataclass(frozen=True)
class UnitOutput:
    """A unit's result: the rows of each table by job, and facts for its record (counts, for example)."""

    rows: Mapping[str, Mapping[str, pa.Table]]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitRecord:
    """A unit's completion record: the files it wrote for each job, and its facts."""

    unit: str
    files: dict[str, list[DataFile]]
    facts: dict[str, Any]

    def to_json(self) -> str:
        """Return the record as JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "UnitRecord":
        """Return the record that `to_json` wrote."""
        plain = json.loads(text)
        files = {job: [DataFile(**file) for file in files] for job, files in plain["files"].items()}
        return cls(plain["unit"], files, plain["facts"])


def record_path(group: str, unit: str) -> str:
    """Return the path of the completion record of `unit`; `group` is the id of the pass that it is part of."""
    return f"staging/{group}/{_SAFE.sub('_', unit)}.json"


def run_unit(store: Store, group: str, unit: str, work: Callable[[], UnitOutput]) -> UnitRecord:
    """Run one unit unless its record exists; write its rows, then its record. Called in tasks."""
    path = record_path(group, unit)
    if store.exists(path):
        return UnitRecord.from_json(store.read(path))
    output = work()
    files = {
        job: [write_rows(store, job, table, rows) for table, rows in tables.items()]
        for job, tables in output.rows.items()
    }
    record = UnitRecord(unit, files, output.facts)
    store.write(path, record.to_json().encode())
    return record


def finished_units(store: Store, group: str) -> dict[str, UnitRecord]:
    """Return the records of the finished units, by unit."""
    records = [
        UnitRecord.from_json(store.read(path)) for path in store.files(f"staging/{group}") if path.endswith(".json")
    ]
    return {record.unit: record for record in records}
