"""One contract that every published format's reader keeps; and the formats of plain lines with their traps."""

import bz2
import gzip
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote_plus

import fsspec
import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.records import MALFORMED, WHOLE_FILE, PublishedRow
from sources.readers.lines import MAX_LINE_BYTES
from sources.registry import FORMATS, source_format

PAIRS = [
    ("http://a.test/1.jpg", "a plain caption"),
    ("http://a.test/2.jpg?w=640&h=480", "umlauts äöü, 猫, 🐈 and a 50% sign + plus"),
    ("http://a.test/3.jpg", 'she said "hi", then left; 1/2 & more'),
    ("https://b.test/ü/4.jpg", "x" * 3000),
    ("http://a.test/5.jpg", "a plain caption"),
]


NOT_UTF8 = b"caf\xe9 \xff\xfe"


REPAIRED = "caf� ��"


def read(kind: str, content: bytes, options: dict[str, Any] | None = None) -> list[PublishedRow]:
    return list(source_format(kind, options).read(io.BytesIO(content)))


def read_parts(kind: str, content: bytes, size: int, options: dict[str, Any] | None = None) -> list[PublishedRow]:
    """Return a file's rows as ingest reads them: part by part, the lines of the parts before added up."""
    reader = source_format(kind, options)
    rows: list[PublishedRow] = []
    before = 0
    for part in reader.parts(io.BytesIO(content), size):
        found = [replace(row, line=before + row.line) for row in reader.read(io.BytesIO(content), part)]
        before = found[-1].line if found else before
        rows += found
    return rows


class SourceContract:
    """What a format's test gives: files as published. What it gets: the tests that every reader must pass."""

    kind: str
    options: ClassVar[dict[str, Any]] = {}
    first_line = 1

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        """Return a published file of these pairs; the row at `spoil` is one that no reader could take."""
        raise NotImplementedError

    def test_every_row_comes_back_in_order(self) -> None:
        rows = read(self.kind, self.file(PAIRS), self.options)
        assert [(row.url, row.caption) for row in rows] == PAIRS
        assert [row.line for row in rows] == list(range(self.first_line, self.first_line + len(PAIRS)))
        assert {row.problem for row in rows} == {""}

    def test_published_columns_are_plain_json(self) -> None:
        found = [row.published for row in read(self.kind, self.file(PAIRS), self.options)]
        assert len(found) == len(PAIRS)
        assert json.loads(json.dumps(found, allow_nan=False)) == found

    def test_a_row_that_cannot_be_read_stands_in_its_place(self) -> None:
        rows = read(self.kind, self.file(PAIRS, spoil=1), self.options)
        assert [row.problem for row in rows] == ["", MALFORMED, "", "", ""]
        assert rows[1].line == self.first_line + 1
        assert rows[1].detail.startswith("expected ")
        assert ", found " in rows[1].detail
        assert [row.url for row in rows if not row.problem] == [url for url, _ in PAIRS[:1] + PAIRS[2:]]

    def test_bytes_that_are_not_utf8_become_replacement_characters(self) -> None:
        rows = read(self.kind, self.file([PAIRS[0], ("http://a.test/2.jpg", NOT_UTF8), PAIRS[4]]), self.options)
        assert [(row.url, row.caption) for row in rows] == [PAIRS[0], ("http://a.test/2.jpg", REPAIRED), PAIRS[4]]

    def test_an_empty_file_has_no_row_or_one_that_says_so(self) -> None:
        assert [row.problem for row in read(self.kind, b"", self.options)] in ([], [MALFORMED])

    def test_a_file_without_rows_has_none(self) -> None:
        assert read(self.kind, self.file([]), self.options) == []

    def test_a_cut_file_loses_nothing_before_the_cut(self) -> None:
        content = self.file(PAIRS)
        whole = read(self.kind, content, self.options)
        for length in range(0, len(content), 97):
            rows = read(self.kind, content[:length], self.options)
            assert rows[:-1] == whole[: max(0, len(rows) - 1)]
            assert len(rows) <= len(whole) + 1  # the cut itself may be a row

    def test_damaged_files_give_rows_and_no_exception(self) -> None:
        for seed in range(20):
            chance, content = random.Random(seed), bytearray(self.file(PAIRS))
            for place in chance.sample(range(len(content)), 1 + seed % 4):
                content[place] = chance.randrange(256)
            lines = [row.line for row in read(self.kind, bytes(content), self.options)]
            assert lines == sorted(set(lines)), seed

    @pytest.mark.parametrize("size", [1, 60, 200, 1 << 30])
    def test_the_parts_of_a_file_give_the_rows_of_the_whole(self, size: int) -> None:
        for pairs in (PAIRS, PAIRS * 20, PAIRS[:1], []):
            content = self.file(pairs)
            assert read_parts(self.kind, content, size, self.options) == read(self.kind, content, self.options)

    def test_reads_what_fsspec_opens(self) -> None:
        with fsspec.open(f"memory://{self.kind}", "wb") as stream:
            stream.write(self.file(PAIRS))
        with fsspec.open(f"memory://{self.kind}", "rb") as stream:
            assert [row.url for row in source_format(self.kind, self.options).read(stream)] == [url for url, _ in PAIRS]


def yfcc_line(number: int, url: str, title: str, marker: int = 0, tags: str = "", description: str = "") -> bytes:
    fields = [number, 6_000_000 + number, f"{number:032x}", "1@N00", "me+too", "2008-01-01 00:00:00.0", 1199145600]
    fields += ["Canon+EOS", title, description, tags, "", "", "", "", "http://www.flickr.com/photos/1@N00/1/", url]
    fields += ["Attribution License", "http://creativecommons.org/licenses/by/2.0/", 2, 1, "secret", "other", "jpg"]
    return "\t".join(map(str, [*fields, marker])).encode()


class TestYfcc(SourceContract):
    kind = "yfcc"

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        lines = [yfcc_line(number, url, quote_plus(title)) for number, (url, title) in enumerate(pairs)]
        return b"".join(line + (b"\textra" if n == spoil else b"") + b"\n" for n, line in enumerate(lines))

    def test_text_is_decoded_and_joined_and_tags_stand_in(self) -> None:
        lines = [
            yfcc_line(1, "http://a.test/1.jpg", "A+caf%C3%A9", description="second%0Aline%09tab"),
            yfcc_line(2, "http://a.test/2.jpg", "", tags="red+car,caf%C3%A9,2008"),
            yfcc_line(3, "http://a.test/3.jpg", "+", tags="tag", description="only+this"),
            yfcc_line(4, "http://a.test/4.jpg", "%E9%ZZ"),
        ]
        rows = read("yfcc", b"\n".join(lines))
        assert [row.caption for row in rows] == ["A café second line tab", "red car café 2008", "only this", "�%ZZ"]
        assert [row.record_id for row in rows] == ["6000001", "6000002", "6000003", "6000004"]

    def test_each_photo_has_its_owners_licence_and_no_hash_of_its_bytes(self) -> None:
        line = yfcc_line(7, "http://a.test/1.jpg", "t")
        url, name = b"http://creativecommons.org/licenses/by/2.0/", b"Attribution License"
        lines = [line, line.replace(url, b""), line.replace(url, b"").replace(name, b"")]
        rows = read("yfcc", b"\n".join(lines))
        assert [row.licence for row in rows] == [url.decode(), name.decode(), ""]
        assert [(row.hashes, row.published["hash"]) for row in rows] == [({}, f"{7:032x}")] * 3

    def test_a_video_is_no_pair_and_photo_secrets_are_left_out(self) -> None:
        rows = read("yfcc", yfcc_line(1, "http://a.test/1.jpg", "t") + b"\n" + yfcc_line(2, "http://a.test/2", "t", 1))
        assert [row.problem for row in rows] == ["", MALFORMED]
        assert "marker '1'" in rows[1].detail
        assert "secret" not in json.dumps(rows[0].published)


class TestYfccBz2(TestYfcc):
    """As Yahoo published it: bz2 over the same lines."""

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        return bz2.compress(super().file(pairs, spoil))


class TestYfccManyStreams(TestYfcc):
    """As pbzip2 packs it: bz2 streams one behind another, so that the parts are many."""

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        content = super().file(pairs, spoil)
        return b"".join(bz2.compress(content[at : at + 500]) for at in range(0, len(content), 500)) or bz2.compress(b"")


class TestCC12M(SourceContract):
    kind = "cc12m"

    def columns(self, url: bytes, text: bytes) -> bytes:
        return url + b"\t" + text

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        texts = [text if isinstance(text, bytes) else text.encode() for _, text in pairs]
        lines = [self.columns(url.encode(), text) for (url, _), text in zip(pairs, texts, strict=True)]
        return b"".join(line + (b"\textra" if n == spoil else b"") + b"\n" for n, line in enumerate(lines))

    @pytest.mark.parametrize("line", [b"http://a.test/1.jpg", b"http://a.test/1.jpg\tone\ttwo", b"", b"  "])
    def test_one_or_three_columns_are_malformed(self, line: bytes) -> None:
        first, last = self.columns(b"http://a.test/0.jpg", b"cap"), self.columns(b"http://a.test/2.jpg", b"last")
        rows = read(self.kind, first + b"\r\n" + line + b"\n" + last)
        assert [row.problem for row in rows] == ["", MALFORMED, ""]
        assert [(row.url, row.caption) for row in rows[::2]] == [
            ("http://a.test/0.jpg", "cap"),
            ("http://a.test/2.jpg", "last"),
        ]

    def test_quotes_mean_nothing(self) -> None:
        lines = [self.columns(b"http://a.test/1.jpg", b'"open'), self.columns(b"http://a.test/2.jpg", b'close"')]
        assert [row.caption for row in read(self.kind, b"\n".join(lines) + b"\n")] == ['"open', 'close"']

    def test_an_endless_line_is_one_row_and_not_kept_in_memory(self) -> None:
        content = b"http://a.test/1.jpg\t" + b"x" * (3 * MAX_LINE_BYTES) + b"\nhttp://a.test/2.jpg\tcap\n"
        rows = read(self.kind, content, self.options)
        assert [row.line for row in rows] == [1, 2]
        assert all(len(row.url) + len(row.caption) < MAX_LINE_BYTES for row in rows)
        assert {rows[1].url, rows[1].caption} == {"http://a.test/2.jpg", "cap"}


class TestCC12MGzip(TestCC12M):
    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        return gzip.compress(super().file(pairs, spoil), mtime=0)


class TestCC3M(TestCC12M):
    """The caption comes first; a reader of the other order would take it for the URL."""

    kind = "cc3m"

    def columns(self, url: bytes, text: bytes) -> bytes:
        return text + b"\t" + url


class TestShutterstock(TestCC12M):
    kind = "shutterstock"


class TestYfccPairs(TestCC12M):
    kind = "yfcc_pairs"


def test_an_unknown_format_lists_the_choices() -> None:
    with pytest.raises(InputError) as found:
        source_format("cc4m")
    assert all(name in str(found.value) for name in FORMATS)
    assert "\n" not in str(found.value)


NEEDED: dict[str, dict[str, Any]] = {"table": {"kind": "csv", "columns": {"url": "u", "caption": "c"}}}
"""Options of the formats that cannot do without."""


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_registered_format_says_what_it_is(name: str) -> None:
    reader = source_format(name, NEEDED.get(name))
    assert (reader.name, bool(reader.pattern)) == (name, True)
    assert bool(reader.citation) is (name != "table")  # which is anybody's
    assert all(isinstance(kind, pa.DataType) for kind in reader.scores.values())
    assert reader.joins in ("", *FORMATS)
    assert isinstance(reader.read(io.BytesIO(b"")), Iterator)
    assert reader.parts(io.BytesIO(b""), 1 << 20) == [WHOLE_FILE]
