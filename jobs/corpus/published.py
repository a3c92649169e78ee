"""What the sources themselves publish of a pair, carried into a signal's table."""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from filters.published import Published
from jobs.corpus.tables import Made, ddl, stored, written
from jobs.plan import Job
from jobs.run import Run


def _carry(signal: Published, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from signal.compute(pa.Table.from_batches([batch])).to_batches()


def score(run: Run, job: Job, signal: Published) -> Made:
    """Compute the signal."""
    samples, pairs = stored(run, ["licence", "published"])
    rows = samples.join(pairs, "uid").select("uid", "source", "licence", "published")
    return written(run, job, rows.mapInArrow(partial(_carry, signal), ddl(run, job))), {}
