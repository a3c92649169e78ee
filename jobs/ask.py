"""The commands that ask a store and start no job: funnel, trace, verify."""

import argparse
import json
import sys
from typing import Any

from pipeline.errors import AnswerNo, InputError
from pipeline.funnel import as_text as funnel_text
from pipeline.funnel import faults, funnel
from pipeline.ledger import Ledger
from pipeline.progress import Display
from pipeline.store import Store
from pipeline.trace import as_text as life_text
from pipeline.trace import trace
from pipeline.verify import verify


def _open(root: str) -> Ledger:
    ledger = Ledger(Store(root))
    if ledger.open("jobs") is None:
        raise InputError(f"{root}: no store; expected a folder in which a job has finished (tables/jobs)")
    return ledger


def _print(value: Any, text: str, as_json: bool) -> None:
    sys.stdout.write((json.dumps(value, indent=1, default=str) if as_json else text) + "\n")


def answer(arguments: argparse.Namespace) -> int:
    """Answer one of the three; return the exit code."""
    ledger = _open(arguments.store)
    if arguments.command == "funnel":
        found = funnel(ledger)
        _print([one.plain() for one in found], funnel_text(found), arguments.json)
        if lines := faults(found):
            raise AnswerNo(f"{arguments.store}: the counts do not add up: {'; '.join(lines)}")
        return 0
    if arguments.command == "trace":
        lives = trace(ledger, arguments.key)
        _print(lives, "" if arguments.json else "\n".join(map(life_text, lives)), arguments.json)
        return 0
    display = Display()
    with display.stage("verify", arguments.store):
        findings = verify(ledger, arguments.prune, display.task("rehashing", "files"))
    wrong = [one for one in findings if not one.leftover]
    summary = f"{len(wrong)} differences, {len(findings) - len(wrong)} leftover files"
    plain = {"differences": [one.what for one in wrong], "leftovers": [one.what for one in findings if one.leftover]}
    _print(plain, "\n".join([*(one.what for one in findings), summary]), arguments.json)
    return 1 if wrong else 0
