"""RedCaps (Desai et al. 2021): `<subreddit>_<year>.json` with `info` and `annotations`."""

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers.json_values import JSON_ERRORS, plain_json

CARRIED = ("subreddit", "score", "created_utc", "permalink", "raw_caption")


class RedCaps:
    """One row for each annotation; `line` is its number in the file, from 1. Both `url` and `image_url` occur."""

    name = "redcaps"
    pattern = "<subreddit>_<year>.json"
    citation = "Desai, Kaul, Aysola, Johnson: RedCaps. NeurIPS Datasets and Benchmarks 2021, arXiv:2111.11431"
    scores: Mapping[str, pa.DataType] = {"score": pa.int64()}  # upvotes less downvotes of the post
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return [WHOLE]: a file is one JSON document."""
        return [WHOLE_FILE]

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield every annotation; a file that is not such JSON gives one malformed row."""
        try:
            annotations = plain_json(stream.read())["annotations"]
            if not isinstance(annotations, list):
                raise TypeError(f"annotations is of type {type(annotations).__name__}")
        except (*JSON_ERRORS, KeyError, TypeError) as error:
            yield malformed_row(1, "JSON with a list 'annotations'", f"{type(error).__name__}: {error}")
            return
        for number, row in enumerate(annotations, start=1):
            url = row.get("url") or row.get("image_url") if isinstance(row, dict) else None
            if not isinstance(url, str) or "image_id" not in row:
                yield malformed_row(number, "an annotation with image_id and url", str(row))
                continue
            published = {name: row[name] for name in CARRIED if row.get(name) is not None}
            yield PublishedRow(number, str(row["image_id"]), url, str(row.get("caption") or ""), published=published)
