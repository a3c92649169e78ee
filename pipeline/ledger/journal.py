"""The write-ahead journal of takedowns and compactions: what was begun in a store and is not finished."""

from dataclasses import dataclass, field

from pipeline.errors import StageFailed
from pipeline.ledger.data_files import DataFile
from pipeline.storage.store import Store

TAKEDOWNS_FOLDER = "takedowns"


COMPACTIONS_FOLDER = "compactions"
"""The folder in which `pipeline.ledger.compaction` records what it is going to do."""


@dataclass(frozen=True)
class FileReplacement:
    """A replacement of a table's files: `old` paths in its folder, `new` files, and the jobs that have no rows left."""

    old: list[str] = field(default_factory=list)
    new: list[DataFile] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)


def intent_path(takedown: str) -> str:
    """Return the path of a takedown's intent: what is taken down."""
    return f"{TAKEDOWNS_FOLDER}/{takedown}/intent.json"


def prepared_path(takedown: str) -> str:
    """Return the path of a takedown's prepared steps: what is left to do."""
    return f"{TAKEDOWNS_FOLDER}/{takedown}/prepared.json"


def unfinished_takedowns(store: Store) -> list[str]:
    """Return the ids of the takedowns that were begun and not finished, sorted."""
    parts = [path.split("/") for path in store.files(TAKEDOWNS_FOLDER)]
    return sorted(part[1] for part in parts if part[2:] == ["intent.json"])


def unfinished_takedowns_message(store: Store, takedowns: list[str]) -> str:
    """Return the message that names unfinished takedowns and the command that finishes them."""
    many = f"{len(takedowns)} takedowns are" if len(takedowns) > 1 else "a takedown is"
    return f"{store.root}: {many} unfinished; finish with: cuvee takedown {store.root}"


def check_none_unfinished(store: Store) -> None:
    """Raise StageFailed where a takedown or a compaction was begun and not finished."""
    if takedowns := unfinished_takedowns(store):
        raise StageFailed(unfinished_takedowns_message(store, takedowns))
    check_none_half_compacted(store)


def check_none_half_compacted(store: Store) -> None:
    """Raise StageFailed where a compaction was begun and not finished: some of its new files are in no table yet."""
    if unfinished_compactions(store):
        raise StageFailed(unfinished_compaction_message(store))


def unfinished_compactions(store: Store) -> list[str]:
    """Return the records of the compactions that were begun and not finished; a draft of a record does not count."""
    return [path for path in store.files(COMPACTIONS_FOLDER) if path.endswith(".json")]


def unfinished_compaction_message(store: Store) -> str:
    """Return the message that names the command that finishes a compaction."""
    return f"{store.root}: a compaction is unfinished; finish with: cuvee compact {store.root}"
