"""The published formats with named columns (WIT, RedCaps): the contract of `test_sources`, and their traps."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.records import MALFORMED
from sources.wit import COLUMNS as WIT_COLUMNS
from tests.sources.test_contract import SourceContract, read


def wit_file(rows: Sequence[dict[str, str | bytes]], columns: Sequence[str] = WIT_COLUMNS) -> bytes:
    """Return gzipped TSV as `csv.excel_tab` writes it; bytes in a cell are put in as they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, csv.excel_tab)
    writer.writerow(columns)
    raw = [value for row in rows for value in row.values() if isinstance(value, bytes)]
    for row in rows:
        writer.writerow(["@raw@" if isinstance(row.get(name), bytes) else row.get(name, "") for name in columns])
    content = text.getvalue().encode()
    for value in raw:
        content = content.replace(b"@raw@", value, 1)
    return gzip.compress(content, mtime=0)


class TestWit(SourceContract):
    kind = "wit"
    first_line = 2  # behind the header

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        page = {"language": "en", "page_url": "https://en.wikipedia.org/wiki/A", "original_height": "480"}
        rows = [page | {"image_url": url, "caption_reference_description": text} for url, text in pairs]
        if spoil is None:
            return wit_file(rows)
        lines = gzip.decompress(wit_file(rows)).split(b"\r\n")
        return gzip.compress(b"\r\n".join(b"one\ttwo" if n == spoil + 1 else line for n, line in enumerate(lines)))

    def test_the_caption_falls_back_from_reference_to_alt_text_to_attribution(self) -> None:
        names = ["caption_reference_description", "caption_alt_text_description", "caption_attribution_description"]
        texts = [("ref", "alt", "att"), ("", "alt", "att"), (" ", "", "att"), ("", "", "")]
        rows = read(
            "wit", wit_file([{"image_url": "http://a.test/1.jpg"} | dict(zip(names, t, strict=True)) for t in texts])
        )
        assert [row.caption for row in rows] == ["ref", "alt", "att", ""]

    def test_quoted_cells_hold_tabs_quotes_and_line_ends(self) -> None:
        cell = 'a "tab\there"\nand a\r\nline'
        first = {
            "image_url": "http://a.test/1.jpg",
            "caption_reference_description": cell,
            "page_url": "http://p.test/1",
        }
        rows = read("wit", wit_file([first, {"image_url": "http://a.test/2.jpg", "page_title": "A\tB"}]))
        assert [(row.line, row.url, row.caption) for row in rows] == [
            (4, "http://a.test/1.jpg", cell),
            (5, "http://a.test/2.jpg", ""),
        ]
        assert rows[0].record_id == "http://p.test/1"
        assert rows[1].published == {"page_title": "A\tB"}

    def test_columns_are_found_by_name_and_a_missing_one_is_named(self) -> None:
        row: dict[str, str | bytes] = {"image_url": "http://a.test/1.jpg", "caption_alt_text_description": "alt"}
        assert read("wit", wit_file([row], [*reversed(WIT_COLUMNS), "new"]))[0].caption == "alt"
        (only,) = read("wit", wit_file([row], [name for name in WIT_COLUMNS if name != "image_url"]))
        assert only.problem == MALFORMED
        assert "image_url" in only.detail

    def test_an_open_quote_costs_rows_but_neither_the_file_nor_memory(self) -> None:
        good = {"image_url": "http://a.test/1.jpg", "caption_reference_description": "cap"}
        lines = gzip.decompress(wit_file([good] * 60_000)).split(b"\r\n")
        lines[2] = b'"' + lines[2]
        rows = read("wit", gzip.compress(b"\r\n".join(lines), 1))
        assert rows[0].caption == "cap"
        assert [row.problem for row in rows].count(MALFORMED) >= 1
        assert rows[-1].caption == "cap"
        assert rows[-1].line == 60_001


def redcaps_row(number: int, url: str, caption: Any) -> dict[str, Any]:
    about = {"author": "me", "raw_caption": "Raw", "subreddit": "crafts", "score": number, "created_utc": 1_500_000_000}
    return about | {"image_id": f"id{number}", "url": url, "caption": caption, "permalink": f"/r/crafts/{number}"}


def redcaps_file(annotations: Any) -> bytes:
    info = {"url": "https://redcaps.xyz", "version": "1.0", "license": {}}
    return json.dumps({"info": info, "annotations": annotations}, ensure_ascii=False).encode("utf-8", "surrogatepass")


NO_REDCAPS = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"null",
    b'{"info": {}}',
    b'{"annotations": 3}',
    b'{"annotations": null}',
    b'{"annotations": "abc"}',
    b"[" * 100_000,
    b'{"annotations": [' + b"9" * 5000 + b"]}",
]


class TestRedCaps(SourceContract):
    kind = "redcaps"

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        raw = [text for _, text in pairs if isinstance(text, bytes)]
        texts = ["@raw@" if isinstance(text, bytes) else text for _, text in pairs]
        rows = [redcaps_row(n, url, text) for n, ((url, _), text) in enumerate(zip(pairs, texts, strict=True))]
        if spoil is not None:
            del rows[spoil]["url"]
        return redcaps_file(rows).replace(b"@raw@", b"".join(raw))

    def test_url_or_image_url(self) -> None:
        old, new = redcaps_row(1, "http://a.test/1.jpg", "cap"), redcaps_row(2, "http://a.test/2.jpg", None)
        new["image_url"] = new.pop("url")
        rows = read("redcaps", redcaps_file([old, new]))
        assert [(row.record_id, row.url, row.caption) for row in rows] == [
            ("id1", "http://a.test/1.jpg", "cap"),
            ("id2", "http://a.test/2.jpg", ""),
        ]
        assert rows[0].published["permalink"] == "/r/crafts/1"

    @pytest.mark.parametrize(
        "bad", [None, 3, "text", [], {}, {"image_id": 1}, {"url": "http://a.test/1.jpg"}, {"url": 3}]
    )
    def test_annotations_of_another_shape_are_malformed(self, bad: Any) -> None:
        rows = read("redcaps", redcaps_file([bad, redcaps_row(2, "http://a.test/2.jpg", "cap")]))
        assert [row.problem for row in rows] == [MALFORMED, ""]

    @pytest.mark.parametrize("content", NO_REDCAPS)
    def test_other_json_is_one_malformed_row(self, content: bytes) -> None:
        (only,) = read("redcaps", content)
        assert only.problem == MALFORMED
        assert only.detail.startswith("expected JSON with a list 'annotations', found ")
