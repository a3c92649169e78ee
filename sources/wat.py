"""Common Crawl's WAT: gzipped WARC with JSON metadata about each page, including its images and their alt texts."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, BinaryIO
from urllib.parse import urljoin

import pyarrow as pa
from warcio.archiveiterator import WARCIterator
from warcio.exceptions import ArchiveLoadFailed

from pipeline.core.redaction import redact
from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers.json_values import JSON_ERRORS, nested_value, plain_json
from sources.readers.lines import DAMAGE_ERRORS, decompressed, report_damage

MAX_RECORD_BYTES = 64 << 20
"""Largest JSON record that is read, in bytes; the largest of a crawl are a few MB."""


MAX_HEADERS_BYTES = 1 << 20
"""Bytes of the file that may be read to find a record's headers."""


MAX_URL_CHARS = 2048
"""Longest URL that is passed on, in characters; longer ones are mostly images in `data:` URIs."""


HTML_PATH = ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata")


class _Records(WARCIterator):  # type: ignore[misc]
    """warcio's records of a decompressed file; writes nothing to stderr for a record of another length than stated."""

    INC_RECORD = ""

    def __init__(self, source: "_Source") -> None:
        super().__init__(source, no_record_parse=True)
        self.reader.set_decomp(None)  # not decompressed a second time: the budget counts the bytes read


class _Source:
    """The decompressed file for warcio: damage is not taken for the file's end, and the size of headers is limited."""

    def __init__(self, stream: BinaryIO) -> None:
        self._plain: io.BufferedIOBase = decompressed(stream)  # type: ignore[assignment]
        self._offset = 0
        self.budget: int | None = None

    def tell(self) -> int:
        """Return the number of bytes read."""
        return self._offset

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; raise OSError where the file is truncated, or the budget is spent."""
        try:
            content = self._plain.read1(size)  # `read` would lose the bytes before the damage
        except EOFError as error:  # warcio takes EOFError for the end of a record
            raise OSError(str(error)) from None
        self._offset += len(content)
        if self.budget is not None:
            self.budget -= len(content)
            if self.budget < 0:
                raise OSError(f"headers of more than {MAX_HEADERS_BYTES} bytes")
        return content


class Wat:
    """One row for each image of each page; `line` is the image's number in the file, from 1.

    A row's id is "<id of the crawled record>#<number of the image on its page, from 1>". The record's id is
    WARC-Refers-To, which stays the same when a WAT file is regenerated, else the record's own id, else the page's URL.
    The image's URL is resolved as by a browser, against the page's base where it states one. An image without alt text
    has an empty caption.
    """

    name = "wat"
    pattern = "*.warc.wat.gz"
    citation = "Common Crawl, commoncrawl.org; WAT as written by the Internet Archive's ia-web-commons"
    scores: Mapping[str, pa.DataType] = {}
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return [WHOLE]: a crawl has tens of thousands of WAT files, which need not be cut."""
        return [WHOLE_FILE]

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield every image; an unreadable record gives one malformed row, and a truncated file ends with one."""
        rows = _rows(_Source(stream))
        return report_damage(rows, "a whole WAT file", (*DAMAGE_ERRORS, ArchiveLoadFailed))


def _rows(source: _Source) -> Iterator[PublishedRow]:
    records, numbers = _Records(source), count(1)
    errors = record_count = 0
    while True:
        record = _next_record(records, source)
        if records.err_count > errors:  # the bytes that warcio skips to find the next record may have contained records
            errors = records.err_count
            yield malformed_row(
                next(numbers), "a record of the length that it states", f"more after record {record_count}"
            )
        if record is None:
            return
        record_count += 1
        for row in _record_rows(record):
            yield replace(row, line=next(numbers))
        _skip_record(record)


def _next_record(records: _Records, source: _Source) -> Any:
    source.budget = MAX_HEADERS_BYTES
    record = next(records, None)
    source.budget = None
    return record


def _skip_record(record: Any) -> None:
    """Read the rest of a record; raise OSError where the file ends within it."""
    while record.raw_stream.read(1 << 16):
        pass
    if getattr(record.raw_stream, "limit", 0) > 0:
        raise OSError("the file ended within a record")


def _record_rows(record: Any) -> Iterator[PublishedRow]:
    record_id, refers_to, page = (
        (record.rec_headers.get_header(name) or "").strip("<>")
        for name in ("WARC-Record-ID", "WARC-Refers-To", "WARC-Target-URI")
    )
    kind = f"{record.rec_type} of {record.content_type}"
    record_name = f"record {redact(record_id or page)[:100]}"
    if record.length is None:
        yield malformed_row(1, f"the Content-Length of {record_name}", "none, so that its end is unknown")
    elif record.rec_type == "warcinfo":
        return
    elif record.rec_type != "metadata" or "json" not in kind:
        yield malformed_row(1, f"metadata in JSON in {record_name}", kind)
    elif record.length > MAX_RECORD_BYTES:
        yield malformed_row(1, f"at most {MAX_RECORD_BYTES} bytes in {record_name}", str(record.length))
    elif (
        len(content := record.raw_stream.read(record.length)) == record.length
    ):  # else `_skip_record` raises for the truncation
        try:
            html = nested_value(plain_json(content), *HTML_PATH)
        except JSON_ERRORS as error:
            yield malformed_row(1, f"JSON in {record_name}", f"{type(error).__name__}: {error}")
        else:
            yield from _images(html, page, refers_to or record_id or page)


def _images(html: Any, page: str, crawled: str) -> Iterator[PublishedRow]:
    """Yield a page's images; `line` is the image's number on the page, from 1."""
    links = nested_value(html, "Links")
    images = [link for link in links if nested_value(link, "path") == "IMG@/src"] if isinstance(links, list) else []
    base_url = nested_value(html, "Head", "Base")
    base = _resolve(page, base_url) if isinstance(base_url, str) else None
    for number, link in enumerate(images, start=1):
        yield _image_row(number, link, page if base is None else base, page, crawled)


def _resolve(base: str, url: str) -> str | None:
    try:
        return urljoin(base, url.strip())
    except ValueError:  # an invalid host, such as "http://[/"
        return None


def _image_row(number: int, link: dict[str, Any], base: str, page: str, crawled: str) -> PublishedRow:
    url, alt = link.get("url"), link.get("alt")
    if not isinstance(url, str):
        return malformed_row(number, "an image with a URL", repr(link))
    resolved = url if len(url) > MAX_URL_CHARS else _resolve(base, url)
    if resolved is None:
        return malformed_row(number, "a URL that can be resolved", url)
    if len(resolved) > MAX_URL_CHARS:
        scheme = resolved.partition(":")[0][:20]
        return malformed_row(
            number, f"a URL of at most {MAX_URL_CHARS} characters", f"{len(resolved)} of scheme {scheme!r}"
        )
    caption = alt if isinstance(alt, str) else ""
    return PublishedRow(number, f"{crawled}#{number}", resolved, caption, published={"page_url": page})
