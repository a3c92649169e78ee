"""LAION metadata in Parquet: LAION-400M, LAION-2B-en, its release joined with safety and watermark, and aesthetics.

Columns are found by name: their order, letter case and presence differ between the releases.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow
from sources.readers import parquet
from sources.readers.cells import cell_text, read_scores

CARRIED = ("HEIGHT", "WIDTH", "LANGUAGE", "hash")


NO_LICENCE = "?"
"""The value of LICENSE where the licence is unknown, which is nearly everywhere."""


SCORES: Mapping[str, pa.DataType] = {
    "similarity": pa.float64(),
    "punsafe": pa.float64(),
    "pwatermark": pa.float64(),
    "aesthetic": pa.float64(),
    "AESTHETIC_SCORE": pa.float64(),
    "prediction": pa.float64(),
    "NSFW": pa.string(),
}


COLUMN_NAMES = ("SAMPLE_ID", "URL", "LICENSE", *CARRIED, *SCORES)


COLUMNS = parquet.ParquetColumns(
    {name: (name, name.lower()) for name in COLUMN_NAMES} | {"TEXT": ("TEXT", "text", "caption")},
    required=("URL", "TEXT"),
)


@dataclass(frozen=True)
class Laion:
    """One row for each Parquet row; `line` is the row's number in the part, from 1.

    `similarity` is CLIP's cosine according to LAION, but values outside [-1, 1] occur in the published files. They are
    passed on unchanged, neither clipped nor dropped: a filter that uses the column has to say how it treats them.
    `hash` is a 64-bit number of URL and text that joins the releases, not a hash of the image; it is only passed on.
    """

    name: ClassVar[str] = "laion"
    pattern: ClassVar[str] = "*.parquet"
    citation: ClassVar[str] = (
        "Schuhmann et al. 2021, LAION-400M, arXiv:2111.02114; Schuhmann et al. 2022, LAION-5B, arXiv:2210.08402"
    )
    scores: ClassVar[Mapping[str, pa.DataType]] = SCORES
    joins: ClassVar[str] = ""

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return parts of consecutive row groups, about `size` compressed bytes each."""
        return parquet.parts(stream, size, COLUMNS)

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield every row of a part; a file that is not Parquet or lacks a column gives one malformed row."""
        return parquet.read(stream, part, COLUMNS, _row)


def _row(line: int, cells: parquet.Cells) -> PublishedRow:
    licence = cell_text(cells.get("LICENSE")).strip()
    published = {name: cells[name] for name in CARRIED if cells.get(name) is not None}
    return PublishedRow(
        line,
        cell_text(cells.get("SAMPLE_ID")),
        cell_text(cells["URL"]),
        cell_text(cells["TEXT"]),
        published=published | read_scores(cells, SCORES),
        licence="" if licence == NO_LICENCE else licence,
    )
