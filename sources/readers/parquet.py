"""Parquet files of which nothing is trusted: read by column name, cut at row groups, damage confined to its group."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import WHOLE, Part, PublishedRow, malformed
from sources.readers.cells import BadCell, plain
from sources.readers.lines import whole

DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)
"""What pyarrow raises for a file that is cut or damaged, and for values that Python cannot hold (the year 20000)."""


BATCH = 1024
"""Rows that are held at a time."""


BUFFER = 1 << 20
"""How much of a column chunk is read at a time, in bytes; without it a row group's columns are read whole."""


@dataclass(frozen=True)
class Columns:
    """Which columns are read: our name of each, and the names that releases give it, the first that is there counting.

    A file that lacks one of `required` has no rows. A name that stands twice in a file counts as lacking.
    """

    names: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]

    def found(self, present: Sequence[str]) -> dict[str, str]:
        """Return our name of each column that is there, with the name that it has in the file."""
        single = {name for name in present if present.count(name) == 1}
        chosen = {name: next((other for other in others if other in single), "") for name, others in self.names.items()}
        return {name: other for name, other in chosen.items() if other}

    def missing(self, present: Sequence[str]) -> list[str]:
        """Return our names of the required columns that are not there."""
        found = self.found(present)
        return [name for name in self.required if name not in found]


Cells = Mapping[str, Any]
"""One row by our column names, as plain JSON values."""


Build = Callable[[int, Cells], PublishedRow]
"""Makes a row of (its line, its cells); raises BadCell where it must not be used."""


def parts(stream: BinaryIO, size: int, columns: Columns) -> list[Part]:
    """Return runs of row groups of about `size` compressed bytes; [WHOLE] where nothing in the file can be read.

    A row group's share of the file is taken to be its share of the bytes before compression.
    """
    try:
        file = _opened(stream)
        # their sizes before compression: pyarrow aborts the process where it looks at a damaged column's own
        weights = [max(1, file.metadata.row_group(group).total_byte_size) for group in range(file.num_row_groups)]
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's fault, not the file's
            raise
        return [WHOLE]
    if columns.missing(file.schema_arrow.names):
        return [WHOLE]  # one malformed row says so, not one for each part
    starts, weight, full = [0], 0, size * sum(weights) / max(1, stream.seek(0, io.SEEK_END))
    for group, own in enumerate(weights):
        if group and weight >= full:
            starts.append(group)
            weight = 0
        weight += own
    return [Part(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def read(stream: BinaryIO, part: Part, columns: Columns, build: Build) -> Iterator[PublishedRow]:
    """Yield a row for each Parquet row of a part; `line` is its number in the part, from 1.

    A file that is no Parquet or lacks a column is one malformed row; so is what is left of a damaged row group.
    """
    return whole(_rows(stream, part, columns, build), "a whole Parquet file", DAMAGE)


def _opened(stream: BinaryIO) -> pq.ParquetFile:
    return pq.ParquetFile(stream, buffer_size=BUFFER, page_checksum_verification=True)


def _rows(stream: BinaryIO, part: Part, columns: Columns, build: Build) -> Iterator[PublishedRow]:
    file = _opened(stream)
    present = file.schema_arrow.names
    if missing := columns.missing(present):
        yield malformed(1, f"columns {', '.join(missing)}", ", ".join(present))
        return
    found, line = columns.found(present), 0
    end = file.num_row_groups if part.end is None else min(part.end, file.num_row_groups)
    for group in range(part.start, end):
        rows = _group_rows(file, group, found, build, line)
        for row in whole(rows, f"a whole row group {group}", DAMAGE):
            line += 1
            yield row if row.line == line else replace(row, line=line)


def _group_rows(
    file: pq.ParquetFile, group: int, found: Mapping[str, str], build: Build, line: int
) -> Iterator[PublishedRow]:
    wanted = list(dict.fromkeys(found.values()))
    for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=wanted):
        values = {name: _values(batch.column(name)) for name in wanted}
        for cells in zip(*(values[name] for name in found.values()), strict=True):
            line += 1
            yield built(build, line, dict(zip(found, cells, strict=True)))


def built(build: Build, line: int, cells: Cells) -> PublishedRow:
    """Return the row that `build` makes of the cells, or a malformed one where a cell forbids its use."""
    try:
        return build(line, cells)
    except BadCell as bad:
        return malformed(line, bad.expected, bad.found)


def _values(column: pa.Array) -> list[Any]:
    """Return a column's cells as plain JSON values.

    Text is taken as bytes: Parquet does not check that it is UTF-8, and one bad cell would end the row group.
    """
    kind = _with_bytes(column.type)
    return [plain(value) for value in (column if kind == column.type else column.cast(kind)).to_pylist()]


def _with_bytes(kind: pa.DataType) -> pa.DataType:
    """Return a column's type with bytes in the place of text, however deep in lists and structs, and no dictionary."""
    types = pa.types
    if types.is_dictionary(kind):
        return _with_bytes(kind.value_type)
    if types.is_string(kind) or types.is_string_view(kind):
        return pa.binary()
    if types.is_large_string(kind):
        return pa.large_binary()
    if types.is_list(kind):
        return pa.list_(_with_bytes(kind.value_type))
    if types.is_large_list(kind):
        return pa.large_list(_with_bytes(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _with_bytes(field.type)) for field in kind])
    return kind
