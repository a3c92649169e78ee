"""Published rows, as every source yields them: the contract between `sources` and ingest.

A source's reader is a generator over one open file, or over a part of it where the format can be split. It yields a
`PublishedRow` for every row of the file: a row that it cannot read is yielded with `problem` set, never raised as an
exception and never skipped.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from pipeline.core.redaction import holds_secret, redact, strip_secret
from pipeline.core.uids import clean_text

MALFORMED = "malformed"


EMPTY_CAPTION = "empty_caption"


SECRET_IN_URL = "secret_in_url"  # noqa: S105 - the name of an outcome


REPEATED_ROW = "repeated_row"


PROBLEMS = (MALFORMED, EMPTY_CAPTION, SECRET_IN_URL, REPEATED_ROW)
"""Why a published row is not a pair to fetch. `repeated_row` is set later: an earlier row has the same uid."""


Box = tuple[float, float, float, float]
"""A rectangle in an image: left, top, right, bottom as fractions of its width and height, 0 to 1."""


@dataclass(frozen=True)
class FilePart:
    """A range [start, end) of one published file, in the format's own unit (bytes, bits, row groups)."""

    start: int = 0
    end: int | None = None


WHOLE_FILE = FilePart()
"""A whole file, the only part of a format that cannot be split."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published file.

    `line` counts from 1 within the part that is read: lines of text (the last one of a row that has several), rows for
    formats without lines, annotations for JSON. `record_id` is the source's own id of the row, "" where it publishes
    none. `licence` is the row's own, "" where the source publishes none for a row. `hashes` are the hashes that the
    source publishes, as hex: "md5", "sha1", "sha256" or "sha512" of the bytes as fetched, "pdq" of the decoded image.
    `faces` are boxes to blur. `place` is "offset:size" where the image's bytes lie in the published file itself,
    "" where they are to be fetched. `published` holds the source's other columns, as plain JSON values.
    """

    line: int
    record_id: str = ""
    url: str = ""
    caption: str = ""
    problem: str = ""
    detail: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    faces: tuple[Box, ...] = ()
    place: str = ""


class SourceFormat(Protocol):
    """A published format: its name, how its files are split, and how they are read.

    `pattern` is the usual glob of the published files, for messages. `citation` names what to cite. `scores` are the
    numbers and labels that the source publishes about a pair (such as its own similarity), by their name in
    `PublishedRow.published`: they can be copied into a signal table. `joins` names the format of the files that the
    rows must be joined to by record id before they have a URL, "" where none are needed.
    """

    name: str
    pattern: str
    citation: str
    scores: Mapping[str, pa.DataType]
    joins: str

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return the parts of one published file, each of about `size` bytes; [WHOLE] where it cannot be split.

        Every row is in exactly one part. Reading the parts in order gives the rows of the whole file.
        """
        ...

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield every row of a part of one published file, opened for reading bytes."""
        ...


ROW_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in (
            *("source", "record_id", "url", "caption", "file", "problem", "detail", "published"),
            *("licence", "hashes", "faces", "place"),
        )
    ]
    + [("line", pa.int64())]
)
"""A published row as an Arrow row; `published`, `hashes` and `faces` are JSON, the last two "" where empty."""


def malformed_row(line: int, expected: str, found: str) -> PublishedRow:
    """Return the row in place of one that could not be read; `found` is redacted and cut to 80 characters."""
    return PublishedRow(line, problem=MALFORMED, detail=f"expected {expected}, found {redact(found)[:80]}")


def clean_row(row: PublishedRow, linked: bool = True) -> PublishedRow:
    """Return `row` with its text cleaned for joining and with `problem` set, if it has one that every source shares.

    A row that is not `linked` gets its URL and caption from another file later, and may lack them.
    """
    url, caption = clean_text(row.url).strip(), clean_text(row.caption).strip()
    problem, detail = row.problem, row.detail
    if linked and not problem and not url and not row.place:
        problem, detail = MALFORMED, "expected a URL, found none"
    elif not problem and holds_secret(url):
        problem, detail = SECRET_IN_URL, "the URL carries a credential or a signature; it is not kept"
    elif linked and not problem and not caption:
        problem = EMPTY_CAPTION
    if problem == SECRET_IN_URL:
        url = strip_secret(url)
    record_id = redact(clean_text(row.record_id))  # WIT's is a URL
    published = {name: redact(value) if isinstance(value, str) else value for name, value in row.published.items()}
    return replace(
        row,
        record_id=record_id,
        url=url,
        caption=caption,
        problem=problem,
        detail=clean_text(detail),
        published=published,
        licence=redact(clean_text(row.licence)).strip(),
    )


def to_batches(
    rows: Iterable[PublishedRow], source: str, file: str, size: int = 4096, before: int = 0, linked: bool = True
) -> Iterator[pa.RecordBatch]:
    """Yield batches of `ROW_SCHEMA` with at most `size` rows, from the rows of a file or of a part of it, in order.

    `before` is the number of the file's lines before the part; `linked` is as in `checked`.
    """
    iterator = iter(rows)
    while batch := [clean_row(row, linked) for row in islice(iterator, size)]:
        columns = {
            "source": [source] * len(batch),
            # a row that could not be read has no identity other than its position
            "record_id": [
                f"{file}#{before + row.line}" if row.problem == MALFORMED else row.record_id for row in batch
            ],
            "url": [row.url for row in batch],
            "caption": [row.caption for row in batch],
            "file": [file] * len(batch),
            "problem": [row.problem for row in batch],
            "detail": [row.detail for row in batch],
            "published": [json.dumps(row.published, sort_keys=True, default=str) for row in batch],
            "licence": [row.licence for row in batch],
            "hashes": [json.dumps(row.hashes, sort_keys=True) if row.hashes else "" for row in batch],
            "faces": [json.dumps(row.faces) if row.faces else "" for row in batch],
            "place": [row.place for row in batch],
            "line": [before + row.line for row in batch],
        }
        yield pa.RecordBatch.from_pydict(columns, ROW_SCHEMA)
