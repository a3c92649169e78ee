"""LAION-400M (Schuhmann et al. 2021) metadata: Parquet, read by column name as the order differs between releases."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records import PublishedRow, malformed

REQUIRED = ("URL", "TEXT")
CARRIED = ("HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity", "punsafe", "pwatermark", "hash")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


class Laion:
    """One row for each Parquet row; `line` is the row's number in its file, from 1."""

    name = "laion"
    pattern = "*.parquet"

    def read(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        """Yield every row, a row group at a time; a file that is no Parquet or lacks a column is one malformed row."""
        try:
            file = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            yield malformed(1, "a Parquet file", str(error))
            return
        present = file.schema_arrow.names
        missing = [name for name in REQUIRED if name not in present]
        if missing:
            yield malformed(1, f"columns {', '.join(REQUIRED)}", ", ".join(present))
            return
        columns = [name for name in ("SAMPLE_ID", *REQUIRED, *CARRIED) if name in present]
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for row in batch.to_pylist():
                number += 1
                published = {name: row[name] for name in CARRIED if row.get(name) is not None}
                yield PublishedRow(
                    number,
                    _text(row.get("SAMPLE_ID")),
                    _text(row["URL"]),
                    _text(row["TEXT"]),
                    published=published,
                )
