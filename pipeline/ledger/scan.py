"""Rows of the ledger's tables, all of them batch by batch, or a few out of millions.

A few are found by the statistics of files and row groups; of what may hold them one column is read, until it is known
where the rows are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ledger.data_files import filled
from pipeline.ledger.tables import Ledger, between

BATCH = 1 << 16
"""Rows that are looked at together."""


@dataclass(frozen=True)
class Scanned:
    """Some rows of one data file: the job that wrote it, its path in the store, and the columns that were asked for."""

    job: str
    path: str
    rows: pa.RecordBatch


def scan(ledger: Ledger, table: str, columns: Sequence[str]) -> Iterator[Scanned]:
    """Yield these columns of all rows of a table's newest version, those of unfinished jobs too."""
    for job, path in ledger.snapshot(table):
        yield from scan_file(ledger, job, path, columns)


def scan_file(ledger: Ledger, job: str, path: str, columns: Sequence[str]) -> Iterator[Scanned]:
    """Yield these columns of one data file."""
    schema = ledger.schema(path.split("/")[1], columns)
    with ledger.store.parquet(path) as file:
        for batch in file.iter_batches(BATCH, columns=list(columns), use_threads=False):
            yield Scanned(job, path, filled(batch, schema))


def matching(
    parts: Iterator[Scanned], mask: Callable[[pa.RecordBatch], Any]
) -> Iterator[tuple[Scanned, dict[str, Any]]]:
    """Yield each row that `mask` (booleans for a batch) marks, as a mapping, with the part that it stands in."""
    for part in parts:
        chosen = part.rows.filter(mask(part.rows))
        if chosen.num_rows:
            for row in chosen.to_pylist():
                yield part, row


def columns_of(ledger: Ledger, table: str) -> list[str]:
    """Return the names of a table's columns, without its partition's; none where there is no such table."""
    delta = ledger.open(table)
    return [] if delta is None else [field.name for field in delta.schema().fields if field.name != "job"]


def rows_with(ledger: Ledger, table: str, columns: Sequence[str], values: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of finished jobs of which one of `columns` (text) is one of `values`, each with its job."""
    wanted = sorted(set(values))
    files = [
        (one.job, one.path)
        for one in ledger.files(table)
        if ledger.finished(one.job) is not None and (list(columns) != ["uid"] or one.may_hold(wanted))
    ]
    if not wanted:
        return []

    schema = ledger.schema(table)

    def look(file: tuple[str, str]) -> list[dict[str, Any]]:
        job, path = file
        with ledger.store.parquet(path) as opened:
            return [{**row, "job": job} for row in _rows(opened, schema, columns, wanted)]

    with ThreadPoolExecutor(ledger.store.at_once) as pool:
        return [row for rows in pool.map(look, files) for row in rows]


def _rows(
    file: pq.ParquetFile, schema: pa.Schema, columns: Sequence[str], wanted: Sequence[str]
) -> list[dict[str, Any]]:
    columns = [name for name in columns if name in file.schema_arrow.names]  # a file of before the others has none
    places = [file.schema_arrow.get_field_index(name) for name in columns]
    found: list[dict[str, Any]] = []
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        if not any(_may_hold(about.column(place).statistics, wanted) for place in places):
            continue
        part = file.read_row_group(group, columns=list(columns), use_threads=False)
        mask = None
        for name in columns:
            here = _is_one_of(part[name], wanted)
            mask = here if mask is None else pc.or_kleene(mask, here)
        if pc.any(mask).as_py():
            found += filled(file.read_row_group(group, use_threads=False).filter(mask), schema).to_pylist()
    return found


def _is_one_of(column: pa.ChunkedArray, wanted: Sequence[str]) -> pa.ChunkedArray:
    if len(wanted) == 1:  # a question for one thing is the usual one, and is answered several times as fast so
        return pc.equal(column, wanted[0])
    return pc.is_in(column, pa.array(wanted, pa.string()))


def _may_hold(statistics: Any, wanted: Sequence[str]) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return between(wanted, statistics.min, statistics.max)
