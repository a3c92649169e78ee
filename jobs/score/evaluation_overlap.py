"""The nearest evaluation image of each pair."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from filters.signals.evaluation_overlap import EvaluationOverlapSignal, ImageReader
from jobs.score.corpus_tables import ScoreResult, signal_frame, write_signal
from jobs.score.evaluation_index import StoredIndex, open_index, stored_indexes
from jobs.spark.frames import table_frame
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.errors import StageFailed
from pipeline.images.normalize import decode_rgb
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.shards.tar_format import TAR_BLOCK_BYTES
from pipeline.storage.store import Store

_PLACE = ("uid", "shard", "offset", "jpg_bytes")


def stored_images(store: Store, rows: pa.Table) -> ImageReader:
    """Return what reads the images of rows (uid, shard, offset, jpg_bytes), each alone, by its range of the shard."""

    def give(numbers: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.uint8]]:
        selected = rows.select(_PLACE).take(pa.array(numbers)).to_pylist()
        for shard, members in groupby(selected, key=itemgetter("shard")):
            with store.open(shard) as stream:
                for row in members:
                    stream.seek(row["offset"] + TAR_BLOCK_BYTES)
                    yield _decode(stream.read(row["jpg_bytes"]), f"{shard}: {row['uid']}")

    return give


def _decode(jpg: bytes, where: str) -> npt.NDArray[np.uint8]:
    image = decode_rgb(jpg)
    if image is None:
        raise StageFailed(f"{where}: expected the JPEG that was stored, found {len(jpg)} bytes that are none")
    return image


def search_batches(
    signal: EvaluationOverlapSignal, store: Store, indexes: Sequence[StoredIndex], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield the signal's rows of batches of (uid, source, pdq, image_embedding) and where the images lie."""
    for batch in batches:
        if batch.num_rows:
            rows = pa.Table.from_batches([batch])
            open_indexes = [open_index(store, index) for index in indexes]
            yield from signal.compute(rows, open_indexes, stored_images(store, rows)).to_batches()


def _pairs(run: Run, signal: EvaluationOverlapSignal) -> DataFrame:
    """Return every stored pair, with its fingerprint and embedding where it has them; by shard, if images are read."""
    samples = table_frame(
        run.spark,
        run.ledger,
        "samples",
        TABLES["samples"],
        ["uid", "source", *_PLACE[1:]],
        [job.id for job in run.plan.ingests()],
    )
    prints = signal_frame(run, signal.pdq, ["uid", "pdq"])
    rows = samples.join(prints, "uid", "left").join(
        signal_frame(run, signal.clip, ["uid", "image_embedding"]), "uid", "left"
    )
    if signal.align:
        parts = int(run.spark.conf.get("spark.sql.shuffle.partitions"))
        rows = rows.repartition(parts, "shard").sortWithinPartitions("shard", "offset")
    return rows


def score(run: Run, job: Job, signal: EvaluationOverlapSignal) -> ScoreResult:
    """Compute the signal; raise StageFailed where an index is not as it was built, or a pair would be lost."""
    needed = run.plan.indexes(job.name)
    indexes = stored_indexes(run, needed)
    search = partial(search_batches, signal, run.store, indexes)
    results = _pairs(run, signal).mapInArrow(search, from_arrow_schema(run.schema(signal_table(job.name))))
    files = write_signal(run, job, results)
    stored = sum(row.rows.get("samples", 0) for ingest in run.plan.ingests() if (row := run.ledger.finished(ingest.id)))
    if (rows := sum(file.rows for file in files)) != stored:
        raise StageFailed(f"signals.{job.name}: found {rows} rows, expected the {stored} pairs that are stored")
    return files, {"indexes": [index.folder for index in indexes], "nulls": _nulls(run.store, files)}


def _nulls(store: Store, files: Sequence[DataFile]) -> dict[str, int]:
    """Return how many pairs have no distance, no cosine, no alignment: for want of a print, a vector, a candidate."""
    counts: dict[str, Any] = dict.fromkeys(("pdq_distance", "cosine", "aligned"), 0)
    for file in files:
        with store.arrow(f"tables/{file.table}/{file.path}") as stream:
            rows = pq.read_table(stream, columns=list(counts))
        counts = {name: count + rows[name].null_count for name, count in counts.items()}
    return counts
