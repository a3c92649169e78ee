"""Heads on the embeddings of a CLIP signal, row by row: a task for each file of its table."""

import hashlib
from collections import Counter
from functools import partial

import pyarrow.parquet as pq

from filters.signals.clip_heads import MAX_WEIGHTS_BYTES, HeadsSignal
from jobs.score.corpus_tables import ScoreResult, signal_jobs
from jobs.spark.tasks import run_units
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.errors import InputError, StageFailed
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.work_units import UnitOutput
from pipeline.storage.object_store import error_message, io_errors, open_source
from pipeline.storage.store import Store


def read_weights(path: str, sha256: str) -> bytes:
    """Return a weights file; raise InputError where it cannot be read or is too large, StageFailed where it changed."""
    try:
        with open_source(path) as stream:
            data: bytes = stream.read(MAX_WEIGHTS_BYTES + 1)
    except io_errors() as error:
        raise InputError(f"{path}: cannot be read: {error_message(error)}") from None
    if len(data) > MAX_WEIGHTS_BYTES:
        raise InputError(f"{path}: expected at most {MAX_WEIGHTS_BYTES} bytes, found more")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StageFailed(f"{path}: changed since the plan was made; run again")
    return data


def _width(store: Store, paths: list[str], column: str) -> int:
    """Return the length of the first embedding that is not null, 0 where all are null."""
    for path in paths:
        with store.arrow(path) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(1024, columns=[column]):
                if embeddings := batch[column].drop_null():
                    return len(embeddings[0].as_py()) // 2
    return 0


def _apply(store: Store, job: str, name: str, signal: HeadsSignal, weights: str, path: str) -> UnitOutput:
    """Return the signal's rows of one file of embeddings, and how many nulls each column has."""
    head = signal.open(store.read(weights))
    with store.arrow(path) as stream:
        rows = pq.read_table(stream, columns=["uid", "source", signal.column])
    table = signal.compute(head, rows, path)
    nulls = {column: table[column].null_count for column in signal.outputs}
    return UnitOutput({job: {signal_table(name): table}}, {"nulls": nulls})


def score(run: Run, job: Job, signal: HeadsSignal) -> ScoreResult:
    """Compute the signal."""
    try:
        data = read_weights(signal.file, job.config["files"][0])
        head = signal.open(data)
    except InputError as error:
        raise InputError(f"signals.{job.name}: {error}") from None
    table = signal_table(signal.clip)
    paths = [path for _, path in run.ledger.snapshot(table, signal_jobs(run, signal.clip))]
    if (width := _width(run.store, paths, signal.column)) not in (0, head.width):
        raise InputError(
            f"signals.{job.name}: expected a head on {width} numbers, which {signal.clip} has for each {signal.input}, "
            f"found one on {head.width} in {signal.file}"
        )
    weights = f"staging/{job.id}/head.safetensors"
    run.store.write(weights, data)
    work = partial(_apply, run.store, job.id, job.name, signal, weights)
    units = [(f"head-{path}", path) for path in paths]
    records = run_units(run.spark, run.store, job.id, units, work, run.task("applying a head", "files")).values()
    nulls: Counter[str] = Counter()
    for record in records:
        nulls.update(record.facts["nulls"])
    return [file for record in records for file in record.files[job.id]], {"nulls": dict(nulls)}
