"""Rows that a corpus signal keeps between its steps: Parquet files under `staging/<job>/`, removed when it is done."""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_schema

from pipeline.ledger.work_units import UnitRecord, record_path
from pipeline.storage.store import Store

ROW_GROUP_ROWS = 1 << 16
"""Rows of one row group, the smallest unit of a read."""


@dataclass(frozen=True)
class StagedTable:
    """Files of one table, each with rows, in the order of the partitions that wrote them; and the rows of all."""

    files: tuple[str, ...]
    rows: int


def fresh_path(group: str, name: str, suffix: str) -> str:
    """Return a path in the staging of `group` that no other attempt of any task has."""
    return f"staging/{group}/{name}/{uuid.uuid4().hex}.{suffix}"


def write_batches(store: Store, path: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches as one Parquet file as they come, holding one row group of them; return the number of rows."""
    pending: list[pa.RecordBatch] = []
    rows = pending_rows = 0
    with store.create(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in batches:
            pending.append(batch)
            rows, pending_rows = rows + batch.num_rows, pending_rows + batch.num_rows
            if pending_rows >= ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(pending, schema))
                pending, pending_rows = [], 0
        if pending:
            writer.write_table(pa.Table.from_batches(pending, schema))
    return rows


def _write(
    store: Store, group: str, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    # Spark marks literals as never null; the schema says what is stored
    full = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches if batch.num_rows)
    path = fresh_path(group, name, "parquet")
    rows = write_batches(store, path, schema, full)
    file = {"partition": TaskContext.get().partitionId(), "path": path, "rows": rows}
    yield pa.RecordBatch.from_pydict({"file": [json.dumps(file)]})


def run_step_once(store: Store, group: str, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the facts of the step `name` of `group`: from its record where it is done, else what `make` returns."""
    path = record_path(group, name)
    if store.exists(path):
        return UnitRecord.from_json(store.read(path)).facts
    facts = make()
    store.write(path, UnitRecord(name, {}, facts).to_json().encode())
    return facts


def stage_frame(frame: DataFrame, store: Store, group: str, name: str) -> StagedTable:
    """Write a DataFrame as the step `name` of `group`, a file for each partition, unless it was written before."""

    def make() -> dict[str, Any]:
        plain = to_arrow_schema(frame.schema)
        schema = pa.schema([pa.field(field.name, field.type) for field in plain])
        rows = frame.mapInArrow(partial(_write, store, group, name, schema), "file string").collect()
        files = sorted((json.loads(row["file"]) for row in rows), key=lambda file: int(file["partition"]))
        return {"files": [file["path"] for file in files if file["rows"]], "rows": sum(file["rows"] for file in files)}

    facts = run_step_once(store, group, name, make)
    return StagedTable(tuple(facts["files"]), int(facts["rows"]))


def read_staged(
    store: Store, files: Sequence[str], schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return staged files, or only some of their columns, as one table."""
    selected = pa.schema([schema.field(name) for name in columns or schema.names])
    tables = []
    for path in files:
        with store.arrow(path) as stream:
            tables.append(pq.read_table(stream, columns=selected.names).cast(selected))
    return pa.concat_tables(tables) if tables else selected.empty_table()
