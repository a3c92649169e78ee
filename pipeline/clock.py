"""How long one attempt may still take."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Clock:
    """Seconds on the network that one attempt has left, and the end of the shard's time."""

    def __init__(self, seconds: float, deadline: float) -> None:
        self.left = self.given = seconds
        self.deadline = deadline
        self._waited = 0.0
        self._limit: asyncio.Timeout

    @property
    def spent(self) -> float:
        """Seconds that were spent on the network."""
        return self.given - self.left

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let it run; raise TimeoutError where nothing is left, or the shard's time is up."""
        started, self._waited = time.monotonic(), 0.0
        try:
            async with asyncio.timeout_at(min(started + self.left, self.deadline)) as self._limit:
                yield
        finally:
            self.left -= time.monotonic() - started - self._waited

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it while something is waited for that is not the site's doing; the shard's end stays."""
        started, end = time.monotonic(), self._limit.when() or 0.0
        self._limit.reschedule(self.deadline if self.deadline < float("inf") else None)
        yield
        waited = time.monotonic() - started
        self._waited += waited
        self._limit.reschedule(min(end + waited, self.deadline))
