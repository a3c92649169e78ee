"""Common Crawl's WAT: the contract of `test_sources`, and the traps of WARC, of JSON and of links on pages."""

import gzip
import io
import json
import random
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
from warcio.warcwriter import WARCWriter

from pipeline.records import EMPTY_CAPTION, MALFORMED, clean_row
from sources import wat
from tests.sources.test_contract import SourceContract, read

PAGE = "https://www.shop.test/goods/cups/index.html?x=1"


def image(url: Any, alt: Any = None) -> dict[str, Any]:
    return {"path": "IMG@/src", "url": url} | ({} if alt is None else {"alt": alt})


def page(links: Any, head: Any = None, **others: Any) -> bytes:
    """Return the JSON of a page's record as ia-web-commons writes it."""
    html = {"Head": head or {"Title": "Cups"}, "Links": links}
    about = {"Response-Message": {"Status": "200"}, "HTML-Metadata": html, "Entity-Length": "1234"}
    header = {"WARC-Type": "response", "WARC-Target-URI": PAGE}
    envelope = {"Payload-Metadata": {"HTTP-Response-Metadata": about}, "WARC-Header-Metadata": header}
    return json.dumps({"Container": {"Offset": "1"}, "Envelope": envelope | others}, ensure_ascii=False).encode()


def warc(contents: Sequence[bytes], packed: bool = True, uri: str = PAGE, kind: str = "metadata") -> bytes:
    """Return a WAT file: a warcinfo record and one of metadata for each content, each a gzip member of its own."""
    stream = io.BytesIO()
    writer = WARCWriter(stream, gzip=packed)
    writer.write_record(
        writer.create_warcinfo_record("a.warc.wat.gz", {"software": "ia-web-commons", "format": "WARC"})
    )
    for number, content in enumerate(contents):
        headers = {
            "WARC-Refers-To": f"<urn:uuid:00000000-0000-0000-0000-{number:012d}>",
            "WARC-Record-ID": f"<urn:uuid:11111111-0000-0000-0000-{number:012d}>",
        }
        about = {"warc_content_type": "application/json", "warc_headers_dict": headers}
        record = writer.create_warc_record(uri, kind, io.BytesIO(content), len(content), **about)
        writer.write_record(record)
    return stream.getvalue()


NO_HTML = json.dumps({"Envelope": {"Payload-Metadata": {"HTTP-Request-Metadata": {"Headers": {}}}}}).encode()
"""What a WAT file holds about a request, beside what it holds about the response."""


class TestWat(SourceContract):
    kind = "wat"
    packed = True

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        contents = [NO_HTML]
        for number, (url, text) in enumerate(pairs):
            raw = text if isinstance(text, bytes) else b""
            links = [{"path": "A@/href", "url": "/"}, image(url, "@raw@" if raw else text)]
            content = page(links).replace(b"@raw@", raw)
            contents.append(content[:-2] if number == spoil else content)
        return warc(contents, self.packed)


class TestWatPlain(TestWat):
    """The same, decompressed by whoever downloaded it."""

    packed = False


def urls(links: Any, head: Any = None) -> list[str]:
    return [row.url for row in read("wat", warc([page(links, head)]))]


def test_images_among_other_links_with_their_page_and_a_stable_id() -> None:
    links = [
        image("/a.jpg", "A"),
        {"path": "LINK@/href", "url": "/style.css"},
        {"path": "IMG@/longdesc", "url": "/text"},
        image("b.jpg"),
        image("//cdn.test/c.jpg", 3),
    ]
    rows = read("wat", warc([page(links), page(links[:1])]))
    assert [(row.line, row.record_id[-2:], row.url, row.caption) for row in rows] == [
        (1, "#1", "https://www.shop.test/a.jpg", "A"),
        (2, "#2", "https://www.shop.test/goods/cups/b.jpg", ""),
        (3, "#3", "https://cdn.test/c.jpg", ""),
        (4, "#1", "https://www.shop.test/a.jpg", "A"),
    ]
    assert rows[1].record_id == "urn:uuid:00000000-0000-0000-0000-000000000000#2"
    assert len({row.record_id for row in rows}) == 4
    assert {row.published["page_url"] for row in rows} == {PAGE}
    assert [clean_row(row).problem for row in rows] == ["", EMPTY_CAPTION, EMPTY_CAPTION, ""]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://cdn.test/x/", "https://cdn.test/x/a.jpg"),
        ("/media/", "https://www.shop.test/media/a.jpg"),
        ("../", "https://www.shop.test/goods/a.jpg"),
        ("", "https://www.shop.test/goods/cups/a.jpg"),
        ("http://[/", "https://www.shop.test/goods/cups/a.jpg"),
        (3, "https://www.shop.test/goods/cups/a.jpg"),
    ],
)
def test_urls_are_resolved_against_the_base_that_the_page_states(base: Any, expected: str) -> None:
    assert urls([image(" a.jpg\n")], {"Base": base}) == [expected]


def test_other_schemes_are_rows_and_long_urls_and_hosts_that_are_none_are_malformed() -> None:
    data = "data:image/png;base64," + "A" * 5000
    links = [image("data:,x", "dot"), image("javascript:void(0)"), image(data), image("http://[/x"), image("x" * 2040)]
    rows = read("wat", warc([page(links)]))
    assert [row.problem for row in rows] == ["", "", MALFORMED, MALFORMED, MALFORMED]
    assert [row.url for row in rows] == ["data:,x", "javascript:void(0)", "", "", ""]
    assert rows[2].detail == "expected a URL of at most 2048 characters, found 5022 of scheme 'data'"
    assert "2073 of scheme 'https'" in rows[4].detail
    assert rows[3].detail == "expected a URL that can be resolved, found http://[/x"


@pytest.mark.parametrize("bad", [{"path": "IMG@/src"}, image(None), image(3), image(["a.jpg"])])
def test_an_image_without_a_url_is_malformed(bad: Any) -> None:
    rows = read("wat", warc([page([bad, image("/a.jpg")])]))
    assert [row.problem for row in rows] == [MALFORMED, ""]
    assert rows[1].record_id.endswith("#2")


@pytest.mark.parametrize("links", [None, {}, "text", [], [None, 3, "text", [], {}], [{"path": 3}]])
def test_links_of_another_shape_hold_no_image(links: Any) -> None:
    assert read("wat", warc([page(links)])) == []


@pytest.mark.parametrize(
    "content", [b"null", b"3", b"[]", b'{"Envelope": 3}', b'{"Envelope": {"Payload-Metadata": []}}']
)
def test_json_of_another_shape_holds_no_image(content: bytes) -> None:
    assert read("wat", warc([content])) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"9" * 5000, b"{}x", b"\0"])
def test_a_record_that_holds_no_json_is_one_malformed_row_that_names_it(content: bytes) -> None:
    rows = read("wat", warc([page([image("/a.jpg")]), content, page([image("/b.jpg")])]))
    assert [row.problem for row in rows] == ["", MALFORMED, ""]
    assert [row.line for row in rows] == [1, 2, 3]
    assert "expected JSON in record urn:uuid:11111111-0000-0000-0000-000000000001, found " in rows[1].detail


def test_a_record_that_is_too_long_is_not_read() -> None:
    contents = [page([image("/a.jpg")]), page([image("/b.jpg", "x" * 3000)]), page([image("/c.jpg")])]
    with patch.object(wat, "MAX_RECORD_BYTES", 1000):
        rows = read("wat", warc(contents))
    assert [row.problem for row in rows] == ["", MALFORMED, ""]
    assert rows[1].detail.startswith("expected at most 1000 bytes in record urn:uuid:11111111")


@pytest.mark.parametrize("packed", [True, False])
def test_a_cut_file_keeps_what_comes_before_and_ends_with_a_row_that_says_so(packed: bool) -> None:
    content = warc([page([image(f"/{number}.jpg", "cap")]) for number in range(6)], packed)
    rows = read("wat", content[: len(content) - 40])
    assert [row.problem for row in rows] == [""] * 5 + [MALFORMED]
    assert rows[-1].line == 6
    assert rows[-1].detail.startswith("expected a whole WAT file, found ")


def test_headers_without_an_end_are_not_kept_in_memory() -> None:
    content = warc([page([image("/a.jpg")])], packed=False) + b"WARC/1.0\r\nX: " + b"x" * (4 * wat.MAX_HEADERS_BYTES)
    for packed in (content, gzip.compress(content)):
        rows = read("wat", packed)
        assert [row.problem for row in rows] == ["", MALFORMED]
        assert "headers of more than" in rows[1].detail


def test_a_record_of_another_length_than_it_states_is_never_silence(capsys: pytest.CaptureFixture[str]) -> None:
    contents = [page([image(f"/{number}.jpg", "cap")]) for number in range(3)]
    for stated in (-5, 5, 400):
        content = warc(contents, packed=False)
        length = len(contents[1])
        place = content.index(b"Content-Length: %d\r\n" % length, content.index(b"/0.jpg"))
        spoilt = content[:place] + content[place:].replace(b": %d\r\n" % length, b": %d\r\n" % (length + stated), 1)
        rows = read("wat", spoilt)
        assert rows[0].url.endswith("/0.jpg")
        assert MALFORMED in {row.problem for row in rows}
        assert [row.line for row in rows] == list(range(1, len(rows) + 1))
    assert capsys.readouterr().err == ""


def test_a_record_without_length_is_malformed() -> None:
    content = warc([page([image("/a.jpg")])], packed=False)
    rows = read("wat", content + b"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Record-ID: <urn:x>\r\n\r\n" + page([]))
    assert [row.problem for row in rows] == ["", MALFORMED]
    assert rows[1].detail.startswith("expected the Content-Length of record urn:x, found none")


def test_another_file_is_one_malformed_row() -> None:
    for content in (
        warc([b"text"], kind="conversion"),
        b"some text\n" * 9,
        gzip.compress(b"<html></html>"),
        b"\r\n\r\n",
        gzip.compress(warc([page([image("/a.jpg")])])),
    ):
        (only,) = read("wat", content)
        assert only.problem == MALFORMED


def test_a_page_whose_url_holds_a_secret_does_not_tell_it() -> None:
    row = clean_row(read("wat", warc([page([image("/a.jpg", "cap")])], uri="https://me:pw1@shop.test/"))[0])
    assert "pw1" not in json.dumps([row.published, row.url, row.record_id, row.detail])


def test_damage_gives_rows_and_no_exception_and_around_the_json_never_silence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    contents = [page([image(f"/{number}.jpg", "cap")]) for number in range(5)]
    whole = warc(contents, packed=False)
    json_places = {at + n for text in contents for at in [whole.index(text)] for n in range(len(text))}
    around = [n for n in range(len(whole)) if n not in json_places]
    for seed in range(60):
        chance, content = random.Random(seed), bytearray(whole)
        for place in chance.sample(range(len(content)) if seed % 2 else around, 1 + seed % 5):
            content[place] = chance.choice([0, 10, 13, 32, 58, 255, chance.randrange(256)])
        rows = read("wat", bytes(content))
        assert [row.line for row in rows] == list(range(1, len(rows) + 1)), seed
        assert seed % 2 or len(rows) >= 5 or MALFORMED in {row.problem for row in rows}, seed
    assert capsys.readouterr().err == ""
