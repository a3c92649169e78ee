"""RedCaps (Desai et al. 2021): `<subreddit>_<year>.json` with `info` and `annotations`."""

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa

from pipeline.records import WHOLE, Part, PublishedRow, malformed
from sources.readers.json_values import NO_JSON, plain_json

KEPT = ("subreddit", "score", "created_utc", "permalink", "raw_caption")


class RedCaps:
    """One row for each annotation; `line` is its number in the file, from 1. Both `url` and `image_url` occur."""

    name = "redcaps"
    pattern = "<subreddit>_<year>.json"
    citation = "Desai, Kaul, Aysola, Johnson: RedCaps. NeurIPS Datasets and Benchmarks 2021, arXiv:2111.11431"
    scores: Mapping[str, pa.DataType] = {"score": pa.int64()}  # upvotes less downvotes of the post
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[Part]:
        """Return [WHOLE]: a file is one JSON document."""
        return [WHOLE]

    def read(self, stream: BinaryIO, part: Part = WHOLE) -> Iterator[PublishedRow]:
        """Yield every annotation; a file that is not such JSON gives one malformed row."""
        try:
            annotations = plain_json(stream.read())["annotations"]
            if not isinstance(annotations, list):
                raise TypeError(f"annotations is of type {type(annotations).__name__}")
        except (*NO_JSON, KeyError, TypeError) as error:
            yield malformed(1, "JSON with a list 'annotations'", f"{type(error).__name__}: {error}")
            return
        for number, row in enumerate(annotations, start=1):
            url = row.get("url") or row.get("image_url") if isinstance(row, dict) else None
            if not isinstance(url, str) or "image_id" not in row:
                yield malformed(number, "an annotation with image_id and url", str(row))
                continue
            published = {name: row[name] for name in KEPT if row.get(name) is not None}
            yield PublishedRow(number, str(row["image_id"]), url, str(row.get("caption") or ""), published=published)
