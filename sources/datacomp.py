"""DataComp's CommonPool and DataComp-1B metadata in Parquet, with face boxes and the SHA-256 of each image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow
from sources.readers import parquet
from sources.readers.cells import cell_text, face_boxes, image_hashes, read_scores

CARRIED = ("original_width", "original_height")


SCORES: Mapping[str, pa.DataType] = {
    "clip_b32_similarity_score": pa.float64(),
    "clip_l14_similarity_score": pa.float64(),
}


# a release without face boxes would be read as one without faces, so they are required
REQUIRED = ("uid", "url", "text", "face_bboxes")


COLUMNS = parquet.ParquetColumns({name: (name,) for name in (*REQUIRED, "sha256", *CARRIED, *SCORES)}, REQUIRED)


@dataclass(frozen=True)
class DataComp:
    """One row for each Parquet row; `uid`, 32 hex digits, is the record id and `sha256` that of the image as crawled.

    `face_bboxes` are [left, top, right, bottom] as fractions of the image's size, as img2dataset's blurrer expects;
    detections that extend beyond the image's edge are clipped. A row with an invalid box is malformed, as its face
    could not be blurred. Null means no face, as in img2dataset.
    """

    name: ClassVar[str] = "datacomp"
    pattern: ClassVar[str] = "*.parquet"
    citation: ClassVar[str] = "Gadre et al. 2023, DataComp, NeurIPS Datasets and Benchmarks, arXiv:2304.14108"
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
        cell_text(cells["uid"]),
        cell_text(cells["url"]),
        cell_text(cells["text"]),
        published=published | read_scores(cells, SCORES),
        hashes=image_hashes({"sha256": cells.get("sha256")}),
        faces=face_boxes(cells["face_bboxes"]),
    )
