"""Parquet files of the store as DataFrames: a laptop's folder and a bucket are one code path, and no jar is needed.

The driver lists the files, of a Delta snapshot or of a step's; tasks read them with pyarrow, only the selected
columns and rows. By `mapInArrow`, and not by a Python data source: to plan each read by one, Spark starts Python
anew three times, some 4 s as measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from pipeline.ledger.data_files import with_schema
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store

RowFilter = Mapping[str, Sequence[Any]]
"""The values to keep, by column."""


def chunks(spark: SparkSession, most: int | None = None) -> tuple[DataFrame, int]:
    """Return a DataFrame of the numbers of as many chunks as tasks run at once, `chunk` from 0, and how many there are.

    Not Spark's `range`: it would take what is read for each number to be as small as the number, and send it whole to
    every task of a join.
    """
    count = max(2, spark.sparkContext.defaultParallelism)
    count = count if most is None else max(1, min(count, most))
    return spark.createDataFrame([(number,) for number in range(count)], "chunk int"), count


def chunk_numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    """Yield the numbers of a task's chunks."""
    for batch in batches:
        yield from batch["chunk"].to_pylist()


def _read(
    store: Store,
    files: Sequence[str],
    count: int,
    schema: pa.Schema,
    where: RowFilter,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    allowed = {name: pa.array(where[name]) for name in where}
    read_schema = pa.schema(
        [*schema, *(pa.field(name, allowed[name].type) for name in where if name not in schema.names)]
    )
    for number in chunk_numbers(batches):
        for path in files[number::count]:
            with store.arrow(path) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(columns=read_schema.names, use_threads=False):
                    rows = with_schema(batch, read_schema)
                    for name, values in allowed.items():
                        rows = rows.filter(pc.is_in(rows[name], values))
                    yield rows.select(schema.names)


def parquet_frame(
    spark: SparkSession, store: Store, files: Sequence[str], schema: pa.Schema, where: RowFilter | None = None
) -> DataFrame:
    """Return files of the store as a DataFrame of these columns, only the rows that `where` keeps."""
    chunk_frame, count = chunks(spark, len(files))
    reader = partial(_read, store, files, count, schema, where or {})
    return chunk_frame.mapInArrow(reader, from_arrow_schema(schema))


def table_frame(
    spark: SparkSession,
    ledger: Ledger,
    table: str,
    schema: pa.Schema,
    columns: Sequence[str],
    jobs: Iterable[str],
    where: RowFilter | None = None,
) -> DataFrame:
    """Return the rows that `jobs` wrote into `table`, with these columns."""
    files = [path for _, path in ledger.snapshot(table, jobs)]
    return parquet_frame(spark, ledger.store, files, pa.schema([schema.field(name) for name in columns]), where)
