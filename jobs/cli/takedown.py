"""The command `cuvee takedown`: what a list names leaves the store, or with --dry-run is told."""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jobs.cli.options import add_wait
from pipeline.errors import InputError

TEXT = (
    "Take pairs and their copies out of a store: from tables, shards, exports and reports. Name the models that saw "
    "them, and refuse them in every later ingest. A takedown that was killed is finished by the next one; without "
    "--list, that is all that is done. No other job runs on the store meanwhile; what a killed one has staged is "
    "removed."
)


LIST = (
    "in each line a uid, a URL, domain:example.org, the SHA-256 of an image as fetched or as stored, or pdq:<64 hex "
    "digits> with /distance behind it or without; # begins a comment"
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `cuvee`."""
    one = commands.add_parser("takedown", help="take pairs and their copies out of a store for good", description=TEXT)
    one.add_argument("store", help="the store's folder, such as build/demo/store")
    one.add_argument("--list", type=Path, metavar="FILE", help=LIST)
    one.add_argument("--reason", metavar="TEXT", help="why; it is kept with the tombstones, so it must name nobody")
    text = "bits of 256 in which the PDQ of a copy may differ (default: 31, as its authors recommend)"
    one.add_argument("--pdq-distance", type=int, metavar="N", help=text)
    one.add_argument("--dry-run", action="store_true", help="tell what would be done, and change nothing")
    add_wait(one)
    one.add_argument("--json", action="store_true", help="print JSON for programs")


def answer(arguments: argparse.Namespace) -> int:
    """Take down, or tell what would be; return the exit code."""
    from jobs.workflow.exclusive import alone
    from pipeline.images.pdq import SAME_PICTURE
    from pipeline.ledger.journal import how_to_finish, refuse_half_compacted, unfinished
    from pipeline.ledger.tables import Ledger
    from pipeline.storage.store import Store
    from pipeline.takedown.request import read_list
    from pipeline.takedown.takedown import finish_all, look, take_down

    ledger = Ledger(Store(arguments.store))
    if ledger.open("jobs") is None:
        raise InputError(f"{arguments.store}: no store; expected a folder in which a job has finished (tables/jobs)")
    left = unfinished(ledger.store)
    distance = SAME_PICTURE if arguments.pdq_distance is None else arguments.pdq_distance
    wanted = read_list(arguments.list, distance) if arguments.list else None
    reason = (arguments.reason or "").strip()
    if wanted is None and not left:
        raise InputError(f"{arguments.store}: no takedown is unfinished; expected --list FILE and --reason TEXT")
    if wanted is not None and not reason:
        raise InputError("--reason: found none, expected why the pairs are taken down, in a few words")
    told: dict[str, Any] = {"dry_run": arguments.dry_run, "unfinished": left, "finished": [], "takedown": None}
    if arguments.dry_run and left:
        sys.stderr.write(f"cuvee: {how_to_finish(ledger.store, left)}\n")
    with nullcontext() if arguments.dry_run else alone(ledger.store, arguments.wait):
        if not arguments.dry_run:
            refuse_half_compacted(ledger.store)
            told["finished"] = [_told(intent) for intent in finish_all(ledger, _code())]
        if wanted is not None:
            intent, places = look(ledger, wanted, reason, distance)
            told["takedown"] = _told(intent)
            if not arguments.dry_run and (intent.uids or intent.tombstones):
                take_down(ledger, intent, _code(), places)
    sys.stdout.write((json.dumps(told, indent=1) if arguments.json else _text(told)) + "\n")
    return 0


def _code() -> Any:
    from jobs.workflow.runner import versions
    from jobs.workflow.stages import code
    from pipeline.takedown.takedown import Code

    return Code(code("takedown"), versions())


def _told(intent: Any) -> dict[str, Any]:
    return {"id": intent.id, "reason": intent.reason, **intent.answer}


def _text(told: dict[str, Any]) -> str:
    parts = [["finished what was begun: " + one["id"][:16], *_lines(one)] for one in told["finished"]]
    if (one := told["takedown"]) is not None:
        nothing = not one["pairs"] and not any(one["tombstones"].values())
        begun = "would take down" if told["dry_run"] else "took down"
        parts.append(["nothing to do: all of it was taken down before"] if nothing else [begun, *_lines(one)])
    return "\n".join(line for part in parts for line in part)


def _lines(one: dict[str, Any]) -> list[str]:
    """Return a takedown's answer as lines for a terminal."""
    ways = ", ".join(f"{count} {how}" for how, count in one["found"].items() if count)
    lines = [f"  {len(one['pairs'])} pairs{': ' if ways else ''}{ways}"]
    lines += [f"    line {line}: {count} pairs" for line, count in one["lines"].items()]
    lines += [f"    {uid}  {why['how']}{_line(why)}" for uid, why in list(one["pairs"].items())[:SHOWN]]
    if (more := len(one["pairs"]) - SHOWN) > 0:
        lines.append(f"    … {more} more; --json names all")
    lines += [f"  table {table}: {count} rows" for table, count in one["tables"].items()]
    lines += [f"  shard {shard}" for shard in one["shards"]]
    lines += [f"  export {folder}: {', '.join(tars)}" for folder, tars in one["exports"].items()]
    lines += [f"  report {path}: removed, and made anew by the next run" for path in one["reports"]]
    for seen in one["trainings"]:
        times = f"{'about ' if seen['about'] else ''}{seen['total']:g} times"
        model = f"training {seen['training']} (mixture {seen['mixture']}, seed {seen['seed']})"
        lines.append(f"  {model} saw {seen['pairs']} of them {times}; its checkpoint stays: {seen['checkpoint']}")
    if one["pairs"] and not one["trainings"]:
        lines.append("  no training saw them")
    new = ", ".join(f"{count} {kind}" for kind, count in one["tombstones"].items() if count)
    return [*lines, f"  new tombstones: {new or 'none'}", *(f"  note: {note}" for note in one["notes"])]


def _line(why: dict[str, Any]) -> str:
    return f" in line {why['line']}" if why["line"] else ""


SHOWN = 20
"""Pairs that are named on a terminal."""
