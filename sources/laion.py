"""LAION-400M (Schuhmann et al. 2021) metadata: Parquet, read by column name as the order differs between releases."""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import PublishedRow, malformed
from sources.lines import whole

REQUIRED = ("URL", "TEXT")
CARRIED = ("HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity", "punsafe", "pwatermark", "hash")


def _plain(value: Any) -> Any:
    """Return a cell's value; text that is not UTF-8 gets U+FFFD, and NaN is absent, as JSON knows none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    # text is taken as bytes: Parquet does not check that it is UTF-8, and one bad cell would end the file
    columns = [
        column.cast(pa.binary()) if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) else column
        for column in batch.columns
    ]
    rows = pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist()
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


class Laion:
    """One row for each Parquet row; `line` is the row's number in its file, from 1."""

    name = "laion"
    pattern = "*.parquet"

    def read(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        """Yield every row, a row group at a time; a file that is no Parquet or lacks a column is one malformed row."""
        return whole(self._rows(stream), "a whole Parquet file", (pa.ArrowException, OSError, ValueError))

    def _rows(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        file = pq.ParquetFile(stream)
        present = file.schema_arrow.names
        missing = [name for name in REQUIRED if name not in present]
        if missing:
            yield malformed(1, f"columns {', '.join(REQUIRED)}", ", ".join(present))
            return
        columns = [name for name in ("SAMPLE_ID", *REQUIRED, *CARRIED) if name in present]
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for row in _plain_rows(batch):
                number += 1
                published = {name: row[name] for name in CARRIED if row.get(name) is not None}
                yield PublishedRow(
                    number,
                    _text(row.get("SAMPLE_ID")),
                    _text(row["URL"]),
                    _text(row["TEXT"]),
                    published=published,
                )
