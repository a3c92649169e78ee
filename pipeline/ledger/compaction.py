"""Compaction: the many small files that jobs leave in the ledger are joined into few; the rows stay the same.

Files of one job and table are joined up to `MAX_FILE_BYTES` bytes or `MAX_FILE_ROWS` rows, never split: the rows of a
shard or of an export's tar stay in one file, as a takedown needs them. Deltalake's own `optimize` is not used: it keeps
neither the order of uids nor the encoding that makes one pair quick to find (`pipeline.ledger.data_files`), and it does
not know that `jobs` names the files of `pairs`.

The planned change of a table is recorded before its commits, and the record is removed after the last one: the next
compaction finishes one that was killed. Replaced files are kept for as long as time travel needs them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from pipeline.core.digests import digest
from pipeline.errors import StageFailed
from pipeline.ledger.data_files import ROW_GROUP_ROWS, DataFile, sort_by_uid, uid_range, writer_options
from pipeline.ledger.job_graph import retried_job
from pipeline.ledger.journal import COMPACTIONS_FOLDER, FileReplacement, unfinished_compactions
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.storage.object_store import error_message, io_errors
from pipeline.storage.store import Store

MAX_FILE_BYTES = 32 << 20
"""Bytes of a joined file at most: a takedown rewrites a whole file for one pair in it."""


MAX_FILE_ROWS = 1 << 20
"""Rows of a joined file at most: a task holds one of its columns, and the rows are sorted in memory."""


PAIRS_TABLE, JOBS_TABLE = "pairs", "jobs"


EXCLUDED_TABLES = frozenset({"tombstones"})
"""Tables that are never compacted: a run takes a new version of `tombstones` for a takedown."""


DELETED_FILES_RETENTION, LOG_RETENTION = "delta.deletedFileRetentionDuration", "delta.logRetentionDuration"


DEFAULT_RETENTION_DAYS = {DELETED_FILES_RETENTION: 7, LOG_RETENTION: 30}
"""Days for which Delta keeps replaced files and its log, where a table does not configure it."""


@dataclass(frozen=True)
class JoinableFile:
    """A data file that may be joined: its path in its table's folder, bytes, rows, least uid ("" for none)."""

    path: str
    bytes: int
    rows: int
    first: str

    @property
    def full(self) -> bool:
        """Whether it is large enough to be left alone."""
        return self.bytes * 2 >= MAX_FILE_BYTES or self.rows * 2 >= MAX_FILE_ROWS


@dataclass(frozen=True)
class CompactionPlan:
    """The plan for a table: its number of files, and the groups of files that are each joined into one."""

    table: str
    files: int
    groups: tuple[tuple[JoinableFile, ...], ...]

    @property
    def after(self) -> int:
        """The number of files after the compaction."""
        return self.files - sum(len(group) - 1 for group in self.groups)

    def plain(self) -> dict[str, Any]:
        """Return the plan as JSON-compatible data."""
        size = sum(piece.bytes for group in self.groups for piece in group)
        return {"table": self.table, "files": self.files, "files_after": self.after, "bytes_rewritten": size}


def plan_compaction(ledger: Ledger) -> list[CompactionPlan]:
    """Return the plans of the tables in which files can be joined; nothing is changed."""
    plans = []
    for table in ledger.tables():
        if table not in EXCLUDED_TABLES:
            groups, files = _groups(ledger, table)
            if groups:
                plans.append(CompactionPlan(table, files, tuple(groups)))
    return plans


def _groups(ledger: Ledger, table: str) -> tuple[list[tuple[JoinableFile, ...]], int]:
    delta = ledger.open(table)
    assert delta is not None
    partitions = _host_partitions(ledger) if table == PAIRS_TABLE else {}
    by_owner: dict[tuple[str, int], list[JoinableFile]] = {}
    actions = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    for action in actions:
        job, path = action.get("partition.job", ""), action["path"]
        piece = JoinableFile(path, action["size_bytes"], action["num_records"], action.get("min.uid") or "")
        if (table == JOBS_TABLE or ledger.finished(job) is not None) and not piece.full:
            by_owner.setdefault((job, partitions.get(f"tables/{table}/{path}", 0)), []).append(piece)
    groups = [group for _, pieces in sorted(by_owner.items()) for group in _joinable_groups(pieces)]
    return groups, len(actions)


def _host_partitions(ledger: Ledger) -> dict[str, int]:
    """Return the host partition of each file of `pairs`; a retry fetches a partition's rows in one task."""
    return {
        path: shard["lane"]
        for job in ledger.jobs()
        if not retried_job(job)
        for shard in job.facts.get("shards", ())
        for path in shard["rows"]
    }


def _joinable_groups(pieces: Sequence[JoinableFile]) -> Iterator[tuple[JoinableFile, ...]]:
    """Yield groups of two or more files: neighbours by uid, or by name where there are no uids."""
    group: list[JoinableFile] = []
    for piece in sorted(pieces, key=lambda item: (item.first, item.path)):
        size, rows = (sum(getattr(item, key) for item in (*group, piece)) for key in ("bytes", "rows"))
        if size > MAX_FILE_BYTES or rows > MAX_FILE_ROWS:
            if len(group) > 1:
                yield tuple(group)
            group = []
        group.append(piece)
    if len(group) > 1:
        yield tuple(group)


def compact(ledger: Ledger, plans: Iterable[CompactionPlan]) -> None:
    """Execute the plans, one table after another.

    Raises StageFailed where a file cannot be read or a commit fails.
    """
    for plan in plans:
        new_files = {
            path: _write(ledger.store, plan.table, group) for group in plan.groups for path in [_joined_path(group)]
        }
        old = [piece.path for group in plan.groups for piece in group]
        swaps = {plan.table: FileReplacement(old, list(new_files.values()))}
        if plan.table == PAIRS_TABLE:
            new_paths = {
                f"tables/{PAIRS_TABLE}/{piece.path}": f"tables/{PAIRS_TABLE}/{_joined_path(group)}"
                for group in plan.groups
                for piece in group
            }
            if swap := _rewrite_jobs(ledger, new_paths):
                swaps[JOBS_TABLE] = swap
        compaction = digest({table: swap.old for table, swap in swaps.items()})
        plain = {table: asdict(swap) for table, swap in swaps.items()}
        ledger.store.write(f"{COMPACTIONS_FOLDER}/{compaction}.json", json.dumps(plain, sort_keys=True).encode())
        _commit(ledger, compaction, swaps)


def finish_compactions(ledger: Ledger) -> int:
    """Finish the compactions that were killed between two commits; return how many there were."""
    paths = unfinished_compactions(ledger.store)
    for path in paths:
        recorded = json.loads(ledger.store.read(path))
        swaps = {
            table: FileReplacement(fields["old"], [DataFile(**file) for file in fields["new"]], fields["withdrawn"])
            for table, fields in recorded.items()
        }
        _commit(ledger, path.rpartition("/")[2].removesuffix(".json"), swaps)
    return len(paths)


def _commit(ledger: Ledger, compaction: str, swaps: Mapping[str, FileReplacement]) -> None:
    for table, swap in sorted(swaps.items(), key=lambda item: (item[0] == JOBS_TABLE, item[0])):
        ledger.replace(compaction, table, swap.old, swap.new, why=f"compacted {len(swap.old)} files")
    ledger.refresh()
    ledger.store.remove(f"{COMPACTIONS_FOLDER}/{compaction}.json")


def _joined_path(group: Sequence[JoinableFile]) -> str:
    """Return the path of the file that a group is joined into; it depends on the group alone, so that a killed
    compaction writes the same file again.
    """
    folder, slash, _ = group[0].path.rpartition("/")
    names = "\n".join(piece.path for piece in group)
    return f"{folder}{slash}{hashlib.sha256(f'compacted:{names}'.encode()).hexdigest()[:32]}.parquet"


def _write(store: Store, table: str, group: Sequence[JoinableFile]) -> DataFile:
    """Write a group's rows as one file, in the form of `write_rows`."""
    with ThreadPoolExecutor(store.at_once) as pool:
        tables = list(pool.map(lambda piece: _read(store, f"tables/{table}/{piece.path}"), group))
    try:
        # an older file lacks the columns that were added since
        rows = sort_by_uid(pa.concat_tables(tables, promote_options="default"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StageFailed(
            f"{store.uri(f'tables/{table}')}: the files of one job differ ({error_message(error)})"
        ) from error
    if rows.num_rows != (expected := sum(piece.rows for piece in group)):
        raise StageFailed(f"{store.uri(f'tables/{table}')}: read {rows.num_rows} rows, the ledger says {expected}")
    return _write_file(store, table, _joined_path(group), rows)


def _read(store: Store, path: str) -> pa.Table:
    try:
        with store.arrow(path) as stream:
            return pq.read_table(stream)
    except (OSError, pa.ArrowInvalid) as error:
        raise StageFailed(f"{store.uri(path)}: cannot be read ({error_message(error)})") from error


def _write_file(store: Store, table: str, path: str, rows: pa.Table) -> DataFile:
    store_path = f"tables/{table}/{path}"
    # `jobs` is always read whole, so it has no special encoding: as in `Ledger.finish`
    options = {} if table == JOBS_TABLE else {"row_group_size": ROW_GROUP_ROWS, **writer_options(rows.schema)}
    with store.create(store_path) as stream:
        pq.write_table(rows, stream, **options)
    return DataFile(table, path, rows.num_rows, store.size(store_path), *uid_range(rows))


def _rewrite_jobs(ledger: Ledger, new: Mapping[str, str]) -> FileReplacement | None:
    """Write all rows of `jobs` as one file, in which `new` maps old paths of files of `pairs` to new ones."""
    rows = {row.job: with_joined_files(row, new) for row in ledger.jobs()}
    if all(rows[row.job] == row for row in ledger.jobs()):
        return None
    old = [path.removeprefix(f"tables/{JOBS_TABLE}/") for _, path in ledger.snapshot(JOBS_TABLE)]
    table = pa.Table.from_pylist([row.to_arrow() for row in rows.values()], TABLES[JOBS_TABLE])
    name = f"{hashlib.sha256(f'restated:{sorted(new.items())}:{old}'.encode()).hexdigest()[:32]}.parquet"
    return FileReplacement(old, [_write_file(ledger.store, JOBS_TABLE, name, table)])


def with_joined_files(row: JobRow, new: Mapping[str, str]) -> JobRow:
    """Return an ingest's row with the `new` files of `pairs` (old path to new path) in place of the old ones.

    Of the shards whose rows are now in one file, the first names it and counts the published rows of all.
    """
    shards = [dict(shard) for shard in row.facts.get("shards", ())]
    if not any(path in new for shard in shards for path in shard["rows"]):
        return row
    first: dict[str, dict[str, Any]] = {}
    for shard in shards:
        paths = list(dict.fromkeys(new.get(path, path) for path in shard["rows"]))
        if not retried_job(row):
            earlier = [first[path] for path in paths if path in first]
            paths = [path for path in paths if path not in first]
            if earlier and not paths:
                earlier[0]["published"] += shard["published"]
                shard["published"] = 0
            first |= dict.fromkeys(paths, shard)
        shard["rows"] = paths
    return replace(row, facts={**row.facts, "shards": shards})


def remove_replaced(ledger: Ledger, days: int, dry_run: bool) -> dict[str, int]:
    """Remove the files that were replaced more than `days` days ago; return how many, by table.

    With `dry_run`, only count. Files that no commit names are kept: an unfinished job may have written them.
    """
    counts = {}
    for table in ledger.tables():
        if table in EXCLUDED_TABLES:
            continue
        try:
            if not dry_run:
                _raise_retention(ledger, table, days)
            # Delta's log names them for some time after they are removed
            if removable := _replaced_files(ledger, table, days).intersection(ledger.store.files(f"tables/{table}")):
                counts[table] = len(removable)
                if not dry_run:
                    delta = ledger.open(table)
                    assert delta is not None
                    delta.vacuum(retention_hours=24 * days, enforce_retention_duration=False, dry_run=False)
        except io_errors(DeltaError) as error:
            message = f"cannot remove old versions ({error_message(error)})"
            raise StageFailed(f"{ledger.store.uri(f'tables/{table}')}: {message}") from error
    return counts


def _raise_retention(ledger: Ledger, table: str, days: int) -> None:
    """Configure Delta to keep replaced files, and its log, for at least `days` days."""
    delta = ledger.open(table)
    assert delta is not None
    configuration = delta.metadata().configuration
    too_short = {
        key: f"interval {days} days"
        for key, default in DEFAULT_RETENTION_DAYS.items()
        if _interval_days(configuration.get(key), default) < days
    }
    if too_short:
        delta.alter.set_table_properties(too_short)


def _interval_days(interval: str | None, default: int) -> int:
    """Return the days of an interval that `_raise_retention` wrote; the default for any other unit."""
    words = (interval or "").split()
    return int(words[1]) if len(words) == 3 and words[2] == "days" and words[1].isdigit() else default


def _replaced_files(ledger: Ledger, table: str, days: int | None) -> set[str]:
    """Return the files, as paths in the store, that were replaced more than `days` days ago; with None, longer ago than
    Delta keeps them. Files that are removed already are included.
    """
    delta = ledger.open(table)
    assert delta is not None
    hours = days and 24 * days
    paths = delta.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=True)
    return {f"tables/{table}/{path}" for path in paths}


def retained_files(ledger: Ledger) -> set[str]:
    """Return the files, as paths in the store, that retained older versions of tables still need."""
    return {
        path
        for table in ledger.tables()
        for path in _replaced_files(ledger, table, 0) - _replaced_files(ledger, table, None)
    }
