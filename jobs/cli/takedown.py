"""The command `cuvee takedown`: remove the pairs that a list names, or with --dry-run print what would be removed."""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jobs.cli.options import add_wait
from pipeline.errors import InputError

DESCRIPTION = (
    "Remove pairs and their copies from the tables, shards, exports and reports of a store. The models that saw them "
    "are named, and every later ingest refuses them. A takedown that was killed is finished by the next one; without "
    "--list, nothing else is done. No other job can run on the store in the meantime; files that a killed job has "
    "staged are removed."
)


LIST_HELP = (
    "one entry a line: a uid, a URL, domain:example.org, the SHA-256 of an image as fetched or as stored, or pdq:<64 "
    "hex digits>, optionally followed by /distance; # begins a comment"
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `cuvee`."""
    parser = commands.add_parser(
        "takedown", help="permanently remove pairs and their copies from a store", description=DESCRIPTION
    )
    parser.add_argument("store", help="the store's folder, such as build/demo/store")
    parser.add_argument("--list", type=Path, metavar="FILE", help=LIST_HELP)
    parser.add_argument(
        "--reason", metavar="TEXT", help="the reason; it is stored with the tombstones, so it must name no person"
    )
    help_text = "bits of 256 in which the PDQ of a copy may differ (default: 31, as PDQ's authors recommend)"
    parser.add_argument("--pdq-distance", type=int, metavar="N", help=help_text)
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and change nothing")
    add_wait(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run_command(arguments: argparse.Namespace) -> int:
    """Take down, or print what would be done; return the exit code."""
    from jobs.workflow.exclusive import exclusive_access
    from pipeline.images.pdq import SAME_PICTURE_BITS
    from pipeline.ledger.journal import check_none_half_compacted, unfinished_takedowns, unfinished_takedowns_message
    from pipeline.ledger.tables import Ledger
    from pipeline.storage.store import Store
    from pipeline.takedown.request import read_list
    from pipeline.takedown.takedown import finish_all, plan_takedown, take_down

    ledger = Ledger(Store(arguments.store))
    if ledger.open("jobs") is None:
        raise InputError(f"{arguments.store}: no store; expected a folder in which a job has finished (tables/jobs)")
    unfinished_ids = unfinished_takedowns(ledger.store)
    distance = SAME_PICTURE_BITS if arguments.pdq_distance is None else arguments.pdq_distance
    request = read_list(arguments.list, distance) if arguments.list else None
    reason = (arguments.reason or "").strip()
    if request is None and not unfinished_ids:
        raise InputError(f"{arguments.store}: found no unfinished takedown, expected --list FILE and --reason TEXT")
    if request is not None and not reason:
        raise InputError("--reason: found none, expected the reason for the takedown in a few words")
    result: dict[str, Any] = {
        "dry_run": arguments.dry_run,
        "unfinished": unfinished_ids,
        "finished": [],
        "takedown": None,
    }
    if arguments.dry_run and unfinished_ids:
        sys.stderr.write(f"cuvee: {unfinished_takedowns_message(ledger.store, unfinished_ids)}\n")
    with nullcontext() if arguments.dry_run else exclusive_access(ledger.store, arguments.wait):
        if not arguments.dry_run:
            check_none_half_compacted(ledger.store)
            result["finished"] = [_intent_summary(intent) for intent in finish_all(ledger, _code())]
        if request is not None:
            intent, impact = plan_takedown(ledger, request, reason, distance)
            result["takedown"] = _intent_summary(intent)
            if not arguments.dry_run and (intent.uids or intent.tombstones):
                take_down(ledger, intent, _code(), impact)
    sys.stdout.write((json.dumps(result, indent=1) if arguments.json else _format_text(result)) + "\n")
    return 0


def _code() -> Any:
    from jobs.workflow.stages import code_of
    from jobs.workflow.versions import recorded_versions
    from pipeline.takedown.takedown import CodeVersion

    return CodeVersion(code_of("takedown"), recorded_versions())


def _intent_summary(intent: Any) -> dict[str, Any]:
    return {"id": intent.id, "reason": intent.reason, **intent.answer}


def _format_text(result: dict[str, Any]) -> str:
    sections = [
        ["finished an unfinished takedown: " + takedown["id"][:16], *_lines(takedown)]
        for takedown in result["finished"]
    ]
    if (takedown := result["takedown"]) is not None:
        is_empty = not takedown["pairs"] and not any(takedown["tombstones"].values())
        action = "would take down" if result["dry_run"] else "took down"
        sections.append(
            ["nothing to do: everything on the list was taken down before"] if is_empty else [action, *_lines(takedown)]
        )
    return "\n".join(line for section in sections for line in section)


def _lines(takedown: dict[str, Any]) -> list[str]:
    """Return a takedown's summary as lines for a terminal."""
    ways = ", ".join(f"{count} {how}" for how, count in takedown["found"].items() if count)
    lines = [f"  {len(takedown['pairs'])} pairs{': ' if ways else ''}{ways}"]
    lines += [f"    line {line}: {count} pairs" for line, count in takedown["lines"].items()]
    lines += [
        f"    {uid}  {why['how']}{_line_suffix(why)}" for uid, why in list(takedown["pairs"].items())[:MAX_LISTED_PAIRS]
    ]
    if (omitted := len(takedown["pairs"]) - MAX_LISTED_PAIRS) > 0:
        lines.append(f"    … and {omitted} more; --json names all")
    lines += [f"  table {table}: {count} rows" for table, count in takedown["tables"].items()]
    lines += [f"  shard {shard}" for shard in takedown["shards"]]
    lines += [f"  export {folder}: {', '.join(tars)}" for folder, tars in takedown["exports"].items()]
    lines += [f"  report {path}: removed; the next run creates it again" for path in takedown["reports"]]
    for training in takedown["trainings"]:
        times = f"{'about ' if training['about'] else ''}{training['total']:g} times"
        model = f"training {training['training']} (mixture {training['mixture']}, seed {training['seed']})"
        lines.append(
            f"  {model} saw {training['pairs']} of them {times}; its checkpoint is kept: {training['checkpoint']}"
        )
    if takedown["pairs"] and not takedown["trainings"]:
        lines.append("  no training saw them")
    new_tombstones = ", ".join(f"{count} {kind}" for kind, count in takedown["tombstones"].items() if count)
    return [*lines, f"  new tombstones: {new_tombstones or 'none'}", *(f"  note: {note}" for note in takedown["notes"])]


def _line_suffix(why: dict[str, Any]) -> str:
    return f" in line {why['line']}" if why["line"] else ""


MAX_LISTED_PAIRS = 20
"""Maximum number of pairs that are listed on a terminal."""
