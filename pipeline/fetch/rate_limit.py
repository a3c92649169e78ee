"""Rate limits: how often and how many at once a host is asked, and when it asked us to wait.

Everything here lives in one event loop. A host is asked by one task at a time (`jobs.ingest.stage` sees to that), so a
limit that holds here holds for the whole cluster.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch

EARLY = 0.005
"""Seconds by which a turn may be taken before its time where turns are closer than that.

Timers are no finer, and a sleep for each of a thousand turns a second costs more than the request. The turns that
follow are as much later: in any second, a host gets at most 5 requests in a thousand more than its limit.
"""


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
    """A host asked us to wait for longer than we do: `seconds` are left, `why` says by what."""

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(why)
        self.seconds = seconds


class Host:
    """What is known of one host while a task asks it: its limit, when it may be asked next, and its pause."""

    def __init__(self, limit: HostLimit) -> None:
        self.slots = asyncio.Semaphore(limit.at_once or 1 << 30)
        self._interval = 1 / limit.per_second if limit.per_second else 0.0
        self._asked = 0.0  # the interval that the site asks for
        self._next = 0.0  # when the first turn is that nobody waits for
        self._earliest = 0.0  # when the next request may go out
        self._paused = 0.0  # until when
        self.inside = 0
        self.workers = limit.at_once or 1 << 30

    @property
    def forgettable(self) -> bool:
        """Whether nobody waits for it, and it may be asked at once: a new one would know as much."""
        return not self.inside and max(self._next, self._paused) <= time.monotonic()

    def slow_to(self, interval: float) -> None:
        """Leave at least `interval` seconds between requests (robots.txt's Crawl-delay)."""
        self._asked = max(self._asked, interval)

    def pause(self, seconds: float) -> None:
        """Ask nothing for so many seconds (Retry-After)."""
        self._paused = max(self._paused, time.monotonic() + seconds)

    def turn(self, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> "Turn":
        """Wait for the host's turn and for a place in `gate`; raise Paused where it asks for more than `max_wait`.

        Raises TooLate where the turn comes after `deadline`, on the monotonic clock. While it waits for its turn, it
        takes no place in the gate.
        """
        return Turn(self, gate, max_wait, deadline)

    async def take(self, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> None:
        """Take a slot and a place in the gate, or neither and raise."""
        if not self.slots.locked() and not gate.locked() and self._free(time.monotonic()):
            await self.slots.acquire()  # neither waits
            await gate.acquire()
            return
        try:
            async with asyncio.timeout_at(deadline if deadline < float("inf") else None):
                await self.slots.acquire()
                try:
                    await self._take_turn(gate, max_wait, deadline)
                except BaseException:
                    self.slots.release()
                    raise
        except TimeoutError:
            raise TooLate from None

    def _free(self, now: float) -> bool:
        """Take this turn if nothing has to be waited for."""
        interval = max(self._interval, self._asked)
        if now < max(self._next - _early(interval), self._paused):
            return False
        self._next = self._earliest = max(self._next, now) + interval
        return True

    async def _take_turn(self, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> None:
        """Wait for a turn of one's own: whoever comes later waits for the next, so that nobody wakes in vain."""
        while True:
            interval = max(self._interval, self._asked)
            wait = self._wait(max_wait, deadline)
            self._next = max(self._next, time.monotonic() + wait) + interval
            if wait > 0:
                await asyncio.sleep(wait)
            await gate.acquire()
            now = time.monotonic()
            if now >= max(self._earliest - _early(interval), self._paused):
                # the gate may have made this turn late: the next one keeps away too
                self._earliest = max(self._earliest, now) + interval
                self._next = max(self._next, self._earliest)
                return
            gate.release()  # another was late, or a pause began

    def _wait(self, max_wait: float, deadline: float) -> float:
        """Return the seconds until the next turn; raise Paused or TooLate where that is not waited for."""
        now = time.monotonic()
        early = _early(max(self._interval, self._asked))
        pause, wait = self._paused - now, max(self._next - early - now, 0.0)
        if pause > max_wait:
            raise Paused(pause, f"Retry-After: {pause:.0f} more seconds")
        if wait > max_wait and self._asked > max_wait:
            raise Paused(wait, f"robots.txt: a Crawl-delay of {self._asked:.0f} seconds")
        if max(wait, pause) >= deadline - now:
            raise TooLate
        return max(wait, pause)


def _early(interval: float) -> float:
    return EARLY if interval < EARLY else 0.0


class Turn:
    """A host's turn and a place in the gate, held for the time of an `async with`."""

    def __init__(self, host: Host, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> None:
        self._host, self._gate, self._max_wait, self._deadline = host, gate, max_wait, deadline

    async def __aenter__(self) -> None:
        self._host.inside += 1
        try:
            await self._host.take(self._gate, self._max_wait, self._deadline)
        except BaseException:
            self._host.inside -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._gate.release()
        self._host.slots.release()
        self._host.inside -= 1


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
