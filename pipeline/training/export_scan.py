"""Checks an export before a training reads it: every tar is read once, however many trainings use it.

open_clip's loader unpickles members of a hostile tar, and a tar that is cut at a member's end reads without an error.
So each tar's SHA-256 is compared with the manifest's while its members are checked. A tar that this process has read is
not read again while its inode number, size and modification time are unchanged.
"""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.errors import StageFailed
from pipeline.shards.tar_format import BadTar, read_pairs

_scanned: set[tuple[Any, ...]] = set()
_lock = threading.Lock()
"""Held while a tar is read: the trainings of a grid start at the same time, and wait for the first one's scan."""


class _HashedReader:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._stream.read(size)
        self._sha256.update(data)
        return data

    def finish(self) -> str:
        """Read the rest of the stream; return the SHA-256 of the whole, 64 hex digits."""
        while self.read(1 << 20):
            pass
        return self._sha256.hexdigest()


def scan_export(folder: Path, batch_size: int, processes: int = 1) -> list[Path]:
    """Return an export's tars, in order; raise StageFailed where one differs from the manifest or has invalid members.

    The export must hold a whole batch: open_clip_train's loader drops the last, partial batch of each pass, and with no
    other it would wait forever. Of n processes each reads every n-th tar, which must hold its part of a batch.
    """
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    if manifest["pairs"] < batch_size:
        raise StageFailed(f"{folder}: holds {manifest['pairs']} pairs, expected at least a batch of {batch_size}")
    sizes = sorted(tar["pairs"] for tar in manifest["tars"].values())
    smallest = sum(sizes[: len(sizes) // processes])
    if smallest < batch_size // processes:
        raise StageFailed(
            f"{folder}: its {len(sizes)} tars are too few or too small for {processes} processes: one may get "
            f"{smallest} pairs, expected at least {batch_size // processes}, its part of a batch (export.pairs_per_tar)"
        )
    for name, tar in manifest["tars"].items():
        _scan(folder / name, tar["sha256"], tar["pairs"])
    return [folder / name for name in sorted(manifest["tars"])]


def _scan(path: Path, sha256: str, pairs: int) -> None:
    """Read a tar unless this process has read it unchanged; raise StageFailed where it differs from the manifest."""
    with _lock:
        try:
            status = path.stat()
            key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns, sha256, pairs)
            if key in _scanned:
                return
            count, digest = _read(path)
        except OSError as error:
            raise StageFailed(f"{path}: {error}") from None
        if digest != sha256:
            raise StageFailed(f"{path}: SHA-256 is {digest[:12]}…, manifest.json says {sha256[:12]}…")
        if isinstance(count, BadTar):
            raise StageFailed(f"{path}: {count}")
        if count != pairs:
            raise StageFailed(f"{path}: holds {count} pairs, manifest.json says {pairs}")
        _scanned.add(key)


def _read(path: Path) -> tuple[int | BadTar, str]:
    """Return how many pairs a tar holds, or what is wrong with it, and its SHA-256."""
    count: int | BadTar = 0
    with path.open("rb") as stream:
        reader = _HashedReader(stream)
        try:
            count = sum(1 for _ in read_pairs(cast(BinaryIO, reader)))  # tarfile needs only `read` of a stream
        except BadTar as error:
            count = error
        return count, reader.finish()
