"""What a takedown is going to do, written down before it does anything, so that whoever comes next can finish it.

`takedowns/<id>/intent.json` says what goes, in hashes; `prepared.json` beside it says which files take the place of
which, once these are written. Both are removed when all is done.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pipeline.datafiles import DataFile
from pipeline.errors import StageFailed
from pipeline.identity import digest
from pipeline.store import Store

FOLDER = "takedowns"
COMPACTIONS = "compactions"
"""Where `pipeline.compaction` writes down what it is going to do."""


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
class Swap:
    """A table's files that go and those that come, as paths in its folder; the jobs of which no row is left there."""

    old: list[str] = field(default_factory=list)
    new: list[DataFile] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)


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


def intent_path(takedown: str) -> str:
    """Return where an intent lies."""
    return f"{FOLDER}/{takedown}/intent.json"


def prepared_path(takedown: str) -> str:
    """Return where it lies what is left to do."""
    return f"{FOLDER}/{takedown}/prepared.json"


def unfinished(store: Store) -> list[str]:
    """Return the ids of the takedowns that were begun and not finished."""
    parts = [path.split("/") for path in store.files(FOLDER)]
    return sorted(part[1] for part in parts if part[2:] == ["intent.json"])


def how_to_finish(store: Store, takedowns: list[str]) -> str:
    """Return the line that says so to a person."""
    many = f"{len(takedowns)} takedowns are" if len(takedowns) > 1 else "a takedown is"
    return f"{store.root}: {many} unfinished; finish with: cuvee takedown {store.root}"


def refuse_unfinished(store: Store) -> None:
    """Raise StageFailed where a takedown or a compaction was begun and not finished."""
    if takedowns := unfinished(store):
        raise StageFailed(how_to_finish(store, takedowns))
    refuse_half_compacted(store)


def refuse_half_compacted(store: Store) -> None:
    """Raise StageFailed where a compaction was begun and not finished: new files of its are in no table yet."""
    if half_compacted(store):
        raise StageFailed(how_to_compact(store))


def half_compacted(store: Store) -> list[str]:
    """Return the records of the compactions that were begun and not finished; a draft of one has begun nothing."""
    return [path for path in store.files(COMPACTIONS) if path.endswith(".json")]


def how_to_compact(store: Store) -> str:
    """Return the line that says so to a person."""
    return f"{store.root}: a compaction is unfinished; finish with: cuvee compact {store.root}"


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
