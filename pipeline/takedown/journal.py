"""The journal of a takedown: its plan, written before anything is changed, so that a later command can finish it.

`takedowns/<id>/intent.json` names what is removed, as hashes. `prepared.json` beside it says which new files replace
which old ones; it is written once the new files exist. Both are removed when the takedown is finished.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.core.digests import digest
from pipeline.ledger.data_files import DataFile
from pipeline.ledger.journal import FileReplacement, intent_path, prepared_path
from pipeline.storage.store import Store


@dataclass(frozen=True)
class Intent:
    """A takedown: the uids of the pairs to remove, the new tombstones as (kind, value, distance), and the reason.

    `number` counts a store's takedowns from 1. `answer` is the summary that is printed for the user.
    """

    number: int
    reason: str
    at: datetime
    uids: tuple[str, ...]
    tombstones: tuple[tuple[str, str, int], ...]
    answer: dict[str, Any]

    @property
    def id(self) -> str:
        """The takedown's id, 64 hex digits; it does not depend on the time."""
        return digest(["takedown", self.number, self.reason, self.uids, self.tombstones])

    def write(self, store: Store) -> None:
        """Write the intent to the store."""
        plain = {**asdict(self), "at": self.at.isoformat()}
        store.write(intent_path(self.id), json.dumps(plain, sort_keys=True).encode())


@dataclass(frozen=True)
class Prepared:
    """What remains to do once all new data files are written.

    `swaps` are the data files to exchange, by table; `papers` the texts of export documents, by path; `gone` the paths
    of files to remove; `facts` those of the takedown's row in `jobs`.
    """

    swaps: dict[str, FileReplacement]
    papers: dict[str, str]
    gone: list[str]
    facts: dict[str, Any]

    def write(self, store: Store, takedown: str) -> None:
        """Write the record to the store."""
        store.write(prepared_path(takedown), json.dumps(asdict(self), sort_keys=True).encode())


def read_intent(store: Store, takedown: str) -> Intent:
    """Return the recorded intent of a takedown."""
    plain = json.loads(store.read(intent_path(takedown)))
    tombstones = tuple((kind, value, distance) for kind, value, distance in plain["tombstones"])
    at = datetime.fromisoformat(plain["at"])
    return Intent(plain["number"], plain["reason"], at, tuple(plain["uids"]), tombstones, plain["answer"])


def read_prepared(store: Store, takedown: str) -> Prepared | None:
    """Return what remains to do of a takedown, None where its new files are not all written."""
    path = prepared_path(takedown)
    if not store.exists(path):
        return None
    plain = json.loads(store.read(path))
    swaps = {
        table: FileReplacement(swap["old"], [DataFile(**file) for file in swap["new"]], swap["withdrawn"])
        for table, swap in plain["swaps"].items()
    }
    return Prepared(swaps, plain["papers"], plain["gone"], plain["facts"])
