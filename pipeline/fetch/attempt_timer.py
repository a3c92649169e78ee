"""The time limit of one fetch attempt."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class AttemptTimer:
    """The network time that one attempt has left, in seconds, and the deadline of its shard (monotonic clock)."""

    def __init__(self, seconds: float, deadline: float) -> None:
        self.left = self.given = seconds
        self.deadline = deadline
        self._started = self._waited = 0.0
        self._limit: asyncio.Timeout

    @property
    def spent(self) -> float:
        """Seconds spent on the network."""
        return self.given - self.left

    async def __aenter__(self) -> None:
        """Start it; TimeoutError is raised where no time is left, or at the shard's deadline."""
        self._started, self._waited = time.monotonic(), 0.0
        self._limit = asyncio.timeout_at(min(self._started + self.left, self.deadline))
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left -= time.monotonic() - self._started - self._waited
        await self._limit.__aexit__(kind, error, trace)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Pause it during a wait that the site does not cause; the shard's deadline still holds."""
        started, end = time.monotonic(), self._limit.when() or 0.0
        self._limit.reschedule(self.deadline if self.deadline < float("inf") else None)
        yield
        waited = time.monotonic() - started
        self._waited += waited
        self._limit.reschedule(min(end + waited, self.deadline))
