"""Progress for a person at a terminal, and plain lines for a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_INTERVAL_S = 15.0
"""Seconds between two lines about the same task where there is no terminal."""


@dataclass
class ProgressTask:
    """One task's progress; call it with (done, of how many)."""

    display: "Display"
    label: str
    unit: str
    started: float = field(default_factory=time.monotonic)
    _logged_at: float = 0.0
    _completed: bool = False
    _bar: TaskID | None = None
    done: int = 0
    total: int = 0
    before: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Report that `done` of `total` are done; the `done` of the first call counts as work of an earlier run."""
        self.before = done if self.before is None else self.before
        self.done, self.total = done, total
        self.display.update(self)

    def left(self) -> str:
        """Return the time left in words, by the pace so far; "" before a hundredth of the work is done."""
        elapsed, completed, remaining = (
            time.monotonic() - self.started,
            self.done - (self.before or 0),
            self.total - self.done,
        )
        if elapsed < 2 or remaining <= 0 or completed <= 0 or completed * 100 < completed + remaining:
            return ""
        return f", about {elapsed / completed * remaining:.0f} s left"


class Display:
    """Bars on a terminal, plain lines elsewhere. Written to standard error, so that output can be piped."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._started = time.monotonic()
        self._console = Console(file=stream or sys.stderr, soft_wrap=True, highlight=False)
        self._bars: Progress | None = None

    @contextmanager
    def stage(self, name: str, about: str) -> Iterator[None]:
        """Show a stage's tasks while it runs, and its line when it is done."""
        started = time.monotonic()
        self.say(f"{name}: {about}")
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        try:
            yield
        finally:
            if self._bars:
                self._bars.stop()
                self._bars = None
        self.say(f"{name}: done in {time.monotonic() - started:.1f} s")

    def task(self, label: str, unit: str) -> ProgressTask:
        """Return a new task of the current stage."""
        return ProgressTask(self, label, unit)

    def update(self, task: ProgressTask) -> None:
        """Show a task's state: at once on a terminal, every `LOG_INTERVAL_S` seconds elsewhere."""
        if self._bars:
            if task._bar is None:
                task._bar = self._bars.add_task(task.label, total=task.total, unit=task.unit)
            self._bars.update(task._bar, completed=task.done, total=task.total)
            return
        now = time.monotonic()
        completed = task.done == task.total and not task._completed
        if completed or (task.done < task.total and now - (task._logged_at or task.started) >= LOG_INTERVAL_S):
            task._logged_at, task._completed = now, completed
            self.say(f"  {task.label}: {task.done} of {task.total} {task.unit}{task.left()}")

    def say(self, text: str) -> None:
        """Print one line with the seconds since the start before it."""
        line = f"[{time.monotonic() - self._started:6.1f} s] {text}"
        self._console.print(line, markup=False, style="bold" if not text.startswith(" ") else None)
