"""Compaction: the many small files that jobs leave in the ledger become few, and the rows stay the same.

Files of one job and table are joined up to `TARGET` bytes or `ROWS` rows, never split: the rows of a shard or of an
export's tar stay in one file, as a takedown wants them. Deltalake's own `optimize` is not used for it: it keeps neither
the order of uids nor the encoding by which one pair is found (`pipeline.ledger.data_files`), and it does not know that
`jobs` names the files of `pairs`.

What is going to be done with a table is written down before its commits, and both are removed when all is done: a
compaction that was killed is finished by the next one. Replaced files stay for as long as time travel is asked for.
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
from pipeline.ledger.data_files import GROUP, DataFile, by_uid, encoded, span
from pipeline.ledger.job_graph import retried
from pipeline.ledger.journal import COMPACTIONS, Swap, half_compacted
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.storage.object_store import failures, told
from pipeline.storage.store import Store

TARGET = 32 << 20
"""Bytes of a joined file at most: a takedown writes a file anew for one pair in it."""


ROWS = 1 << 20
"""Rows of a joined file at most: a task holds a column of them, and they are sorted in memory."""


PAIRS, JOBS = "pairs", "jobs"


LEFT = frozenset({"tombstones"})
"""A run that meets a new version of it takes that for a takedown."""


DELETED, LOGGED = "delta.deletedFileRetentionDuration", "delta.logRetentionDuration"


DEFAULT_DAYS = {DELETED: 7, LOGGED: 30}
"""Days for which Delta keeps replaced files and its log, where a table says nothing else."""


@dataclass(frozen=True)
class Piece:
    """A data file that may be joined: its path in its table's folder, bytes, rows, and least uid, "" for none."""

    path: str
    bytes: int
    rows: int
    first: str

    @property
    def full(self) -> bool:
        """Whether it is large enough to be left alone."""
        return self.bytes * 2 >= TARGET or self.rows * 2 >= ROWS


@dataclass(frozen=True)
class Planned:
    """What becomes of a table: how many files it has, and the groups of files that are joined, a file each."""

    table: str
    files: int
    groups: tuple[tuple[Piece, ...], ...]

    @property
    def after(self) -> int:
        """How many files it will have."""
        return self.files - sum(len(group) - 1 for group in self.groups)

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        size = sum(piece.bytes for group in self.groups for piece in group)
        return {"table": self.table, "files": self.files, "files_after": self.after, "bytes_rewritten": size}


def planned(ledger: Ledger) -> list[Planned]:
    """Return what a compaction would do, by table: of those in which files are joined. Nothing is changed."""
    found = []
    for table in ledger.tables():
        if table not in LEFT:
            groups, files = _groups(ledger, table)
            if groups:
                found.append(Planned(table, files, tuple(groups)))
    return found


def _groups(ledger: Ledger, table: str) -> tuple[list[tuple[Piece, ...]], int]:
    delta = ledger.open(table)
    assert delta is not None
    lanes = _lanes(ledger) if table == PAIRS else {}
    together: dict[tuple[str, int], list[Piece]] = {}
    listed = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    for one in listed:
        job, path = one.get("partition.job", ""), one["path"]
        piece = Piece(path, one["size_bytes"], one["num_records"], one.get("min.uid") or "")
        if (table == JOBS or ledger.finished(job) is not None) and not piece.full:
            together.setdefault((job, lanes.get(f"tables/{table}/{path}", 0)), []).append(piece)
    found = [group for _, pieces in sorted(together.items()) for group in _joined(pieces)]
    return found, len(listed)


def _lanes(ledger: Ledger) -> dict[str, int]:
    """Return the lane of each file of `pairs`: a retry fetches the rows of a lane's files in one task."""
    return {
        path: one["lane"]
        for job in ledger.jobs()
        if not retried(job)
        for one in job.facts.get("shards", ())
        for path in one["rows"]
    }


def _joined(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, ...]]:
    """Yield the groups of two files and more: neighbours by uid, or by name where there is none."""
    group: list[Piece] = []
    for piece in sorted(pieces, key=lambda one: (one.first, one.path)):
        size, rows = (sum(getattr(one, key) for one in (*group, piece)) for key in ("bytes", "rows"))
        if size > TARGET or rows > ROWS:
            if len(group) > 1:
                yield tuple(group)
            group = []
        group.append(piece)
    if len(group) > 1:
        yield tuple(group)


def compact(ledger: Ledger, plans: Iterable[Planned]) -> None:
    """Do what `planned` said, one table after another.

    Raises StageFailed where a file cannot be read, or a commit fails.
    """
    for plan in plans:
        made = {path: _write(ledger.store, plan.table, group) for group in plan.groups for path in [_name(group)]}
        old = [piece.path for group in plan.groups for piece in group]
        swaps = {plan.table: Swap(old, list(made.values()))}
        if plan.table == PAIRS:
            new = {
                f"tables/{PAIRS}/{piece.path}": f"tables/{PAIRS}/{_name(group)}"
                for group in plan.groups
                for piece in group
            }
            if swap := _job_rows(ledger, new):
                swaps[JOBS] = swap
        compaction = digest({table: swap.old for table, swap in swaps.items()})
        plain = {table: asdict(swap) for table, swap in swaps.items()}
        ledger.store.write(f"{COMPACTIONS}/{compaction}.json", json.dumps(plain, sort_keys=True).encode())
        _commit(ledger, compaction, swaps)


def finish(ledger: Ledger) -> int:
    """Finish the compactions that were killed between two commits; return how many they were."""
    paths = half_compacted(ledger.store)
    for path in paths:
        plain = json.loads(ledger.store.read(path))
        swaps = {
            table: Swap(one["old"], [DataFile(**file) for file in one["new"]], one["withdrawn"])
            for table, one in plain.items()
        }
        _commit(ledger, path.rpartition("/")[2].removesuffix(".json"), swaps)
    return len(paths)


def _commit(ledger: Ledger, compaction: str, swaps: Mapping[str, Swap]) -> None:
    for table, swap in sorted(swaps.items(), key=lambda one: (one[0] == JOBS, one[0])):
        ledger.replace(compaction, table, swap.old, swap.new, why=f"compacted {len(swap.old)} files")
    ledger.refresh()
    ledger.store.remove(f"{COMPACTIONS}/{compaction}.json")


def _name(group: Sequence[Piece]) -> str:
    """Return the path of what a group becomes, which follows from it: a killed compaction writes the same again."""
    folder, slash, _ = group[0].path.rpartition("/")
    names = "\n".join(piece.path for piece in group)
    return f"{folder}{slash}{hashlib.sha256(f'compacted:{names}'.encode()).hexdigest()[:32]}.parquet"


def _write(store: Store, table: str, group: Sequence[Piece]) -> DataFile:
    """Write a group's rows as one file, as `write_rows` writes them."""
    with ThreadPoolExecutor(store.at_once) as pool:
        parts = list(pool.map(lambda piece: _read(store, f"tables/{table}/{piece.path}"), group))
    try:
        # an older file lacks the columns that came since
        rows = by_uid(pa.concat_tables(parts, promote_options="default"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StageFailed(f"{store.uri(f'tables/{table}')}: the files of one job differ ({told(error)})") from error
    if rows.num_rows != (said := sum(piece.rows for piece in group)):
        raise StageFailed(f"{store.uri(f'tables/{table}')}: read {rows.num_rows} rows, the ledger says {said}")
    return _written(store, table, _name(group), rows)


def _read(store: Store, path: str) -> pa.Table:
    try:
        with store.arrow(path) as stream:
            return pq.read_table(stream)
    except (OSError, pa.ArrowInvalid) as error:
        raise StageFailed(f"{store.uri(path)}: cannot be read ({told(error)})") from error


def _written(store: Store, table: str, path: str, rows: pa.Table) -> DataFile:
    full = f"tables/{table}/{path}"
    # `jobs` is read whole, and written plainly, as `Ledger.finish` writes it
    how = {} if table == JOBS else {"row_group_size": GROUP, **encoded(rows.schema)}
    with store.create(full) as stream:
        pq.write_table(rows, stream, **how)
    return DataFile(table, path, rows.num_rows, store.size(full), *span(rows))


def _job_rows(ledger: Ledger, new: Mapping[str, str]) -> Swap | None:
    """Write all rows of `jobs` as one file, in which ingests name the `new` files of `pairs` for the old ones."""
    rows = {row.job: restated(row, new) for row in ledger.jobs()}
    if all(rows[row.job] == row for row in ledger.jobs()):
        return None
    old = [path.removeprefix(f"tables/{JOBS}/") for _, path in ledger.snapshot(JOBS)]
    table = pa.Table.from_pylist([row.to_arrow() for row in rows.values()], TABLES[JOBS])
    name = f"{hashlib.sha256(f'restated:{sorted(new.items())}:{old}'.encode()).hexdigest()[:32]}.parquet"
    return Swap(old, [_written(ledger.store, JOBS, name, table)])


def restated(row: JobRow, new: Mapping[str, str]) -> JobRow:
    """Return an ingest's row with the `new` files of `pairs` in the place of the old ones.

    Of the shards whose rows stand in one file now, the first names it, and counts the published rows of all.
    """
    shards = [dict(one) for one in row.facts.get("shards", ())]
    if not any(path in new for one in shards for path in one["rows"]):
        return row
    first: dict[str, dict[str, Any]] = {}
    for one in shards:
        paths = list(dict.fromkeys(new.get(path, path) for path in one["rows"]))
        if not retried(row):
            had = [first[path] for path in paths if path in first]
            paths = [path for path in paths if path not in first]
            if had and not paths:
                had[0]["published"] += one["published"]
                one["published"] = 0
            first |= dict.fromkeys(paths, one)
        one["rows"] = paths
    return replace(row, facts={**row.facts, "shards": shards})


def keep_for(ledger: Ledger, days: int, dry_run: bool) -> dict[str, int]:
    """Remove the files that were replaced more than so many days ago; return how many, by table.

    With `dry_run`, only tell. Files that no commit names are left: a job that is not finished may have written them.
    """
    found = {}
    for table in ledger.tables():
        if table in LEFT:
            continue
        try:
            if not dry_run:
                _let_delta_keep(ledger, table, days)
            # Delta's log names them for some time after they are gone
            if gone := _replaced(ledger, table, days).intersection(ledger.store.files(f"tables/{table}")):
                found[table] = len(gone)
                if not dry_run:
                    delta = ledger.open(table)
                    assert delta is not None
                    delta.vacuum(retention_hours=24 * days, enforce_retention_duration=False, dry_run=False)
        except failures(DeltaError) as error:
            said = f"old versions cannot be removed ({told(error)})"
            raise StageFailed(f"{ledger.store.uri(f'tables/{table}')}: {said}") from error
    return found


def _let_delta_keep(ledger: Ledger, table: str, days: int) -> None:
    """Have Delta keep replaced files in its log, and the log, for so many days at least."""
    delta = ledger.open(table)
    assert delta is not None
    said = delta.metadata().configuration
    short = {key: f"interval {days} days" for key, least in DEFAULT_DAYS.items() if _days(said.get(key), least) < days}
    if short:
        delta.alter.set_table_properties(short)


def _days(said: str | None, default: int) -> int:
    """Return the days of what `_let_delta_keep` wrote; others' other units count as the default."""
    words = (said or "").split()
    return int(words[1]) if len(words) == 3 and words[2] == "days" and words[1].isdigit() else default


def _replaced(ledger: Ledger, table: str, days: int | None) -> set[str]:
    """Return the files, by their path in the store, that were replaced so many days ago, or longer than Delta keeps
    them; those that are removed already are among them.
    """
    delta = ledger.open(table)
    assert delta is not None
    hours = days and 24 * days
    gone = delta.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=True)
    return {f"tables/{table}/{path}" for path in gone}


def kept(ledger: Ledger) -> set[str]:
    """Return the files, by their path in the store, that older versions of tables need for as long as they are kept."""
    return {path for table in ledger.tables() for path in _replaced(ledger, table, 0) - _replaced(ledger, table, None)}
