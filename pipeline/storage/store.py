"""A store: one folder on any fsspec file system, and access to its files by relative path."""

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
from pipeline.storage.object_store import RangeReader, delta_options, error_message, fs_options, io_errors, is_s3


class OutsideStore(InputError, ValueError):
    """A path that leads out of the store, or is not in canonical form."""


@dataclass(frozen=True)
class Store:
    """The root of everything that Cuvée writes. Small and picklable: tasks get it by value.

    `root` is a local path or a URL such as ``s3://bucket/prefix``; every other path here is relative to it, with "/"
    between its parts. Errors of an object store are raised as StageFailed with the URL; a missing file is
    FileNotFoundError everywhere.
    """

    root: str

    def __post_init__(self) -> None:
        if "://" not in self.root:
            object.__setattr__(self, "root", os.path.abspath(self.root))
        elif "@" in self.root.partition("://")[2].partition("/")[0]:  # it would be recorded in the ledger
            raise InputError("store: found a URL with a user or key in it, expected credentials in the environment")
        elif is_s3(self.root) and not self.root.partition("://")[2].strip("/"):
            raise InputError(f"store: {self.root}: expected s3://bucket/prefix")

    @property
    def local(self) -> bool:
        """Whether the root is a local folder."""
        return "://" not in self.root

    @property
    def at_once(self) -> int:
        """Number of files to read concurrently where they are many and small: more where each is a remote request."""
        return 4 if self.local else 16

    @property
    def fs(self) -> Any:
        """The fsspec file system (fsspec caches instances, and drops them in a forked process)."""
        return fsspec.core.url_to_fs(self.root, **fs_options(self.root))[0]

    def path(self, relative: str) -> str:
        """Return the full path of `relative` in the file system's form; "" is the root, with a "/" at its end.

        Raises OutsideStore where `relative` is absolute or has a part that is empty, "." or "..".
        """
        return str(fsspec.core.strip_protocol(self.root)).rstrip("/") + "/" + _check_relative(relative)

    def uri(self, relative: str) -> str:
        """Return the full URI of `relative`, in the form for deltalake and for messages."""
        return self.root.rstrip("/") + "/" + _check_relative(relative)

    def delta_options(self) -> dict[str, str] | None:
        """Return deltalake's storage options for this store; they hold secrets and must go to deltalake only."""
        return delta_options(self.root)

    def exists(self, relative: str) -> bool:
        """Tell whether a file or folder exists."""
        path = self.path(relative).rstrip("/") or "/"
        if self.local:
            return os.path.exists(path)
        try:
            with self._reported_errors(relative):
                self.fs.info(path)  # fs.exists returns False where a bucket cannot be reached
        except FileNotFoundError:
            return False
        return True

    def files(self, relative: str) -> list[str]:
        """Return every file below `relative`, as sorted paths relative to the root; none where it does not exist."""
        base = self.path("")
        try:
            with self._reported_errors(relative):
                paths = self.fs.find(self.path(relative))
        except FileNotFoundError:
            paths = []
        # a name that ends in "/" is a marker that other tools write for an empty folder
        return sorted(str(path)[len(base) :] for path in paths if not str(path).endswith("/"))

    def size(self, relative: str) -> int:
        """Return a file's size in bytes."""
        with self._reported_errors(relative):
            return int(self.fs.size(self.path(relative)))

    def open(self, relative: str) -> BinaryIO:
        """Open a file for reading bytes; it is seekable, and a part can be read without the rest."""
        if self.local:
            return cast(BinaryIO, self.fs.open(self.path(relative), "rb"))
        ranges = RangeReader(self.size(relative), partial(self._range, relative))
        return cast(BinaryIO, io.BufferedReader(ranges, RangeReader.MOST))

    def read(self, relative: str) -> bytes:
        """Return a file's bytes."""
        if self.local:
            with self.open(relative) as stream:
                return stream.read()
        with self._reported_errors(relative):
            return cast(bytes, self.fs.cat_file(self.path(relative)))

    def arrow(self, relative: str) -> pa.NativeFile:
        """Open a file for pyarrow to read, without a Python file object.

        One of pyarrow's threads may still hold a Python file object when the interpreter exits, which aborts the
        process.
        """
        return pa.memory_map(self.path(relative)) if self.local else pa.BufferReader(self.read(relative))

    @contextmanager
    def parquet(self, relative: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file of which some columns or row groups are read, by ranges where the store is a bucket.

        For this thread only: read it with `use_threads=False`.
        """
        if self.local:
            with pa.memory_map(self.path(relative)) as mapped:
                yield pq.ParquetFile(mapped)
            return
        with self.open(relative) as stream:
            yield pq.ParquetFile(pa.PythonFile(stream, "r"), pre_buffer=False)

    @contextmanager
    def create(self, relative: str, named: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
        """Write a file atomically: first under a unique name, then renamed.

        `named` returns the final path where that depends on what was written. Two attempts at the same file never
        write into each other.

        For an object store the file is written locally first and uploaded when it is complete: fsspec's streams keep
        what was written when the writer fails.
        """
        final = self.path(relative)
        if not self.local:
            with tempfile.NamedTemporaryFile(prefix="cuvee-draft-", dir=_scratch()) as draft_file:
                yield cast(BinaryIO, draft_file)
                draft_file.flush()
                with self._reported_errors(relative):
                    self.fs.put_file(draft_file.name, self.path(named()) if named else final)
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
        """Write a whole file atomically."""
        if not self.local:
            with self._reported_errors(relative):
                self.fs.pipe_file(self.path(relative), data)
            return
        with self.create(relative) as stream:
            stream.write(data)

    def claim(self, relative: str, data: bytes) -> bool:
        """Write a small file that does not exist yet; return False where it exists. Of several writers, one succeeds.

        `data` must differ between writers, as a put may succeed although its response is lost.
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
        except io_errors() as error:
            if self.exists(relative):
                return self.read(relative) == data
            raise StageFailed(f"{self.uri(relative)}: {error_message(error)}") from error
        return True

    def remove(self, relative: str) -> None:
        """Remove a file, or a folder with its content; do nothing where it does not exist."""
        if not relative:  # where the root is a bucket, the bucket would be removed too
            raise OutsideStore("'': expected a path in the store to remove, found the store")
        if self.local:
            if self.exists(relative):
                self.fs.rm(self.path(relative), recursive=True)
            return
        paths = [self.path(file) for file in self.files(relative)]
        with self._reported_errors(relative):
            for path in filter(_GLOB_CHARACTERS.search, paths):  # fs.rm treats such a name as a pattern
                self.fs.rm_file(path)
            if plain_paths := [path for path in paths if not _GLOB_CHARACTERS.search(path)]:
                self.fs.rm(plain_paths)

    def local_folder(self, relative: str) -> str:
        """Return a local folder with the content of `relative`: itself, or a copy, made once in this process."""
        return self.path(relative) if self.local else _local_copy(self, relative)

    def check_writable(self) -> None:
        """Raise InputError if the store cannot be written; leave nothing behind, not even the folder.

        An S3 endpoint that ignores If-None-Match is refused too: two writers of one version would lose a commit.
        """
        folder = self.path("").rstrip("/")
        while self.local and not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        probe = f"{folder}/.probe-{uuid.uuid4().hex}"
        mode = {"mode": "create"} if is_s3(self.root) else {}
        try:
            self.fs.pipe_file(probe, b"", **mode)
            overwrite_refused = not mode or _refuses_overwrite(self.fs, probe)
            self.fs.rm_file(probe)
        except io_errors() as error:
            raise InputError(f"{self.root}: the store cannot be written ({error_message(error)})") from None
        if not overwrite_refused:
            raise InputError(f"{self.root}: the endpoint ignores If-None-Match; expected one with conditional writes")

    def _range(self, relative: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end` of a file."""
        with self._reported_errors(relative):
            return cast(bytes, self.fs.cat_file(self.path(relative), start=start, end=end))

    @contextmanager
    def _reported_errors(self, relative: str) -> Iterator[None]:
        """Raise an object store's errors as StageFailed in one line; a local folder's errors stay as they are."""
        try:
            yield
        except FileNotFoundError:
            raise
        except io_errors() as error:
            if self.local:
                raise
            raise StageFailed(f"{self.uri(relative)}: {error_message(error)}") from error


_GLOB_CHARACTERS = re.compile(r"[*?\[]")


def _check_relative(relative: str) -> str:
    """Return `relative`; raise OutsideStore where it is absolute or has a part that is empty, "." or ".."."""
    if relative and not {"", ".", ".."}.isdisjoint(relative.split("/")):
        raise OutsideStore(f"{relative!r}: expected a path within the store, such as shards/yfcc/00000000.tar")
    return relative


def _refuses_overwrite(fs: Any, path: str) -> bool:
    """Tell whether a conditional write to an existing file fails, as it must."""
    try:
        fs.pipe_file(path, b"", mode="create")
    except io_errors():
        return True
    return False


def _scratch() -> str | None:
    """Return the folder of drafts and copies: in Spark's tasks Spark's, which it removes; else None, the default."""
    return os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or None


@cache
def _local_copy(store: Store, relative: str) -> str:
    """Return a temporary folder with a copy of what is below `relative`; it is removed when the process exits."""
    folder = tempfile.mkdtemp(prefix="cuvee-copy-", dir=_scratch())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in store.files(relative):
        target = os.path.join(folder, path[len(relative) :].lstrip("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with store.open(path) as stream, open(target, "wb") as copy:
            shutil.copyfileobj(stream, copy)
    return folder
