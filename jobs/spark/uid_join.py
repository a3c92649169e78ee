"""Tables of the ledger joined on uid, as a DataFrame.

Rows travel as Arrow: tasks split the files into parts, Spark brings the pieces of a part together without looking into
them, and a task for each part lays them side by side (`pipeline.ledger.uid_join`). Row by row through the JVM it took
three times the CPU, as measured.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.spark.frames import chunk_numbers, chunks
from pipeline.ledger.data_files import with_schema
from pipeline.ledger.uid_join import UID_TYPE, join_on_uid, split_by_uid
from pipeline.storage.store import Store

PIECE_SCHEMA = pa.schema([("part", pa.int32()), ("side", pa.int32()), ("rows", pa.binary())])
"""`rows` is an Arrow stream of rows of table number `side`."""


MAX_BUFFERED_ROWS = 500_000
"""Rows that a task holds before it splits them, or those of one file."""


@dataclass(frozen=True)
class JoinSide:
    """A table to join: the column that its rows become, its columns but uid, and its files."""

    name: str
    columns: tuple[str, ...]
    files: tuple[str, ...]


def pieces(
    store: Store,
    sides: Sequence[JoinSide],
    schemas: Sequence[pa.Schema],
    parts: int,
    count: int,
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield the PIECES of a task's chunks, of which there are `count`: each has a share of every table's files."""
    for first in chunk_numbers(batches):
        for number, side in enumerate(sides):
            yield from _side_pieces(store, number, schemas[number], side.files[first::count], parts)


def _side_pieces(
    store: Store, number: int, schema: pa.Schema, files: Sequence[str], parts: int
) -> Iterator[pa.RecordBatch]:
    tables: list[pa.Table] = []
    for path in files:
        with store.arrow(path) as stream:
            tables.append(with_schema(pq.ParquetFile(stream).read(schema.names, use_threads=False), schema))
        if sum(rows.num_rows for rows in tables) >= MAX_BUFFERED_ROWS:
            yield _pieces(number, tables, parts)
            tables = []
    if tables:
        yield _pieces(number, tables, parts)


def _pieces(side: int, tables: list[pa.Table], parts: int) -> pa.RecordBatch:
    split_rows = list(split_by_uid(pa.concat_tables(tables), parts))
    columns = [[part for part, _ in split_rows], [side] * len(split_rows), [_to_stream(rows) for _, rows in split_rows]]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, PIECE_SCHEMA.types, strict=True)], schema=PIECE_SCHEMA
    )


def _to_stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


AddColumns = Callable[[pa.Table], pa.Table]
"""Adds columns to the joined rows of a part."""


def join_frames_on_uid(
    spark: SparkSession,
    store: Store,
    base: JoinSide,
    sides: Sequence[JoinSide],
    kinds: Mapping[str, pa.Schema],
    parts: int,
    more: Sequence[tuple[pa.Field, AddColumns]] = (),
) -> DataFrame:
    """Return the rows of `base` by its own columns, with a struct column for each of `sides`, null where it has none.

    `kinds` gives the schema of each side's columns, by its name. `more` are further columns and what adds each. The
    DataFrame has `parts` partitions, ranges of uids.
    """
    all_sides = [base, *sides]
    schemas = [pa.schema([pa.field("uid", UID_TYPE), *kinds[side.name]]) for side in all_sides]
    fields = [pa.field("uid", pa.string()), *kinds[base.name]]
    fields += [pa.field(side.name, pa.struct(list(kinds[side.name]))) for side in sides]
    fields += [field for field, _ in more]
    chunk_frame, count = chunks(spark)
    shuffled = chunk_frame.mapInArrow(
        partial(pieces, store, all_sides, schemas, parts, count), from_arrow_schema(PIECE_SCHEMA)
    )
    names = [side.name for side in all_sides]
    join = partial(_join_parts, names, schemas, [add for _, add in more])
    return shuffled.repartitionById(parts, "part").mapInArrow(join, from_arrow_schema(pa.schema(fields)))


def _join_parts(
    names: Sequence[str], schemas: Sequence[pa.Schema], more: Sequence[AddColumns], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Join the pieces of one part."""
    tables: list[list[pa.Table]] = [[schema.empty_table()] for schema in schemas]
    for batch in batches:
        for side, rows in zip(batch["side"].to_pylist(), batch["rows"], strict=True):
            with pa.ipc.open_stream(rows.as_buffer()) as stream:
                tables[side].append(stream.read_all().cast(schemas[side]))
    base, *others = (pa.concat_tables(pieces) for pieces in tables)
    result = join_on_uid(base, dict(zip(names[1:], others, strict=True)))
    for add in more:
        result = add(result)
    yield from result.combine_chunks().to_batches(1 << 16)
