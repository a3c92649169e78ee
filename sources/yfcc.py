"""YFCC100M (Thomee et al. 2016): `yfcc100m_dataset` TSV of 25 columns, plain or bz2, its text URL-encoded."""

from urllib.parse import unquote_plus

from pipeline.records import PublishedRow, malformed_row
from sources.readers.lines import LineFormat

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


CARRIED = ("hash", "user_nsid", "date_taken", "page_url", "license", "license_url", "latitude", "longitude")
"""Columns that are passed on. Flickr's photo secrets are left out, although they are part of public URLs.

`hash` identifies the photo in Multimedia Commons' storage; it is not a hash of the fetched bytes.
"""


def caption_of(row: dict[str, str]) -> str:
    """Return title and description, or the tags where both are empty (titles and descriptions as in CLIP's YFCC15M)."""
    texts = [unquote_plus(row[key]).strip() for key in ("title", "description")]
    joined = " ".join(text for text in texts if text)
    return " ".join((joined or unquote_plus(row["user_tags"]).replace(",", " ")).split())


class Yfcc(LineFormat):
    """Photos of YFCC100M; a video (marker 1) gives a malformed row, as it has no image to fetch.

    A photo's licence is the URL of the licence that its owner chose, which includes the version; else its name.
    """

    name = "yfcc"
    pattern = "yfcc100m_dataset*"
    citation = "Thomee, Shamma, Friedland et al.: YFCC100M. Communications of the ACM 59(2), 2016, arXiv:1503.01817"

    def row(self, number: int, line: str) -> PublishedRow:
        """Return the photo; a line without 25 columns is malformed."""
        cells = line.split("\t")
        if len(cells) != len(COLUMNS):
            return malformed_row(number, f"{len(COLUMNS)} columns", f"{len(cells)}: {line!r}")
        row = dict(zip(COLUMNS, cells, strict=True))
        if row["marker"] != "0":
            return malformed_row(number, "a photo (marker 0)", f"marker {row['marker']!r}")
        published = {key: unquote_plus(row[key]) for key in CARRIED if row[key]}
        return PublishedRow(
            number,
            row["photo_id"],
            row["download_url"],
            caption_of(row),
            published=published,
            licence=published.get("license_url", published.get("license", "")),
        )
