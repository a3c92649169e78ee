"""Tables of the ledger joined on uid, as a DataFrame.

Rows travel as Arrow: tasks split the files into parts, Spark brings the pieces of a part together without looking into
them, and a task for each part lays them side by side (`pipeline.joins`). Row by row through the JVM it took three times
the CPU, as measured.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from pipeline.joins import UID, joined, split
from pipeline.store import Store

FORMAT = "cuvee_ledger_parts"
PIECES = pa.schema([("part", pa.int32()), ("side", pa.int32()), ("rows", pa.binary())])
"""`rows` is an Arrow stream of rows of table number `side`."""
SPLIT_ROWS = 500_000
"""Rows that a task holds before it splits them, or those of one file."""


@dataclass(frozen=True)
class Side:
    """A table to join: the column that its rows become, its columns but uid, and its files."""

    name: str
    columns: tuple[str, ...]
    files: tuple[str, ...]


class _Chunk(InputPartition):
    def __init__(self, side: int, columns: Sequence[str], files: Sequence[str]) -> None:
        super().__init__((side, files))
        self.side, self.columns, self.files = side, ["uid", *columns], list(files)


class PartsReader(DataSourceReader):
    """Reads files of several tables and yields PIECES."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._store = Store(options["root"])
        self._parts, self._chunks = int(options["parts"]), int(options["chunks"])
        self._sides = [(side["columns"], side["files"]) for side in json.loads(options["sides"])]

    def partitions(self) -> Sequence[InputPartition]:
        """Spread each table's files over at most the asked number of chunks."""
        chunks: list[InputPartition] = []
        for number, (columns, files) in enumerate(self._sides):
            count = min(self._chunks, len(files))
            chunks += [_Chunk(number, columns, files[first::count]) for first in range(count)]
        return chunks or [_Chunk(0, [], [])]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the pieces of a chunk."""
        assert isinstance(partition, _Chunk)
        held: list[pa.Table] = []
        for path in partition.files:
            with self._store.arrow(path) as stream:
                held.append(pq.ParquetFile(stream).read(partition.columns, use_threads=False))
            if sum(rows.num_rows for rows in held) >= SPLIT_ROWS:
                yield self._pieces(partition.side, held)
                held = []
        if held:
            yield self._pieces(partition.side, held)

    def _pieces(self, side: int, held: list[pa.Table]) -> pa.RecordBatch:
        pieces = list(split(pa.concat_tables(held), self._parts))
        columns = [[part for part, _ in pieces], [side] * len(pieces), [_stream(rows) for _, rows in pieces]]
        return pa.RecordBatch.from_arrays(
            [pa.array(column, kind) for column, kind in zip(columns, PIECES.types, strict=True)], schema=PIECES
        )


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


class LedgerParts(DataSource):
    """`spark.read.format("cuvee_ledger_parts")`; use `side_by_side`."""

    @classmethod
    def name(cls) -> str:
        """The format's name."""
        return FORMAT

    def schema(self) -> StructType:
        """The schema of PIECES."""
        return from_arrow_schema(PIECES)

    def reader(self, schema: StructType) -> DataSourceReader:
        """Return the reader."""
        return PartsReader(dict(self.options))


More = Callable[[pa.Table], pa.Table]
"""Adds columns to the joined rows of a part."""


def side_by_side(
    spark: SparkSession,
    store: Store,
    base: Side,
    sides: Sequence[Side],
    kinds: Mapping[str, pa.Schema],
    parts: int,
    more: Sequence[tuple[pa.Field, More]] = (),
) -> DataFrame:
    """Return the rows of `base` by its own columns, with a struct column for each of `sides`, null where it has none.

    `kinds` gives the schema of each side's columns, by its name. `more` are further columns and what adds each. The
    DataFrame has `parts` partitions, ranges of uids.
    """
    everything = [base, *sides]
    schemas = [pa.schema([pa.field("uid", UID), *kinds[side.name]]) for side in everything]
    fields = [pa.field("uid", pa.string()), *kinds[base.name]]
    fields += [pa.field(side.name, pa.struct(list(kinds[side.name]))) for side in sides]
    fields += [field for field, _ in more]
    options = {
        "root": store.root,
        "parts": str(parts),
        "chunks": str(max(2, spark.sparkContext.defaultParallelism)),
        "sides": json.dumps([asdict(side) for side in everything]),
    }
    pieces = spark.read.format(FORMAT).options(**options).load()
    names = [side.name for side in everything]
    lay = partial(_lay, names, schemas, [add for _, add in more])
    return pieces.repartitionById(parts, "part").mapInArrow(lay, from_arrow_schema(pa.schema(fields)))


def _lay(
    names: Sequence[str], schemas: Sequence[pa.Schema], more: Sequence[More], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Join the pieces of one part."""
    held: list[list[pa.Table]] = [[schema.empty_table()] for schema in schemas]
    for batch in batches:
        for side, rows in zip(batch["side"].to_pylist(), batch["rows"], strict=True):
            with pa.ipc.open_stream(rows.as_buffer()) as stream:
                held[side].append(stream.read_all().cast(schemas[side]))
    base, *others = (pa.concat_tables(pieces) for pieces in held)
    result = joined(base, dict(zip(names[1:], others, strict=True)))
    for add in more:
        result = add(result)
    yield from result.combine_chunks().to_batches(1 << 16)
