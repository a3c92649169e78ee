"""The command `cuvee compact`: join the ledger's small files and remove expired versions of its tables."""

import argparse
import json
import sys
from contextlib import nullcontext
from typing import Any

from jobs.cli.options import add_wait
from pipeline.errors import InputError, StageFailed

DESCRIPTION = (
    "Join the small files of a store's ledger into fewer large ones, and remove files that were replaced more than "
    "--keep-days ago. No row changes: all queries return the same results afterwards. A compaction that was killed is "
    "finished by the next one. No other job can run on the store in the meantime."
)


DEFAULT_KEEP_DAYS, MAX_KEEP_DAYS = 7, 3650


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `cuvee`."""
    parser = commands.add_parser(
        "compact", help="join the ledger's small files and remove expired versions", description=DESCRIPTION
    )
    parser.add_argument("store", help="the store's folder, such as build/demo/store")
    help_text = f"days for which older versions of the tables stay readable (default: {DEFAULT_KEEP_DAYS})"
    parser.add_argument("--keep-days", default=str(DEFAULT_KEEP_DAYS), metavar="N", help=help_text)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and change nothing")
    add_wait(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run_command(arguments: argparse.Namespace) -> int:
    """Compact, or print what would be done; return the exit code."""
    from jobs.workflow.exclusive import exclusive_access
    from pipeline.ledger.compaction import compact, finish_compactions, plan_compaction, remove_replaced
    from pipeline.ledger.journal import unfinished_compactions, unfinished_takedowns, unfinished_takedowns_message
    from pipeline.ledger.tables import Ledger
    from pipeline.storage.store import Store

    keep_days = arguments.keep_days
    if not (keep_days.isascii() and keep_days.isdigit() and int(keep_days) <= MAX_KEEP_DAYS):
        raise InputError(f"--keep-days: found {keep_days!r}, expected a number of days from 0 to {MAX_KEEP_DAYS}")
    ledger = Ledger(Store(arguments.store))
    if ledger.open("jobs") is None:
        raise InputError(f"{arguments.store}: no store; expected a folder in which a job has finished (tables/jobs)")
    with nullcontext() if arguments.dry_run else exclusive_access(ledger.store, arguments.wait):
        if takedowns := unfinished_takedowns(ledger.store):
            raise StageFailed(unfinished_takedowns_message(ledger.store, takedowns))
        unfinished_count = len(unfinished_compactions(ledger.store))
        if not arguments.dry_run:
            finish_compactions(ledger)
        plans = plan_compaction(ledger)
        if not arguments.dry_run:
            compact(ledger, plans)
        removed = remove_replaced(ledger, int(keep_days), arguments.dry_run)
    result = {
        "dry_run": arguments.dry_run,
        "unfinished": unfinished_count,
        "tables": [plan.plain() for plan in plans],
        "keep_days": int(keep_days),
        "removed": removed,
    }
    sys.stdout.write((json.dumps(result, indent=1) if arguments.json else _format_text(result)) + "\n")
    return 0


def _format_text(result: dict[str, Any]) -> str:
    would = "would be " if result["dry_run"] else ""
    lines = [f"{result['unfinished']} unfinished compactions: {would}finished"] if result["unfinished"] else []
    lines += [
        f"{table['table']}: {table['files']} files {would or 'are '}joined into {table['files_after']}, "
        f"{table['bytes_rewritten']:,} bytes rewritten"
        for table in result["tables"]
    ]
    lines += [
        f"{name}: {count} files replaced more than {result['keep_days']} days ago {would or 'are '}removed"
        for name, count in result["removed"].items()
    ]
    return "\n".join(lines or ["nothing to do: no table has small files to join or old ones to remove"])
