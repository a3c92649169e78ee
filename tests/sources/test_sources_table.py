"""Tables by a column map (CSV, TSV, JSON lines, Parquet): the contract of `test_sources`, the options, the traps."""

import bz2
import csv
import gzip
import io
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.records import MALFORMED, WHOLE_FILE
from sources.registry import source_format
from sources.table import Table
from tests.sources.readers.test_parquet import parquet_file, texts
from tests.sources.test_contract import PAIRS, SourceContract, read, read_parts

COLUMNS = {"url": "img", "caption": "alt"}


RAW = "@raw@"


def with_raw(content: bytes, pairs: Sequence[tuple[str, str | bytes]]) -> bytes:
    """Return the file with the captions that are bytes put in as they are."""
    for _, text in pairs:
        content = content.replace(RAW.encode(), text, 1) if isinstance(text, bytes) else content
    return content


def rows_of(pairs: Sequence[tuple[str, str | bytes]]) -> list[tuple[str, str, str]]:
    return [(str(n), RAW if isinstance(text, bytes) else text, url) for n, (url, text) in enumerate(pairs)]


class TestCsv(SourceContract):
    kind = "table"
    options: ClassVar[dict[str, Any]] = {"kind": "csv", "columns": COLUMNS}
    first_line = 2  # behind the header

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["id", "alt", "img"])
        for number, row in enumerate(rows_of(pairs)):
            writer.writerow([*row, "extra"] if number == spoil else row)
        return with_raw(text.getvalue().encode(), pairs)

    def test_quoted_cells_hold_commas_quotes_and_line_ends(self) -> None:
        content = b'\xef\xbb\xbfimg,alt\r\nhttp://a.test/1.jpg,"one, ""two""\r\nthree\nfour"\r\nhttp://a.test/2.jpg,b'
        rows = read("table", content, self.options)
        assert [(row.line, row.url, row.caption) for row in rows] == [
            (4, "http://a.test/1.jpg", 'one, "two"\r\nthree\nfour'),
            (5, "http://a.test/2.jpg", "b"),
        ]

    def test_an_open_quote_costs_rows_but_neither_the_file_nor_memory(self) -> None:
        lines = [b"img,alt", *[b"http://a.test/1.jpg,cap" + b" x" * 20] * 60_000]
        lines[2] = b'"' + lines[2]
        rows = read("table", b"\n".join(lines), self.options)
        assert [row.problem for row in rows].count(MALFORMED) >= 1
        assert (rows[0].problem, rows[-1].problem, rows[-1].line) == ("", "", 60_001)

    def test_an_open_quote_at_the_end_and_text_behind_a_quote_are_malformed(self) -> None:
        content = b'img,alt\nhttp://a.test/1.jpg,"a"b\nhttp://a.test/2.jpg,b\nhttp://a.test/3.jpg,"c'
        assert [row.problem for row in read("table", content, self.options)] == [MALFORMED, "", MALFORMED]

    def test_an_empty_line_is_a_row_that_cannot_be_read(self) -> None:
        rows = read("table", b"img,alt\n\nhttp://a.test/1.jpg,a\n", self.options)
        assert [(row.line, row.problem) for row in rows] == [(2, MALFORMED), (3, "")]


class TestCsvGzip(TestCsv):
    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        return gzip.compress(super().file(pairs, spoil), mtime=0)


class TestTsv(SourceContract):
    kind = "table"
    options: ClassVar[dict[str, Any]] = {"kind": "tsv", "columns": COLUMNS}
    first_line = 2

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        lines = ["\t".join(row) + ("\textra" if n == spoil else "") for n, row in enumerate(rows_of(pairs))]
        return with_raw("\n".join([*self.header(), *lines, ""]).encode(), pairs)

    def header(self) -> list[str]:
        return ["id\talt\timg"]

    def test_quotes_mean_nothing(self) -> None:
        content = "\n".join([*self.header(), '1\t"open\thttp://a.test/1.jpg', '2\tclose"\thttp://a.test/2.jpg'])
        assert [row.caption for row in read("table", content.encode(), self.options)] == ['"open', 'close"']

    def test_a_byte_order_mark_is_no_part_of_the_first_cell(self) -> None:
        content = "\ufeff" + "\n".join([*self.header(), "1\tcap\thttp://a.test/1.jpg\r\n"])
        assert [row.caption for row in read("table", content.encode(), self.options)] == ["cap"]

    def test_many_rows_are_cut_into_parts(self) -> None:
        content = self.file(PAIRS * 20)
        assert len(source_format("table", self.options).parts(io.BytesIO(content), 2000)) > 5


class TestTsvWithoutHeader(TestTsv):
    options: ClassVar[dict[str, Any]] = {"kind": "tsv", "columns": COLUMNS, "header": ["id", "alt", "img"]}
    first_line = 1

    def header(self) -> list[str]:
        return []


class TestTsvByNumber(TestTsvWithoutHeader):
    options: ClassVar[dict[str, Any]] = {"kind": "tsv", "columns": {"url": 3, "caption": 2}}


class TestTsvBz2(TestTsv):
    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        return bz2.compress(super().file(pairs, spoil))

    def test_many_rows_are_cut_into_parts(self) -> None:
        lines = [*self.header(), *(f"{n}\tcaption {n * n}\thttp://a.test/{n}.jpg" for n in range(60_000))]
        content = bz2.compress("\n".join(lines).encode(), 1)
        assert len(source_format("table", self.options).parts(io.BytesIO(content), 1)) > 5
        assert read_parts("table", content, 1, self.options) == read("table", content, self.options)


class TestJsonl(SourceContract):
    kind = "table"
    options: ClassVar[dict[str, Any]] = {"kind": "jsonl", "columns": COLUMNS}

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        rows = [{"id": number, "alt": alt, "img": url} for number, alt, url in rows_of(pairs)]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        content = "\n".join("[1" if n == spoil else line for n, line in enumerate(lines)) + "\n" * bool(lines)
        return with_raw(content.encode(), pairs)

    @pytest.mark.parametrize("line", ["", "null", "3", "[]", '"text"', "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
    def test_a_line_that_is_no_object_is_malformed(self, line: str) -> None:
        rows = read("table", f'{line}\n{{"img": "http://a.test/1.jpg", "alt": "a"}}'.encode(), self.options)
        assert [row.problem for row in rows] == [MALFORMED, ""]
        assert rows[0].detail.startswith("expected a JSON object, found ")

    def test_an_absent_or_odd_cell_costs_its_row_alone(self) -> None:
        lines = [b'{"alt": "a"}', b'{"img": ["http://a.test/1.jpg"], "alt": "a"}', b'{"img": "http://a.test/1.jpg"}']
        rows = read("table", b"\n".join(lines), self.options)
        assert [(row.url, row.problem) for row in rows] == [("", ""), ("", MALFORMED), ("http://a.test/1.jpg", "")]


class TestJsonlBz2(TestJsonl):
    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        return bz2.compress(super().file(pairs, spoil))


class TestParquet(SourceContract):
    kind = "table"
    options: ClassVar[dict[str, Any]] = {"kind": "parquet", "columns": COLUMNS}
    test_a_row_that_cannot_be_read_stands_in_its_place = None  # Parquet has no such row: each has all columns

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        alt, img = texts([text for _, text in pairs]), texts([url for url, _ in pairs])
        return parquet_file({"alt": alt, "img": img}, row_group_size=2)


ROLES = {"url": "img", "caption": "alt", "record_id": "id", "licence": "terms", "faces": "boxes"}


ROLES |= {"sha256": "sum", "md5": "old_sum", "pdq": "print"}


ALL = {"columns": ROLES, "scores": {"clip": "number", "label": "text"}, "keep": ["site"]}


NAMES = ["id", "img", "alt", "terms", "boxes", "sum", "old_sum", "print", "clip", "label", "site"]


ROW = ["7", "http://a.test/1.jpg", "cap", " CC BY ", "[[0.1,0.2,0.3,0.4]]", "AB" * 32, "cd" * 16, "ef" * 32]


ROW += ["0.25", "safe", "a.test"]


def one_row_file(kind: str, row: Sequence[str]) -> bytes:
    """Return a table of one row in each kind, in the types that it has there."""
    if kind == "tsv":
        return "\n".join("\t".join(line) for line in (NAMES, row)).encode()
    if kind == "csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows([NAMES, row])
        return text.getvalue().encode()
    cells: dict[str, Any] = dict(zip(NAMES, row, strict=True))
    cells |= {"id": int(cells["id"]), "boxes": json.loads(cells["boxes"])}
    if cells["clip"] == "0.25":
        cells["clip"] = 0.25
    return json.dumps(cells).encode() if kind == "jsonl" else parquet_file({name: [cells[name]] for name in NAMES})


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
class TestRoles:
    def test_every_role_finds_its_place(self, kind: str) -> None:
        (row,) = read("table", one_row_file(kind, ROW), ALL | {"kind": kind})
        assert (row.record_id, row.url, row.caption, row.licence) == ("7", "http://a.test/1.jpg", "cap", "CC BY")
        assert row.hashes == {"sha256": "ab" * 32, "md5": "cd" * 16, "pdq": "ef" * 32}
        assert row.faces == ((0.1, 0.2, 0.3, 0.4),)
        assert row.published == {"clip": 0.25, "label": "safe", "site": "a.test"}

    @pytest.mark.parametrize(("value", "kept"), [("high", "high"), ("1_0", "1_0"), ("x" * 200, "x" * 80)])
    def test_a_number_that_cannot_be_read_is_kept_as_text_beside(self, kind: str, value: str, kept: str) -> None:
        (row,) = read("table", one_row_file(kind, [*ROW[:8], value, *ROW[9:]]), ALL | {"kind": kind})
        assert not row.problem
        assert row.published == {"clip_unreadable": kept, "label": "safe", "site": "a.test"}

    @pytest.mark.parametrize("value", ["", "NaN", "inf"])
    def test_an_empty_number_is_absent(self, kind: str, value: str) -> None:
        (row,) = read("table", one_row_file(kind, [*ROW[:8], value, *ROW[9:]]), ALL | {"kind": kind})
        assert row.published == {"label": "safe", "site": "a.test"}

    @pytest.mark.parametrize("place", [5, 6, 7])
    def test_a_hash_that_is_none_makes_the_row_malformed(self, kind: str, place: int) -> None:
        (row,) = read("table", one_row_file(kind, [*ROW[:place], "ab", *ROW[place + 1 :]]), ALL | {"kind": kind})
        assert row.problem == MALFORMED
        assert "hex digits, found ab" in row.detail

    def test_a_box_that_is_none_makes_the_row_malformed(self, kind: str) -> None:
        (row,) = read("table", one_row_file(kind, [*ROW[:4], "[[0.1, 0.2]]", *ROW[5:]]), ALL | {"kind": kind})
        assert (row.problem, row.faces) == (MALFORMED, ())


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_columns_that_are_missing_or_there_twice_are_named_once(kind: str) -> None:
    options = {"kind": kind, "columns": {"url": "picture", "caption": "alt"}, "keep": ["where"]}
    content = one_row_file(kind, ROW)
    assert source_format("table", options).parts(io.BytesIO(content), 1) == [WHOLE_FILE]
    (only,) = read("table", content, options)
    assert (only.line, only.problem) == (1, MALFORMED)
    assert only.detail.startswith("expected columns picture, where")
    if kind != "parquet":
        twice = content.replace(b"site", b"alt")
        (only,) = read("table", twice, {"kind": kind, "columns": COLUMNS})
        assert only.detail.startswith("expected columns alt, each once, found id, img, alt")


def test_a_file_by_number_with_too_few_columns_is_one_malformed_row() -> None:
    options = {"kind": "tsv", "columns": {"url": 3, "caption": 2}}
    (only,) = read("table", b"a\tb\nc\td\n", options)
    assert only.detail == "expected columns 3, each once, found 1, 2"


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_header_given_may_be_named_by_number_too(kind: str) -> None:
    options = {"kind": kind, "columns": {"url": 1, "caption": "alt"}, "header": ["img", "alt", "w"], "keep": ["w"]}
    separator = "," if kind == "csv" else "\t"
    (row,) = read("table", separator.join(["http://a.test/1.jpg", "cap", "640"]).encode(), options)
    assert (row.line, row.url, row.caption, row.published) == (1, "http://a.test/1.jpg", "cap", {"w": "640"})


def test_a_cut_gzip_of_tsv_is_one_part_and_says_so() -> None:
    options = {"kind": "tsv", "columns": COLUMNS}
    content = gzip.compress(TestTsv().file(PAIRS))[:12]
    assert source_format("table", options).parts(io.BytesIO(content), 1) == [WHOLE_FILE]
    assert [row.problem for row in read("table", content, options)] == [MALFORMED]


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "xls"}, "options.kind: expected one of csv, tsv, jsonl, parquet, found 'xls'"),
    ({"columns": ["img"]}, "options.columns: expected a mapping of "),
    ({"columns": {"url": "img"}}, "options.columns.caption: expected a column, found none"),
    ({"columns": {"caption": "img"}}, "options.columns.url: expected a column, found none"),
    ({"columns": COLUMNS | {"license": "terms"}}, "did you mean 'licence'?"),
    ({"columns": COLUMNS | {"url": ""}}, "options.columns.url: expected a column's name or its number from 1"),
    ({"columns": COLUMNS | {"url": 0}}, "options.columns.url: expected a column's name or its number from 1"),
    ({"columns": COLUMNS | {"url": -1}}, "options.columns.url: expected a column's name or its number from 1"),
    ({"columns": COLUMNS | {"url": 1}}, "options.header: expected a list of column names where some are numbers"),
    ({"columns": {"url": 1, "caption": 2}, "keep": ["w"]}, "options.header: expected a list of column names"),
    ({"columns": {"url": 1, "caption": 3}, "header": ["a", "b"]}, "options.columns.caption: expected 1 to 2, found 3"),
    ({"kind": "jsonl", "columns": {"url": 1, "caption": 2}}, "options.columns.url: expected a name, as jsonl names"),
    ({"kind": "parquet", "header": ["img", "alt"]}, "options.header: expected none, as parquet names its columns"),
    ({"header": "img"}, "options.header: expected a list of distinct column names, found 'img'"),
    ({"header": []}, "options.header: expected a list of distinct column names, found []"),
    ({"header": ["img", "text"]}, "options.columns: unknown column of options.header 'alt'"),
    ({"header": ["img", "alt"], "keep": ["w"]}, "options.keep: unknown column of options.header 'w'"),
    ({"header": ["img", "alt"], "scores": {"w": "text"}}, "options.scores: unknown column of options.header 'w'"),
    ({"scores": ["w"]}, "options.scores: expected a mapping of columns to number or text, found ['w']"),
    ({"scores": {"w": "float"}}, "options.scores.w: expected number or text, found 'float'"),
    ({"scores": {3: "text"}}, "options.scores: expected a column's name, found 3"),
    ({"keep": "w"}, "options.keep: expected a list of column names, found 'w'"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_OPTIONS)
def test_wrong_options_are_named_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as found:
        source_format("table", {"kind": "csv", "columns": COLUMNS} | wrong)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("options", [{}, {"kind": "csv"}, {"kind": "csv", "columns": COLUMNS, "delimiter": ";"}])
def test_options_that_are_lacking_or_unknown_are_input_errors(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="options"):
        source_format("table", options)


def test_scores_are_arrow_types_and_a_reader_can_be_copied_and_sent() -> None:
    reader = source_format("table", ALL | {"kind": "csv"})
    assert reader.scores == {"clip": pa.float64(), "label": pa.string()}
    assert isinstance(reader, Table)
    assert replace(reader) == reader
    assert pickle.loads(pickle.dumps(reader)) == reader
