"""Runs a plan: job after job, each once, resuming where an earlier run ended."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa

from jobs.workflow.experiment import Experiment
from jobs.workflow.plan import Job, Plan
from jobs.workflow.progress import Display, ProgressTask
from jobs.workflow.stages import PRELOADED_MODULES, STAGES, stage_function
from jobs.workflow.versions import recorded_versions
from pipeline.errors import JobsFailed, StageFailed
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.journal import check_none_unfinished
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.operations.openlineage import write_events
from pipeline.operations.prometheus import Monitor
from pipeline.provenance.funnel import transient_failures
from pipeline.storage.store_lock import store_lock


class Run:
    """The context of a stage: the experiment, its store and ledger, Spark when it is needed, and a display."""

    def __init__(
        self, experiment: Experiment, display: Display, retry_failed: bool = False, monitor: Monitor | None = None
    ) -> None:
        self.experiment = experiment
        self.store = experiment.store
        self.ledger = Ledger(self.store)
        self.plan = Plan(experiment, self.ledger, self._failed if retry_failed else None)
        self.display = display
        self.todo: Sequence[Job] = ()
        self.hosts: dict[str, str] = dict(experiment.file.ingest.hosts)
        self.monitor = monitor or Monitor(experiment.file.metrics, experiment.name)
        self._exit = ExitStack()
        self._tombstones = self.ledger.version("tombstones")

    def _failed(self, jobs: list[str]) -> bool:
        return bool(transient_failures(self.ledger, jobs))

    @cached_property
    def spark(self) -> Any:
        """The Spark session, started at the first use."""
        from jobs.spark.session import start_session

        self.display.say("  starting Spark")
        preload = dict.fromkeys(name for job in self.todo for name in PRELOADED_MODULES.get(job.stage, ()))
        session = start_session(self.experiment.file.spark, f"cuvee {self.experiment.name}", list(preload))
        self._exit.callback(session.stop)
        return session

    def task(self, label: str, unit: str) -> ProgressTask:
        """Return a progress task."""
        return self.display.task(label, unit)

    def close(self) -> None:
        """Stop Spark if it was started."""
        self._exit.close()

    def schema(self, table: str) -> pa.Schema:
        """Return a table's schema; a signal's is uid, source and its columns."""
        if table in TABLES:
            return TABLES[table]
        columns = self.experiment.signals[table.removeprefix("signals_")].columns()
        return pa.schema([pa.field("uid", pa.string()), pa.field("source", pa.string()), *columns])

    def finish(
        self,
        made: Sequence[tuple[Job, Sequence[DataFile], dict[str, Any]]],
        started: datetime,
        staging: Sequence[str] = (),
    ) -> None:
        """Commit jobs' files, a Delta commit for each table, and then their rows in `jobs`, all in one commit.

        `staging` names the passes whose completion records are no longer needed after that. Raises StageFailed, and
        removes the jobs' files, where a takedown was committed meanwhile: it may concern a pair that the jobs read.
        """
        if self.ledger.version("tombstones") != self._tombstones:
            written = [f"tables/{file.table}/{file.path}" for _, files, _ in made for file in files]
            for path in (*(f"staging/{group}" for group in staging), *written):
                self.store.remove(path)
            raise StageFailed(f"{self.store.root}: a takedown came in between; run again")
        rows = []
        for job, files, facts in made:
            tables: dict[str, list[DataFile]] = {}
            for file in files:
                tables.setdefault(file.table, []).append(file)
            for table, parts in sorted(tables.items()):
                self.ledger.commit(job.id, table, self.schema(table), parts)
            counts = {table: sum(part.rows for part in parts) for table, parts in tables.items()}
            rows.append(_row(job, started, counts, facts))
        self.ledger.finish(rows)
        for row in rows:
            names = {need.id: f"{need.stage}.{need.name}" for job, _, _ in made for need in job.needs}
            inputs = [names.get(job_id, job_id) for job_id in row.inputs]
            write_events(self.store, row, inputs)
        self.monitor.jobs(self.store, [(row, files) for row, (_, files, _) in zip(rows, made, strict=True)])
        for group in staging:
            self.store.remove(f"staging/{group}")


def _row(job: Job, started: datetime, counts: dict[str, int], facts: dict[str, Any]) -> JobRow:
    return JobRow(
        job=job.id,
        stage=job.stage,
        name=job.name,
        started=started,
        finished=datetime.now(UTC),
        rows=counts,
        config=job.config,
        inputs=sorted(other.id for other in job.needs),
        code=job.code,
        versions=recorded_versions(),
        facts=facts,
    )


def _batches(run: Run, jobs: Sequence[Job], failed_ids: Collection[str]) -> Iterator[tuple[str, list[Job]]]:
    """Yield (stage, jobs that can run now): the earliest stage that has any goes first; until all are finished, but for
    those whose id is in `failed_ids` and those that need one.
    """
    while pending := [job for job in jobs if run.ledger.finished(job.id) is None]:
        unfinished = {job.id for job in pending}
        ready = [
            job
            for job in pending
            if job.id not in failed_ids and not any(other.id in unfinished for other in job.needs)
        ]
        if not ready:
            return
        stage = min((job.stage for job in ready), key=STAGES.index)
        yield stage, [job for job in ready if job.stage == stage]


@contextmanager
def _spark_errors_named(stage: str) -> Iterator[None]:
    """Turn an error that Spark wraps into one line that names the stage; the traceback is logged at level DEBUG."""
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        from jobs.spark.tasks import error_line

        logging.getLogger(__name__).debug("%s failed", stage, exc_info=True)
        raise StageFailed(f"{stage}: {error_line(error)}") from error


def execute(experiment: Experiment, until: str, display: Display, retry_failed: bool = False, wait: float = 0.0) -> Run:
    """Run all jobs up to a stage that are not finished; return the run, closed. A second call does nothing.

    With `retry_failed`, fetches that failed for transient reasons are tried again. Another command that
    works on the store is waited for, up to `wait` seconds.
    """
    monitor = Monitor(experiment.file.metrics, experiment.name)
    with monitor.run(until):
        experiment.store.check_writable()
        with store_lock(experiment.store, wait):
            check_none_unfinished(experiment.store)
            return _run_jobs(experiment, until, display, retry_failed, monitor)


def _run_jobs(experiment: Experiment, until: str, display: Display, retry_failed: bool, monitor: Monitor) -> Run:
    run = Run(experiment, display, retry_failed, monitor)
    try:
        if experiment.file.web is not None:
            from jobs.workflow.demo_web import publish

            publish(experiment.file.web, display)
        jobs = run.plan.until(until)
        run.todo = [job for job in jobs if run.ledger.finished(job.id) is None]
        finished = len(jobs) - len(run.todo)
        if finished == len(jobs):
            retry_note = ", and no failure is one that another attempt may change" if retry_failed else ""
            display.say(f"nothing to do: all {len(jobs)} jobs are finished{retry_note}")
        elif finished:
            display.say(f"resuming: {finished} of {len(jobs)} jobs are finished")
        failures, failed_ids = list[tuple[str, str]](), set[str]()
        for stage, ready in _batches(run, jobs, failed_ids):
            names = ", ".join(sorted({job.name for job in ready}))
            summary = names if len(names) <= 100 else f"{len(ready)} jobs"
            monitor.stage = stage
            try:
                with display.stage(stage, summary), _spark_errors_named(stage):
                    stage_function(stage)(run, ready)
            except JobsFailed as error:
                failures.append((stage, str(error)))
                display.say(f"  {error}; jobs that do not need them go on")
                failed_ids |= {job.id for job in ready if run.ledger.finished(job.id) is None}
                continue
            if unfinished := [job.name for job in ready if run.ledger.finished(job.id) is None]:
                raise StageFailed(f"{run.store.root}: {stage} did not finish {', '.join(unfinished)}")
        if failures:
            monitor.stage = failures[0][0]  # the first that failed, though later ones went on
            raise StageFailed("; ".join(message for _, message in failures))
    finally:
        run.close()
    return run
