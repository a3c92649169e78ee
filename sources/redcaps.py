"""RedCaps (Desai et al. 2021): `<subreddit>_<year>.json` with `info` and `annotations`."""

import json
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.records import PublishedRow, malformed

KEPT = ("subreddit", "score", "created_utc", "permalink", "raw_caption")


class RedCaps:
    """One row for each annotation; `line` is its number in the file, from 1. Both `url` and `image_url` occur."""

    name = "redcaps"
    pattern = "<subreddit>_<year>.json"

    def read(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        """Yield every annotation; a file that is not such JSON is one malformed row."""
        try:
            text = stream.read().decode("utf-8-sig", "replace")
            annotations = json.loads(text, parse_constant=lambda _: None)["annotations"]  # NaN is no JSON
            if not isinstance(annotations, list):
                raise TypeError(f"annotations is of type {type(annotations).__name__}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            yield malformed(1, "JSON with a list 'annotations'", f"{type(error).__name__}: {error}")
            return
        for number, row in enumerate(annotations, start=1):
            url = row.get("url") or row.get("image_url") if isinstance(row, dict) else None
            if not isinstance(url, str) or "image_id" not in row:
                yield malformed(number, "an annotation with image_id and url", str(row))
                continue
            published = {name: row[name] for name in KEPT if row.get(name) is not None}
            yield PublishedRow(number, str(row["image_id"]), url, str(row.get("caption") or ""), published=published)
