"""The store lock: one command at a time writes to a store; the others wait, or fail with the name of the holder.

Each writes a file of its own, `locks/<name>.json`, and lists who else has one; alone, it holds the store. As names are
never reused, and as everybody lists after having written, no two can both find themselves alone, on any file system
or object store with consistent listing; no file is taken over in place. Of several that ask at once, the first by name
stays and the others withdraw.

A file whose process is gone is removed: a process of this machine is checked directly, any other by its heartbeat,
which has stopped. The lock keeps commands apart and says whom to wait for; it does not protect tables (commits do), so
a machine that slept through its heartbeat does no harm to them.
"""

import json
import os
import random
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.redaction import redact
from pipeline.errors import StageFailed
from pipeline.storage.store import Store

LOCK_FOLDER = "locks"


HEARTBEAT_INTERVAL_S = 60.0
"""Seconds between two heartbeats of a holder."""


HEARTBEAT_TIMEOUT_S = 900.0
"""Seconds without a heartbeat after which a process of another machine is presumed gone."""


_POLL_S = 0.2


@dataclass(frozen=True)
class LockHolder:
    """A process that holds or asks for a store. `place` tells machines (and their boots and containers) apart, `start`
    two processes of one id; `beat` is in seconds since 1970.
    """

    name: str
    host: str
    place: str
    pid: int
    start: str
    since: str
    command: str
    beat: float
    held: bool = False

    def gone(self) -> bool:
        """Tell whether the process is known to have ended, or has sent no heartbeat for LEASE seconds."""
        silent = time.time() - self.beat > HEARTBEAT_TIMEOUT_S
        if self.place != _place():
            return silent
        start = _start_of(self.pid)
        return silent if start is None else start != self.start

    def told(self) -> str:
        """Return a description for people."""
        return f"process {self.pid} on {self.host} since {self.since}: {self.command}"


def _place() -> str:
    """Return what tells this machine, its boot and its container from others; process ids mean something within it."""
    boot, container = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        container = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {container}"


def _start_of(pid: int) -> str | None:
    """Return when a process began, in the kernel's ticks; "" where it has ended, reaped or not; None where it exists
    but cannot be inspected, such as another user's where /proc is mounted so.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]


def _path(name: str) -> str:
    return f"{LOCK_FOLDER}/{name}.json"


def _write(store: Store, holder: LockHolder) -> None:
    for attempts_left in reversed(range(5)):
        try:
            store.write(_path(holder.name), json.dumps(asdict(holder)).encode())
        except FileNotFoundError:  # another removed the folder, which was empty, just then
            if not attempts_left:
                raise
        else:
            return


def other_holders(store: Store, name: str = "") -> list[LockHolder]:
    """Return who else holds or asks for the store; the files of processes that are gone are removed."""
    holders = []
    for path in store.files(LOCK_FOLDER):
        if not path.endswith(".json") or path == _path(name):
            continue
        try:
            holder = LockHolder(**json.loads(store.read(path)))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError):
            raise StageFailed(f"{store.uri(path)}: expected who holds the store, found something else") from None
        if holder.gone():
            _remove(store, path)
        else:
            holders.append(holder)
    return sorted(holders, key=lambda holder: holder.name)


@contextmanager
def store_lock(store: Store, wait: float = 0.0) -> Iterator[None]:
    """Hold the store. Raises StageFailed, with who has it, where another does and goes on for `wait` seconds."""
    is_new_store = store.local and not os.path.exists(store.path(""))
    own = _acquire(store, time.monotonic() + wait)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, own, stop), name=f"beat of {own.name}", daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        _withdraw(store, own.name, is_new_store)


def _acquire(store: Store, deadline: float) -> LockHolder:
    """Return this process as the store's holder, once it is."""
    command_line, now = " ".join(map(_argument_text, sys.argv)), datetime.now(UTC)
    own = LockHolder(
        name=uuid.uuid4().hex,
        host=socket.gethostname(),
        place=_place(),
        pid=os.getpid(),
        start=_start_of(os.getpid()) or "",
        since=now.isoformat(" ", "seconds"),
        command=redact(command_line)[:200],
        beat=now.timestamp(),
    )
    announced = False
    while True:
        own = replace(own, name=uuid.uuid4().hex, beat=time.time())
        _write(store, own)
        try:
            competitors = other_holders(store, own.name)
            while competitors and not any(holder.held for holder in competitors) and own.name < competitors[0].name:
                time.sleep(_POLL_S)  # the others list this file, and withdraw
                competitors = other_holders(store, own.name)
            if not competitors:
                own = replace(own, held=True)
                _write(store, own)
                return own
        except BaseException:
            _withdraw(store, own.name)
            raise
        _withdraw(store, own.name)
        holding = [holder for holder in competitors if holder.held]
        if holding and time.monotonic() >= deadline:
            raise StageFailed(f"{store.root}: held by {holding[0].told()}; to wait for it: --wait SECONDS")
        if holding and not announced:
            sys.stderr.write(f"cuvee: {store.root}: waiting for {holding[0].told()}\n")
            announced = True
        time.sleep(_POLL_S * random.uniform(1, 2))  # noqa: S311


def _argument_text(argument: str) -> str:
    return Path(argument).name if argument == sys.argv[0] else shlex.quote(argument)


def _beat(store: Store, own: LockHolder, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_INTERVAL_S):
        with suppress(StageFailed, OSError):  # the next one may get through
            if not store.exists(_path(own.name)):
                return  # presumed gone: a restored file would block the present holder
            _write(store, replace(own, beat=time.time()))
            if any(
                holder.held for holder in other_holders(store, own.name)
            ):  # removed between the look and the writing
                _remove(store, _path(own.name))
                return


def _withdraw(store: Store, name: str, root: bool = False) -> None:
    """Remove a file, and where the store is a folder, what would be left of it: its folder; with `root`, the store."""
    _remove(store, _path(name))
    if store.local:
        for folder in (LOCK_FOLDER, "") if root else (LOCK_FOLDER,):
            with suppress(OSError):  # something is in it
                os.rmdir(store.path(folder))


def _remove(store: Store, path: str) -> None:
    with suppress(FileNotFoundError):  # another was quicker
        store.remove(path)
