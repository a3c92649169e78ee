"""Progress: how long work will take is said once there is a pace to tell it by."""

import io

import pytest

from jobs.workflow import progress
from jobs.workflow.progress import Display


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([(0, 1000), (5, 1000)], ""),  # half a hundredth: mostly the start of what does it
        ([(0, 1000), (10, 1000)], ", about 990 s left"),
        ([(500, 1000), (510, 1000)], ", about 490 s left"),  # what an earlier run has done took it no time
        ([(500, 1000)], ""),
        ([(0, 4), (1, 4)], ", about 30 s left"),
        ([(0, 4), (4, 4)], ""),
    ],
)
def test_the_time_left_is_by_the_pace_of_this_run(
    calls: list[tuple[int, int]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Display(io.StringIO()).task("training", "samples")
    monkeypatch.setattr(progress.time, "monotonic", lambda: task.started + 10)
    for done, total in calls:
        task(done, total)
    assert task.left() == said
