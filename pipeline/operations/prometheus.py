"""What Prometheus is told of jobs and runs, in its text format: by a file, as node_exporter's textfile collector takes
it, or by a push gateway.

A job's figures take the place of those that its last run left, and the others stay, in the file as on a gateway. What
cannot be written or sent is a warning: the rows are committed by then, and another system's failure is none of a job's.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.experiment import Metrics
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.tables import JobRow
from pipeline.outcomes import STORED
from pipeline.storage.object_store import told
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


JOB = ("experiment", "stage", "name")
"""What names a job. Not `job`, which is Prometheus' own label."""


METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cuvee_job_rows": ("Rows that the job committed.", (*JOB, "table")),
    "cuvee_job_bytes": ("Bytes of the data files that the job committed.", (*JOB, "table")),
    "cuvee_job_rows_per_second": ("Rows that the job committed for each second that it took.", (*JOB, "table")),
    "cuvee_job_tried": ("Published rows that an ingest came to an outcome about.", JOB),
    "cuvee_job_failures": ("Those of them that are not stored, by the outcome.", (*JOB, "reason")),
    "cuvee_job_seconds": ("Seconds from the start of the job to its commit.", JOB),
    "cuvee_job_finished_timestamp_seconds": ("When the job was committed, in Unix time.", JOB),
    "cuvee_run_timestamp_seconds": (
        "When a run last ended as `outcome` says, finished or failed, with the stage that it came to and the kind of "
        "the error, in Unix time. A run that finds nothing to do has finished.",
        ("experiment", "outcome", "stage", "reason"),
    ),
}
"""Each metric's help and labels. All are gauges: they say what the last run of a job came to."""


PATIENCE = 5.0
"""Seconds that a gateway has to answer."""


@dataclass
class Group:
    """Samples that take the place of all that carry the labels `of`; by metric, (values of its labels, value)."""

    of: Mapping[str, str]
    samples: dict[str, list[tuple[tuple[str, ...], float]]] = field(default_factory=dict)

    def add(self, metric: str, value: float, **more: str) -> None:
        """Add a sample with the group's labels and these."""
        labels = {**self.of, **more}
        self.samples.setdefault(metric, []).append((tuple(labels[one] for one in METRICS[metric][1]), float(value)))

    def collect(self) -> Iterator["GaugeMetricFamily"]:
        """Yield the samples as Prometheus' client wants them."""
        from prometheus_client.core import GaugeMetricFamily

        for metric, (about, labels) in METRICS.items():
            if metric in self.samples:
                family = GaugeMetricFamily(metric, about, labels=labels)
                for values, value in sorted(self.samples[metric]):
                    family.add_metric(values, value)
                yield family


def job_group(experiment: str, row: JobRow, sizes: Mapping[str, int], outcomes: Mapping[str, int]) -> Group:
    """Return a finished job's samples; `sizes` are bytes by table, `outcomes` counts of an ingest's final attempts."""
    group = Group({"experiment": experiment, "stage": row.stage, "name": row.name})
    seconds = max((row.finished - row.started).total_seconds(), 0.001)
    for table, rows in row.rows.items():
        group.add("cuvee_job_rows", rows, table=table)
        group.add("cuvee_job_bytes", sizes[table], table=table)
        group.add("cuvee_job_rows_per_second", rows / seconds, table=table)
    if outcomes:
        group.add("cuvee_job_tried", sum(outcomes.values()))
    for reason, count in outcomes.items():
        if reason != STORED:
            group.add("cuvee_job_failures", count, reason=reason)
    group.add("cuvee_job_seconds", seconds)
    group.add("cuvee_job_finished_timestamp_seconds", row.finished.timestamp())
    return group


def _outcomes(store: Store, files: Sequence[DataFile]) -> Counter[str]:
    """Count the outcomes of the final attempts in some files of `fetches`, one file after another."""
    found: Counter[str] = Counter()
    for file in files:
        with store.arrow(f"tables/fetches/{file.path}") as stream:
            rows = pq.read_table(stream, columns=["final", "outcome"])
        counts = pc.value_counts(rows.filter(rows["final"])["outcome"].combine_chunks())
        found.update({one["values"]: one["counts"] for one in counts.to_pylist()})
    return found


class Monitor:
    """Tells of an experiment's jobs and runs where its file says; does nothing where it says nothing."""

    def __init__(self, where: Metrics, experiment: str) -> None:
        self._where = where
        self._experiment = experiment
        self._lock = threading.Lock()  # sources are ingested side by side
        self.stage = ""

    def jobs(self, store: Store, made: Sequence[tuple[JobRow, Sequence[DataFile]]]) -> None:
        """Tell of finished jobs and of the files that they committed."""
        if not (self._where.file or self._where.gateway):
            return
        groups = []
        for row, files in made:
            sizes: Counter[str] = Counter()
            for file in files:
                sizes[file.table] += file.bytes
            outcomes = _outcomes(store, [file for file in files if file.table == "fetches"])
            groups.append(job_group(self._experiment, row, sizes, outcomes))
        self._tell(groups)

    @contextmanager
    def run(self, until: str) -> Iterator[None]:
        """Tell how a run ended; `stage` is then where it failed. One that a person stops has not ended."""
        try:
            yield
        except Exception as error:
            self._ended("failed", self.stage, type(error).__name__)
            raise
        self._ended("finished", until, "")

    def _ended(self, outcome: str, stage: str, reason: str) -> None:
        group = Group({"experiment": self._experiment, "outcome": outcome})
        group.add("cuvee_run_timestamp_seconds", time.time(), stage=stage, reason=reason)
        self._tell([group])

    def _tell(self, groups: Sequence[Group]) -> None:
        with self._lock:
            if self._where.file:
                _written(self._where.file, groups)
            for group in groups if self._where.gateway else ():
                if not _pushed(self._where.gateway, group):
                    return  # that it is down is said once, and waited for once


def _written(path: str, groups: Sequence[Group]) -> None:
    """Write the file anew, whole or not at all: these groups, and what it says of others."""
    from prometheus_client import write_to_textfile

    try:
        whole = _read(path)
        for group in groups:
            whole = _without(whole, group.of)
            for metric, samples in group.samples.items():
                whole.samples.setdefault(metric, []).extend(samples)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_to_textfile(path, whole)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning("cuvee: metrics.file: %s: not written (%s)", path, told(error))


def _read(path: str) -> Group:
    """Return the samples of a file that was written here, none where there is no file.

    Raises ValueError where it is another's, which is not ours to replace.
    """
    from prometheus_client.parser import text_string_to_metric_families

    whole = Group({})
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        return whole
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("cuvee_"):
            raise ValueError(f"found the metric {family.name} in it, expected cuvee's alone")
        for sample in family.samples if family.name in METRICS else ():
            values = tuple(sample.labels.get(one, "") for one in METRICS[family.name][1])
            whole.samples.setdefault(family.name, []).append((values, sample.value))
    return whole


def _without(whole: Group, of: Mapping[str, str]) -> Group:
    """Return a group without the samples that carry all of these labels."""
    left: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for metric, samples in whole.samples.items():
        labels = METRICS[metric][1]
        kept = [one for one in samples if not of.items() <= dict(zip(labels, one[0], strict=True)).items()]
        if kept:
            left[metric] = kept
    return Group({}, left)


def _pushed(gateway: str, group: Any) -> bool:
    """Push a group in the place of what the gateway has of it; return whether it took it."""
    from prometheus_client import push_to_gateway

    try:
        push_to_gateway(gateway, "cuvee", group, grouping_key=dict(group.of), timeout=PATIENCE)
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        logging.getLogger(__name__).warning("cuvee: metrics.gateway: %s: not pushed (%s)", gateway, told(cause))
        return False
    return True
