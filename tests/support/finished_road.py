"""The small road, run to its end once for each state of the code, and kept in build/ for all tests that look at it."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import IO

from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support import road_experiment
from tests.support.road_experiment import ROOT, cuvee, write_experiment

BUILD = ROOT / "build"


PACKAGES = ("pipeline", "sources", "filters", "jobs")


@dataclass(frozen=True)
class Road:
    """A finished road: its experiment file, its store and its web's folder, and what the run printed.

    Many look at it: a test that changes something in it, or that works in it by a command, takes a `copy`.
    """

    experiment: Path
    store: Path
    web: Path
    stdout: str
    stderr: str

    @property
    def ledger(self) -> Ledger:
        """The store's ledger, opened anew."""
        return Ledger(Store(str(self.store)))

    def copy(self, folder: Path) -> Path:
        """Copy the store to `folder`/store; return that."""
        return Path(shutil.copytree(self.store, folder / "store"))


def code_digest() -> str:
    """Return a digest of all that a road comes from: the code, its experiment, where it lies, and the libraries."""
    found = hashlib.sha256(f"{sys.version}\n{ROOT}\n".encode())
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix != ".pyc"]
    files += (ROOT / "experiments" / "models").rglob("*")
    files += [ROOT / "experiments" / "demo.yaml", Path(road_experiment.__file__)]
    for path in sorted(path for path in files if path.is_file()):
        found.update(f"{path.relative_to(ROOT)}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    found.update("\n".join(sorted(f"{one.name}=={one.version}" for one in distributions())).encode())
    return found.hexdigest()[:16]


@contextmanager
def finished_road() -> Iterator[Road]:
    """Give the road of this code; make it first where there is none, and remove those of other code.

    Who makes it holds a file alone, who looks at it shares it: nobody sees half a road, and none is made twice or
    removed while another run of the tests looks at it.
    """
    BUILD.mkdir(exist_ok=True)
    folder = BUILD / f"road-{code_digest()}"
    with _locked(folder) as lock:
        while True:
            if not (folder / "printed.json").exists():
                _make(folder)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if (folder / "printed.json").exists():  # it is not removed in the moment in which nobody held it
                break
            fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_others(folder)
        printed = json.loads((folder / "printed.json").read_text("utf-8"))
        yield Road(folder / "road.yaml", folder / "store", folder / "web", printed["stdout"], printed["stderr"])


def _make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    experiment = write_experiment(folder, folder / "store", folder / "web")
    done = cuvee("run", str(experiment))
    assert done.returncode == 0, done.stderr
    draft = folder / "printed.draft"
    draft.write_text(json.dumps({"stdout": done.stdout, "stderr": done.stderr}), "utf-8")
    draft.rename(folder / "printed.json")


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


@contextmanager
def _locked(folder: Path) -> Iterator[IO[bytes]]:
    """Hold a road's file alone, and let it go in the end."""
    path = _lock_of(folder)
    while True:
        with path.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):  # not removed meanwhile
                yield lock
                return


def _remove_others(folder: Path) -> None:
    for path in BUILD.glob("road-*.lock"):
        other = path.with_suffix("")
        if other == folder:
            continue
        with path.open("ab") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)
            path.unlink(missing_ok=True)
