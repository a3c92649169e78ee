"""YFCC100M (Thomee et al. 2016): `yfcc100m_dataset` TSV of 25 columns, plain or bz2, its text URL-encoded."""

from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote_plus

from pipeline.records import PublishedRow, malformed
from sources.lines import numbered_lines, whole

COLUMNS = [
    "line",
    "photo_id",
    "hash",
    "user_nsid",
    "nickname",
    "date_taken",
    "date_uploaded",
    "device",
    "title",
    "description",
    "user_tags",
    "machine_tags",
    "longitude",
    "latitude",
    "accuracy",
    "page_url",
    "download_url",
    "license",
    "license_url",
    "server",
    "farm",
    "secret",
    "secret_original",
    "extension",
    "marker",
]
KEPT = ("user_nsid", "date_taken", "page_url", "license", "license_url", "latitude", "longitude")
"""Columns carried along. Flickr's photo secrets are part of public URLs, yet they are left out."""


def caption_of(row: dict[str, str]) -> str:
    """Return title and description, or the tags where both are empty (titles and descriptions as in CLIP's YFCC15M)."""
    texts = [unquote_plus(row[key]).strip() for key in ("title", "description")]
    joined = " ".join(text for text in texts if text)
    return " ".join((joined or unquote_plus(row["user_tags"]).replace(",", " ")).split())


class Yfcc:
    """Photos of YFCC100M; a video (marker 1) is handed on as malformed, as it has no image to fetch."""

    name = "yfcc"
    pattern = "yfcc100m_dataset*"

    def read(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        """Yield every line; one without 25 columns is malformed."""
        return whole(self._rows(stream))

    def _rows(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        for number, line in numbered_lines(stream):
            cells = line.split("\t")
            if len(cells) != len(COLUMNS):
                yield malformed(number, f"{len(COLUMNS)} columns", f"{len(cells)}: {line!r}")
                continue
            row = dict(zip(COLUMNS, cells, strict=True))
            if row["marker"] != "0":
                yield malformed(number, "a photo (marker 0)", f"marker {row['marker']!r}")
                continue
            published = {key: unquote_plus(row[key]) for key in KEPT if row[key]}
            yield PublishedRow(number, row["photo_id"], row["download_url"], caption_of(row), published=published)
