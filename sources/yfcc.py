"""YFCC100M (Thomee et al. 2016): `yfcc100m_dataset` TSV of 25 columns, plain or bz2, its text URL-encoded."""

from collections.abc import Iterator, Mapping
from typing import BinaryIO
from urllib.parse import unquote_plus

import pyarrow as pa

from pipeline.records import WHOLE, Part, PublishedRow, malformed
from sources.lines import line_parts, part_lines, whole

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
KEPT = ("hash", "user_nsid", "date_taken", "page_url", "license", "license_url", "latitude", "longitude")
"""Columns carried along. Flickr's photo secrets are part of public URLs, yet they are left out.

`hash` names the photo in Multimedia Commons' storage; it is no hash of the bytes that are fetched.
"""


def caption_of(row: dict[str, str]) -> str:
    """Return title and description, or the tags where both are empty (titles and descriptions as in CLIP's YFCC15M)."""
    texts = [unquote_plus(row[key]).strip() for key in ("title", "description")]
    joined = " ".join(text for text in texts if text)
    return " ".join((joined or unquote_plus(row["user_tags"]).replace(",", " ")).split())


class Yfcc:
    """Photos of YFCC100M; a video (marker 1) is handed on as malformed, as it has no image to fetch.

    A photo's licence is the URL of the one that its owner chose, which says the version too; else that one's name.
    """

    name = "yfcc"
    pattern = "yfcc100m_dataset*"
    citation = "Thomee, Shamma, Friedland et al.: YFCC100M. Communications of the ACM 59(2), 2016, arXiv:1503.01817"
    scores: Mapping[str, pa.DataType] = {}
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[Part]:
        """Return parts of whole lines, also of the bz2 file as published."""
        return line_parts(stream, size)

    def read(self, stream: BinaryIO, part: Part = WHOLE) -> Iterator[PublishedRow]:
        """Yield every line; one without 25 columns is malformed."""
        return whole(self._rows(stream, part))

    def _rows(self, stream: BinaryIO, part: Part) -> Iterator[PublishedRow]:
        for number, line in part_lines(stream, part):
            cells = line.split("\t")
            if len(cells) != len(COLUMNS):
                yield malformed(number, f"{len(COLUMNS)} columns", f"{len(cells)}: {line!r}")
                continue
            row = dict(zip(COLUMNS, cells, strict=True))
            if row["marker"] != "0":
                yield malformed(number, "a photo (marker 0)", f"marker {row['marker']!r}")
                continue
            published = {key: unquote_plus(row[key]) for key in KEPT if row[key]}
            yield PublishedRow(
                number,
                row["photo_id"],
                row["download_url"],
                caption_of(row),
                published=published,
                licence=published.get("license_url", published.get("license", "")),
            )
