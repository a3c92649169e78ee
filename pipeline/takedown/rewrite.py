"""Rows and pairs are taken out of the files of a store: new files beside the old ones, which stay as they are.

Only export tars are written in place, since their names are known to their readers. What a file is called follows from
the takedown and from the file that it replaces, so that a takedown that was killed writes the same files again.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import StageFailed
from pipeline.ledger.data_files import DataFile, encoded, span
from pipeline.ledger.scan import scan_file
from pipeline.ledger.tables import Ledger
from pipeline.ledger.value_filter import Keys
from pipeline.shards.tar_format import END
from pipeline.shards.tar_rewrite import Cut, copy, cut
from pipeline.storage.store import Store
from pipeline.takedown.impact import Hit, Survey

Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class NewTar:
    """A tar without the pairs that go: its path in the store, what it holds now, and how its pairs moved."""

    path: str
    sha256: str
    bytes: int
    pairs: int
    moved: Mapping[int, int]

    def plain(self) -> dict[str, Any]:
        """Return what `jobs` and `exports` say of a tar."""
        return {"pairs": self.pairs, "bytes": self.bytes, "sha256": self.sha256}


@dataclass
class Rewritten:
    """New files: of each table, by the old one's path in the store; new shards by the old one's path; new export tars
    by job and name, None where no pair is left and the tar goes.
    """

    tables: dict[str, dict[str, DataFile]] = field(default_factory=dict)
    shards: dict[str, NewTar] = field(default_factory=dict)
    tars: dict[str, dict[str, NewTar | None]] = field(default_factory=dict)


def rewrite(ledger: Ledger, takedown: str, keys: Keys, found: Survey) -> Rewritten:
    """Write the new shards, export tars and data files of a takedown."""
    made = Rewritten()
    for table, hits in found.files.items():
        for path, hit in hits.items():
            change: Change | None = None
            if table == "samples":
                change = _moved_samples(_shards(ledger, path, hit, keys, made))
            elif table == "export_members":
                change = _moved_members(_tars(ledger, path, hit, keys, made))
            file = _data_file(ledger.store, takedown, table, hit.job, path, _without(keys, change))
            made.tables.setdefault(table, {})[path] = file
    for job, tars in made.tars.items():
        for _, path in ledger.snapshot("exports", [job]):
            file = _data_file(ledger.store, takedown, "exports", job, path, _restated_tars(tars))
            made.tables.setdefault("exports", {})[path] = file
    return made


def new_path(takedown: str, old: str) -> str:
    """Return the path, in its table's folder, of the file that a takedown puts in the place of `old` there."""
    folder, slash, _ = old.rpartition("/")
    return f"{folder}{slash}{hashlib.sha256(f'{takedown}:{old}'.encode()).hexdigest()[:32]}.parquet"


def _data_file(store: Store, takedown: str, table: str, job: str, path: str, change: Change) -> DataFile:
    """Write what `change` makes of a data file, a row group at a time."""
    relative = new_path(takedown, path.removeprefix(f"tables/{table}/"))
    full, rows, spans = f"tables/{table}/{relative}", 0, []
    with (
        store.parquet(path) as old,
        store.create(full) as stream,
        pq.ParquetWriter(stream, old.schema_arrow, **encoded(old.schema_arrow)) as new,
    ):
        for group in range(old.num_row_groups):
            part = change(old.read_row_group(group, use_threads=False))
            new.write_table(part)
            rows += part.num_rows
            spans += [span(part)] if part.num_rows else []
    first, last = min((one[0] for one in spans), default=""), max((one[1] for one in spans), default="")
    return DataFile(table, relative, rows, store.size(full), first, last)


def _without(keys: Keys, change: Change | None) -> Change:
    def kept(rows: pa.Table) -> pa.Table:
        left = rows.filter(pc.invert(keys.within(rows["uid"])))
        return change(left) if change else left

    return kept


def _set(rows: pa.Table, **columns: list[Any]) -> pa.Table:
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type))
    return rows


def _moved_samples(shards: Mapping[str, NewTar]) -> Change:
    def change(rows: pa.Table) -> pa.Table:
        old = list(zip(rows["shard"].to_pylist(), rows["offset"].to_pylist(), strict=True))
        return _set(
            rows,
            shard=[shards[shard].path if shard in shards else shard for shard, _ in old],
            offset=[shards[shard].moved[offset] if shard in shards else offset for shard, offset in old],
        )

    return change


def _moved_members(tars: Mapping[str, NewTar | None]) -> Change:
    def change(rows: pa.Table) -> pa.Table:
        old = zip(rows["tar"].to_pylist(), rows["offset"].to_pylist(), strict=True)
        return _set(rows, offset=[new.moved[offset] if (new := tars.get(tar)) else offset for tar, offset in old])

    return change


def _restated_tars(tars: Mapping[str, NewTar | None]) -> Change:
    def change(rows: pa.Table) -> pa.Table:
        left = [row for row in rows.to_pylist() if tars.get(row["tar"], row) is not None]
        told = [{**row, **new.plain()} if (new := tars.get(row["tar"])) else row for row in left]
        return pa.Table.from_pylist(told, rows.schema)

    return change


def _places(ledger: Ledger, path: str, hit: Hit, tar: str, keys: Keys) -> dict[str, tuple[list[Any], set[int]]]:
    """Return by tar, of those from which a pair goes, where its pairs lie and the offsets of those that go."""
    found: dict[str, tuple[list[Any], set[int]]] = {}
    for part in scan_file(ledger, hit.job, path, ["uid", tar, "offset", "size"]):
        goes = keys.within(part.rows["uid"]).to_pylist()
        _, names, offsets, sizes = part.rows.to_pydict().values()
        for name, offset, size, gone in zip(names, offsets, sizes, goes, strict=True):
            places, leaving = found.setdefault(name, ([], set()))
            places.append((offset, size))
            if gone:
                leaving.add(offset)
    return {name: (places, gone) for name, (places, gone) in found.items() if gone}


def _shards(ledger: Ledger, path: str, hit: Hit, keys: Keys, made: Rewritten) -> dict[str, NewTar]:
    """Write the shards of a file of `samples` anew, those from which a pair goes; return them by the old path."""
    store, found = ledger.store, dict[str, NewTar]()
    for shard, (places, gone) in sorted(_places(ledger, path, hit, "shard", keys).items()):
        plan = cut(places, gone, store.size(shard), shard)
        folder, _, name = shard.rpartition("/")
        number = name.removesuffix(".tar").partition("-")[0]
        sha256 = ""

        def final(folder: str = folder, number: str = number) -> str:
            return f"{folder}/{number}-{sha256[:12]}.tar"  # noqa: B023 - asked once the digest is known

        with store.open(shard) as source, store.create(f"{folder}/{number}.tar", final) as target:
            sha256 = copy(source, target, plan, shard)
        found[shard] = NewTar(final(), sha256, plan.bytes, len(plan.moved), plan.moved)
    made.shards.update(found)
    return found


def _tars(ledger: Ledger, path: str, hit: Hit, keys: Keys, made: Rewritten) -> dict[str, NewTar | None]:
    """Write the export tars of a file of `export_members` anew, in place; return them by name."""
    store, found = ledger.store, dict[str, NewTar | None]()
    job = ledger.finished(hit.job)
    assert job is not None
    for name, (places, gone) in sorted(_places(ledger, path, hit, "tar", keys).items()):
        tar = f"{job.facts['folder']}/{name}"
        plan = cut(places, gone, sum(size for _, size in places) + len(END), tar)
        found[name] = None
        if plan.moved:
            found[name] = NewTar(tar, _in_place(store, tar, plan, places), plan.bytes, len(plan.moved), plan.moved)
    made.tars.setdefault(hit.job, {}).update(found)
    return found


def _in_place(store: Store, tar: str, plan: Cut, places: list[Any]) -> str:
    """Cut an export tar in its place, unless that was done before a kill, as its size says; return its SHA-256."""
    size = store.size(tar)
    if size == plan.bytes:
        with store.open(tar) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if size != (expected := sum(length for _, length in places) + len(END)):
        raise StageFailed(f"{tar}: {size} bytes, the ledger's pairs make {expected}")
    with store.open(tar) as source, store.create(tar) as target:
        return copy(source, target, plan, tar)
