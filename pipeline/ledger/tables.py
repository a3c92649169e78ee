"""The ledger: Delta tables under `tables/`, one commit for each job and table, and a row in `jobs` for each job.

Tasks write uniquely named Parquet files and never commit. The driver registers a job's files in one Delta commit
that carries the job's id as its app transaction, so a job that runs twice commits once. `jobs` is written last: a job
without a row there is not finished, and its rows are not read.
"""

import json
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import InputError, StageFailed
from pipeline.ledger.data_files import DataFile, with_schema
from pipeline.ledger.schemas import DESCRIPTION, SCHEMA_VERSION, TABLES
from pipeline.storage.object_store import error_message, io_errors
from pipeline.storage.store import Store

MAX_COMMIT_ATTEMPTS = 5
"""How often a commit is tried that conflicts with another writer's."""


@dataclass(frozen=True)
class SnapshotFile:
    """A data file of a snapshot: its job, its path in the store, its rows, and its least and greatest uid.

    The uids are "" where they are unknown.
    """

    job: str
    path: str
    rows: int
    first: str
    last: str

    def may_hold(self, uids: Sequence[str]) -> bool:
        """Return whether the file may hold one of these uids, which are sorted."""
        return not self.first or any_between(uids, self.first, self.last)


def any_between(ordered: Sequence[str], first: str, last: str) -> bool:
    """Return whether one of these sorted texts is at least `first` and at most `last`."""
    index = bisect_left(ordered, first)
    return index < len(ordered) and ordered[index] <= last


@dataclass(frozen=True)
class JobRow:
    """A finished job's row of `jobs`; mappings and lists are stored as JSON text."""

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
        """Return the row in the schema of `TABLES["jobs"]`."""
        fields = dict(self.__dict__)
        for key in ("rows", "config", "inputs", "versions", "facts"):
            fields[key] = json.dumps(fields[key], sort_keys=True)
        return fields

    @classmethod
    def from_arrow(cls, row: dict[str, Any]) -> "JobRow":
        """Return the row that `to_arrow` wrote."""
        for key in ("rows", "config", "inputs", "versions", "facts"):
            row[key] = json.loads(row[key])
        return cls(**row)


class Ledger:
    """Reads and commits a store's tables. Used in the driver only: deltalake does not survive a fork."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._delta_schemas: dict[
            str, pa.Schema
        ] = {}  # of tables that were read: a signal's columns are not in `TABLES`

    def open(self, table: str, version: int | None = None) -> DeltaTable | None:
        """Return the Delta table, or None where it has not been created yet.

        Raises InputError where it cannot be opened, or was written by a later version of cuvee.
        """
        uri = self.store.uri(f"tables/{table}")
        try:
            delta = DeltaTable(uri, version=version, storage_options=self.store.delta_options())
        except TableNotFoundError:
            return None
        except io_errors(DeltaError) as error:
            raise InputError(f"{uri}: the table cannot be opened ({error_message(error)})") from error
        if (written := schema_version(delta)) > SCHEMA_VERSION:
            message = f"written by a later version of cuvee: found schema {written}, expected {SCHEMA_VERSION} at most"
            raise InputError(f"{uri}: {message}")
        return delta

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, sorted."""
        names = {path.split("/")[1] for path in self.store.files("tables")}
        return sorted(name for name in names if self.open(name) is not None)

    def versions(self) -> dict[str, int]:
        """Return each table's Delta version."""
        return {name: self.version(name) for name in self.tables()}

    def version(self, table: str) -> int:
        """Return a table's Delta version, -1 where there is no such table."""
        delta = self.open(table) if self.store.exists(f"tables/{table}") else None
        return -1 if delta is None else delta.version()

    def files(self, table: str) -> list[SnapshotFile]:
        """Return the data files of the table's newest version, sorted by job and path."""
        delta = self.open(table)
        if delta is None:
            return []
        listed = []
        for action in pa.table(delta.get_add_actions(flatten=True)).to_pylist():
            path, rows = f"tables/{table}/{action['path']}", action["num_records"]
            first, last = action.get("min.uid") or "", action.get("max.uid") or ""
            listed.append(SnapshotFile(action.get("partition.job", ""), path, rows, first, last))
        return sorted(listed, key=lambda data_file: (data_file.job, data_file.path))

    def snapshot(self, table: str, jobs: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """Return (job, path relative to the store) of each data file of the table's newest version.

        With `jobs`, only those of these jobs.
        """
        job_ids = None if jobs is None else set(jobs)
        return [
            (data_file.job, data_file.path)
            for data_file in self.files(table)
            if job_ids is None or data_file.job in job_ids
        ]

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        jobs: Iterable[str] | None = None,
        keep: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> pa.Table:
        """Return a table's rows with the column `job` last, in the order of jobs and files; empty where absent.

        `keep` maps each file's rows to those that are kept in memory; it is called in several threads at once.
        """
        files = self.snapshot(table, jobs)
        if not files:
            known = [field for field in TABLES.get(table, ()) if columns is None or field.name in columns]
            fields = [field for field in known if field.name != "job"]
            return pa.schema([*fields, pa.field("job", pa.string())]).empty_table()
        schema = self.schema(table, columns)

        def read(file: tuple[str, str]) -> pa.Table:
            job, path = file
            with self.store.arrow(path) as stream:
                # pyarrow's dataset reader takes three times as long
                part = pq.ParquetFile(stream).read(schema.names, use_threads=False)
            part = keep(with_schema(part, schema))
            if "job" not in part.column_names:
                part = part.append_column("job", pa.array([job] * part.num_rows, pa.string()))
            return part

        with ThreadPoolExecutor(self.store.at_once) as pool:
            parts = list(pool.map(read, files))
        try:
            return pa.concat_tables(parts)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            other = next(part for part in parts if part.schema != parts[0].schema)
            index = next(at for at, field in enumerate(other.schema) if field != parts[0].schema.field(at))
            types = f"{parts[0].schema.field(index).type} and {other.schema.field(index).type}"
            message = f"{other.schema.names[index]}: found {types}, expected one type in all files"
            raise InputError(f"{self.store.uri(f'tables/{table}')}: {message}") from None

    def schema(self, table: str, columns: Sequence[str] | None = None) -> pa.Schema:
        """Return the schema of a table's files, or of these columns; only the files of `jobs` have a column `job`.

        Raises InputError where the table has no such column.
        """
        fields = {field.name: field for field in TABLES.get(table, ())}
        if (columns is None and not fields) or not {*(columns or ())} <= fields.keys() | {"job"}:
            if table not in self._delta_schemas and (delta := self.open(table)) is not None:
                self._delta_schemas[table] = pa.schema(delta.schema().to_arrow())
            fields |= {field.name: field for field in self._delta_schemas.get(table, ()) if field.name not in fields}
        if table != "jobs":
            fields.pop("job", None)
        names = list(fields) if columns is None else [name for name in columns if name != "job"]
        if columns is not None and table == "jobs":
            names.append("job")
        if missing := [name for name in names if name not in fields]:
            uri = self.store.uri(f"tables/{table}")
            raise InputError(f"{uri}: expected a column {missing[0]}, found {', '.join(fields) or 'no table'}")
        return pa.schema([fields[name] for name in names])

    def commit(self, job: str, table: str, schema: pa.Schema, files: Sequence[DataFile]) -> bool:
        """Register `files` in one Delta commit that carries `job`; return False if it was committed before."""
        full = schema.append(pa.field("job", pa.string()))
        actions: list[AddAction | RemoveAction] = [_add_action(file) for file in files]

        def append(delta: DeltaTable) -> bool:
            if _is_committed(delta, job):
                return False
            _write(delta, full, actions, [job], ["job"])
            return True

        return self._committed(table, full, append, ["job"], {"delta.enableDeletionVectors": "false"})

    def replace(
        self,
        job: str,
        table: str,
        old: Sequence[str],
        new: Sequence[DataFile],
        withdrawn: Sequence[str] = (),
        why: str = "",
    ) -> bool:
        """Replace the files `old` (paths in the table's folder) by the files `new`, each in its owner's partition.

        One Delta commit that carries `job`; returns False where it was made before. The jobs `withdrawn`, which have no
        rows left, can be committed again. The old files are not removed. `why`, which is written to Delta's history,
        says that the rows are the same as before. Raises StageFailed where an old file is not in the newest version.
        """
        transaction_id = f"replaced by {job}"

        def swap(delta: DeltaTable) -> bool:
            if _is_committed(delta, transaction_id):
                return False
            sizes = {action["path"]: action["size_bytes"] for action in pa.table(delta.get_add_actions()).to_pylist()}
            if missing := set(old) - sizes.keys():
                raise StageFailed(
                    f"{self.store.uri(f'tables/{table}')}: {min(missing)} is no longer in the table; run again"
                )
            now = int(time.time() * 1000)
            actions: list[AddAction | RemoveAction] = [_add_action(file, not why) for file in new]
            actions += [RemoveAction(path, not why, now, sizes[path], _partition_values(path)) for path in old]
            _write(
                delta, delta.schema(), actions, [transaction_id, *withdrawn], delta.metadata().partition_columns, why
            )
            return True

        return self._committed(table, TABLES.get(table, pa.schema([])), swap)

    def _committed(self, table: str, schema: pa.Schema, append: Callable[[DeltaTable], bool], *create: Any) -> bool:
        """Return the result of `append` on the newest version; it is called again where another writer committed first.

        deltalake itself retries an append behind other jobs' appends. It gives up where the same job was committed, by
        a second driver or by this one in a put whose response was lost; `append` then finds that in the new version.
        """
        for retries_left in reversed(range(MAX_COMMIT_ATTEMPTS)):
            try:
                return append(self._open_or_create(table, schema, *create))
            except CommitFailedError as error:
                if not retries_left:
                    raise self._commit_error(table, error) from error
            except io_errors(DeltaError) as error:
                if self.store.local:
                    raise
                raise self._commit_error(table, error) from error
        raise AssertionError("not reached")

    def _commit_error(self, table: str, error: Exception) -> StageFailed:
        return StageFailed(
            f"{self.store.uri(f'tables/{table}')}: the commit failed ({error_message(error)}); run again to resume"
        )

    def _open_or_create(
        self,
        table: str,
        schema: pa.Schema,
        partition_by: list[str] | None = None,
        configuration: dict[str, str | None] | None = None,
    ) -> DeltaTable:
        """Return the table with the columns of `schema`, created where it is absent.

        Raises CommitFailedError where another writer committed first. Not retried by deltalake, as a second creation
        would become the second version, and fail the first writer's appends.
        """
        delta = self.open(table) or DeltaTable.create(
            self.store.uri(f"tables/{table}"),
            schema,
            mode="ignore",
            partition_by=partition_by,
            configuration=configuration,
            description=DESCRIPTION.format(SCHEMA_VERSION),
            storage_options=self.store.delta_options(),
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        existing = {field.name for field in delta.schema().fields}
        if added := [field for field in Schema.from_arrow(schema).fields if field.name not in existing]:
            no_retries = CommitProperties(max_commit_retries=0)
            delta.alter.add_columns(added, commit_properties=no_retries)
            delta.alter.set_table_description(DESCRIPTION.format(SCHEMA_VERSION), commit_properties=no_retries)
        return delta

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

        def append(delta: DeltaTable) -> bool:
            new = [row for row in rows if not _is_committed(delta, row.job)]
            if new:
                # not removed where the commit fails: it may be in the table, and only the response was lost
                path = f"{uuid.uuid4().hex}.parquet"
                with self.store.create(f"tables/jobs/{path}") as stream:
                    pq.write_table(pa.Table.from_pylist([row.to_arrow() for row in new], schema), stream)
                size = self.store.size(f"tables/jobs/{path}")
                action = _add_action(DataFile("jobs", path, len(new), size))
                _write(delta, schema, [action], [row.job for row in new])
            return bool(new)

        self._committed("jobs", schema, append)
        self.refresh()

    def refresh(self) -> None:
        """Drop the cached rows of `jobs`."""
        self.__dict__.pop("_finished", None)


def schema_version(delta: DeltaTable) -> int:
    """Return the schema version with which a table was created or last extended; 1 where its description has none."""
    prefix, _, number = (delta.metadata().description or "").rpartition(" ")
    return int(number) if f"{prefix} {{}}" == DESCRIPTION and number.isdecimal() else 1


def _partition_values(path: str) -> dict[str, str | None]:
    """Return the partition values of a file, by its path in the table's folder."""
    folder, slash, _ = path.partition("/")
    return {"job": folder.removeprefix("job=")} if slash else {}


def _add_action(file: DataFile, data_change: bool = True) -> AddAction:
    return AddAction(file.path, file.bytes, _partition_values(file.path), 0, data_change, file.statistics())


def _is_committed(delta: DeltaTable, job: str) -> bool:
    """Return whether a job is committed to a table: the version of its id is odd, and even after a withdrawal."""
    return bool((delta.transaction_version(job) or 0) % 2)


def _write(
    delta: DeltaTable,
    schema: Any,
    actions: list[AddAction | RemoveAction],
    jobs: Sequence[str],
    partition_by: list[str] | None = None,
    why: str = "",
) -> None:
    """Write one commit that carries the jobs' ids as app transactions, each with its next version."""
    transactions = [Transaction(job, (delta.transaction_version(job) or 0) + 1) for job in jobs]
    delta.create_write_transaction(
        actions,
        mode="append",
        schema=schema,
        partition_by=partition_by,
        commit_properties=CommitProperties({"cuvee": why} if why else None, app_transactions=transactions),
    )
