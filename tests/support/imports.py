"""Which test files load torch or Spark as they are imported, read from their text: `--fast` leaves them out."""

import re
from functools import cache
from pathlib import Path

from tests.support.road_experiment import ROOT

HEAVY = frozenset(["img2dataset", "open_clip", "open_clip_train", "pyspark", "torch", "torchvision", "webdataset"])
"""Packages that are torch or Spark, or that import them."""


OURS = ("pipeline", "sources", "filters", "jobs", "benchmarks", "tests")


IMPORT = re.compile(r"^(?:import ([\w.]+)|from ([\w.]+) import (\([^)]*\)|[^\n(]*))", re.MULTILINE)
"""What a module imports as it is imported itself: at the beginning of a line."""


def heavy(path: Path) -> bool:
    """Tell whether importing a file imports torch or Spark."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts)}
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name.partition(".")[0] in HEAVY:
            return True
        if name not in seen and name.startswith(OURS):
            seen.add(name)
            names |= _imported(name) - seen
    return False


@cache
def _imported(name: str) -> set[str]:
    """Return what a module of ours imports, and the packages that it lies in; nothing for what is no module."""
    path = ROOT / name.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = {name.rpartition(".")[0]} - {""}
    if file.exists():
        for plain, module, names in IMPORT.findall(file.read_text("utf-8")):
            found.add(plain or module)
            found |= {f"{module}.{one}" for one in re.findall(r"\w+", names)} if module else set()
    return found
