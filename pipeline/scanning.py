"""Columns of a ledger's tables, batch by batch: what looks through all pairs holds none but those that it finds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.ledger import Ledger

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
    with ledger.store.parquet(path) as file:
        for batch in file.iter_batches(BATCH, columns=list(columns), use_threads=False):
            yield Scanned(job, path, batch.select(list(columns)))


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
