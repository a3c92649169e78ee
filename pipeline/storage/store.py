"""A store: one folder on any fsspec file system, and the names of what lies in it."""

import atexit
import io
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError, StageFailed
from pipeline.storage.object_store import Ranges, delta_options, failures, fs_options, is_s3, told


class OutsideStore(InputError, ValueError):
    """A path that leads out of the store, or is not written in the one way that names a file."""


@dataclass(frozen=True)
class Store:
    """The root of everything Cuvée writes. Small and picklable: tasks get it by value.

    `root` is a local path or a URL such as ``s3://bucket/prefix``; every other path here is relative to it,
    with "/" between its parts. What an object store refuses is StageFailed, with the URL; an absent file is
    FileNotFoundError everywhere.
    """

    root: str

    def __post_init__(self) -> None:
        if "://" not in self.root:
            object.__setattr__(self, "root", os.path.abspath(self.root))
        elif "@" in self.root.partition("://")[2].partition("/")[0]:  # it would be written into the ledger
            raise InputError("store: a URL with a user or key in it; expected credentials in the environment")
        elif is_s3(self.root) and not self.root.partition("://")[2].strip("/"):
            raise InputError(f"store: {self.root}: expected s3://bucket/prefix")

    @property
    def local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    @property
    def at_once(self) -> int:
        """Files to read at once, where they are many and small: more where each asks a bucket."""
        return 4 if self.local else 16

    @property
    def fs(self) -> Any:
        """The fsspec file system (fsspec caches instances, and forgets them in a forked process)."""
        return fsspec.core.url_to_fs(self.root, **fs_options(self.root))[0]

    def path(self, relative: str) -> str:
        """Return the full path of `relative` in the form the file system wants; "" is the root, with a "/" at its end.

        Raises OutsideStore where `relative` is absolute or has a part that is empty, "." or "..".
        """
        return str(fsspec.core.strip_protocol(self.root)).rstrip("/") + "/" + _confined(relative)

    def uri(self, relative: str) -> str:
        """Return the full URI of `relative`, in the form deltalake and people want."""
        return self.root.rstrip("/") + "/" + _confined(relative)

    def delta_options(self) -> dict[str, str] | None:
        """Return deltalake's storage options for this store; they hold secrets, and are for deltalake alone."""
        return delta_options(self.root)

    def exists(self, relative: str) -> bool:
        """Tell whether a file or folder is there."""
        path = self.path(relative).rstrip("/") or "/"
        if self.local:
            return os.path.exists(path)
        try:
            with self._asked(relative):
                self.fs.info(path)  # fs.exists says no where a bucket cannot be reached
        except FileNotFoundError:
            return False
        return True

    def files(self, relative: str) -> list[str]:
        """Return every file below `relative`, as sorted paths relative to the root; none where it is absent."""
        base = self.path("")
        try:
            with self._asked(relative):
                found = self.fs.find(self.path(relative))
        except FileNotFoundError:
            found = []
        # a name that ends in "/" is a mark that other tools leave for an empty folder
        return sorted(str(path)[len(base) :] for path in found if not str(path).endswith("/"))

    def size(self, relative: str) -> int:
        """Return a file's size in bytes."""
        with self._asked(relative):
            return int(self.fs.size(self.path(relative)))

    def open(self, relative: str) -> BinaryIO:
        """Open a file for reading bytes; any part of it can be sought and read without the rest."""
        if self.local:
            return cast(BinaryIO, self.fs.open(self.path(relative), "rb"))
        ranges = Ranges(self.size(relative), partial(self._range, relative))
        return cast(BinaryIO, io.BufferedReader(ranges, Ranges.MOST))

    def read(self, relative: str) -> bytes:
        """Return a file's bytes."""
        if self.local:
            with self.open(relative) as stream:
                return stream.read()
        with self._asked(relative):
            return cast(bytes, self.fs.cat_file(self.path(relative)))

    def arrow(self, relative: str) -> pa.NativeFile:
        """Open a file for pyarrow to read.

        Without a Python file in between: one of pyarrow's threads may still hold that when the interpreter ends, and
        the process is aborted with it.
        """
        return pa.memory_map(self.path(relative)) if self.local else pa.BufferReader(self.read(relative))

    @contextmanager
    def parquet(self, relative: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file of which some columns or row groups are read, by ranges where the store is a bucket.

        In this thread alone: read it with `use_threads=False`.
        """
        if self.local:
            with pa.memory_map(self.path(relative)) as mapped:
                yield pq.ParquetFile(mapped)
            return
        with self.open(relative) as stream:
            yield pq.ParquetFile(pa.PythonFile(stream, "r"), pre_buffer=False)

    @contextmanager
    def create(self, relative: str, named: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
        """Write a file that appears whole or not at all: under a name of its own first, then renamed.

        `named` gives the path that it gets in the end, where that follows from what was written: so two attempts at
        the same file never write into each other.

        On an object store it is written here first and sent when it is whole: fsspec's streams keep what was written
        when the writer fails.
        """
        final = self.path(relative)
        if not self.local:
            with tempfile.NamedTemporaryFile(prefix="cuvee-draft-", dir=_scratch()) as whole:
                yield cast(BinaryIO, whole)
                whole.flush()
                with self._asked(relative):
                    self.fs.put_file(whole.name, self.path(named()) if named else final)
            return
        os.makedirs(os.path.dirname(final), exist_ok=True)
        draft = f"{final}.{uuid.uuid4().hex}.draft"
        try:
            with open(draft, "wb") as stream:
                yield stream
            os.replace(draft, self.path(named()) if named else final)
        finally:
            if os.path.exists(draft):
                os.unlink(draft)

    def write(self, relative: str, data: bytes) -> None:
        """Write a whole file, whole or not at all."""
        if not self.local:
            with self._asked(relative):
                self.fs.pipe_file(self.path(relative), data)
            return
        with self.create(relative) as stream:
            stream.write(data)

    def claim(self, relative: str, data: bytes) -> bool:
        """Write a small file that nobody has written before; return False where somebody has: of several, one wins.

        `data` tells the writers apart, as a put may arrive whose answer is lost.
        """
        path = self.path(relative)
        if self.local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                with open(path, "xb") as stream:
                    stream.write(data)
            except FileExistsError:
                return False
            return True
        try:
            self.fs.pipe_file(path, data, mode="create")
        except failures() as error:
            if self.exists(relative):
                return self.read(relative) == data
            raise StageFailed(f"{self.uri(relative)}: {told(error)}") from error
        return True

    def remove(self, relative: str) -> None:
        """Remove a file, or a folder with all in it; nothing happens where it is absent."""
        if not relative:  # with a bucket for its root, the bucket would go too
            raise OutsideStore("'': expected a path in the store to remove, found the store")
        if self.local:
            if self.exists(relative):
                self.fs.rm(self.path(relative), recursive=True)
            return
        paths = [self.path(one) for one in self.files(relative)]
        with self._asked(relative):
            for path in filter(_MAGIC.search, paths):  # fs.rm takes such a name for a pattern
                self.fs.rm_file(path)
            if plain := [path for path in paths if not _MAGIC.search(path)]:
                self.fs.rm(plain)

    def local_folder(self, relative: str) -> str:
        """Return a folder of this machine with what lies at `relative`: itself, or a copy made once in this process."""
        return self.path(relative) if self.local else _copied(self, relative)

    def check_writable(self) -> None:
        """Raise InputError if nothing can be written here; leave nothing behind, not even the folder.

        Nor is an S3 endpoint taken that ignores If-None-Match: two writers of one version would lose a commit.
        """
        place = self.path("").rstrip("/")
        while self.local and not os.path.lexists(place):
            place = os.path.dirname(place)
        probe = f"{place}/.probe-{uuid.uuid4().hex}"
        mode = {"mode": "create"} if is_s3(self.root) else {}
        try:
            self.fs.pipe_file(probe, b"", **mode)
            refused = not mode or _refuses(self.fs, probe)
            self.fs.rm_file(probe)
        except failures() as error:
            raise InputError(f"{self.root}: the store cannot be written ({told(error)})") from None
        if not refused:
            raise InputError(f"{self.root}: the endpoint ignores If-None-Match; expected one with conditional writes")

    def _range(self, relative: str, start: int, end: int) -> bytes:
        with self._asked(relative):
            return cast(bytes, self.fs.cat_file(self.path(relative), start=start, end=end))

    @contextmanager
    def _asked(self, relative: str) -> Iterator[None]:
        """Say in one line what an object store refuses; a local folder's errors are Python's own, and stay so."""
        try:
            yield
        except FileNotFoundError:
            raise
        except failures() as error:
            if self.local:
                raise
            raise StageFailed(f"{self.uri(relative)}: {told(error)}") from error


_MAGIC = re.compile(r"[*?\[]")


def _confined(relative: str) -> str:
    if relative and not {"", ".", ".."}.isdisjoint(relative.split("/")):
        raise OutsideStore(f"{relative!r}: expected a path within the store, such as shards/yfcc/00000000.tar")
    return relative


def _refuses(fs: Any, path: str) -> bool:
    """Tell whether a file that is there is not written anew when it is asked not to be."""
    try:
        fs.pipe_file(path, b"", mode="create")
    except failures():
        return True
    return False


def _scratch() -> str | None:
    """Return where drafts and copies go: Spark's folder in its tasks, which it removes with them; else the default."""
    return os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or None


@cache
def _copied(store: Store, relative: str) -> str:
    folder = tempfile.mkdtemp(prefix="cuvee-copy-", dir=_scratch())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in store.files(relative):
        target = os.path.join(folder, path[len(relative) :].lstrip("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with store.open(path) as stream, open(target, "wb") as copy:
            shutil.copyfileobj(stream, copy)
    return folder
