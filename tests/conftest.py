"""What several test files share: one finished shrunken road, and where its pieces lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from jobs.experiment import load
from jobs.run import Run
from pipeline.ledger import Ledger
from pipeline.progress import Display
from pipeline.store import Store
from tests.roads import cuvee, write_experiment

settings.register_profile("cuvee", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("cuvee")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests together where tests run side by side, and all of those that look at the finished road."""
    on_road = {item.path for item in items if "road" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("road" if item.path in on_road else item.path.stem))


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
