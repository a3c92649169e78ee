"""Politeness: how often and how many at once a host is asked, when it asked us to wait, and how much is in flight.

Everything here lives in one event loop. A host is asked by one task at a time (`jobs.ingest` sees to that), so a limit
that holds here holds for the whole cluster.
"""

import asyncio
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch

_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:///*(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)")
_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EARLY = 0.005
"""Seconds by which a turn may be taken before its time where turns are closer than that.

Timers are no finer, and a sleep for each of a thousand turns a second costs more than the request. The turns that
follow are as much later: in any second, a host gets at most 5 requests in a thousand more than its limit.
"""
_LOWER = str.maketrans(_UPPER, _UPPER.lower())  # of other letters, Python and each Java know different cases


def host_of(url: str) -> str:
    """Return the host of a URL in lower case, "" where there is none. `host_sql` is the same in Spark SQL.

    The dot that may end a name is left out, as it is the same host with it.
    """
    found = _AUTHORITY.match(url)
    return found[1].translate(_LOWER).rstrip(".") if found else ""


def host_sql(url: str) -> str:
    """Return the Spark SQL expression of `host_of` over a column expression."""
    pattern = "^" + _AUTHORITY.pattern.replace("\\", "\\\\")
    return f"trim(TRAILING '.' FROM translate(regexp_extract({url}, '{pattern}', 1), '{_UPPER}', '{_UPPER.lower()}'))"


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


class Budget:
    """Bytes of bodies in flight: at most `limit`, but for one body that may grow beyond it, or be larger by itself.

    Without that one, bodies that have begun would wait for each other for ever. Bodies that have not begun wait in the
    order in which they came.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._over: Claim | None = None  # the one that may pass the limit
        self._loop = asyncio.get_running_loop()
        self._freed = asyncio.Event()
        self._line = asyncio.Lock()
        self._lock = threading.Lock()
        self._returned = 0  # given back by other threads, not yet taken off `held`
        self._waiting = 0

    def give_from_thread(self, size: int) -> None:
        """Give back what a claim left to whoever has the body; in any thread. The loop is woken if someone waits."""
        with self._lock:
            self._returned += size
        if self._waiting:
            self._loop.call_soon_threadsafe(self._freed.set)

    def take_now(self, claim: "Claim", size: int) -> bool:
        """Take `size` bytes more for a claim, if it has not to wait for that."""
        return (claim.held > 0 or not self._line.locked()) and self._took(claim, size)

    async def take(self, claim: "Claim", size: int) -> None:
        """Take `size` bytes more for a claim, once there is room."""
        if claim.held:  # a body that has begun must not wait behind those that have not
            await self._wait(claim, size)
        else:
            async with self._line:
                await self._wait(claim, size)

    def settle(self, claim: "Claim", size: int) -> None:
        """Give back `size` bytes of a claim that takes no more."""
        self.held -= size
        if self._over is claim:
            self._over = None
        if self._waiting:
            self._freed.set()

    def _took(self, claim: "Claim", size: int) -> bool:
        if self.held + size > self.limit and self._over is not claim:
            if self._over or self.held > (self.limit if claim.held else 0):
                return False
            self._over = claim
        self.held += size
        claim.held += size
        return True

    async def _wait(self, claim: "Claim", size: int) -> None:
        self._waiting += 1
        try:
            while True:
                self._freed.clear()
                with self._lock:
                    self.held, self._returned = self.held - self._returned, 0
                if self._took(claim, size):
                    return
                await self._freed.wait()
        finally:
            self._waiting -= 1


class Claim:
    """What one body holds of a budget, from its first byte until it is settled."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def holds(self, size: int) -> bool:
        """Make it hold `size` bytes at least; return False where it would have to wait for them."""
        return size <= self.held or self._budget.take_now(self, size - self.held)

    async def hold(self, size: int) -> None:
        """Make it hold `size` bytes at least, once there is room."""
        if not self.holds(size):
            await self._budget.take(self, size - self.held)

    def settle(self, kept: int = 0) -> None:
        """Give back all but the `kept` bytes of a body, which whoever has it gives back."""
        self._budget.settle(self, self.held - kept)
        self.held = 0


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
