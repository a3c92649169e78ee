"""The commands that query a store and start no job: funnel, trace, subset, verify."""

import argparse
import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.workflow.exclusive import exclusive_access
from jobs.workflow.progress import Display
from pipeline.core.uid_arrays import uid_keys
from pipeline.errors import CheckFailed, InputError, unknown_message
from pipeline.ledger.job_graph import current_jobs, jobs_as_of, newest_jobs
from pipeline.ledger.journal import unfinished_takedowns, unfinished_takedowns_message
from pipeline.ledger.tables import Ledger
from pipeline.provenance.funnel import format_funnels as funnel_text
from pipeline.provenance.funnel import inconsistencies, source_funnels
from pipeline.provenance.trace import format_trace as life_text
from pipeline.provenance.trace import trace
from pipeline.provenance.verify import verify
from pipeline.storage.object_store import error_message
from pipeline.storage.store import Store
from pipeline.storage.uid_files import write_subset


def _open_ledger(root: str) -> Ledger:
    ledger = Ledger(Store(root))
    if ledger.open("jobs") is None:
        raise InputError(f"{root}: no store; expected a folder in which a job has finished (tables/jobs)")
    return ledger


def _print_result(value: Any, text: str, as_json: bool) -> None:
    sys.stdout.write((json.dumps(value, indent=1, default=str) if as_json else text) + "\n")


def run_command(arguments: argparse.Namespace) -> int:
    """Run one of the four commands; return the exit code."""
    ledger = _open_ledger(arguments.store)
    if takedowns := unfinished_takedowns(ledger.store):
        sys.stderr.write(f"cuvee: {unfinished_takedowns_message(ledger.store, takedowns)}\n")
    if arguments.command == "funnel":
        jobs = ledger.jobs()
        funnels = source_funnels(
            ledger, current_jobs(jobs_as_of(jobs, arguments.as_of) if arguments.as_of is not None else jobs)
        )
        _print_result([source_funnel.plain() for source_funnel in funnels], funnel_text(funnels), arguments.json)
        if lines := inconsistencies(funnels):
            raise CheckFailed(f"{arguments.store}: the counts do not add up: {'; '.join(lines)}")
        return 0
    if arguments.command == "trace":
        lives = trace(ledger, arguments.key)
        _print_result(lives, "" if arguments.json else "\n".join(map(life_text, lives)), arguments.json)
        return 0
    if arguments.command == "subset":
        return _write_subset_file(ledger, arguments)
    display = Display()
    lock = exclusive_access(ledger.store, arguments.wait) if arguments.prune else nullcontext()
    with lock, display.stage("verify", arguments.store):
        findings = verify(ledger, arguments.prune, display.task("rehashing", "files"))
    differences = [finding for finding in findings if not finding.leftover]
    summary = f"{len(differences)} differences, {len(findings) - len(differences)} leftover files"
    result = {
        "differences": [finding.what for finding in differences],
        "leftovers": [finding.what for finding in findings if finding.leftover],
    }
    _print_result(result, "\n".join([*(finding.what for finding in findings), summary]), arguments.json)
    return 1 if differences else 0


def _write_subset_file(ledger: Ledger, arguments: argparse.Namespace) -> int:
    """Write the uids that the latest decision of a filter keeps as a subset file, whole or not at all."""
    decide_jobs = newest_jobs(ledger.jobs(), "decide")
    if arguments.filter not in decide_jobs:
        raise InputError(f"{arguments.store}: {unknown_message('decided filter', arguments.filter, decide_jobs)}")
    if not arguments.out.parent.is_dir():
        raise InputError(f"--out: {arguments.out.parent}: no such folder")
    job = decide_jobs[arguments.filter].job
    kept_uids = [uid_keys(uids) for uids in _kept_uids(ledger, job)]
    temporary = arguments.out.with_name(f"{arguments.out.name}.{uuid.uuid4().hex}.draft")
    try:
        with temporary.open("wb") as stream:
            count = write_subset(stream, np.concatenate([np.empty(0, "S16"), *kept_uids]))
        temporary.replace(arguments.out)
    except OSError as error:
        raise InputError(f"--out: {arguments.out}: cannot be written: {error_message(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
    result = {"filter": arguments.filter, "job": job, "pairs": count, "file": str(arguments.out)}
    _print_result(result, f"{arguments.out}: {count} pairs kept by {arguments.filter}", arguments.json)
    return 0


def _kept_uids(ledger: Ledger, job: str) -> Iterator[pa.ChunkedArray]:
    """Yield the uids that a filter keeps, one file of its decisions at a time."""
    for _, path in ledger.snapshot("decisions", [job]):
        with ledger.store.arrow(path) as stream:
            rows = pq.read_table(stream, columns=["uid", "keep"])
        yield rows.filter(rows["keep"])["uid"]
