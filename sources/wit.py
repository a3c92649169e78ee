"""WIT (Srinivasan et al. 2021): `wit_v1.train.all-*.tsv.gz`, 17 columns with a header."""

import csv
import io
from collections.abc import Iterator, Mapping
from functools import partial
from typing import BinaryIO

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers.lines import DAMAGE_ERRORS, MAX_LINE_BYTES, decompressed, report_damage

COLUMNS = [
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
]


CAPTIONS = (
    "caption_reference_description",
    "caption_alt_text_description",
    "caption_attribution_description",
)
"""The columns that may contain the caption, in order of preference: reference, alt text, attribution."""


CARRIED = ("language", "page_url", "page_title", "mime_type", "original_height", "original_width")


class Wit:
    """One row for each image on each page; the page's URL is the row's id, as WIT publishes no ids."""

    name = "wit"
    pattern = "wit_v1.*.tsv.gz"
    citation = "Srinivasan, Raman, Chen, Bendersky, Najork: WIT. SIGIR 2021, arXiv:2103.01913"
    scores: Mapping[str, pa.DataType] = {}
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return [WHOLE]: a position within a gzip file is known only after reading everything before it."""
        return [WHOLE_FILE]

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield every row; `line` is the file's line on which the row ends (a quoted cell may contain line ends)."""
        return report_damage(self._rows(stream), damage=(*DAMAGE_ERRORS, csv.Error))

    def _rows(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        csv.field_size_limit(MAX_LINE_BYTES)
        text = io.TextIOWrapper(decompressed(stream), "utf-8", "replace", newline="")
        lines = iter(partial(text.readline, MAX_LINE_BYTES), "")  # a longer line becomes several, all of them malformed
        reader = csv.reader(lines, dialect="excel-tab")
        header = next(reader, [])
        if missing := [name for name in COLUMNS if name not in header]:
            yield malformed_row(1, f"columns {', '.join(missing)}", ", ".join(header))
            return
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # an unclosed quote consumes lines up to the limit; the lines after it are read
                yield malformed_row(reader.line_num, "a row of TSV", str(error))
                continue
            if len(cells) != len(header):
                yield malformed_row(reader.line_num, f"{len(header)} columns", f"{len(cells)}: {cells[:3]}")
                continue
            row = dict(zip(header, cells, strict=True))
            caption = next((row[name].strip() for name in CAPTIONS if row[name].strip()), "")
            published = {name: row[name] for name in CARRIED if row[name]}
            yield PublishedRow(reader.line_num, row["page_url"], row["image_url"], caption, published=published)
