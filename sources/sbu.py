"""SBU Captioned Photos (Ordonez et al. 2011): `sbu-captions-all.json`, parallel arrays about Flickr's photos."""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers.json_values import JSON_ERRORS, plain_json
from sources.readers.lines import decompressed, report_damage

REQUIRED = ("image_urls", "captions")


OPTIONAL = ("user_ids",)


def _arrays(document: Any) -> dict[str, list[Any]]:
    """Return the arrays by name; raise TypeError where a required one is missing, or where one is not an array."""
    if not isinstance(document, dict):
        raise TypeError(f"the document is of type {type(document).__name__}")
    names = [*REQUIRED, *(name for name in OPTIONAL if name in document)]
    for name in names:
        if not isinstance(document.get(name), list):
            raise TypeError(f"{name} is of type {type(document.get(name)).__name__}")
    return {name: document[name] for name in names}


class Sbu:
    """One row for each index of the arrays, from 1: image_urls[i], captions[i], user_ids[i]. SBU publishes no ids.

    Where the arrays differ in length, the indices that only some of them have are malformed rows, as it is unknown
    which elements belong together there.
    """

    name = "sbu"
    pattern = "sbu-captions-all.json"
    citation = "Ordonez, Kulkarni, Berg: Im2Text: Describing Images Using 1 Million Captioned Photographs. NIPS 2011"
    scores: Mapping[str, pa.DataType] = {}
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return [WHOLE]: the file is one JSON document."""
        return [WHOLE_FILE]

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield a row for every index of the arrays; a file that is not such JSON gives one malformed row."""
        return report_damage(self._rows(stream))

    def _rows(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        try:
            arrays = _arrays(plain_json(decompressed(stream).read()))
        except (*JSON_ERRORS, TypeError) as error:
            yield malformed_row(1, f"JSON with arrays {', '.join(REQUIRED)}", f"{type(error).__name__}: {error}")
            return
        lengths = {name: len(array) for name, array in arrays.items()}
        for index in range(max(lengths.values())):
            if index < min(lengths.values()):
                yield _row(index + 1, {name: array[index] for name, array in arrays.items()})
            else:
                found = ", ".join(f"{length} {name}" for name, length in lengths.items())
                yield malformed_row(index + 1, "arrays of one length", found)


def _row(number: int, cells: dict[str, Any]) -> PublishedRow:
    url, caption, user = cells["image_urls"], cells["captions"], cells.get("user_ids")
    if not isinstance(url, str) or not isinstance(caption, str | None):
        return malformed_row(number, "a URL and a caption", f"{url!r} and {caption!r}")
    published = {"user_id": user} if isinstance(user, str | int) else {}
    return PublishedRow(number, url=url, caption=caption or "", published=published)
