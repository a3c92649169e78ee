"""What a takedown is going to do, written down before it does anything, so that whoever comes next can finish it.

`takedowns/<id>/intent.json` says what goes, in hashes; `prepared.json` beside it says which files take the place of
which, once these are written. Both are removed when all is done.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.core.digests import digest
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.journal import Swap, intent_path, prepared_path
from pipeline.storage.store import Store


@dataclass(frozen=True)
class Intent:
    """A takedown: the uids of the pairs that go, the new tombstones as (kind, value, distance), and why.

    `number` counts a store's takedowns from 1. `answer` is what a person is told of it.
    """

    number: int
    reason: str
    at: datetime
    uids: tuple[str, ...]
    tombstones: tuple[tuple[str, str, int], ...]
    answer: dict[str, Any]

    @property
    def id(self) -> str:
        """The takedown's id, 64 hex digits; the time is not in it."""
        return digest(["takedown", self.number, self.reason, self.uids, self.tombstones])

    def write(self, store: Store) -> None:
        """Write it down."""
        plain = {**asdict(self), "at": self.at.isoformat()}
        store.write(intent_path(self.id), json.dumps(plain, sort_keys=True).encode())


@dataclass(frozen=True)
class Prepared:
    """What is left to do once all new files are written: files of tables to swap, papers to write, files that go.

    `facts` are those of the takedown's row in `jobs`.
    """

    swaps: dict[str, Swap]
    papers: dict[str, str]
    gone: list[str]
    facts: dict[str, Any]

    def write(self, store: Store, takedown: str) -> None:
        """Write it down."""
        store.write(prepared_path(takedown), json.dumps(asdict(self), sort_keys=True).encode())


def read_intent(store: Store, takedown: str) -> Intent:
    """Return an intent that was written down."""
    plain = json.loads(store.read(intent_path(takedown)))
    tombstones = tuple((kind, value, distance) for kind, value, distance in plain["tombstones"])
    at = datetime.fromisoformat(plain["at"])
    return Intent(plain["number"], plain["reason"], at, tuple(plain["uids"]), tombstones, plain["answer"])


def read_prepared(store: Store, takedown: str) -> Prepared | None:
    """Return what is left to do of a takedown, None where its files are not all written."""
    path = prepared_path(takedown)
    if not store.exists(path):
        return None
    plain = json.loads(store.read(path))
    swaps = {
        table: Swap(one["old"], [DataFile(**file) for file in one["new"]], one["withdrawn"])
        for table, one in plain["swaps"].items()
    }
    return Prepared(swaps, plain["papers"], plain["gone"], plain["facts"])
