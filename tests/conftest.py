"""What several test files share: one finished shrunken road, and where its pieces lie."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from jobs.workflow.experiment import load
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support.road_experiment import ROOT, cuvee, write_experiment
from tests.support.spark_class_archive import options

os.environ.setdefault("SPARK_SUBMIT_OPTS", options(ROOT / "build" / "spark.jsa"))


settings.register_profile("cuvee", deadline=None)  # how long an example takes is the machine's affair


settings.load_profile("cuvee")


ON_ROAD = ("test_road.py", "test_takedown_road.py", "test_killed.py", "test_clean_room.py")
"""The files that look at the finished road, which takes minutes: they run in one worker, and first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what is on the road first; a file that is not named among those must not ask for it."""
    for item in items:
        if "road" in getattr(item, "fixturenames", ()) and item.path.name not in ON_ROAD:
            raise pytest.UsageError(f"{item.path.name}: uses the road, but is not in conftest.ON_ROAD")
    items.sort(key=lambda item: item.path.name not in ON_ROAD)


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """A file's tests run in one worker, and those of all files that are on the road."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "road" if Path(file).name in ON_ROAD else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Schedule by files, however many workers there are."""
    return ByFile(config, log)


@dataclass(frozen=True)
class Road:
    """A finished road: its experiment file, its store and its web's folder, and what the run printed."""

    experiment: Path
    store: Path
    web: Path
    stdout: str
    stderr: str

    @property
    def ledger(self) -> Ledger:
        """The store's ledger, opened anew."""
        return Ledger(Store(str(self.store)))


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """The shrunken road, run once for all tests by the command itself."""
    folder = tmp_path_factory.mktemp("road")
    experiment = write_experiment(folder, folder / "store", folder / "web")
    done = cuvee("run", str(experiment))
    assert done.returncode == 0, done.stderr
    return Road(experiment, folder / "store", folder / "web", done.stdout, done.stderr)


@pytest.fixture
def run(road: Road) -> Iterator[Run]:
    """The finished road as its stages see it."""
    opened = Run(load(road.experiment, []), Display())
    yield opened
    opened.close()
