"""The write-ahead journal of takedowns and compactions: what was begun in a store and is not finished."""

from dataclasses import dataclass, field

from pipeline.errors import StageFailed
from pipeline.ledger.data_files import DataFile
from pipeline.storage.store import Store

FOLDER = "takedowns"


COMPACTIONS = "compactions"
"""The folder in which `pipeline.ledger.compaction` records what it is going to do."""


@dataclass(frozen=True)
class Swap:
    """A replacement of a table's files: `old` paths in its folder, `new` files, and the jobs that have no rows left."""

    old: list[str] = field(default_factory=list)
    new: list[DataFile] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)


def intent_path(takedown: str) -> str:
    """Return the path of a takedown's intent: what is taken down."""
    return f"{FOLDER}/{takedown}/intent.json"


def prepared_path(takedown: str) -> str:
    """Return the path of a takedown's prepared steps: what is left to do."""
    return f"{FOLDER}/{takedown}/prepared.json"


def unfinished(store: Store) -> list[str]:
    """Return the ids of the takedowns that were begun and not finished, sorted."""
    parts = [path.split("/") for path in store.files(FOLDER)]
    return sorted(part[1] for part in parts if part[2:] == ["intent.json"])


def how_to_finish(store: Store, takedowns: list[str]) -> str:
    """Return the message that names unfinished takedowns and the command that finishes them."""
    many = f"{len(takedowns)} takedowns are" if len(takedowns) > 1 else "a takedown is"
    return f"{store.root}: {many} unfinished; finish with: cuvee takedown {store.root}"


def refuse_unfinished(store: Store) -> None:
    """Raise StageFailed where a takedown or a compaction was begun and not finished."""
    if takedowns := unfinished(store):
        raise StageFailed(how_to_finish(store, takedowns))
    refuse_half_compacted(store)


def refuse_half_compacted(store: Store) -> None:
    """Raise StageFailed where a compaction was begun and not finished: some of its new files are in no table yet."""
    if half_compacted(store):
        raise StageFailed(how_to_compact(store))


def half_compacted(store: Store) -> list[str]:
    """Return the records of the compactions that were begun and not finished; a draft of a record does not count."""
    return [path for path in store.files(COMPACTIONS) if path.endswith(".json")]


def how_to_compact(store: Store) -> str:
    """Return the message that names the command that finishes a compaction."""
    return f"{store.root}: a compaction is unfinished; finish with: cuvee compact {store.root}"
