"""Published rows, as every source hands them on: the contract between `sources` and ingest.

A source's reader is a generator over one open file. It yields a `PublishedRow` for every row that the file holds:
a row that it cannot read becomes one with `problem` set, never an exception and never silence.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from pipeline.identity import clean, holds_secret, redacted, without_secret

MALFORMED = "malformed"
EMPTY_CAPTION = "empty_caption"
SECRET_IN_URL = "secret_in_url"  # noqa: S105 - the name of an outcome
REPEATED_ROW = "repeated_row"
PROBLEMS = (MALFORMED, EMPTY_CAPTION, SECRET_IN_URL, REPEATED_ROW)
"""Why a published row is no pair to fetch. `repeated_row` is found later: the same uid stood in an earlier row."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published file. `line` counts from 1 (rows for formats without lines, annotations for JSON).

    `record_id` is the source's own id of the row, "" where it publishes none; `published` holds its other columns.
    """

    line: int
    record_id: str = ""
    url: str = ""
    caption: str = ""
    problem: str = ""
    detail: str = ""
    published: dict[str, Any] = field(default_factory=dict)


class SourceFormat(Protocol):
    """A published format: its name, what its licence field says by default, and its reader."""

    name: str
    pattern: str  # the published files' usual glob, for messages

    def read(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        """Yield every row of one published file, opened as bytes."""
        ...


ROW_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("source", "record_id", "url", "caption", "file", "problem", "detail", "published")
    ]
    + [("line", pa.int64())]
)


def malformed(line: int, expected: str, found: str) -> PublishedRow:
    """Return the row that stands for one that could not be read; `found` is cut to 80 characters, without secrets."""
    return PublishedRow(line, problem=MALFORMED, detail=f"expected {expected}, found {redacted(found)[:80]}")


def checked(row: PublishedRow) -> PublishedRow:
    """Return `row` with its text made safe to join and its problem named, if it has one that every source shares."""
    url, caption = clean(row.url).strip(), clean(row.caption).strip()
    problem, detail = row.problem, row.detail
    if not problem and not url:
        problem, detail = MALFORMED, "expected a URL, found none"
    elif not problem and holds_secret(url):
        problem, detail = SECRET_IN_URL, "the URL carries a credential or a signature; it is not kept"
    elif not problem and not caption:
        problem = EMPTY_CAPTION
    if problem == SECRET_IN_URL:
        url = without_secret(url)
    record_id = redacted(clean(row.record_id))  # WIT's is a URL
    published = {name: redacted(value) if isinstance(value, str) else value for name, value in row.published.items()}
    return PublishedRow(row.line, record_id, url, caption, problem, clean(detail), published)


def to_batches(rows: Iterable[PublishedRow], source: str, file: str, size: int = 4096) -> Iterator[pa.RecordBatch]:
    """Yield batches of `ROW_SCHEMA` with at most `size` rows from one file's rows, in the file's order."""
    iterator = iter(rows)
    while part := [checked(row) for row in islice(iterator, size)]:
        columns = {
            "source": [source] * len(part),
            # a row that could not be read has no identity of its own but its place
            "record_id": [f"{file}#{row.line}" if row.problem == MALFORMED else row.record_id for row in part],
            "url": [row.url for row in part],
            "caption": [row.caption for row in part],
            "file": [file] * len(part),
            "problem": [row.problem for row in part],
            "detail": [row.detail for row in part],
            "published": [json.dumps(row.published, sort_keys=True, default=str) for row in part],
            "line": [row.line for row in part],
        }
        yield pa.RecordBatch.from_pydict(columns, ROW_SCHEMA)
