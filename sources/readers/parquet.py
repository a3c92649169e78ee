"""Untrusted Parquet files: read by column name, cut at row groups, damage confined to its row group."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers.cells import BadCell, plain_value
from sources.readers.lines import report_damage

DAMAGE_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)
"""pyarrow's exceptions for a file that is truncated or damaged, and for values beyond Python's (the year 20000)."""


BATCH_ROWS = 1024
"""Rows that are in memory at a time."""


BUFFER_BYTES = 1 << 20
"""Bytes of a column chunk that are read at a time; without it a row group's columns are read whole."""


@dataclass(frozen=True)
class ParquetColumns:
    """The columns to read: our name of each, and its names in releases, of which the first present one is used.

    A file that lacks one of `required` has no rows. A name that occurs twice in a file counts as missing.
    """

    names: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]

    def found(self, present: Sequence[str]) -> dict[str, str]:
        """Return our name of each column that is present, with its name in the file."""
        single = {name for name in present if present.count(name) == 1}
        chosen = {
            name: next((alias for alias in aliases if alias in single), "") for name, aliases in self.names.items()
        }
        return {name: alias for name, alias in chosen.items() if alias}

    def missing(self, present: Sequence[str]) -> list[str]:
        """Return our names of the required columns that are missing."""
        available = self.found(present)
        return [name for name in self.required if name not in available]


Cells = Mapping[str, Any]
"""One row by our column names, as plain JSON values."""


Build = Callable[[int, Cells], PublishedRow]
"""Returns the row of (line, cells); raises BadCell where the row must not be used."""


def parts(stream: BinaryIO, size: int, columns: ParquetColumns) -> list[FilePart]:
    """Return parts of consecutive row groups, about `size` compressed bytes each; [WHOLE] for an unreadable file.

    A row group's share of the file is estimated as its share of the uncompressed bytes.
    """
    try:
        file = _open(stream)
        # uncompressed sizes: pyarrow aborts the process when it reads the compressed size of a damaged column
        weights = [max(1, file.metadata.row_group(group).total_byte_size) for group in range(file.num_row_groups)]
    except DAMAGE_ERRORS as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # an error of the disk or the network, not of the file
            raise
        return [WHOLE_FILE]
    if columns.missing(file.schema_arrow.names):
        return [WHOLE_FILE]  # so that there is one malformed row, not one for each part
    starts, total, target = [0], 0, size * sum(weights) / max(1, stream.seek(0, io.SEEK_END))
    for group, group_weight in enumerate(weights):
        if group and total >= target:
            starts.append(group)
            total = 0
        total += group_weight
    return [FilePart(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def read(stream: BinaryIO, part: FilePart, columns: ParquetColumns, build: Build) -> Iterator[PublishedRow]:
    """Yield a row for each Parquet row of a part; `line` is its number in the part, from 1.

    A file that is not Parquet or lacks a column gives one malformed row; so does the rest of a damaged row group.
    """
    return report_damage(_rows(stream, part, columns, build), "a whole Parquet file", DAMAGE_ERRORS)


def _open(stream: BinaryIO) -> pq.ParquetFile:
    return pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, page_checksum_verification=True)


def _rows(stream: BinaryIO, part: FilePart, columns: ParquetColumns, build: Build) -> Iterator[PublishedRow]:
    file = _open(stream)
    present = file.schema_arrow.names
    if missing := columns.missing(present):
        yield malformed_row(1, f"columns {', '.join(missing)}", ", ".join(present))
        return
    columns_in_file, line = columns.found(present), 0
    end = file.num_row_groups if part.end is None else min(part.end, file.num_row_groups)
    for group in range(part.start, end):
        rows = _group_rows(file, group, columns_in_file, build, line)
        for row in report_damage(rows, f"a whole row group {group}", DAMAGE_ERRORS):
            line += 1
            yield row if row.line == line else replace(row, line=line)


def _group_rows(
    file: pq.ParquetFile, group: int, columns_in_file: Mapping[str, str], build: Build, line: int
) -> Iterator[PublishedRow]:
    file_columns = list(dict.fromkeys(columns_in_file.values()))
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=file_columns):
        values = {name: _values(batch.column(name)) for name in file_columns}
        for cells in zip(*(values[name] for name in columns_in_file.values()), strict=True):
            line += 1
            yield build_row(build, line, dict(zip(columns_in_file, cells, strict=True)))


def build_row(build: Build, line: int, cells: Cells) -> PublishedRow:
    """Return the row that `build` returns for the cells, or a malformed row where it raises BadCell."""
    try:
        return build(line, cells)
    except BadCell as bad:
        return malformed_row(line, bad.expected, bad.found)


def _values(column: pa.Array) -> list[Any]:
    """Return a column's cells as plain JSON values.

    Text is read as bytes: Parquet does not check that it is UTF-8, and one invalid cell would fail the row group.
    """
    kind = _bytes_type(column.type)
    return [plain_value(value) for value in (column if kind == column.type else column.cast(kind)).to_pylist()]


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    """Return a column's type with text replaced by bytes, also within lists and structs, and without dictionaries."""
    types = pa.types
    if types.is_dictionary(kind):
        return _bytes_type(kind.value_type)
    if types.is_string(kind) or types.is_string_view(kind):
        return pa.binary()
    if types.is_large_string(kind):
        return pa.large_binary()
    if types.is_list(kind):
        return pa.list_(_bytes_type(kind.value_type))
    if types.is_large_list(kind):
        return pa.large_list(_bytes_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _bytes_type(field.type)) for field in kind])
    return kind
