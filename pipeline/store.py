"""A store: one folder on any fsspec file system, and the names of what lies in it."""

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa

from pipeline.errors import InputError


@dataclass(frozen=True)
class Store:
    """The root of everything Cuvée writes. Small and picklable: tasks get it by value.

    `root` is a local path or a URL such as ``s3://bucket/prefix``; every other path here is relative to it,
    with "/" between its parts.
    """

    root: str

    def __post_init__(self) -> None:
        if "://" not in self.root:
            object.__setattr__(self, "root", os.path.abspath(self.root))

    @property
    def local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    @property
    def fs(self) -> Any:
        """The fsspec file system (fsspec caches instances, and forgets them in a forked process)."""
        return fsspec.core.url_to_fs(self.root)[0]

    def path(self, relative: str) -> str:
        """Return the full path of `relative` in the form the file system wants."""
        return str(fsspec.core.url_to_fs(self.root)[1]).rstrip("/") + "/" + relative

    def uri(self, relative: str) -> str:
        """Return the full URI of `relative`, in the form deltalake and people want."""
        return self.root.rstrip("/") + "/" + relative

    def exists(self, relative: str) -> bool:
        """Tell whether a file or folder is there."""
        return bool(self.fs.exists(self.path(relative)))

    def files(self, relative: str) -> list[str]:
        """Return every file below `relative`, as sorted paths relative to the root; none where it is absent."""
        base = self.path("")
        found = self.fs.find(self.path(relative)) if self.exists(relative) else []
        return sorted(str(path)[len(base) :] for path in found)

    def size(self, relative: str) -> int:
        """Return a file's size in bytes."""
        return int(self.fs.size(self.path(relative)))

    def open(self, relative: str) -> BinaryIO:
        """Open a file for reading bytes."""
        return cast(BinaryIO, self.fs.open(self.path(relative), "rb"))

    def read(self, relative: str) -> bytes:
        """Return a file's bytes."""
        with self.open(relative) as stream:
            return stream.read()

    def arrow(self, relative: str) -> pa.NativeFile:
        """Open a file for pyarrow to read.

        Without a Python file in between: one of pyarrow's threads may still hold that when the interpreter ends, and
        the process is aborted with it.
        """
        return pa.memory_map(self.path(relative)) if self.local else pa.BufferReader(self.read(relative))

    @contextmanager
    def create(self, relative: str) -> Iterator[BinaryIO]:
        """Write a file that appears whole or not at all: under a name of its own first, then renamed.

        On an object store it is written here first and sent when it is whole: fsspec's streams keep what was written
        when the writer fails.
        """
        final = self.path(relative)
        if not self.local:
            with tempfile.NamedTemporaryFile() as whole:
                yield cast(BinaryIO, whole)
                whole.flush()
                self.fs.put_file(whole.name, final)
            return
        os.makedirs(os.path.dirname(final), exist_ok=True)
        draft = f"{final}.{uuid.uuid4().hex}.draft"
        try:
            with open(draft, "wb") as stream:
                yield stream
            os.replace(draft, final)
        finally:
            if os.path.exists(draft):
                os.unlink(draft)

    def write(self, relative: str, data: bytes) -> None:
        """Write a whole file, whole or not at all."""
        with self.create(relative) as stream:
            stream.write(data)

    def remove(self, relative: str) -> None:
        """Remove a file, or a folder with all in it; nothing happens where it is absent."""
        if self.exists(relative):
            self.fs.rm(self.path(relative), recursive=True)

    def local_folder(self, relative: str) -> str:
        """Return a folder of this machine with what lies at `relative`: itself, or a copy made once in this process."""
        return self.path(relative) if self.local else _copied(self, relative)

    def check_writable(self) -> None:
        """Raise InputError if nothing can be written here; leave nothing behind, not even the folder."""
        place = self.path("").rstrip("/")
        while self.local and not os.path.lexists(place):
            place = os.path.dirname(place)
        probe = f"{place}/.probe-{uuid.uuid4().hex}"
        try:
            self.fs.pipe_file(probe, b"")
            self.fs.rm_file(probe)
        except OSError as error:
            raise InputError(f"{self.root}: the store cannot be written ({error.strerror or error})") from None


@cache
def _copied(store: Store, relative: str) -> str:
    folder = tempfile.mkdtemp(prefix="cuvee-copy-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in store.files(relative):
        target = os.path.join(folder, path[len(relative) :].lstrip("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with store.open(path) as stream, open(target, "wb") as copy:
            shutil.copyfileobj(stream, copy)
    return folder
