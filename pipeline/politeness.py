"""Politeness: how often and how many at once a host is asked, when it asked us to wait, and how much is in flight.

Everything here lives in one event loop. A host is asked by one task at a time (`jobs.ingest` sees to that), so a limit
that holds here holds for the whole cluster.
"""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch

_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:///*(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)")


def host_of(url: str) -> str:
    """Return the host of a URL in lower case, "" where there is none. `host_sql` is the same in Spark SQL."""
    found = _AUTHORITY.match(url)
    return found[1].lower() if found else ""


def host_sql(url: str) -> str:
    """Return the Spark SQL expression of `host_of` over a column expression."""
    pattern = "^" + _AUTHORITY.pattern.replace("\\", "\\\\")
    return f"lower(regexp_extract({url}, '{pattern}', 1))"


@dataclass(frozen=True)
class HostLimit:
    """At most `at_once` requests in flight and `per_second` new ones a second to one host; None is no limit."""

    at_once: int | None = None
    per_second: float | None = None

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return self.at_once is not None or self.per_second is not None

    def shared(self, parts: int) -> "HostLimit":
        """Return the limit of each of `parts` tasks that ask a host at the same time."""
        at_once = None if self.at_once is None else max(1, self.at_once // parts)
        return HostLimit(at_once, None if self.per_second is None else self.per_second / parts)


@dataclass(frozen=True)
class HostLimits:
    """The limit of every host, but for those that a pattern names (``*.wikimedia.org``; the first that fits)."""

    default: HostLimit = HostLimit()
    named: Mapping[str, HostLimit] = field(default_factory=dict)

    def of(self, host: str) -> HostLimit:
        """Return the limit of a host."""
        return next((limit for pattern, limit in self.named.items() if fnmatch(host, pattern)), self.default)

    def shared(self, parts: int) -> "HostLimits":
        """Return the limits of each of `parts` tasks that may ask the same hosts at the same time."""
        return HostLimits(self.default.shared(parts), {name: one.shared(parts) for name, one in self.named.items()})


class TooLate(Exception):
    """The turn would come after the deadline."""


class Paused(Exception):
    """A host asked us to wait for longer than we do; `seconds` are left."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Retry-After: {seconds:.0f} more seconds")
        self.seconds = seconds


class Host:
    """What is known of one host while a task asks it: its limit, when it may be asked next, and its pause."""

    def __init__(self, limit: HostLimit) -> None:
        self._slots = asyncio.Semaphore(limit.at_once or 1 << 30)
        self._interval = 1 / limit.per_second if limit.per_second else 0.0
        self._next = 0.0
        self.workers = limit.at_once or 1 << 30

    def slow_to(self, interval: float) -> None:
        """Leave at least `interval` seconds between requests (robots.txt's Crawl-delay)."""
        self._interval = max(self._interval, interval)

    def pause(self, seconds: float) -> None:
        """Ask nothing for so many seconds (Retry-After)."""
        self._next = max(self._next, time.monotonic() + seconds)

    @asynccontextmanager
    async def turn(self, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> AsyncIterator[None]:
        """Wait for the host's turn and for a place in `gate`; raise Paused where that is more than `max_wait` away.

        Raises TooLate where the turn comes after `deadline`, on the monotonic clock. While it waits for its turn, it
        takes no place in the gate.
        """
        async with self._slots:
            while True:
                wait = self._next - time.monotonic()
                if wait > max(max_wait, self._interval):
                    raise Paused(wait)
                if wait > deadline - time.monotonic():
                    raise TooLate
                if wait > 0:
                    await asyncio.sleep(wait)
                async with gate:
                    now = time.monotonic()
                    if now < self._next:  # another took this turn, or a pause began
                        continue
                    self._next = now + self._interval
                    yield
                    return


class Budget:
    """Bytes of bodies in flight: `limit`, and what bodies that have begun turn out to have beyond what they said.

    Those are not held up, as bodies that wait for each other would wait for ever.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._loop = asyncio.get_running_loop()
        self._freed = asyncio.Event()
        self._lock = threading.Lock()
        self._returned = 0  # given back by other threads, not yet taken off `held`
        self._waiting = 0

    async def take(self, size: int) -> None:
        """Take `size` bytes; wait while others hold so much that they would pass the limit."""
        if self.held + size > self.limit:
            self._waiting += 1
            try:
                while True:
                    self._freed.clear()
                    self._collect()
                    if self.held + size <= self.limit or self.held <= 0:
                        break
                    await self._freed.wait()
            finally:
                self._waiting -= 1
        self.held += size

    def grow(self, size: int) -> None:
        """Take `size` bytes more for a body that has begun."""
        self.held += size

    def give(self, size: int) -> None:
        """Give back what was taken; in the loop's thread."""
        self.held -= size
        if self._waiting:
            self._freed.set()

    def give_from_thread(self, size: int) -> None:
        """Give back what was taken; in any thread. The loop is only woken where someone waits."""
        with self._lock:
            self._returned += size
        if self._waiting:
            self._loop.call_soon_threadsafe(self._freed.set)

    def _collect(self) -> None:
        with self._lock:
            self.held -= self._returned
            self._returned = 0


def retry_after(value: str | None) -> float | None:
    """Return the seconds that `Retry-After` asks for: a number of seconds or a date (RFC 9110, 10.2.3), or None."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
