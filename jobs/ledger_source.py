"""A Spark 4 Python data source over the ledger: a laptop's folder and a bucket are one code path, and no jar is needed.

The driver lists the files of the Delta snapshot; tasks read them with pyarrow, only the columns that were asked for,
with equality filters pushed down to the Parquet reader.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.datasource import DataSource, DataSourceReader, EqualTo, Filter, In, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from pipeline.ledger import Ledger
from pipeline.store import Store

FORMAT = "cuvee_ledger"


class _Files(InputPartition):
    def __init__(self, files: list[tuple[str, str]]) -> None:
        super().__init__(files)
        self.files = files


class LedgerReader(DataSourceReader):
    """Reads (job, path) files; `job` is the partition column and is not in the files."""

    def __init__(self, schema: StructType, options: dict[str, str]) -> None:
        self._columns = [field.name for field in schema.fields]
        self._store = Store(options["root"])
        self._files: list[tuple[str, str]] = [(job, path) for job, path in json.loads(options["files"])]
        self._partitions = int(options["partitions"])
        self._filters: list[tuple[str, str, Any]] = []

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:
        """Take equality and membership on plain columns; leave the rest to Spark."""
        for one in filters:
            if isinstance(one, EqualTo) and len(one.attribute) == 1 and one.attribute[0] != "job":
                self._filters.append((one.attribute[0], "==", one.value))
            elif isinstance(one, In) and len(one.attribute) == 1 and one.attribute[0] != "job":
                self._filters.append((one.attribute[0], "in", set(one.value)))
            else:
                yield one

    def partitions(self) -> Sequence[InputPartition]:
        """Spread the files over at most the asked number of partitions."""
        count = max(1, min(self._partitions, len(self._files)))
        return [_Files(self._files[number::count]) for number in range(count)]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the batches of a partition's files."""
        assert isinstance(partition, _Files)
        stored = [name for name in self._columns if name != "job"]
        for job, path in partition.files:
            with self._store.arrow(path) as stream:
                table = self._read(stream, stored)
            if "job" in self._columns:
                place = self._columns.index("job")
                table = table.add_column(place, "job", pa.array([job] * table.num_rows, pa.string()))
            yield from table.select(self._columns).to_batches()

    def _read(self, stream: pa.NativeFile, columns: list[str]) -> pa.Table:
        if self._filters:
            return pq.read_table(stream, columns=columns, filters=self._filters)
        return pq.ParquetFile(stream).read(columns, use_threads=False)  # a third of read_table's time for a small file


class LedgerSource(DataSource):
    """`spark.read.format("cuvee_ledger")`; use `frame`."""

    @classmethod
    def name(cls) -> str:
        """The format's name."""
        return FORMAT

    def schema(self) -> StructType:
        """The schema that the driver passed along."""
        return StructType.fromJson(json.loads(self.options["schema"]))

    def reader(self, schema: StructType) -> DataSourceReader:
        """Return the reader."""
        return LedgerReader(schema, dict(self.options))


@lru_cache(maxsize=1)
def _register(spark: SparkSession) -> None:
    """Make a session know the source, once it is read: Spark starts Python for its first source, 2 s as measured."""
    spark.dataSource.register(LedgerSource)


def frame(
    spark: SparkSession,
    ledger: Ledger,
    table: str,
    schema: pa.Schema,
    columns: Sequence[str],
    jobs: Iterable[str],
) -> DataFrame:
    """Return the rows that `jobs` wrote into `table`, with these columns, as a DataFrame."""
    fields = [schema.field(name) if name != "job" else pa.field("job", pa.string()) for name in columns]
    options = {
        "root": ledger.store.root,
        "files": json.dumps(ledger.snapshot(table, jobs)),
        "schema": from_arrow_schema(pa.schema(fields)).json(),
        "partitions": str(max(2, spark.sparkContext.defaultParallelism)),
    }
    _register(spark)
    return spark.read.format(FORMAT).options(**options).load()
