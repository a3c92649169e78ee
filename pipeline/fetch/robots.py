"""robots.txt (RFC 9309), by protego: asked once for each origin, and kept while there is room."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pipeline.fetch.opt_out import product
from pipeline.outcomes import STORED, Attempt

RESULT_VERSION = 1
"""What protego reads in a robots.txt: raised where a new version allows something else."""


MAX_BYTES = 500 << 10
"""What is read of a robots.txt, in bytes: RFC 9309, 2.5, asks for at least 500 KiB."""


MAX_REDIRECTS = 5
"""RFC 9309, 2.3.1.2."""


RETRY_SECONDS = 30.0
"""How long a robots.txt that could not be had is not asked for again."""


KEPT_SECONDS = 86400.0
"""How long one that was had is believed: RFC 9309, 2.4."""


KEPT_CHARS = 16 << 20
"""How much is kept, in characters of rules; protego's rules take some thirty times that in memory."""


_ENTRY = 1000
"""What an origin counts for, in characters, beside its rules."""


_AGENT = re.compile(r"\s*user[- ]?agent(?:\s*:|\s)\s*([^#]*)", re.IGNORECASE)


_RULE = re.compile(r"\s*(?!site-?maps?\b|host\b)(?:[^#:]*[^#:\s][^#:]*:|dis|allow|crawl|request|visit)", re.IGNORECASE)
"""Lines that belong to a group; all others end no list of agents."""


@dataclass(frozen=True)
class Robots:
    """What an origin's robots.txt says to us; `failed` is the outcome of every URL there where it could not be had.

    `interval` are the seconds that it wants between requests (Crawl-delay, Request-rate), `until` is when it is to be
    asked for again, on the monotonic clock, and `chars` is the length of its rules.
    """

    rules: Any = None  # protego's, None where all is allowed
    interval: float = 0.0
    failed: Attempt | None = None
    until: float = float("inf")
    chars: int = 0

    def refusal(self, url: str, user_agent: str) -> str:
        """Return why `url` may not be fetched, or ""."""
        if self.rules is None or self.rules.can_fetch(url, product(user_agent)):
            return ""
        return f"robots.txt: disallowed for {product(user_agent)}"


def robots_of(answer: Attempt, user_agent: str, now: float) -> Robots:
    """Return what the answer to a request for robots.txt stands for.

    As in RFC 9309, 2.3.1: what is there is obeyed; where there is none (4xx, or 204), all is allowed; where it cannot
    be reached (5xx, no answer), nothing is. 429 counts as that, as it says nothing of what is there.
    """
    if answer.outcome in (STORED, "body_too_large"):
        return _parsed(answer, product(user_agent), now + KEPT_SECONDS)
    if answer.status == 204 or (400 <= answer.status < 500 and answer.status != 429):
        return Robots(until=now + KEPT_SECONDS)
    outcome = "robots_unreachable" if answer.outcome.startswith("http_") or answer.status else answer.outcome
    detail = f"robots.txt: {answer.outcome} {answer.detail}".strip()
    return Robots(failed=Attempt(outcome, 0, detail, retry_after=answer.retry_after), until=now + RETRY_SECONDS)


def _parsed(answer: Attempt, agent: str, until: float) -> Robots:
    from protego import Protego

    text = answer.body[:MAX_BYTES].decode("utf-8-sig", "replace")
    if answer.outcome != STORED:  # cut: half of "Allow: /public" allows everything
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
    mine = group_of(text, agent)
    if not mine:
        return Robots(until=until)
    rules = Protego.parse(mine)
    delay, rate = float(rules.crawl_delay(agent) or 0.0), rules.request_rate(agent)
    if rate is not None:
        delay = max(delay, min(rate.seconds, 10**9) / rate.requests)  # any number of digits may stand there
    return Robots(rules, delay, until=until, chars=len(mine))


def group_of(text: str, agent: str) -> str:
    """Return the rules of a robots.txt that are meant for `agent` (RFC 9309, 2.2.1), as one group for "*", or "".

    Those of every group that names the agent, or of those for "*" where none does. A name that the agent begins with
    is its, the longest one. protego lays every rule beside every agent of its group, so that half a megabyte of agents
    and rules would fill a machine's memory: it sees this group alone.
    """
    groups: list[tuple[set[str], list[str]]] = []
    for line in text.splitlines():
        if found := _AGENT.match(line):
            if not groups or groups[-1][1]:
                groups.append((set(), []))
            name = product(found[1])
            groups[-1][0].add(name if name == "*" else name.replace("*", ""))
        elif groups and _RULE.match(line):
            groups[-1][1].append(line)
    named = {name for names, _ in groups for name in names}
    best = max((name for name in named if name and agent.startswith(name)), key=len, default="*")
    mine = [line for names, rules in groups if best in names for line in rules]
    return "\n".join(("User-agent: *", *mine)) if mine else ""


class Book:
    """What origins' robots.txt say, each asked for by `ask` once, however many wait for it.

    The oldest are forgotten, and asked again, when there are more than `KEPT_CHARS` of them.
    """

    def __init__(self, ask: Callable[[str], Awaitable[Robots]]) -> None:
        self._ask = ask
        self._tasks: dict[str, asyncio.Task[Robots]] = {}  # the one that was needed last is the last
        self._chars = 0

    def known(self, origin: str) -> Robots | None:
        """Return what is known of an origin, None where it must be asked or waited for."""
        task = self._tasks.get(origin)
        if task is None or not task.done() or not self._holds(task):
            return None
        self._tasks[origin] = self._tasks.pop(origin)
        return task.result()

    async def of(self, origin: str) -> Robots:
        """Return what is known of an origin; ask where nothing is, or nothing any more."""
        task = self._tasks.pop(origin, None)
        if task is not None and task.done() and not self._holds(task):
            self._chars -= _chars(task)
            task = None
        if task is None:
            task = asyncio.create_task(self._asked(origin))
        self._tasks[origin] = task
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is being asked."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _asked(self, origin: str) -> Robots:
        found = await self._ask(origin)
        self._chars += _ENTRY + found.chars
        for old, task in list(self._tasks.items()) if self._chars > KEPT_CHARS else ():
            if self._chars <= KEPT_CHARS // 2:
                break
            if task.done():
                self._chars -= _chars(self._tasks.pop(old))
        return found

    @staticmethod
    def _holds(task: asyncio.Task[Robots]) -> bool:
        return not task.cancelled() and task.exception() is None and task.result().until > time.monotonic()


def _chars(task: asyncio.Task[Robots]) -> int:
    return 0 if task.cancelled() or task.exception() else _ENTRY + task.result().chars
