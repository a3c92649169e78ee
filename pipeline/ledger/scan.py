"""Rows of the ledger's tables: all of them batch by batch, or a few out of millions.

A few rows are found by the statistics of files and row groups: of the row groups that may hold them the searched
columns are read first, and the others only where a row matches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ledger.data_files import with_schema
from pipeline.ledger.tables import Ledger, any_between

BATCH_ROWS = 1 << 16
"""Rows of a batch at most."""


@dataclass(frozen=True)
class ScannedBatch:
    """Rows of one data file: the job that wrote it, its path in the store, and the requested columns."""

    job: str
    path: str
    rows: pa.RecordBatch


def scan_table(ledger: Ledger, table: str, columns: Sequence[str]) -> Iterator[ScannedBatch]:
    """Yield these columns of all rows of a table's newest version, including those of unfinished jobs."""
    for job, path in ledger.snapshot(table):
        yield from scan_file(ledger, job, path, columns)


def scan_file(ledger: Ledger, job: str, path: str, columns: Sequence[str]) -> Iterator[ScannedBatch]:
    """Yield these columns of one data file."""
    schema = ledger.schema(path.split("/")[1], columns)
    with ledger.store.parquet(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            yield ScannedBatch(job, path, with_schema(batch, schema))


def matching_rows(
    parts: Iterator[ScannedBatch], mask: Callable[[pa.RecordBatch], Any]
) -> Iterator[tuple[ScannedBatch, dict[str, Any]]]:
    """Yield each row that `mask` (booleans for a batch) selects, as a mapping, with the part it is in."""
    for part in parts:
        chosen = part.rows.filter(mask(part.rows))
        if chosen.num_rows:
            for row in chosen.to_pylist():
                yield part, row


def column_names(ledger: Ledger, table: str) -> list[str]:
    """Return the names of a table's columns without the partition column; none where there is no such table."""
    delta = ledger.open(table)
    return [] if delta is None else [field.name for field in delta.schema().fields if field.name != "job"]


def rows_with(ledger: Ledger, table: str, columns: Sequence[str], values: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of finished jobs in which one of `columns` (text) equals one of `values`, each with its job."""
    ordered = sorted(set(values))
    files = [
        (data_file.job, data_file.path)
        for data_file in ledger.files(table)
        if ledger.finished(data_file.job) is not None and (list(columns) != ["uid"] or data_file.may_hold(ordered))
    ]
    if not ordered:
        return []

    schema = ledger.schema(table)

    def read_matching(file: tuple[str, str]) -> list[dict[str, Any]]:
        job, path = file
        with ledger.store.parquet(path) as parquet:
            return [{**row, "job": job} for row in _matching_rows(parquet, schema, columns, ordered)]

    with ThreadPoolExecutor(ledger.store.at_once) as pool:
        return [row for rows in pool.map(read_matching, files) for row in rows]


def _matching_rows(
    file: pq.ParquetFile, schema: pa.Schema, columns: Sequence[str], values: Sequence[str]
) -> list[dict[str, Any]]:
    columns = [name for name in columns if name in file.schema_arrow.names]  # an older file may lack one
    indices = [file.schema_arrow.get_field_index(name) for name in columns]
    rows: list[dict[str, Any]] = []
    for group in range(file.num_row_groups):
        row_group = file.metadata.row_group(group)
        if not any(_may_hold(row_group.column(index).statistics, values) for index in indices):
            continue
        searched = file.read_row_group(group, columns=list(columns), use_threads=False)
        mask = None
        for name in columns:
            matches = _is_one_of(searched[name], values)
            mask = matches if mask is None else pc.or_kleene(mask, matches)
        if pc.any(mask).as_py():
            rows += with_schema(file.read_row_group(group, use_threads=False).filter(mask), schema).to_pylist()
    return rows


def _is_one_of(column: pa.ChunkedArray, values: Sequence[str]) -> pa.ChunkedArray:
    if len(values) == 1:  # a search for one value is the usual one, and several times faster this way
        return pc.equal(column, values[0])
    return pc.is_in(column, pa.array(values, pa.string()))


def _may_hold(statistics: Any, values: Sequence[str]) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return any_between(values, statistics.min, statistics.max)
