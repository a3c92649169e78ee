"""The commands that ask a store and start no job: funnel, trace, subset, verify."""

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

from jobs.workflow.exclusive import alone
from jobs.workflow.progress import Display
from pipeline.core.uid_arrays import keys
from pipeline.errors import AnswerNo, InputError, unknown
from pipeline.ledger.job_graph import as_of, current, latest
from pipeline.ledger.journal import how_to_finish, unfinished
from pipeline.ledger.tables import Ledger
from pipeline.provenance.funnel import as_text as funnel_text
from pipeline.provenance.funnel import faults, funnel
from pipeline.provenance.trace import as_text as life_text
from pipeline.provenance.trace import trace
from pipeline.provenance.verify import verify
from pipeline.storage.object_store import told
from pipeline.storage.store import Store
from pipeline.storage.uid_files import write_subset


def _open(root: str) -> Ledger:
    ledger = Ledger(Store(root))
    if ledger.open("jobs") is None:
        raise InputError(f"{root}: no store; expected a folder in which a job has finished (tables/jobs)")
    return ledger


def _print(value: Any, text: str, as_json: bool) -> None:
    sys.stdout.write((json.dumps(value, indent=1, default=str) if as_json else text) + "\n")


def answer(arguments: argparse.Namespace) -> int:
    """Answer one of the four; return the exit code."""
    ledger = _open(arguments.store)
    if takedowns := unfinished(ledger.store):
        sys.stderr.write(f"cuvee: {how_to_finish(ledger.store, takedowns)}\n")
    if arguments.command == "funnel":
        jobs = ledger.jobs()
        found = funnel(ledger, current(as_of(jobs, arguments.as_of) if arguments.as_of is not None else jobs))
        _print([one.plain() for one in found], funnel_text(found), arguments.json)
        if lines := faults(found):
            raise AnswerNo(f"{arguments.store}: the counts do not add up: {'; '.join(lines)}")
        return 0
    if arguments.command == "trace":
        lives = trace(ledger, arguments.key)
        _print(lives, "" if arguments.json else "\n".join(map(life_text, lives)), arguments.json)
        return 0
    if arguments.command == "subset":
        return _subset(ledger, arguments)
    display = Display()
    apart = alone(ledger.store, arguments.wait) if arguments.prune else nullcontext()
    with apart, display.stage("verify", arguments.store):
        findings = verify(ledger, arguments.prune, display.task("rehashing", "files"))
    wrong = [one for one in findings if not one.leftover]
    summary = f"{len(wrong)} differences, {len(findings) - len(wrong)} leftover files"
    plain = {"differences": [one.what for one in wrong], "leftovers": [one.what for one in findings if one.leftover]}
    _print(plain, "\n".join([*(one.what for one in findings), summary]), arguments.json)
    return 1 if wrong else 0


def _subset(ledger: Ledger, arguments: argparse.Namespace) -> int:
    """Write what the latest decision of a filter keeps as a subset file, whole or not at all."""
    decided = latest(ledger.jobs(), "decide")
    if arguments.filter not in decided:
        raise InputError(f"{arguments.store}: {unknown('decided filter', arguments.filter, decided)}")
    if not arguments.out.parent.is_dir():
        raise InputError(f"--out: {arguments.out.parent}: no such folder")
    job = decided[arguments.filter].job
    found = [keys(part) for part in _kept(ledger, job)]
    draft = arguments.out.with_name(f"{arguments.out.name}.{uuid.uuid4().hex}.draft")
    try:
        with draft.open("wb") as stream:
            count = write_subset(stream, np.concatenate([np.empty(0, "S16"), *found]))
        draft.replace(arguments.out)
    except OSError as error:
        raise InputError(f"--out: {arguments.out}: cannot be written: {told(error)}") from None
    finally:
        draft.unlink(missing_ok=True)
    plain = {"filter": arguments.filter, "job": job, "pairs": count, "file": str(arguments.out)}
    _print(plain, f"{arguments.out}: {count} pairs that {arguments.filter} keeps", arguments.json)
    return 0


def _kept(ledger: Ledger, job: str) -> Iterator[pa.ChunkedArray]:
    """Yield the uids that a filter keeps, one file of its decisions after another."""
    for _, path in ledger.snapshot("decisions", [job]):
        with ledger.store.arrow(path) as stream:
            rows = pq.read_table(stream, columns=["uid", "keep"])
        yield rows.filter(rows["keep"])["uid"]
