"""Any table of URLs and captions: CSV, TSV, JSON lines or Parquet, with its columns named in the configuration."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from pipeline.errors import InputError, unknown_message
from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers import parquet
from sources.readers.cells import HEX_DIGITS, cell_text, face_boxes, image_hashes, plain_value, read_scores
from sources.readers.lines import (
    DAMAGE_ERRORS,
    MAX_LINE_BYTES,
    decompressed,
    line_parts,
    numbered_lines,
    part_lines,
    report_damage,
)

KINDS = ("csv", "tsv", "jsonl", "parquet")


REQUIRED = ("url", "caption")


HASHES = ("sha256", "md5", "pdq")


ROLES = (*REQUIRED, "record_id", "licence", *HASHES, "faces")


SCORE_TYPES: Mapping[str, pa.DataType] = {"number": pa.float64(), "text": pa.string()}


BOM = "\ufeff"


@dataclass(frozen=True)
class Table:
    """One row for each row of the table. Text files may be gzip or bz2.

    `kind`: "csv" as in RFC 4180; "tsv", cut at every tab, without quoting; "jsonl", an object on each line; "parquet".
    `columns`: the column of each role, at least `url` and `caption`; CSV and TSV files name their columns in the first
    line. `header`: the column names of a CSV or TSV file without such a line. Where `columns` are numbers from 1 and
    there is no `header`, the file has no such line either, and the first row determines the number of columns.
    `scores`: column to "number" or "text"; as an attribute of the table, it holds Arrow types. `keep`: columns to pass
    on.

    `line` is the line of text on which the row ends, a header line included; for Parquet it is the row's number.
    """

    name: ClassVar[str] = "table"
    pattern: ClassVar[str] = "*.csv, *.tsv, *.jsonl, *.parquet"
    citation: ClassVar[str] = ""
    joins: ClassVar[str] = ""

    kind: str
    columns: Mapping[str, Any]
    header: Sequence[str] | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    keep: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check the options; raise InputError where one is invalid."""
        if self.kind not in KINDS:
            raise InputError(f"options.kind: expected one of {', '.join(KINDS)}, found {self.kind!r}")
        _check_header(self.kind, self.header)
        _check_columns(self.columns)
        _check_scores(self.scores)
        if not _is_name_list(self.keep):
            raise InputError(f"options.keep: expected a list of column names, found {self.keep!r}")
        kinds = {name: SCORE_TYPES.get(kind, kind) for name, kind in self.scores.items()}
        object.__setattr__(self, "scores", kinds)
        self._check_numbers()
        self._check_known()

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return parts of row groups (Parquet) or lines (TSV, JSONL); [WHOLE] for CSV: cells may contain line ends."""
        if self.kind == "parquet":
            return parquet.parts(stream, size, self._parquet_columns())
        if self.kind == "csv":
            return [WHOLE_FILE]
        if self.kind == "jsonl":
            return line_parts(stream, size)
        try:
            missing = self._missing(self._header(_first_cells(stream)))
        except DAMAGE_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:  # an error of the disk or network
                raise
            return [WHOLE_FILE]
        if missing:
            return [WHOLE_FILE]  # so that there is one malformed row, not one for each part
        return line_parts(stream, size, header=int(self._has_header_line))

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield every row of a part; a file that lacks a column gives one malformed row that names it."""
        if self.kind == "parquet":
            return parquet.read(stream, part, self._parquet_columns(), self._row)
        rows = {"csv": self._csv, "tsv": self._tsv, "jsonl": self._jsonl}[self.kind]
        return report_damage(rows(stream, part), damage=(*DAMAGE_ERRORS, csv.Error))

    @cached_property
    def _roles(self) -> dict[str, str]:
        """The name of each role's column; a column without a name is named by its number."""
        names = self.header or ()
        return {
            role: column if isinstance(column, str) else names[column - 1] if names else str(column)
            for role, column in self.columns.items()
        }

    @cached_property
    def _has_header_line(self) -> bool:
        return self.header is None and all(isinstance(column, str) for column in self.columns.values())

    @cached_property
    def _columns_to_read(self) -> list[str]:
        return list(dict.fromkeys([*self._roles.values(), *self.scores, *self.keep]))

    def _header(self, first: Sequence[str]) -> Sequence[str]:
        """Return the names of the columns of a file whose first row is `first`."""
        if self.header is not None:
            return self.header
        return first if self._has_header_line else [str(number) for number in range(1, len(first) + 1)]

    def _parquet_columns(self) -> parquet.ParquetColumns:
        return parquet.ParquetColumns({name: (name,) for name in self._columns_to_read}, tuple(self._columns_to_read))

    def _check_numbers(self) -> None:
        numbers = {role: column for role, column in self.columns.items() if isinstance(column, int)}
        for role, column in numbers.items():
            if self.kind not in ("csv", "tsv"):
                raise InputError(
                    f"options.columns.{role}: expected a name, as {self.kind} names columns, found {column}"
                )
            if self.header is not None and column > len(self.header):
                raise InputError(f"options.columns.{role}: expected 1 to {len(self.header)}, found {column}")
        if not numbers or self.header is not None:
            return
        if len(numbers) < len(self.columns) or self.scores or self.keep:
            raise InputError("options.header: expected a list of column names where some are numbers, found none")

    def _check_known(self) -> None:
        for key, names in (("columns", self._roles.values()), ("scores", self.scores), ("keep", self.keep)):
            for name in names:
                if self.header is not None and name not in self.header:
                    raise InputError(f"options.{key}: {unknown_message('column of options.header', name, self.header)}")

    def _missing(self, header: Sequence[str]) -> list[str]:
        return [name for name in self._columns_to_read if header.count(name) != 1]

    def _csv(self, stream: BinaryIO, part: FilePart) -> Iterator[PublishedRow]:
        csv.field_size_limit(MAX_LINE_BYTES)
        content = io.TextIOWrapper(decompressed(stream), "utf-8-sig", "replace", newline="")
        lines = iter(
            partial(content.readline, MAX_LINE_BYTES), ""
        )  # a longer line becomes several, all of them malformed
        reader = csv.reader(lines, strict=True)
        header: Sequence[str] = ()
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # an unclosed quote consumes lines up to the limit; the lines after it are read
                yield malformed_row(reader.line_num, "a row of CSV", str(error))
                continue
            is_header = not header and self._has_header_line
            header = header or self._header(cells)
            if missing := self._missing(header):
                yield _missing_columns_row(missing, header)
                return
            if not is_header:
                yield self._of_cells(reader.line_num, header, cells)

    def _tsv(self, stream: BinaryIO, part: FilePart) -> Iterator[PublishedRow]:
        first = _first_cells(stream)
        if not first:
            return  # an empty file
        header = self._header(first)
        if missing := self._missing(header):
            yield _missing_columns_row(missing, header)
            return
        for number, line in part_lines(stream, part):
            cells = line.split("\t")
            if number > 1 or part.start:
                yield self._of_cells(number, header, cells)
            elif not self._has_header_line:
                yield self._of_cells(number, header, first)

    def _jsonl(self, stream: BinaryIO, part: FilePart) -> Iterator[PublishedRow]:
        for number, line in part_lines(stream, part):
            try:
                # NaN is not JSON
                cells = json.loads(line.removeprefix(BOM), parse_constant=lambda _: None)
            except (ValueError, RecursionError):
                cells = None
            if not isinstance(cells, dict):
                yield malformed_row(number, "a JSON object", line)
                continue
            cells_to_read = {name: plain_value(cells.get(name)) for name in self._columns_to_read}
            yield parquet.build_row(self._row, number, cells_to_read)

    def _of_cells(self, line: int, header: Sequence[str], cells: Sequence[str]) -> PublishedRow:
        if len(cells) != len(header):
            return malformed_row(line, f"{len(header)} columns", f"{len(cells)}: {list(cells[:3])}")
        return parquet.build_row(self._row, line, dict(zip(header, cells, strict=True)))

    def _row(self, line: int, cells: parquet.Cells) -> PublishedRow:
        roles = {role: cells.get(column) for role, column in self._roles.items()}
        published = {name: cells[name] for name in self.keep if cells.get(name) not in (None, "")}
        return PublishedRow(
            line,
            cell_text(roles.get("record_id")),
            cell_text(roles["url"]),
            cell_text(roles["caption"]),
            published=published | read_scores(cells, self.scores),
            licence=cell_text(roles.get("licence")).strip(),
            hashes=image_hashes({kind: roles.get(kind) for kind in HEX_DIGITS}),
            faces=face_boxes(roles.get("faces")),
        )


def _missing_columns_row(missing: Sequence[str], header: Sequence[str]) -> PublishedRow:
    return malformed_row(1, f"columns {', '.join(missing)}, each once", ", ".join(header))


def _first_cells(stream: BinaryIO) -> list[str]:
    """Return the cells of a TSV file's first line, [] for an empty file; raise `DAMAGE_ERRORS` as `lines` does."""
    line = next((line for _, line in numbered_lines(stream)), None)
    return [] if line is None else line.removeprefix(BOM).split("\t")


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)


def _check_header(kind: str, header: Any) -> None:
    if header is None:
        return
    if kind not in ("csv", "tsv"):
        raise InputError(f"options.header: expected none, as {kind} names its columns, found {header!r}")
    if not _is_name_list(header) or not header or len(set(header)) != len(header):
        raise InputError(f"options.header: expected a list of distinct column names, found {header!r}")


def _check_columns(columns: Any) -> None:
    if not isinstance(columns, Mapping):
        raise InputError(f"options.columns: expected a mapping of {', '.join(ROLES)} to columns, found {columns!r}")
    for role, column in columns.items():
        if role not in ROLES:
            raise InputError(f"options.columns: {unknown_message('role', str(role), ROLES)}")
        is_name = isinstance(column, str) and column
        if not is_name and (isinstance(column, bool) or not isinstance(column, int) or column < 1):
            raise InputError(f"options.columns.{role}: expected a column's name or its number from 1, found {column!r}")
    for role in REQUIRED:
        if role not in columns:
            raise InputError(f"options.columns.{role}: expected a column, found none")


def _check_scores(scores: Any) -> None:
    known = [*SCORE_TYPES, *SCORE_TYPES.values()]  # the types, too, so that a checked table can be copied
    if not isinstance(scores, Mapping):
        raise InputError(
            f"options.scores: expected a mapping of columns to {' or '.join(SCORE_TYPES)}, found {scores!r}"
        )
    for name, kind in scores.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"options.scores: expected a column's name, found {name!r}")
        if kind not in known:
            raise InputError(f"options.scores.{name}: expected {' or '.join(SCORE_TYPES)}, found {kind!r}")
