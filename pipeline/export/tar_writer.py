"""An export's tars, written of byte ranges of the shards."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.shards.tar_format import BLOCK, END
from pipeline.storage.byte_ranges import Pieces, gathered
from pipeline.storage.store import Store


@dataclass(frozen=True)
class ExportedTar:
    """A tar of an export: its name, pairs, bytes and SHA-256. Its pairs lie one behind the other as they were given."""

    name: str
    pairs: int
    bytes: int
    sha256: str


def write_tar(store: Store, folder: str, number: int, pieces: Pieces) -> ExportedTar:
    """Copy the pieces into `folder`/<number>.tar in their order; nothing is decoded.

    What is written is hashed beside, by a thread of its own. Raises ValueError for a piece that is not of whole blocks,
    and what `gathered` raises; the tar appears whole or not at all.
    """
    if np.any(pieces.sizes % BLOCK):
        raise ValueError(f"{folder}/{number:08d}.tar: a range in the ledger is not of whole blocks of {BLOCK} bytes")
    name = f"{number:08d}.tar"
    state = hashlib.sha256()
    with ThreadPoolExecutor(1, "sha256") as beside, store.create(f"{folder}/{name}") as stream:
        before: list[Future[None]] = []
        for stretch in gathered(store, pieces):
            before.append(beside.submit(state.update, stretch))
            stream.write(stretch)
            if len(before) > 1:
                before.pop(0).result()  # the next stretch overwrites the one before this
        for one in before:
            one.result()
        stream.write(END)
        state.update(END)
    return ExportedTar(name, len(pieces), int(pieces.sizes.sum()) + len(END), state.hexdigest())
