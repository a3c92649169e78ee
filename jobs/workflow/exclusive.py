"""Exclusive access to a store, for commands that remove files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.store import Store
from pipeline.storage.store_lock import store_lock
from pipeline.training.slurm.job_array import check_none_submitted


@contextmanager
def exclusive_access(store: Store, wait: float) -> Iterator[None]:
    """Hold a store exclusively, as removing files requires: refuse while Slurm tasks of it are submitted."""
    store.check_writable()
    with store_lock(store, wait):
        if store.local:
            check_none_submitted(Path(store.path("slurm")))
        yield
