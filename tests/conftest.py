"""What several test files share: a Spark session, a bucket, a hostile site, a finished road; and who runs when."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.support.imports import heavy
from tests.support.road_experiment import ROOT
from tests.support.spark_class_archive import options

if TYPE_CHECKING:  # a run of the fast tests imports none of these
    from pyspark.sql import SparkSession

    from jobs.workflow.runner import Run
    from tests.support.finished_road import Road
    from tests.support.hostile_web import HostileWeb
    from tests.support.s3 import S3

os.environ.setdefault("SPARK_SUBMIT_OPTS", options(ROOT / "build" / "spark.jsa"))


settings.register_profile("cuvee", deadline=None)  # how long an example takes is the machine's affair


settings.load_profile("cuvee")


DURATIONS = Path(__file__).parent / "durations.json"
"""Seconds that each file's tests took, as `make test-durations` wrote them: the longest files run first."""


FAST_S = 8.0
"""The most seconds that a file takes which is among the fast ones."""


JVM = {"spark", "road", "run"}
"""The fixtures that start Spark's Java."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the make targets test-fast and test-durations."""
    parser.addoption("--fast", action="store_true", help="only what needs neither Spark nor torch, and no long file")
    parser.addoption("--write-durations", action="store_true", help=f"write each file's seconds to {DURATIONS.name}")


def pytest_configure(config: pytest.Config) -> None:
    """Leave the order of the files to `pytest_collection_modifyitems`."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


@cache
def _seconds() -> dict[str, float]:
    return json.loads(DURATIONS.read_text("utf-8")) if DURATIONS.exists() else {}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that imports torch or Spark, where only fast tests are asked for."""
    if not config.option.fast or collection_path.suffix != ".py":
        return None
    slow = _seconds().get(_file_of(collection_path.relative_to(ROOT).as_posix()), 0.0) > FAST_S
    return True if slow or heavy(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Put the longest files first, so that no worker ends long behind the others."""
    items.sort(key=lambda item: -_seconds().get(_file_of(item.nodeid), 0.0))
    if config.option.fast:
        left_out = [item for item in items if JVM & set(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write DURATIONS, where it is asked for."""
    if not config.option.write_durations:
        return
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[_file_of(report.nodeid)] += report.duration
    known = {name: took for name, took in (_seconds() | seconds).items() if (DURATIONS.parent / name).exists()}
    known = {name: round(took, 1) for name, took in sorted(known.items()) if took >= 0.5}
    DURATIONS.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """A file's tests run in one worker, as they share what is slow to make."""
    return LoadFileScheduling(config, log)


class SharedSpark:
    """The Spark session of this worker process, started at its first use, and anew where a test has stopped it."""

    def __init__(self) -> None:
        self._session: SparkSession | None = None

    def session(self) -> "SparkSession":
        """Return the session."""
        from jobs.spark.session import start_session
        from pipeline.config.experiment import SparkConfig

        if self._session is None or self._session.sparkContext._jsc is None:
            self._session = start_session(SparkConfig(conf={"spark.sql.shuffle.partitions": "2"}), "tests")
        return self._session

    def stop(self) -> None:
        """Stop it, where it was started."""
        if self._session is not None:
            self._session.stop()


@pytest.fixture(scope="session")
def _spark() -> Iterator[SharedSpark]:
    shared = SharedSpark()
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def spark(_spark: SharedSpark) -> "Iterator[SparkSession]":
    """A Spark session of this module's own, for settings and temporary views; its Java is the worker process's."""
    session = _spark.session().newSession()
    yield session
    if session.sparkContext._jsc is not None:
        session.catalog.clearCache()


@pytest.fixture(scope="session")
def _site() -> "Iterator[HostileWeb]":
    from tests.support.hostile_web import HostileWeb

    with HostileWeb() as server:
        yield server


@pytest.fixture(scope="module")
def site(_site: "HostileWeb") -> "HostileWeb":
    """The hostile site, which remembers no request of other modules."""
    _site.asked.clear()
    return _site


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[S3]":
    """A bucket of this module's own, on the worker process's server."""
    from tests.support.s3 import bucket

    with bucket(tmp_path_factory.mktemp("aws")) as found:
        yield found


@pytest.fixture(scope="session")
def road() -> "Iterator[Road]":
    """The small road, which the command itself has run."""
    from tests.support.finished_road import finished_road

    with finished_road() as found:
        yield found


@pytest.fixture
def run(road: "Road") -> "Iterator[Run]":
    """The finished road as its stages see it."""
    from jobs.workflow.experiment import load_experiment
    from jobs.workflow.progress import Display
    from jobs.workflow.runner import Run

    opened = Run(load_experiment(road.experiment, []), Display())
    yield opened
    opened.close()
