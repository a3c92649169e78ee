"""The graph of finished jobs: the newest job of each name, the jobs upstream of a job, and those current at a time."""

from collections.abc import Mapping, Sequence

from pipeline.errors import InputError
from pipeline.ledger.tables import JobRow


def newest_jobs(jobs: Sequence[JobRow], stage: str) -> dict[str, JobRow]:
    """Return the newest finished job of each name in a stage; for ingest, only the retries of a newest job."""
    by_name = {job.name: job for job in jobs if job.stage == stage}
    newest = {job.job for job in by_name.values()}
    return {name: job for name, job in by_name.items() if retried_job(job) in ("", *newest)}


def retried_job(job: JobRow) -> str:
    """Return the id of the ingest job that a job is a retry of, "" if it is no retry."""
    retry = job.config.get("retry") if isinstance(job.config, dict) else None
    return str(retry["of"]) if retry else ""


def source_of(name: str) -> str:
    """Return the source in an ingest job's name, which is "<source>" or "<source>/retry-<n>"."""
    return name.partition("/")[0]


def ingests_by_source(ingests: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the ids of each source's ingest jobs, the first and then its retries in order; `ingests` is name to id."""
    grouped: dict[str, list[str]] = {}
    for name in sorted(ingests, key=lambda name: (source_of(name), int(name.partition("/retry-")[2] or 0))):
        grouped.setdefault(source_of(name), []).append(ingests[name])
    return grouped


def current_jobs(jobs: Sequence[JobRow]) -> dict[str, dict[str, str]]:
    """Return the newest ingests, and the newest filters and mixtures that depend on them and on no older ones.

    The result is the ids of jobs by stage and name.
    """
    ingests = newest_jobs(jobs, "ingest")
    source_by_ingest = {row.job: source_of(name) for name, row in ingests.items()}
    by_id = {row.job: row for row in jobs}

    def ingests_behind(row: JobRow) -> set[str]:
        visited, pending = set[str](), [row]
        while pending:
            ancestor = pending.pop()
            if ancestor.job not in visited:
                visited.add(ancestor.job)
                pending += [by_id[job] for job in ancestor.inputs if job in by_id]
        return {job for job in visited if by_id[job].stage == "ingest"}

    def fresh(row: JobRow) -> bool:
        used = ingests_behind(row)
        sources = {source_by_ingest.get(job) for job in used}
        return None not in sources and used == {job for job, source in source_by_ingest.items() if source in sources}

    chosen = {"ingest": {name: row.job for name, row in ingests.items()}}
    for stage in ("decide", "blend"):
        chosen[stage] = {name: row.job for name, row in newest_jobs(jobs, stage).items() if fresh(row)}
    return chosen


def jobs_as_of(jobs: Sequence[JobRow], job: str) -> list[JobRow]:
    """Return the jobs that were finished when `job` (an id or its first digits) was.

    A job's rows do not change, so a funnel of these jobs equals the one of that time, except for later takedowns.
    Raises InputError unless exactly one job matches.
    """
    matches = [index for index, row in enumerate(jobs) if job and row.job.startswith(job)]
    if len(matches) != 1:
        newest = ", ".join(f"{row.job[:16]} ({row.stage} {row.name})" for row in jobs[-5:])
        message = f"{len(matches)} finished jobs have an id that begins with {job!r}, expected one"
        raise InputError(f"--as-of: {message}; the newest: {newest}")
    return list(jobs[: matches[0] + 1])


def upstream(job: str, jobs: Mapping[str, JobRow]) -> set[str]:
    ancestors, pending = set[str](), [job]
    while pending:
        if (ancestor := pending.pop()) not in ancestors and ancestor in jobs:
            ancestors.add(ancestor)
            pending += jobs[ancestor].inputs
    return ancestors
