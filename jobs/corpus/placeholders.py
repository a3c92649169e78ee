"""Images that stand for others, from what was stored under which URL."""

from filters.placeholders import Placeholders
from jobs.corpus.tables import Made, stored, written
from jobs.plan import Job
from jobs.run import Run
from jobs.spark import frame_name


def score(run: Run, job: Job, signal: Placeholders) -> Made:
    """Compute the signal."""
    names = frame_name(), frame_name()
    for name, rows in zip(names, stored(run, ["url"]), strict=True):
        rows.createOrReplaceTempView(name)
    return written(run, job, run.spark.sql(signal.query(*names))), {}
