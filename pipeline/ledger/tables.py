"""The ledger: Delta tables under `tables/`, one commit for each job and table, and a row in `jobs` for each job.

Tasks write uniquely named Parquet files and never commit. The driver registers a job's files in one Delta commit
that carries the job's id as its app transaction, so a job that is run twice commits once. `jobs` comes last: a job
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
from pipeline.ledger.data_files import DataFile, filled
from pipeline.ledger.schemas import DESCRIPTION, SCHEMA_VERSION, TABLES
from pipeline.storage.object_store import failures, told
from pipeline.storage.store import Store

ATTEMPTS = 5
"""How often a commit is tried that another writer's made stale."""


@dataclass(frozen=True)
class Listed:
    """A data file of a snapshot: its job, its path in the store, its rows, and the least and the greatest uid in it,
    "" where that is not known.
    """

    job: str
    path: str
    rows: int
    first: str
    last: str

    def may_hold(self, uids: Sequence[str]) -> bool:
        """Tell whether one of these uids, in their order, may be in it."""
        return not self.first or between(uids, self.first, self.last)


def between(ordered: Sequence[str], first: str, last: str) -> bool:
    """Tell whether one of these texts, in their order, is at least `first` and at most `last`."""
    at = bisect_left(ordered, first)
    return at < len(ordered) and ordered[at] <= last


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
        self._stored: dict[str, pa.Schema] = {}  # of tables that were read, by which a signal's columns are known

    def open(self, table: str, version: int | None = None) -> DeltaTable | None:
        """Return the Delta table, or None where it has not been created yet; raise InputError where none can tell."""
        uri = self.store.uri(f"tables/{table}")
        try:
            delta = DeltaTable(uri, version=version, storage_options=self.store.delta_options())
        except TableNotFoundError:
            return None
        except failures(DeltaError) as error:
            raise InputError(f"{uri}: the table cannot be opened ({told(error)})") from error
        if (written := schema_version(delta)) > SCHEMA_VERSION:
            said = f"written by a later version of cuvee: found schema {written}, expected {SCHEMA_VERSION} at most"
            raise InputError(f"{uri}: {said}")
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

    def files(self, table: str) -> list[Listed]:
        """Return the data files of the table's newest version, in the order of jobs and paths."""
        delta = self.open(table)
        if delta is None:
            return []
        found = []
        for said in pa.table(delta.get_add_actions(flatten=True)).to_pylist():
            path, rows = f"tables/{table}/{said['path']}", said["num_records"]
            first, last = said.get("min.uid") or "", said.get("max.uid") or ""
            found.append(Listed(said.get("partition.job", ""), path, rows, first, last))
        return sorted(found, key=lambda one: (one.job, one.path))

    def snapshot(self, table: str, jobs: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """Return (job, path relative to the store) of each data file of the table's newest version.

        With `jobs`, only those that these jobs wrote.
        """
        wanted = None if jobs is None else set(jobs)
        return [(one.job, one.path) for one in self.files(table) if wanted is None or one.job in wanted]

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        jobs: Iterable[str] | None = None,
        keep: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> pa.Table:
        """Return a table's rows with the column `job` last, in the order of jobs and files; empty where absent.

        `keep` makes of each file's rows what is kept in memory; it is called in several threads at once.
        """
        files = self.snapshot(table, jobs)
        schema = self.schema(table, columns)

        def read(file: tuple[str, str]) -> pa.Table:
            job, path = file
            with self.store.arrow(path) as stream:
                # a dataset's reader takes thrice as long
                part = pq.ParquetFile(stream).read(schema.names, use_threads=False)
            part = keep(filled(part, schema))
            if "job" not in part.column_names:
                part = part.append_column("job", pa.array([job] * part.num_rows, pa.string()))
            return part

        with ThreadPoolExecutor(self.store.at_once) as pool:
            parts = list(pool.map(read, files))
        if not parts:
            fields = [field for field in schema if field.name != "job"]
            return pa.schema([*fields, pa.field("job", pa.string())]).empty_table()
        try:
            return pa.concat_tables(parts)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            odd = next(part for part in parts if part.schema != parts[0].schema)
            place = next(at for at, field in enumerate(odd.schema) if field != parts[0].schema.field(at))
            kinds = f"{parts[0].schema.field(place).type} and {odd.schema.field(place).type}"
            said = f"{odd.schema.names[place]}: found {kinds}, expected one type in all files"
            raise InputError(f"{self.store.uri(f'tables/{table}')}: {said}") from None

    def schema(self, table: str, columns: Sequence[str] | None = None) -> pa.Schema:
        """Return the columns of a table's files, or these of them; `job` is one in the files of `jobs` alone.

        Raises InputError where the table has no such column.
        """
        known = {field.name: field for field in TABLES.get(table, ())}
        if (columns is None and not known) or not {*(columns or ())} <= known.keys() | {"job"}:
            if table not in self._stored and (delta := self.open(table)) is not None:
                self._stored[table] = pa.schema(delta.schema().to_arrow())
            known |= {field.name: field for field in self._stored.get(table, ()) if field.name not in known}
        if table != "jobs":
            known.pop("job", None)
        names = list(known) if columns is None else [name for name in columns if name != "job"]
        if columns is not None and table == "jobs":
            names.append("job")
        if missing := [name for name in names if name not in known]:
            uri = self.store.uri(f"tables/{table}")
            raise InputError(f"{uri}: expected a column {missing[0]}, found {', '.join(known) or 'no table'}")
        return pa.schema([known[name] for name in names])

    def commit(self, job: str, table: str, schema: pa.Schema, files: Sequence[DataFile]) -> bool:
        """Register `files` in one Delta commit that carries `job`; return False if it was committed before."""
        full = schema.append(pa.field("job", pa.string()))
        actions: list[AddAction | RemoveAction] = [_added(file) for file in files]

        def append(delta: DeltaTable) -> bool:
            if _has(delta, job):
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
        """Put the files `new` in the place of `old` (paths in the table's folder), each in its owner's partition.

        One Delta commit that carries `job`; False where it was made before. The jobs `withdrawn`, none of whose rows
        are left, can be committed anew. The old files stay where they lie. With `why`, which Delta's history then says,
        the rows are the same as before. Raises StageFailed where an old file is not in the newest version.
        """
        mark = f"replaced by {job}"

        def swap(delta: DeltaTable) -> bool:
            if _has(delta, mark):
                return False
            sizes = {one["path"]: one["size_bytes"] for one in pa.table(delta.get_add_actions()).to_pylist()}
            if gone := set(old) - sizes.keys():
                raise StageFailed(f"{self.store.uri(f'tables/{table}')}: {min(gone)} is in it no more; run again")
            now = int(time.time() * 1000)
            actions: list[AddAction | RemoveAction] = [_added(file, not why) for file in new]
            actions += [RemoveAction(path, not why, now, sizes[path], _partition(path)) for path in old]
            _write(delta, delta.schema(), actions, [mark, *withdrawn], delta.metadata().partition_columns, why)
            return True

        return self._committed(table, TABLES.get(table, pa.schema([])), swap)

    def _committed(self, table: str, schema: pa.Schema, append: Callable[[DeltaTable], bool], *create: Any) -> bool:
        """Return what `append` says of the newest version, asked again where another writer was quicker.

        deltalake itself puts an append behind other jobs' appends. It gives up where the same job was committed, by a
        second driver or by this one in a put whose answer was lost; `append` then finds that in the new version.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                return append(self._created(table, schema, *create))
            except CommitFailedError as error:
                if not left:
                    raise self._failed(table, error) from error
            except failures(DeltaError) as error:
                if self.store.local:
                    raise
                raise self._failed(table, error) from error
        raise AssertionError("not reached")

    def _failed(self, table: str, error: Exception) -> StageFailed:
        return StageFailed(
            f"{self.store.uri(f'tables/{table}')}: the commit failed ({told(error)}); run again to resume"
        )

    def _created(
        self,
        table: str,
        schema: pa.Schema,
        partition_by: list[str] | None = None,
        configuration: dict[str, str | None] | None = None,
    ) -> DeltaTable:
        """Return the table, created where it is absent, with the columns of `schema`; raise CommitFailedError where
        another was quicker.

        Without retries, as a second creation would become the second version, and fail the first one's appends.
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
        there = {field.name for field in delta.schema().fields}
        if added := [field for field in Schema.from_arrow(schema).fields if field.name not in there]:
            once = CommitProperties(max_commit_retries=0)
            delta.alter.add_columns(added, commit_properties=once)
            delta.alter.set_table_description(DESCRIPTION.format(SCHEMA_VERSION), commit_properties=once)
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
            new = [row for row in rows if not _has(delta, row.job)]
            if new:
                # not removed where the commit fails: it may be in the table, and only the answer was lost
                path = f"{uuid.uuid4().hex}.parquet"
                with self.store.create(f"tables/jobs/{path}") as stream:
                    pq.write_table(pa.Table.from_pylist([row.to_arrow() for row in new], schema), stream)
                size = self.store.size(f"tables/jobs/{path}")
                action = _added(DataFile("jobs", path, len(new), size))
                _write(delta, schema, [action], [row.job for row in new])
            return bool(new)

        self._committed("jobs", schema, append)
        self.refresh()

    def refresh(self) -> None:
        """Forget what was read of `jobs`."""
        self.__dict__.pop("_finished", None)


def schema_version(delta: DeltaTable) -> int:
    """Return the version of the schemas by which a table was created, or had columns added; 1 where none is said."""
    word, _, number = (delta.metadata().description or "").rpartition(" ")
    return int(number) if f"{word} {{}}" == DESCRIPTION and number.isdecimal() else 1


def _partition(path: str) -> dict[str, str | None]:
    """Return the partition that a file of a table lies in."""
    folder, slash, _ = path.partition("/")
    return {"job": folder.removeprefix("job=")} if slash else {}


def _added(file: DataFile, changes: bool = True) -> AddAction:
    return AddAction(file.path, file.bytes, _partition(file.path), 0, changes, file.statistics())


def _has(delta: DeltaTable, job: str) -> bool:
    """Tell whether a table has what a job committed: its id's version is odd, and even once that was withdrawn."""
    return bool((delta.transaction_version(job) or 0) % 2)


def _write(
    delta: DeltaTable,
    schema: Any,
    actions: list[AddAction | RemoveAction],
    jobs: Sequence[str],
    partition_by: list[str] | None = None,
    why: str = "",
) -> None:
    """Write one commit that carries the jobs' ids, each in its next version."""
    carried = [Transaction(job, (delta.transaction_version(job) or 0) + 1) for job in jobs]
    delta.create_write_transaction(
        actions,
        mode="append",
        schema=schema,
        partition_by=partition_by,
        commit_properties=CommitProperties({"cuvee": why} if why else None, app_transactions=carried),
    )
