"""How a command that removes files comes to be the only one that works on a store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.store import Store
from pipeline.storage.store_lock import held
from pipeline.training.slurm.job_array import refuse_submitted


@contextmanager
def alone(store: Store, wait: float) -> Iterator[None]:
    """Be the only one that works on a store, as what removes files must: not even Slurm's tasks go on beside it."""
    store.check_writable()
    with held(store, wait):
        if store.local:
            refuse_submitted(Path(store.path("slurm")))
        yield
