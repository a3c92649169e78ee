"""A dry run: decisions and a mixture are derived from the signals in the store, and then discarded.

Its jobs run as any others do, under ids of their own, but nothing is committed: their files are visible only through a
ledger laid over the store's, and are removed at the end. Files that a killed dry run leaves belong to no job;
`cuvee verify --prune` removes them.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from jobs.workflow.experiment import Experiment
from jobs.workflow.plan import Job
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from jobs.workflow.stages import stage_function
from pipeline.errors import InputError
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.storage.store import Store

DRY_RUN_STAGES = ("decide", "blend")


TABLE_BY_STAGE = {"decide": "decisions", "blend": "mixtures"}


class OverlayLedger(Ledger):
    """A ledger with files and jobs on top that were never committed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._overlay_jobs: dict[str, JobRow] = {}
        self._overlay_files: list[tuple[str, str, str]] = []

    def lay(self, row: JobRow, files: Sequence[DataFile]) -> None:
        """Show a job as finished, with its files."""
        self._overlay_jobs[row.job] = row
        self._overlay_files += [(file.table, row.job, f"tables/{file.table}/{file.path}") for file in files]

    def snapshot(self, table: str, jobs: Iterable[str] | None = None) -> list[tuple[str, str]]:
        """Return the files of the store's newest version and those on top."""
        job_ids = None if jobs is None else set(jobs)
        overlaid = [
            (job, path)
            for name, job, path in self._overlay_files
            if name == table and (job_ids is None or job in job_ids)
        ]
        return sorted(super().snapshot(table, job_ids) + overlaid)

    def finished(self, job: str) -> JobRow | None:
        """Return a job's row, on top or in the store."""
        return self._overlay_jobs.get(job) or super().finished(job)


class DryRun(Run):
    """A run that commits nothing; use it with `with`."""

    def __init__(self, experiment: Experiment, display: Display) -> None:
        super().__init__(experiment, display)
        self.over = self.ledger = OverlayLedger(self.store)
        self._mark = f"rehearsal {uuid.uuid4().hex}"
        self._jobs: dict[str, Job] = {}

    def __enter__(self) -> "DryRun":
        return self

    def __exit__(self, *raised: object) -> None:
        for job in self._jobs.values():
            self.store.remove(f"tables/{TABLE_BY_STAGE[job.stage]}/job={job.id}")
            self.store.remove(f"staging/{job.id}")
        self.close()

    def finish(
        self,
        made: Sequence[tuple[Job, Sequence[DataFile], dict[str, Any]]],
        started: datetime,
        staging: Sequence[str] = (),
    ) -> None:
        """Lay jobs over the ledger."""
        now = datetime.now(UTC)
        for job, files, facts in made:
            rows = {file.table: sum(other.rows for other in files if other.table == file.table) for file in files}
            needs = sorted(other.id for other in job.needs)
            provenance = (job.config, needs, job.code, dict[str, str](), facts)
            self.over.lay(JobRow(job.id, job.stage, job.name, started, now, rows, *provenance), files)

    def mixture(self, name: str) -> Job:
        """Derive a mixture, and the decisions that it depends on, from the signals in the store; return its job.

        Raises InputError where a signal's job, or any other before the decisions, is not finished.
        """
        planned = self.plan.blend(name)
        if missing := sorted(set(self._missing(planned))):
            raise InputError(
                f"{self.experiment.path}: mixtures.{name}: replay computes decisions alone, and these jobs are "
                f"not finished with these settings: {', '.join(missing)}; `cuvee score` runs them"
            )
        job = self._dry_run_job(planned)
        for dry_run_job in self._jobs.values():
            stage_function(dry_run_job.stage)(self, [dry_run_job])
        return job

    def _missing(self, job: Job) -> Iterable[str]:
        if job.stage in DRY_RUN_STAGES:
            for other in job.needs:
                yield from self._missing(other)
        elif self.ledger.finished(job.id) is None:
            yield f"{job.stage} {job.name}"

    def _dry_run_job(self, job: Job) -> Job:
        """Return a job under an id that no run has, after those that it needs; all are kept in this order."""
        if job.stage not in DRY_RUN_STAGES:
            return job
        if job.id not in self._jobs:
            needs = tuple(self._dry_run_job(other) for other in job.needs)
            self._jobs[job.id] = Job(job.stage, job.name, job.config, needs, self._mark, job.local)
        return self._jobs[job.id]
