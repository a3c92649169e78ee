"""Data files of the ledger's tables: Parquet, written by tasks in the order of uids.

A pair is found without reading the others: by the least and the greatest uid of each file, which its commit carries,
and of each row group.
"""

import json
import uuid
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storage.store import Store

ROW_GROUP_ROWS = 1 << 16
"""Rows of a row group: so many are read to find one pair."""


MAX_SORT_BYTES = 1 << 30
"""Bytes above which rows are not sorted: a sorted copy would be held in memory beside them."""


_REPEATING = (pa.types.is_string, pa.types.is_integer)


_HASHES = {"raw_sha256", "jpg_sha256"}
"""Columns that are searched as a whole. Not compressed, as an image is then found by its hash in half the time."""


_UNIQUE = {"uid", "url", "caption", "record_id", "offset", *_HASHES}
"""Columns whose values hardly repeat: a dictionary would be as long as the column, and is read first."""


Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of one table, written by a task; it may or may not be in a snapshot yet.

    `first` and `last` are its least and its greatest uid, "" if its rows have none.
    """

    table: str
    path: str  # relative to the table's folder
    rows: int
    bytes: int
    first: str = ""
    last: str = ""

    def statistics(self) -> str:
        """Return the file's statistics for a Delta commit, as JSON."""
        values: dict[str, object] = {"numRecords": self.rows}
        if self.first:
            values |= {"minValues": {"uid": self.first}, "maxValues": {"uid": self.last}, "nullCount": {"uid": 0}}
        return json.dumps(values)


def write_rows(store: Store, job: str, table: str, rows: pa.Table) -> DataFile:
    """Write `rows` as one uniquely named Parquet file of `table`, for `Ledger.commit` to register; called in tasks.

    The file lies in the job's partition; the partition column itself is not stored in it. Rows with a uid are sorted
    by it; the sort is stable.
    """
    path = f"job={job}/{uuid.uuid4().hex}.parquet"
    store_path = f"tables/{table}/{path}"
    sorted_rows = sort_by_uid(rows)
    with store.create(store_path) as stream:
        pq.write_table(sorted_rows, stream, row_group_size=ROW_GROUP_ROWS, **writer_options(sorted_rows.schema))
    return DataFile(table, path, rows.num_rows, store.size(store_path), *uid_range(sorted_rows))


def with_schema(rows: Rows, schema: pa.Schema) -> Rows:
    """Return the columns of `schema` of rows of a data file; a column that the file lacks is null.

    Such a file was written by an earlier version of cuvee, which did not have the column.
    """
    if not len(schema):
        return rows.select([])  # a table without columns still has rows
    names = set(rows.schema.names)
    columns = [rows[field.name] if field.name in names else pa.nulls(len(rows), field.type) for field in schema]
    fields = [rows.schema.field(field.name) if field.name in names else field for field in schema]
    result: Rows = type(rows).from_arrays(columns, schema=pa.schema(fields))
    return result


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Return the options of pyarrow's writers (compression, dictionaries) for a data file of a schema."""
    repeating = [
        field.name
        for field in schema
        if field.name not in _UNIQUE and any(is_type(field.type) for is_type in _REPEATING)
    ]
    if _HASHES.isdisjoint(schema.names):
        return {"compression": "zstd", "use_dictionary": repeating}
    codecs = {name: "none" if name in _HASHES else "zstd" for name in schema.names}  # of a table without nested columns
    return {"compression": codecs, "use_dictionary": repeating}


def sort_by_uid(rows: pa.Table) -> pa.Table:
    """Return the rows sorted by uid; unchanged where they have no uid or are too large to copy."""
    if "uid" not in rows.column_names or rows.num_rows < 2 or rows.nbytes > MAX_SORT_BYTES:
        return rows
    uids = rows["uid"].combine_chunks()
    if pc.all(pc.less_equal(uids[:-1], uids[1:])).as_py():
        return rows
    return rows.take(pc.sort_indices(uids))  # a stable sort


def uid_range(rows: pa.Table) -> tuple[str, str]:
    """Return the least and the greatest uid of rows, ("", "") if they have none."""
    if "uid" not in rows.column_names or not rows.num_rows:
        return "", ""
    limits = pc.min_max(rows["uid"]).as_py()
    return limits["min"] or "", limits["max"] or ""
