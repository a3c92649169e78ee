"""Signals over the whole corpus that are one query or one pass over rows: placeholders, published, repeats."""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from filters.signals.caption_frequency import Repeats
from filters.signals.placeholders import Placeholders
from filters.signals.published import Published
from jobs.score.corpus_tables import Made, ddl, signal_frame, stored, written
from jobs.spark.tasks import frame_name
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run


def score_placeholders(run: Run, job: Job, signal: Placeholders) -> Made:
    """Compute the signal."""
    names = frame_name(), frame_name()
    for name, rows in zip(names, stored(run, ["url"]), strict=True):
        rows.createOrReplaceTempView(name)
    return written(run, job, run.spark.sql(signal.query(*names))), {}


def _carry(signal: Published, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from signal.compute(pa.Table.from_batches([batch])).to_batches()


def score_published(run: Run, job: Job, signal: Published) -> Made:
    """Compute the signal."""
    samples, pairs = stored(run, ["licence", "published"])
    rows = samples.join(pairs, "uid").select("uid", "source", "licence", "published")
    return written(run, job, rows.mapInArrow(partial(_carry, signal), ddl(run, job))), {}


def score_repeats(run: Run, job: Job, signal: Repeats) -> Made:
    """Compute the signal."""
    name = frame_name()
    signal_frame(run, signal.caption, ["uid", "source", "normalised"]).createOrReplaceTempView(name)
    return written(run, job, run.spark.sql(signal.query(name))), {}
