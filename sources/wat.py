"""Common Crawl's WAT: gzipped WARC with JSON metadata about each page, its images and their alt texts among it."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, BinaryIO
from urllib.parse import urljoin

import pyarrow as pa
from warcio.archiveiterator import WARCIterator
from warcio.exceptions import ArchiveLoadFailed

from pipeline.core.redaction import redacted
from pipeline.records import WHOLE, Part, PublishedRow, malformed
from sources.readers.json_values import NO_JSON, plain_json, within
from sources.readers.lines import DAMAGE, decompressed, whole

MAX_RECORD = 64 << 20
"""Longest JSON record that is read, in bytes; the longest of a crawl are a few MB."""


MAX_HEADERS = 1 << 20
"""How much of the file may be read to find a record's headers, in bytes."""


MAX_URL = 2048
"""Longest URL that is handed on, in characters; what is longer is mostly an image in a `data:` URI."""


HTML = ("Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata")


class _Records(WARCIterator):  # type: ignore[misc]
    """warcio's records of a decompressed file; it writes nothing to stderr where one has another length than stated."""

    INC_RECORD = ""

    def __init__(self, source: "_Source") -> None:
        super().__init__(source, no_record_parse=True)
        self.reader.set_decomp(None)  # nothing is decompressed twice, as the budget counts what is read


class _Source:
    """The decompressed file as warcio reads it: its damage can't be taken for its end, nor its headers be endless."""

    def __init__(self, stream: BinaryIO) -> None:
        self._plain: io.BufferedIOBase = decompressed(stream)  # type: ignore[assignment]
        self._offset = 0
        self.budget: int | None = None

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._offset

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; raise OSError where the file is cut, and where the budget is spent."""
        try:
            content = self._plain.read1(size)  # `read` would lose what comes before the damage
        except EOFError as error:  # warcio takes it for the end of a record
            raise OSError(str(error)) from None
        self._offset += len(content)
        if self.budget is not None:
            self.budget -= len(content)
            if self.budget < 0:
                raise OSError(f"headers of more than {MAX_HEADERS} bytes")
        return content


class Wat:
    """One row for each image of each page; `line` is the image's number in the file, from 1.

    A row's id is "<id of the record that was crawled>#<image's number on its page, from 1>": WARC-Refers-To, which
    stays when a WAT file is made anew, else the record's own id, else the page's URL. Its URL is resolved as a browser
    does, against the page's base where it states one. An image without alt text has an empty caption.
    """

    name = "wat"
    pattern = "*.warc.wat.gz"
    citation = "Common Crawl, commoncrawl.org; WAT as written by the Internet Archive's ia-web-commons"
    scores: Mapping[str, pa.DataType] = {}
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[Part]:
        """Return [WHOLE]: a crawl has tens of thousands of WAT files, none of which needs cutting."""
        return [WHOLE]

    def read(self, stream: BinaryIO, part: Part = WHOLE) -> Iterator[PublishedRow]:
        """Yield every image; a record that can't be read is one malformed row, and a file that is cut ends with one."""
        rows = _rows(_Source(stream))
        return whole(rows, "a whole WAT file", (*DAMAGE, ArchiveLoadFailed))


def _rows(source: _Source) -> Iterator[PublishedRow]:
    records, numbers = _Records(source), count(1)
    misfits = before = 0
    while True:
        record = _next(records, source)
        if records.err_count > misfits:  # what warcio skips to find the next one may have held records
            misfits = records.err_count
            yield malformed(next(numbers), "a record of the length that it states", f"more behind record {before}")
        if record is None:
            return
        before += 1
        for row in _record_rows(record):
            yield replace(row, line=next(numbers))
        _skip(record)


def _next(records: _Records, source: _Source) -> Any:
    source.budget = MAX_HEADERS
    record = next(records, None)
    source.budget = None
    return record


def _skip(record: Any) -> None:
    """Read what is left of a record; raise OSError where the file ends before it does."""
    while record.raw_stream.read(1 << 16):
        pass
    if getattr(record.raw_stream, "limit", 0) > 0:
        raise OSError("the file ended within a record")


def _record_rows(record: Any) -> Iterator[PublishedRow]:
    own, refers, page = (
        (record.rec_headers.get_header(name) or "").strip("<>")
        for name in ("WARC-Record-ID", "WARC-Refers-To", "WARC-Target-URI")
    )
    kind = f"{record.rec_type} of {record.content_type}"
    called = f"record {redacted(own or page)[:100]}"
    if record.length is None:
        yield malformed(1, f"the Content-Length of {called}", "none, so that its end can't be told")
    elif record.rec_type == "warcinfo":
        return
    elif record.rec_type != "metadata" or "json" not in kind:
        yield malformed(1, f"metadata in JSON in {called}", kind)
    elif record.length > MAX_RECORD:
        yield malformed(1, f"at most {MAX_RECORD} bytes in {called}", str(record.length))
    elif len(content := record.raw_stream.read(record.length)) == record.length:  # else `_skip` tells of the cut
        try:
            html = within(plain_json(content), *HTML)
        except NO_JSON as error:
            yield malformed(1, f"JSON in {called}", f"{type(error).__name__}: {error}")
        else:
            yield from _images(html, page, refers or own or page)


def _images(html: Any, page: str, crawled: str) -> Iterator[PublishedRow]:
    """Yield a page's images; `line` is the image's number on the page, from 1."""
    links = within(html, "Links")
    images = [link for link in links if within(link, "path") == "IMG@/src"] if isinstance(links, list) else []
    stated = within(html, "Head", "Base")
    base = _resolved(page, stated) if isinstance(stated, str) else None
    for number, link in enumerate(images, start=1):
        yield _image(number, link, page if base is None else base, page, crawled)


def _resolved(base: str, url: str) -> str | None:
    try:
        return urljoin(base, url.strip())
    except ValueError:  # a host that is none, as "http://[/"
        return None


def _image(number: int, link: dict[str, Any], base: str, page: str, crawled: str) -> PublishedRow:
    url, alt = link.get("url"), link.get("alt")
    if not isinstance(url, str):
        return malformed(number, "an image with a URL", repr(link))
    resolved = url if len(url) > MAX_URL else _resolved(base, url)
    if resolved is None:
        return malformed(number, "a URL that can be resolved", url)
    if len(resolved) > MAX_URL:
        scheme = resolved.partition(":")[0][:20]
        return malformed(number, f"a URL of at most {MAX_URL} characters", f"{len(resolved)} of scheme {scheme!r}")
    caption = alt if isinstance(alt, str) else ""
    return PublishedRow(number, f"{crawled}#{number}", resolved, caption, published={"page_url": page})
