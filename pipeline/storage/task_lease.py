"""Leases: of several attempts at the same work, on whatever machines, one goes on while the others wait for it.

A scheduler may have two attempts at a task alive at once: a speculative one beside a slow one, or one that it takes for
lost, as its machine does not answer, beside the next. Where both ask a host, its limits are kept by neither. So an
attempt holds a lease while it works: a file that one of them alone can create, and that its holder changes every few
seconds. A second attempt watches it, and takes the next lease when the last one is released or has not changed for
`LEASE_TIMEOUT_S` seconds by its own clock: no clocks are compared. A holder that could not renew its lease for a while,
or that sees a later lease, ends its process before another attempt begins.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import StageFailed
from pipeline.storage.store import Store

LEASE_TIMEOUT_S = 30.0
"""Seconds without a change after which a holder counts as lost."""


_FREE = b"free"


def _exit_process() -> None:
    logging.getLogger(__name__).error("lease lost: this attempt ends, as another one takes its place")
    os._exit(1)  # at once, whatever its other threads do: it must send no more requests


def _newest(store: Store, folder: str) -> int:
    """Return the number of the newest lease in a folder, -1 where there is none."""
    names = (path.rpartition("/")[2] for path in store.files(folder))
    return max((int(name) for name in names if name.isdecimal()), default=-1)  # beside them may lie a draft of one


def _content(store: Store, path: str) -> bytes:
    try:
        return store.read(path)
    except FileNotFoundError:
        return _FREE  # the folder was cleared: the work is done, or is begun anew


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}"


def _acquire(store: Store, folder: str, done: Callable[[], bool], expiry: float, token: bytes) -> int | None:
    """Return the number of the lease that was taken, None where another's work was `done` before one was free."""
    last_state, since = (-1, b""), time.monotonic()
    while not done():
        number = _newest(store, folder)
        state = (number, _content(store, _path(folder, number)) if number >= 0 else _FREE)
        if state != last_state:
            last_state, since = state, time.monotonic()
        if state[1] == _FREE or time.monotonic() - since >= expiry:
            if store.claim(_path(folder, number + 1), token):
                return number + 1
            continue
        time.sleep(expiry / 20)
    return None


@contextmanager
def hold_lease(
    store: Store,
    folder: str,
    done: Callable[[], bool],
    expiry: float = LEASE_TIMEOUT_S,
    lost: Callable[[], None] = _exit_process,
) -> Iterator[bool]:
    """Hold the lease of `folder` while the block runs; yield False where another attempt was `done` first.

    `lost` is called, in a thread of its own, when the lease is no longer held.
    """
    token = uuid.uuid4().hex.encode()
    number = _acquire(store, folder, done, expiry, token)
    if number is None:
        yield False
        return
    path, stop = _path(folder, number), threading.Event()

    def renew() -> None:
        renewed, count = time.monotonic(), 0
        while not stop.wait(expiry / 10):
            count += 1
            try:
                if _newest(store, folder) > number:
                    return lost()
                store.write(path, token + b" %d" % count)
                renewed = time.monotonic()
            except (OSError, StageFailed):  # retried as long as no other attempt can have begun
                if time.monotonic() - renewed > expiry / 2:
                    return lost()

    keeper = threading.Thread(target=renew, name="lease", daemon=True)
    keeper.start()
    try:
        yield True
    finally:
        stop.set()
        keeper.join()
        store.write(path, _FREE)
