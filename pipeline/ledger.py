"""The ledger: Delta tables under `tables/`, one commit for each job and table, and a row in `jobs` for each job.

Tasks write uniquely named Parquet files and never commit. The driver registers a job's files in one Delta commit
that carries the job's id as its app transaction, so a job that is run twice commits once. `jobs` comes last: a job
without a row there is not finished, and its rows are not read.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.schemas import TABLES
from pipeline.store import Store


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of one table, written by a task and not yet, or already, in a snapshot."""

    table: str
    path: str  # relative to the table's folder
    rows: int
    bytes: int


def write_rows(store: Store, job: str, table: str, rows: pa.Table) -> DataFile:
    """Write `rows` as one uniquely named Parquet file of `table`, for `Ledger.commit` to register; called in tasks.

    The file lies in the job's partition; the partition column itself is not stored in it.
    """
    path = f"job={job}/{uuid.uuid4().hex}.parquet"
    full = f"tables/{table}/{path}"
    with store.create(full) as stream:
        pq.write_table(rows, stream, compression="zstd")
    return DataFile(table, path, rows.num_rows, store.size(full))


@dataclass(frozen=True)
class JobRow:
    """What `jobs` says of a finished job; the mappings are stored as JSON text."""

    job: str
    stage: str
    name: str
    started: datetime
    finished: datetime
    rows: dict[str, int]
    config: Any
    inputs: list[str]
    code: str
    versions: dict[str, str]
    facts: dict[str, Any]

    def to_arrow(self) -> dict[str, Any]:
        """Return the row as `TABLES["jobs"]` wants it."""
        plain = dict(self.__dict__)
        for key in ("rows", "config", "inputs", "versions", "facts"):
            plain[key] = json.dumps(plain[key], sort_keys=True)
        return plain

    @classmethod
    def from_arrow(cls, row: dict[str, Any]) -> "JobRow":
        """Return the row that `to_arrow` wrote."""
        for key in ("rows", "config", "inputs", "versions", "facts"):
            row[key] = json.loads(row[key])
        return cls(**row)


class Ledger:
    """Reads and commits a store's tables. Lives in the driver only: deltalake does not survive a fork."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def open(self, table: str, version: int | None = None) -> DeltaTable | None:
        """Return the Delta table, or None where it has not been created yet."""
        try:
            return DeltaTable(self.store.uri(f"tables/{table}"), version=version)
        except TableNotFoundError:
            return None

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, sorted."""
        names = {path.split("/")[1] for path in self.store.files("tables")}
        return sorted(name for name in names if self.open(name) is not None)

    def versions(self) -> dict[str, int]:
        """Return each table's Delta version."""
        return {name: table.version() for name in self.tables() if (table := self.open(name))}

    def snapshot(self, table: str, jobs: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """Return (job, path relative to the store) of each data file of the table's newest version.

        With `jobs`, only those that these jobs wrote.
        """
        delta = self.open(table)
        if delta is None:
            return []
        wanted = None if jobs is None else set(jobs)
        actions = pa.table(delta.get_add_actions(flatten=True)).to_pydict()
        owners = actions.get("partition.job", [""] * len(actions["path"]))
        found = zip(owners, actions["path"], strict=True)
        return sorted((job, f"tables/{table}/{path}") for job, path in found if wanted is None or job in wanted)

    def read(self, table: str, columns: Sequence[str] | None = None, jobs: Iterable[str] | None = None) -> pa.Table:
        """Return a table's rows with the column `job` last, in the order of jobs and files; empty where absent."""
        parts = []
        kept = None if columns is None else [name for name in columns if name != "job"]
        if kept is not None and table == "jobs":  # the one table in whose files the job is a column
            kept.append("job")
        for job, path in self.snapshot(table, jobs):
            with self.store.arrow(path) as stream:
                part = pq.read_table(stream, columns=kept)
            if "job" not in part.column_names:
                part = part.append_column("job", pa.array([job] * part.num_rows, pa.string()))
            parts.append(part)
        if parts:
            return pa.concat_tables(parts)
        schema = TABLES.get(table, pa.schema([]))
        fields = [field for field in schema if field.name != "job" and (kept is None or field.name in kept)]
        return pa.schema([*fields, pa.field("job", pa.string())]).empty_table()

    def commit(self, job: str, table: str, schema: pa.Schema, files: Sequence[DataFile]) -> bool:
        """Register `files` in one Delta commit that carries `job`; return False if it was committed before."""
        uri = self.store.uri(f"tables/{table}")
        full = schema.append(pa.field("job", pa.string()))
        delta = self.open(table) or DeltaTable.create(
            uri,
            full,
            mode="ignore",
            partition_by=["job"],
            configuration={"delta.enableDeletionVectors": "false"},
        )
        if delta.transaction_version(job) is not None:
            return False
        actions: list[AddAction | RemoveAction] = [
            AddAction(
                path=file.path,
                size=file.bytes,
                partition_values={"job": job},
                modification_time=0,
                data_change=True,
                stats=json.dumps({"numRecords": file.rows}),
            )
            for file in files
        ]
        delta.create_write_transaction(
            actions,
            mode="append",
            schema=full,
            partition_by=["job"],
            commit_properties=CommitProperties(app_transactions=[Transaction(job, 1)]),
        )
        return True

    @cached_property
    def _finished(self) -> dict[str, JobRow]:
        rows = self.read("jobs").to_pylist()
        return {row["job"]: JobRow.from_arrow(row) for row in rows}

    def finished(self, job: str) -> JobRow | None:
        """Return the row of a finished job, or None."""
        return self._finished.get(job)

    def jobs(self) -> list[JobRow]:
        """Return all finished jobs, oldest first."""
        return sorted(self._finished.values(), key=lambda row: (row.finished, row.job))

    def finish(self, rows: Sequence[JobRow]) -> None:
        """Append rows to `jobs` in one commit: the completion record, written last."""
        schema = TABLES["jobs"]
        uri = self.store.uri("tables/jobs")
        delta = self.open("jobs") or DeltaTable.create(uri, schema, mode="ignore")
        new = [row for row in rows if delta.transaction_version(row.job) is None]
        if new:
            path = f"{uuid.uuid4().hex}.parquet"
            with self.store.create(f"tables/jobs/{path}") as stream:
                pq.write_table(pa.Table.from_pylist([row.to_arrow() for row in new], schema), stream)
            size = self.store.size(f"tables/jobs/{path}")
            action = AddAction(path, size, {}, 0, True, json.dumps({"numRecords": len(new)}))
            transactions = [Transaction(row.job, 1) for row in new]
            delta.create_write_transaction(
                [action],
                mode="append",
                schema=schema,
                commit_properties=CommitProperties(app_transactions=transactions),
            )
        self.refresh()

    def refresh(self) -> None:
        """Forget what was read of `jobs`."""
        self.__dict__.pop("_finished", None)
