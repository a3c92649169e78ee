"""COYO-700M metadata in Parquet: pairs of image and alt text with the publisher's own scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow
from sources.readers import parquet
from sources.readers.cells import cell_text, read_scores

CARRIED = ("width", "height", "image_phash", "text_length", "word_count", "num_tokens_bert", "num_tokens_gpt")


SCORES: Mapping[str, pa.DataType] = {
    name: pa.float64()
    for name in (
        "num_faces",
        "clip_similarity_vitb32",
        "clip_similarity_vitl14",
        "nsfw_score_opennsfw2",
        "nsfw_score_gantman",
        "watermark_score",
        "aesthetic_score_laion_v2",
    )
}


REQUIRED = ("id", "url", "text")


COLUMNS = parquet.ParquetColumns({name: (name,) for name in (*REQUIRED, *CARRIED, *SCORES)}, REQUIRED)


@dataclass(frozen=True)
class Coyo:
    """One row for each Parquet row; `id`, 64 bits, is the record id.

    `image_phash` is 64 bits of pHash, which is not PDQ: it is passed on, and not used to check images. `num_faces`
    counts faces and does not locate them.
    """

    name: ClassVar[str] = "coyo"
    pattern: ClassVar[str] = "part-*.parquet"
    citation: ClassVar[str] = (
        "Byeon et al. 2022, COYO-700M: Image-Text Pair Dataset, github.com/kakaobrain/coyo-dataset"
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
    published = {name: cells[name] for name in CARRIED if cells.get(name) is not None}
    return PublishedRow(
        line,
        cell_text(cells["id"]),
        cell_text(cells["url"]),
        cell_text(cells["text"]),
        published=published | read_scores(cells, SCORES),
    )
