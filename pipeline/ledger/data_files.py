"""Data files of the ledger's tables: Parquet, written by tasks, in the order of uids, so that one pair is found without
reading the others: by the least and the greatest uid of each file, which its commit carries, and of each row group.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storage.store import Store

GROUP = 1 << 16
"""Rows of a row group, of which as many are read for one pair."""


SORTED = 1 << 30
"""Bytes beyond which rows stay in their order: a sorted copy is held beside them."""


_REPEATING = (pa.types.is_string, pa.types.is_integer)


_HASHES = {"raw_sha256", "jpg_sha256"}
"""Columns that are searched whole, and are not compressed: an image is found by its hash in half the time so."""


_UNIQUE = {"uid", "url", "caption", "record_id", "offset", *_HASHES}
"""Columns whose values hardly repeat: a dictionary of them is as long as they are, and read first."""


Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of one table, written by a task and not yet, or already, in a snapshot.

    `first` and `last` are its least and its greatest uid, "" where its rows have none.
    """

    table: str
    path: str  # relative to the table's folder
    rows: int
    bytes: int
    first: str = ""
    last: str = ""

    def statistics(self) -> str:
        """Return what a Delta commit says of the file, as JSON."""
        said: dict[str, object] = {"numRecords": self.rows}
        if self.first:
            said |= {"minValues": {"uid": self.first}, "maxValues": {"uid": self.last}, "nullCount": {"uid": 0}}
        return json.dumps(said)


def write_rows(store: Store, job: str, table: str, rows: pa.Table) -> DataFile:
    """Write `rows` as one uniquely named Parquet file of `table`, for `Ledger.commit` to register; called in tasks.

    The file lies in the job's partition; the partition column itself is not stored in it. Rows with a uid are written
    in the order of uids, those of one uid in theirs.
    """
    path = f"job={job}/{uuid.uuid4().hex}.parquet"
    full = f"tables/{table}/{path}"
    ordered = by_uid(rows)
    with store.create(full) as stream:
        pq.write_table(ordered, stream, row_group_size=GROUP, **encoded(ordered.schema))
    return DataFile(table, path, rows.num_rows, store.size(full), *span(ordered))


def filled(rows: Rows, schema: pa.Schema) -> Rows:
    """Return the columns of `schema` of some rows of a data file; a column that the file lacks is null.

    An earlier version of cuvee wrote the file, which did not know the column.
    """
    names = set(rows.schema.names)
    columns = [rows[field.name] if field.name in names else pa.nulls(len(rows), field.type) for field in schema]
    kinds = [rows.schema.field(field.name) if field.name in names else field for field in schema]
    made: Rows = type(rows).from_arrays(columns, schema=pa.schema(kinds))
    return made


def encoded(schema: pa.Schema) -> dict[str, Any]:
    """Return how a data file of a schema is written, as pyarrow's writers want it."""
    repeating = [
        field.name for field in schema if field.name not in _UNIQUE and any(is_(field.type) for is_ in _REPEATING)
    ]
    if _HASHES.isdisjoint(schema.names):
        return {"compression": "zstd", "use_dictionary": repeating}
    codecs = {name: "none" if name in _HASHES else "zstd" for name in schema.names}  # of a table without nested columns
    return {"compression": codecs, "use_dictionary": repeating}


def by_uid(rows: pa.Table) -> pa.Table:
    """Return the rows in the order of their uids, or as they are where they have none or are too many to copy."""
    if "uid" not in rows.column_names or rows.num_rows < 2 or rows.nbytes > SORTED:
        return rows
    uids = rows["uid"].combine_chunks()
    if pc.all(pc.less_equal(uids[:-1], uids[1:])).as_py():
        return rows
    return rows.take(pc.sort_indices(uids))  # a stable sort


def span(rows: pa.Table) -> tuple[str, str]:
    """Return the least and the greatest uid of some rows, ("", "") where they have none."""
    if "uid" not in rows.column_names or not rows.num_rows:
        return "", ""
    found = pc.min_max(rows["uid"]).as_py()
    return found["min"] or "", found["max"] or ""
