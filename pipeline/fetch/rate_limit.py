"""Rate limits: how often and with how many concurrent requests a host is queried, and the pauses that it asks for.

Everything here belongs to one event loop. Each host is queried by one task at a time (`jobs.ingest.stage` ensures
that), so a limit that holds here holds for the whole cluster.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch

MAX_EARLY_S = 0.005
"""Seconds by which a turn may be taken early where turns are closer together than that.

Timers are no finer, and a sleep for each of a thousand turns a second costs more than the request. The following turns
are later by the same time: in any second, a host gets at most 5 requests in a thousand more than its limit.
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
        """Return the limit of each of `parts` tasks that query a host at the same time."""
        at_once = None if self.at_once is None else max(1, self.at_once // parts)
        return HostLimit(at_once, None if self.per_second is None else self.per_second / parts)


@dataclass(frozen=True)
class HostLimits:
    """The limit of each host: `default`, or that of the first pattern in `named` that fits (``*.wikimedia.org``)."""

    default: HostLimit = HostLimit()
    named: Mapping[str, HostLimit] = field(default_factory=dict)

    def of(self, host: str) -> HostLimit:
        """Return the limit of a host."""
        return next((limit for pattern, limit in self.named.items() if fnmatch(host, pattern)), self.default)

    def shared(self, parts: int) -> "HostLimits":
        """Return the limits of each of `parts` tasks that may query the same hosts at the same time."""
        return HostLimits(self.default.shared(parts), {name: limit.shared(parts) for name, limit in self.named.items()})


class DeadlinePassed(Exception):
    """The turn would come after the deadline."""


class HostPaused(Exception):
    """A host asks for a longer wait than `max_wait`: `seconds` of it remain, `why` names the cause."""

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(why)
        self.seconds = seconds


class HostState:
    """The state of one host within a task: its limit, its next turn, and its pause.

    Times are on the monotonic clock.
    """

    def __init__(self, limit: HostLimit) -> None:
        self.slots = asyncio.Semaphore(limit.at_once or 1 << 30)
        self._interval = 1 / limit.per_second if limit.per_second else 0.0
        self._requested_interval = 0.0  # seconds, as the site asks for
        self._next = 0.0  # the first turn that is not yet taken or waited for
        self._earliest = 0.0  # when the next request may be sent
        self._paused = 0.0  # end of the pause
        self.inside = 0
        self.workers = limit.at_once or 1 << 30

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the host and it may be queried at once: a new `HostState` would be equivalent."""
        return not self.inside and max(self._next, self._paused) <= time.monotonic()

    def slow_to(self, interval: float) -> None:
        """Leave at least `interval` seconds between requests (robots.txt's Crawl-delay)."""
        self._requested_interval = max(self._requested_interval, interval)

    def pause(self, seconds: float) -> None:
        """Send no request for so many seconds (Retry-After)."""
        self._paused = max(self._paused, time.monotonic() + seconds)

    def turn(self, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> "Turn":
        """Return a context that waits for the host's turn and a place in `gate`.

        Entering it raises Paused where the host asks for a wait of more than `max_wait` seconds, and TooLate where the
        turn comes after `deadline`, on the monotonic clock. While waiting for the turn, it takes no place in the gate.
        """
        return Turn(self, gate, max_wait, deadline)

    async def take(self, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> None:
        """Take a slot and a place in the gate, or raise and take neither."""
        if not self.slots.locked() and not gate.locked() and self._take_free_turn(time.monotonic()):
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
            raise DeadlinePassed from None

    def _take_free_turn(self, now: float) -> bool:
        """Take the next turn if it needs no wait; return whether it was taken."""
        interval = max(self._interval, self._requested_interval)
        if now < max(self._next - _early(interval), self._paused):
            return False
        self._next = self._earliest = max(self._next, now) + interval
        return True

    async def _take_turn(self, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> None:
        """Reserve a turn and wait for it: later callers wait for the following ones, so that none wakes in vain."""
        while True:
            interval = max(self._interval, self._requested_interval)
            wait = self._wait(max_wait, deadline)
            self._next = max(self._next, time.monotonic() + wait) + interval
            if wait > 0:
                await asyncio.sleep(wait)
            await gate.acquire()
            now = time.monotonic()
            if now >= max(self._earliest - _early(interval), self._paused):
                # the gate may have delayed this turn: the next one keeps its distance
                self._earliest = max(self._earliest, now) + interval
                self._next = max(self._next, self._earliest)
                return
            gate.release()  # another turn was late, or a pause began

    def _wait(self, max_wait: float, deadline: float) -> float:
        """Return the seconds until the next turn; raise Paused or TooLate where that is too long."""
        now = time.monotonic()
        early = _early(max(self._interval, self._requested_interval))
        pause, wait = self._paused - now, max(self._next - early - now, 0.0)
        if pause > max_wait:
            raise HostPaused(pause, f"Retry-After: {pause:.0f} more seconds")
        if wait > max_wait and self._requested_interval > max_wait:
            raise HostPaused(wait, f"robots.txt: a Crawl-delay of {self._requested_interval:.0f} seconds")
        if max(wait, pause) >= deadline - now:
            raise DeadlinePassed
        return max(wait, pause)


def _early(interval: float) -> float:
    """Return the seconds by which a turn may be taken early where turns are `interval` seconds apart."""
    return MAX_EARLY_S if interval < MAX_EARLY_S else 0.0


class Turn:
    """A host's turn and a place in the gate, held for the duration of an `async with`."""

    def __init__(self, host: HostState, gate: asyncio.Semaphore, max_wait: float, deadline: float) -> None:
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


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that `Retry-After` asks for: a number of seconds or a date (RFC 9110, 10.2.3), or None."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
