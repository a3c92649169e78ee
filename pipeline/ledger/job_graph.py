"""Which finished jobs stand on which: the newest of each name, those behind a job, and what was current at a time."""

from collections.abc import Mapping, Sequence

from pipeline.errors import InputError
from pipeline.ledger.tables import JobRow


def latest(jobs: Sequence[JobRow], stage: str) -> dict[str, JobRow]:
    """Return the newest finished job of each name in a stage; of ingest, without retries of what has a newer job."""
    found = {job.name: job for job in jobs if job.stage == stage}
    newest = {job.job for job in found.values()}
    return {name: job for name, job in found.items() if retried(job) in ("", *newest)}


def retried(job: JobRow) -> str:
    """Return the ingest job that a job is a retry of, "" where it is none."""
    given = job.config.get("retry") if isinstance(job.config, dict) else None
    return str(given["of"]) if given else ""


def source_of(name: str) -> str:
    """Return the source of an ingest job's name: "<source>", or "<source>/retry-<n>"."""
    return name.partition("/")[0]


def by_source(ingests: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each source's ingest jobs, the first one and then its retries in order, from job ids by name."""
    grouped: dict[str, list[str]] = {}
    for name in sorted(ingests, key=lambda name: (source_of(name), int(name.partition("/retry-")[2] or 0))):
        grouped.setdefault(source_of(name), []).append(ingests[name])
    return grouped


def current(jobs: Sequence[JobRow]) -> dict[str, dict[str, str]]:
    """Return the newest ingests, and the newest filters and mixtures that stand on them and on nothing older."""
    ingests = latest(jobs, "ingest")
    mine = {row.job: source_of(name) for name, row in ingests.items()}
    by_id = {row.job: row for row in jobs}

    def upstream(row: JobRow) -> set[str]:
        found, todo = set[str](), [row]
        while todo:
            one = todo.pop()
            if one.job not in found:
                found.add(one.job)
                todo += [by_id[job] for job in one.inputs if job in by_id]
        return {job for job in found if by_id[job].stage == "ingest"}

    def fresh(row: JobRow) -> bool:
        of = upstream(row)
        sources = {mine.get(job) for job in of}
        return None not in sources and of == {job for job, source in mine.items() if source in sources}

    chosen = {"ingest": {name: row.job for name, row in ingests.items()}}
    for stage in ("decide", "blend"):
        chosen[stage] = {name: row.job for name, row in latest(jobs, stage).items() if fresh(row)}
    return chosen


def as_of(jobs: Sequence[JobRow], job: str) -> list[JobRow]:
    """Return the jobs that were finished when `job`, an id or its first digits, was; raise InputError for none or many.

    Rows of a job stay as they are, so a funnel of these jobs is that of then, but for what was taken down since.
    """
    meant = [place for place, row in enumerate(jobs) if job and row.job.startswith(job)]
    if len(meant) != 1:
        newest = ", ".join(f"{row.job[:16]} ({row.stage} {row.name})" for row in jobs[-5:])
        said = f"{len(meant)} finished jobs have an id that begins with {job!r}, expected one"
        raise InputError(f"--as-of: {said}; the newest: {newest}")
    return list(jobs[: meant[0] + 1])


def _upstream(job: str, jobs: Mapping[str, JobRow]) -> set[str]:
    found, todo = set[str](), [job]
    while todo:
        if (one := todo.pop()) not in found and one in jobs:
            found.add(one)
            todo += jobs[one].inputs
    return found
