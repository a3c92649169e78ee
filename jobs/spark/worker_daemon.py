"""Spark's daemon of Python workers, with what the tasks need loaded before it forks them.

Spark's own forks bare workers: each imports the modules of its tasks by itself, some 3 to 5 s of one core
for those that decode images, as measured, while the others already work. Here they are loaded once, and shared.
`jobs.spark.session` names this module where the workers are on this machine.
"""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from pyspark.daemon import manager

PRELOAD_VARIABLE = "CUVEE_PRELOAD"
"""The environment variable that names the modules, with spaces in between."""


def freeze_garbage() -> None:
    """Exempt what this process has imported from garbage collection.

    Spark's Python worker collects after every task, and walking through the modules of a task that decodes images took
    it 0.2 s, as measured. Before a fork, it also keeps the pages shared.
    """
    gc.collect()
    gc.freeze()


def preload(modules: Sequence[str]) -> None:
    """Import modules and settle."""
    with redirect_stdout(sys.stderr):  # Spark reads the daemon's port from stdout
        for name in modules:
            importlib.import_module(name)
    freeze_garbage()


if __name__ == "__main__":
    preload(os.environ.get(PRELOAD_VARIABLE, "").split())
    manager()
