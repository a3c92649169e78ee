"""The command `cuvee compact`: the ledger's small files become few, and older versions of its tables go in time."""

import argparse
import json
import sys
from contextlib import nullcontext
from typing import Any

from jobs.cli.options import add_wait
from pipeline.errors import InputError, StageFailed

TEXT = (
    "Join the small files of a store's ledger into few, and remove files that were replaced more than --keep-days ago. "
    "No row changes: every question has the same answer after it. A compaction that was killed is finished by the next "
    "one. No other job runs on the store meanwhile."
)


DAYS, MOST = 7, 3650


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `cuvee`."""
    one = commands.add_parser("compact", help="join the ledger's small files; keep older versions", description=TEXT)
    one.add_argument("store", help="the store's folder, such as build/demo/store")
    text = f"days for which older versions of the tables can still be read (default: {DAYS})"
    one.add_argument("--keep-days", default=str(DAYS), metavar="N", help=text)
    one.add_argument("--dry-run", action="store_true", help="tell what would be done, and change nothing")
    add_wait(one)
    one.add_argument("--json", action="store_true", help="print JSON for programs")


def answer(arguments: argparse.Namespace) -> int:
    """Compact, or tell what would be; return the exit code."""
    from jobs.workflow.exclusive import alone
    from pipeline.ledger.compaction import compact, finish, keep_for, planned
    from pipeline.ledger.journal import half_compacted, how_to_finish, unfinished
    from pipeline.ledger.tables import Ledger
    from pipeline.storage.store import Store

    text = arguments.keep_days
    if not (text.isascii() and text.isdigit() and int(text) <= MOST):
        raise InputError(f"--keep-days: found {text!r}, expected a number of days from 0 to {MOST}")
    ledger = Ledger(Store(arguments.store))
    if ledger.open("jobs") is None:
        raise InputError(f"{arguments.store}: no store; expected a folder in which a job has finished (tables/jobs)")
    with nullcontext() if arguments.dry_run else alone(ledger.store, arguments.wait):
        if takedowns := unfinished(ledger.store):
            raise StageFailed(how_to_finish(ledger.store, takedowns))
        left = len(half_compacted(ledger.store))
        if not arguments.dry_run:
            finish(ledger)
        plans = planned(ledger)
        if not arguments.dry_run:
            compact(ledger, plans)
        removed = keep_for(ledger, int(text), arguments.dry_run)
    told = {
        "dry_run": arguments.dry_run,
        "unfinished": left,
        "tables": [plan.plain() for plan in plans],
        "keep_days": int(text),
        "removed": removed,
    }
    sys.stdout.write((json.dumps(told, indent=1) if arguments.json else _text(told)) + "\n")
    return 0


def _text(told: dict[str, Any]) -> str:
    would = "would be " if told["dry_run"] else ""
    lines = [f"{told['unfinished']} unfinished before: {would}finished"] if told["unfinished"] else []
    lines += [
        f"{one['table']}: {one['files']} files {would or 'are '}joined into {one['files_after']}, "
        f"{one['bytes_rewritten']:,} bytes written anew"
        for one in told["tables"]
    ]
    lines += [
        f"{table}: {count} files replaced more than {told['keep_days']} days ago {would or 'are '}removed"
        for table, count in told["removed"].items()
    ]
    return "\n".join(lines or ["nothing to do: no table has small files to join or old ones to remove"])
