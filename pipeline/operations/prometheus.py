"""Prometheus metrics of jobs and runs: in a file for node_exporter's textfile collector, or by a push gateway.

A job's metrics replace those of its last run and leave the others, in the file as on a gateway. A failure to write or
send them is a warning: the rows are committed by then, and the failure of another system must not fail a job.
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

from pipeline.config.experiment import MetricsConfig
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.tables import JobRow
from pipeline.outcomes import STORED
from pipeline.storage.object_store import error_message
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


JOB_LABELS = ("experiment", "stage", "name")
"""The labels that identify a job. `job` is not among them, as it is Prometheus' own label."""


METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cuvee_job_rows": ("Rows that the job committed.", (*JOB_LABELS, "table")),
    "cuvee_job_bytes": ("Bytes of the data files that the job committed.", (*JOB_LABELS, "table")),
    "cuvee_job_rows_per_second": ("Rows that the job committed per second of its duration.", (*JOB_LABELS, "table")),
    "cuvee_job_tried": ("Published rows for which an ingest reached an outcome.", JOB_LABELS),
    "cuvee_job_failures": ("Those of them that are not stored, by the outcome.", (*JOB_LABELS, "reason")),
    "cuvee_job_seconds": ("Seconds from the start of the job to its commit.", JOB_LABELS),
    "cuvee_job_finished_timestamp_seconds": ("When the job was committed, in Unix time.", JOB_LABELS),
    "cuvee_run_timestamp_seconds": (
        "When a run last ended with this `outcome`, finished or failed, with the stage that it reached and the type of "
        "the error, in Unix time. A run that has nothing to do has finished.",
        ("experiment", "outcome", "stage", "reason"),
    ),
}
"""Each metric's help text and labels. All are gauges: they describe the last run of a job."""


PUSH_TIMEOUT_S = 5.0
"""Timeout of a push to the gateway, in seconds."""


@dataclass
class MetricGroup:
    """Samples that replace all those with the labels `of`; by metric, (label values, value)."""

    of: Mapping[str, str]
    samples: dict[str, list[tuple[tuple[str, ...], float]]] = field(default_factory=dict)

    def add(self, metric: str, value: float, **extra_labels: str) -> None:
        """Add a sample with the group's labels and additional ones."""
        labels = {**self.of, **extra_labels}
        self.samples.setdefault(metric, []).append((tuple(labels[label] for label in METRICS[metric][1]), float(value)))

    def collect(self) -> Iterator["GaugeMetricFamily"]:
        """Yield the samples as metric families of Prometheus' client."""
        from prometheus_client.core import GaugeMetricFamily

        for metric, (help_text, labels) in METRICS.items():
            if metric in self.samples:
                family = GaugeMetricFamily(metric, help_text, labels=labels)
                for values, value in sorted(self.samples[metric]):
                    family.add_metric(values, value)
                yield family


def job_group(experiment: str, row: JobRow, sizes: Mapping[str, int], outcomes: Mapping[str, int]) -> MetricGroup:
    """Return a finished job's samples; `sizes` are bytes by table, `outcomes` counts of an ingest's final attempts."""
    group = MetricGroup({"experiment": experiment, "stage": row.stage, "name": row.name})
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


def _count_outcomes(store: Store, files: Sequence[DataFile]) -> Counter[str]:
    """Count the outcomes of the final attempts in files of `fetches`, one file at a time."""
    outcomes: Counter[str] = Counter()
    for file in files:
        with store.arrow(f"tables/fetches/{file.path}") as stream:
            rows = pq.read_table(stream, columns=["final", "outcome"])
        counts = pc.value_counts(rows.filter(rows["final"])["outcome"].combine_chunks())
        outcomes.update({entry["values"]: entry["counts"] for entry in counts.to_pylist()})
    return outcomes


class Monitor:
    """Publishes metrics of an experiment's jobs and runs where its file configures a destination, else does nothing."""

    def __init__(self, where: MetricsConfig, experiment: str) -> None:
        self._where = where
        self._experiment = experiment
        self._lock = threading.Lock()  # sources are ingested in parallel
        self.stage = ""

    def jobs(self, store: Store, finished_jobs: Sequence[tuple[JobRow, Sequence[DataFile]]]) -> None:
        """Publish the metrics of finished jobs and of the files that they committed."""
        if not (self._where.file or self._where.gateway):
            return
        groups = []
        for row, files in finished_jobs:
            sizes: Counter[str] = Counter()
            for file in files:
                sizes[file.table] += file.bytes
            outcomes = _count_outcomes(store, [file for file in files if file.table == "fetches"])
            groups.append(job_group(self._experiment, row, sizes, outcomes))
        self._publish(groups)

    @contextmanager
    def run(self, until: str) -> Iterator[None]:
        """Publish how a run ended; `stage` is where it failed. A run that is interrupted has not ended."""
        try:
            yield
        except Exception as error:
            self._publish_run("failed", self.stage, type(error).__name__)
            raise
        self._publish_run("finished", until, "")

    def _publish_run(self, outcome: str, stage: str, reason: str) -> None:
        group = MetricGroup({"experiment": self._experiment, "outcome": outcome})
        group.add("cuvee_run_timestamp_seconds", time.time(), stage=stage, reason=reason)
        self._publish([group])

    def _publish(self, groups: Sequence[MetricGroup]) -> None:
        with self._lock:
            if self._where.file:
                _write_file(self._where.file, groups)
            for group in groups if self._where.gateway else ():
                if not _push(self._where.gateway, group):
                    return  # an unreachable gateway costs one warning and one timeout


def _write_file(path: str, groups: Sequence[MetricGroup]) -> None:
    """Rewrite the file, whole or not at all: these groups, and its samples of others."""
    from prometheus_client import write_to_textfile

    try:
        merged = _read_file(path)
        for group in groups:
            merged = _without_labels(merged, group.of)
            for metric, samples in group.samples.items():
                merged.samples.setdefault(metric, []).extend(samples)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_to_textfile(path, merged)
    except (OSError, ValueError) as error:
        logging.getLogger(__name__).warning("cuvee: metrics.file: %s: not written (%s)", path, error_message(error))


def _read_file(path: str) -> MetricGroup:
    """Return the samples of a file that Cuvée wrote, none where there is no file.

    Raises ValueError where the file has other metrics, since it must not be replaced then.
    """
    from prometheus_client.parser import text_string_to_metric_families

    group = MetricGroup({})
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        return group
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("cuvee_"):
            raise ValueError(f"found the metric {family.name}, expected only metrics of cuvee")
        for sample in family.samples if family.name in METRICS else ():
            values = tuple(sample.labels.get(label, "") for label in METRICS[family.name][1])
            group.samples.setdefault(family.name, []).append((values, sample.value))
    return group


def _without_labels(group: MetricGroup, label_values: Mapping[str, str]) -> MetricGroup:
    """Return a group without the samples that carry all of these labels."""
    remaining: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for metric, samples in group.samples.items():
        labels = METRICS[metric][1]
        others = [
            sample
            for sample in samples
            if not label_values.items() <= dict(zip(labels, sample[0], strict=True)).items()
        ]
        if others:
            remaining[metric] = others
    return MetricGroup({}, remaining)


def _push(gateway: str, group: Any) -> bool:
    """Push a group in place of its earlier samples on the gateway; return whether the gateway accepted it."""
    from prometheus_client import push_to_gateway

    try:
        push_to_gateway(gateway, "cuvee", group, grouping_key=dict(group.of), timeout=PUSH_TIMEOUT_S)
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        logging.getLogger(__name__).warning(
            "cuvee: metrics.gateway: %s: not pushed (%s)", gateway, error_message(cause)
        )
        return False
    return True
