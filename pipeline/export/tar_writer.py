"""Writing of an export's tars from byte ranges of the shards."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.shards.tar_format import TAR_BLOCK_BYTES, TAR_END
from pipeline.storage.byte_ranges import ByteRanges, read_ranges
from pipeline.storage.store import Store


@dataclass(frozen=True)
class ExportedTar:
    """A tar of an export: its name, pairs, bytes and SHA-256. Its pairs follow each other in the order given."""

    name: str
    pairs: int
    bytes: int
    sha256: str


def write_tar(store: Store, folder: str, number: int, pieces: ByteRanges) -> ExportedTar:
    """Copy the pieces into `folder`/<number>.tar in their order; nothing is decoded.

    A thread of its own hashes the output in parallel. Raises ValueError for a piece that is not of whole blocks, and
    whatever `gathered` raises; the tar appears whole or not at all.
    """
    if np.any(pieces.sizes % TAR_BLOCK_BYTES):
        raise ValueError(
            f"{folder}/{number:08d}.tar: a range in the ledger is not of whole blocks of {TAR_BLOCK_BYTES} bytes"
        )
    name = f"{number:08d}.tar"
    sha256 = hashlib.sha256()
    with ThreadPoolExecutor(1, "sha256") as hasher, store.create(f"{folder}/{name}") as stream:
        running: list[Future[None]] = []
        for chunk in read_ranges(store, pieces):
            running.append(hasher.submit(sha256.update, chunk))
            stream.write(chunk)
            if len(running) > 1:
                running.pop(0).result()  # the next chunk overwrites the buffer of the one before this
        for future in running:
            future.result()
        stream.write(TAR_END)
        sha256.update(TAR_END)
    return ExportedTar(name, len(pieces), int(pieces.sizes.sum()) + len(TAR_END), sha256.hexdigest())
