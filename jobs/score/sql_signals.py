"""Signals over the whole corpus that are one query or one pass over rows: placeholders, published, repeats."""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from filters.signals.caption_frequency import CaptionFrequency
from filters.signals.placeholders import PlaceholdersSignal
from filters.signals.published import PublishedSignal
from jobs.score.corpus_tables import ScoreResult, signal_frame, spark_ddl, stored_pairs, write_signal
from jobs.spark.tasks import view_name
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run


def score_placeholders(run: Run, job: Job, signal: PlaceholdersSignal) -> ScoreResult:
    """Compute the signal."""
    names = view_name(), view_name()
    for name, rows in zip(names, stored_pairs(run, ["url"]), strict=True):
        rows.createOrReplaceTempView(name)
    return write_signal(run, job, run.spark.sql(signal.query(*names))), {}


def _carry(signal: PublishedSignal, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from signal.compute(pa.Table.from_batches([batch])).to_batches()


def score_published(run: Run, job: Job, signal: PublishedSignal) -> ScoreResult:
    """Compute the signal."""
    samples, pairs = stored_pairs(run, ["licence", "published"])
    rows = samples.join(pairs, "uid").select("uid", "source", "licence", "published")
    return write_signal(run, job, rows.mapInArrow(partial(_carry, signal), spark_ddl(run, job))), {}


def score_repeats(run: Run, job: Job, signal: CaptionFrequency) -> ScoreResult:
    """Compute the signal."""
    name = view_name()
    signal_frame(run, signal.caption, ["uid", "source", "normalised"]).createOrReplaceTempView(name)
    return write_signal(run, job, run.spark.sql(signal.query(name))), {}
