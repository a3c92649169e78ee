"""Removal of rows and pairs from the files of a store: new files are written beside the old ones, which do not change.

Only export tars are rewritten in place, since readers know their names. The name of a new file follows from the
takedown and the file that it replaces, so that a takedown that was killed writes the same files again.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import StageFailed
from pipeline.ledger.data_files import DataFile, uid_range, writer_options
from pipeline.ledger.scan import scan_file
from pipeline.ledger.tables import Ledger
from pipeline.ledger.value_filter import ValueFilter
from pipeline.shards.tar_format import TAR_END
from pipeline.shards.tar_rewrite import TarCut, plan_cut, write_cut
from pipeline.storage.store import Store
from pipeline.takedown.impact import Hit, TakedownImpact

TableChange = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class NewTar:
    """A tar without the removed pairs: its path in the store, its contents, and its pairs' new offsets by the old."""

    path: str
    sha256: str
    bytes: int
    pairs: int
    moved: Mapping[int, int]

    def plain(self) -> dict[str, Any]:
        """Return the values that `jobs` and `exports` record of a tar."""
        return {"pairs": self.pairs, "bytes": self.bytes, "sha256": self.sha256}


@dataclass
class RewrittenFiles:
    """The new files: data files by table and the old file's path in the store; shards by the old shard's path; export
    tars by job and name, None where no pair is left and the tar is removed.
    """

    tables: dict[str, dict[str, DataFile]] = field(default_factory=dict)
    shards: dict[str, NewTar] = field(default_factory=dict)
    tars: dict[str, dict[str, NewTar | None]] = field(default_factory=dict)


def rewrite_files(ledger: Ledger, takedown: str, keys: ValueFilter, impact: TakedownImpact) -> RewrittenFiles:
    """Write the new shards, export tars and data files of a takedown."""
    rewritten = RewrittenFiles()
    for table, hits in impact.files.items():
        for path, hit in hits.items():
            change: TableChange | None = None
            if table == "samples":
                change = _update_samples(_rewrite_shards(ledger, path, hit, keys, rewritten))
            elif table == "export_members":
                change = _update_members(_rewrite_tars(ledger, path, hit, keys, rewritten))
            file = _rewrite_data_file(ledger.store, takedown, table, hit.job, path, _remove_rows(keys, change))
            rewritten.tables.setdefault(table, {})[path] = file
    for job, tars in rewritten.tars.items():
        for _, path in ledger.snapshot("exports", [job]):
            file = _rewrite_data_file(ledger.store, takedown, "exports", job, path, _update_exports(tars))
            rewritten.tables.setdefault("exports", {})[path] = file
    return rewritten


def replacement_path(takedown: str, old: str) -> str:
    """Return the path, in its table's folder, of the file by which a takedown replaces `old` there."""
    folder, slash, _ = old.rpartition("/")
    return f"{folder}{slash}{hashlib.sha256(f'{takedown}:{old}'.encode()).hexdigest()[:32]}.parquet"


def _rewrite_data_file(store: Store, takedown: str, table: str, job: str, path: str, change: TableChange) -> DataFile:
    """Write a data file changed by `change`, one row group at a time."""
    relative = replacement_path(takedown, path.removeprefix(f"tables/{table}/"))
    path_in_store, rows, spans = f"tables/{table}/{relative}", 0, []
    with (
        store.parquet(path) as old,
        store.create(path_in_store) as stream,
        pq.ParquetWriter(stream, old.schema_arrow, **writer_options(old.schema_arrow)) as new,
    ):
        for group in range(old.num_row_groups):
            batch = change(old.read_row_group(group, use_threads=False))
            new.write_table(batch)
            rows += batch.num_rows
            spans += [uid_range(batch)] if batch.num_rows else []
    first, last = min((ends[0] for ends in spans), default=""), max((ends[1] for ends in spans), default="")
    return DataFile(table, relative, rows, store.size(path_in_store), first, last)


def _remove_rows(keys: ValueFilter, change: TableChange | None) -> TableChange:
    def without_removed(rows: pa.Table) -> pa.Table:
        remaining = rows.filter(pc.invert(keys.within(rows["uid"])))
        return change(remaining) if change else remaining

    return without_removed


def _set_columns(rows: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type))
    return rows


def _update_samples(shards: Mapping[str, NewTar]) -> TableChange:
    def change(rows: pa.Table) -> pa.Table:
        old = list(zip(rows["shard"].to_pylist(), rows["offset"].to_pylist(), strict=True))
        return _set_columns(
            rows,
            shard=[shards[shard].path if shard in shards else shard for shard, _ in old],
            offset=[shards[shard].moved[offset] if shard in shards else offset for shard, offset in old],
        )

    return change


def _update_members(tars: Mapping[str, NewTar | None]) -> TableChange:
    def change(rows: pa.Table) -> pa.Table:
        old = zip(rows["tar"].to_pylist(), rows["offset"].to_pylist(), strict=True)
        return _set_columns(
            rows, offset=[new.moved[offset] if (new := tars.get(tar)) else offset for tar, offset in old]
        )

    return change


def _update_exports(tars: Mapping[str, NewTar | None]) -> TableChange:
    def change(rows: pa.Table) -> pa.Table:
        remaining = [row for row in rows.to_pylist() if tars.get(row["tar"], row) is not None]
        updated = [{**row, **new.plain()} if (new := tars.get(row["tar"])) else row for row in remaining]
        return pa.Table.from_pylist(updated, rows.schema)

    return change


def _positions(
    ledger: Ledger, path: str, hit: Hit, tar: str, keys: ValueFilter
) -> dict[str, tuple[list[Any], set[int]]]:
    """Return (offset, size) of all pairs and the offsets of the removed ones, by tar, of the tars that lose a pair."""
    positions: dict[str, tuple[list[Any], set[int]]] = {}
    for batch in scan_file(ledger, hit.job, path, ["uid", tar, "offset", "size"]):
        removed = keys.within(batch.rows["uid"]).to_pylist()
        _, tars, offsets, sizes = batch.rows.to_pydict().values()
        for name, offset, size, is_removed in zip(tars, offsets, sizes, removed, strict=True):
            pairs, removed_offsets = positions.setdefault(name, ([], set()))
            pairs.append((offset, size))
            if is_removed:
                removed_offsets.add(offset)
    return {name: (pairs, gone) for name, (pairs, gone) in positions.items() if gone}


def _rewrite_shards(
    ledger: Ledger, path: str, hit: Hit, keys: ValueFilter, rewritten: RewrittenFiles
) -> dict[str, NewTar]:
    """Rewrite the shards of a file of `samples` that lose a pair; return them by the old path."""
    store, new_shards = ledger.store, dict[str, NewTar]()
    for shard, (places, removed) in sorted(_positions(ledger, path, hit, "shard", keys).items()):
        plan = plan_cut(places, removed, store.size(shard), shard)
        folder, _, name = shard.rpartition("/")
        number = name.removesuffix(".tar").partition("-")[0]
        sha256 = ""

        def final(folder: str = folder, number: str = number) -> str:
            return f"{folder}/{number}-{sha256[:12]}.tar"  # noqa: B023 - called once the digest is known

        with store.open(shard) as source, store.create(f"{folder}/{number}.tar", final) as target:
            sha256 = write_cut(source, target, plan, shard)
        new_shards[shard] = NewTar(final(), sha256, plan.bytes, len(plan.moved), plan.moved)
    rewritten.shards.update(new_shards)
    return new_shards


def _rewrite_tars(
    ledger: Ledger, path: str, hit: Hit, keys: ValueFilter, rewritten: RewrittenFiles
) -> dict[str, NewTar | None]:
    """Rewrite the export tars of a file of `export_members` in place; return them by name."""
    store, new_tars = ledger.store, dict[str, NewTar | None]()
    job = ledger.finished(hit.job)
    assert job is not None
    for name, (places, removed) in sorted(_positions(ledger, path, hit, "tar", keys).items()):
        tar = f"{job.facts['folder']}/{name}"
        plan = plan_cut(places, removed, sum(size for _, size in places) + len(TAR_END), tar)
        new_tars[name] = None
        if plan.moved:
            new_tars[name] = NewTar(
                tar, _cut_in_place(store, tar, plan, places), plan.bytes, len(plan.moved), plan.moved
            )
    rewritten.tars.setdefault(hit.job, {}).update(new_tars)
    return new_tars


def _cut_in_place(store: Store, tar: str, plan: TarCut, places: list[Any]) -> str:
    """Cut an export tar in place, unless its size shows that this was done before a kill; return its SHA-256."""
    size = store.size(tar)
    if size == plan.bytes:
        with store.open(tar) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if size != (expected := sum(length for _, length in places) + len(TAR_END)):
        raise StageFailed(f"{tar}: {size} bytes, the ledger's pairs make {expected}")
    with store.open(tar) as source, store.create(tar) as target:
        return write_cut(source, target, plan, tar)
