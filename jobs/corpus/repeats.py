"""How often each caption stands in the corpus, from the caption signal's table."""

from filters.repeats import Repeats
from jobs.corpus.tables import Made, signal_frame, written
from jobs.plan import Job
from jobs.run import Run
from jobs.spark import frame_name


def score(run: Run, job: Job, signal: Repeats) -> Made:
    """Compute the signal."""
    name = frame_name()
    signal_frame(run, signal.caption, ["uid", "source", "normalised"]).createOrReplaceTempView(name)
    return written(run, job, run.spark.sql(signal.query(name))), {}
