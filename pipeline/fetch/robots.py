"""robots.txt (RFC 9309), parsed by protego: fetched once for each origin, and cached while there is room."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pipeline.fetch.opt_out import product_token
from pipeline.outcomes import STORED, Attempt

RESULT_VERSION = 1
"""Version of protego's interpretation of robots.txt: raised when a new release allows other URLs."""


MAX_BYTES = 500 << 10
"""Bytes of a robots.txt that are read: RFC 9309, 2.5, asks for at least 500 KiB."""


MAX_REDIRECTS = 5
"""Redirects of a robots.txt that are followed: RFC 9309, 2.3.1.2."""


RETRY_AFTER_S = 30.0
"""Seconds before a robots.txt that could not be fetched is requested again."""


CACHE_TTL_S = 86400.0
"""Seconds for which a fetched robots.txt is cached: RFC 9309, 2.4."""


MAX_CACHE_CHARS = 16 << 20
"""Characters of rules in the cache; parsed by protego, they take some thirty times that in memory."""


_ENTRY_CHARS = 1000
"""Characters that an origin counts for in the cache, in addition to its rules."""


_AGENT = re.compile(r"\s*user[- ]?agent(?:\s*:|\s)\s*([^#]*)", re.IGNORECASE)


_RULE = re.compile(r"\s*(?!site-?maps?\b|host\b)(?:[^#:]*[^#:\s][^#:]*:|dis|allow|crawl|request|visit)", re.IGNORECASE)
"""Lines that are rules of a group; no other line ends a list of agents."""


@dataclass(frozen=True)
class RobotsRules:
    """An origin's robots.txt, as it applies to our user agent.

    `rules` are protego's. `failed` is the outcome of every URL of the origin where robots.txt could not be fetched.
    `interval` are the seconds that it asks for between requests (Crawl-delay, Request-rate), `until` is when it is
    fetched again, on the monotonic clock, and `chars` is the length of its rules.
    """

    rules: Any = None  # None where everything is allowed
    interval: float = 0.0
    failed: Attempt | None = None
    until: float = float("inf")
    chars: int = 0

    def refusal(self, url: str, user_agent: str) -> str:
        """Return the reason why `url` may not be fetched, or ""."""
        if self.rules is None or self.rules.can_fetch(url, product_token(user_agent)):
            return ""
        return f"robots.txt: disallowed for {product_token(user_agent)}"


def robots_from_response(answer: Attempt, user_agent: str, now: float) -> RobotsRules:
    """Return the rules that follow from the response to a request for robots.txt.

    As in RFC 9309, 2.3.1: an existing file is obeyed; where there is none (4xx, or 204), everything is allowed; where
    it is unreachable (5xx, no response), nothing is. 429 counts as unreachable, as it says nothing about the file.
    """
    if answer.outcome in (STORED, "body_too_large"):
        return _parse(answer, product_token(user_agent), now + CACHE_TTL_S)
    if answer.status == 204 or (400 <= answer.status < 500 and answer.status != 429):
        return RobotsRules(until=now + CACHE_TTL_S)
    outcome = "robots_unreachable" if answer.outcome.startswith("http_") or answer.status else answer.outcome
    detail = f"robots.txt: {answer.outcome} {answer.detail}".strip()
    return RobotsRules(failed=Attempt(outcome, 0, detail, retry_after=answer.retry_after), until=now + RETRY_AFTER_S)


def _parse(answer: Attempt, agent: str, until: float) -> RobotsRules:
    """Return the rules in a robots.txt, which may be cut at `MAX_BYTES`."""
    from protego import Protego

    text = answer.body[:MAX_BYTES].decode("utf-8-sig", "replace")
    if answer.outcome != STORED:  # drop the cut line: half of "Allow: /public" allows everything
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
    group = matching_group(text, agent)
    if not group:
        return RobotsRules(until=until)
    rules = Protego.parse(group)
    delay, rate = float(rules.crawl_delay(agent) or 0.0), rules.request_rate(agent)
    if rate is not None:
        delay = max(delay, min(rate.seconds, 10**9) / rate.requests)  # the file may hold any number of digits
    return RobotsRules(rules, delay, until=until, chars=len(group))


def matching_group(text: str, agent: str) -> str:
    """Return the rules of a robots.txt that apply to `agent` (RFC 9309, 2.2.1), as one group for "*", or "".

    These are the rules of every group that names the agent, or of the groups for "*" where none does. A group names
    the agent by a prefix of its name; the longest prefix counts. protego stores every rule for every agent of its
    group, so half a megabyte of agents and rules would fill a machine's memory: it is given this one group only.
    """
    groups: list[tuple[set[str], list[str]]] = []
    for line in text.splitlines():
        if match := _AGENT.match(line):
            if not groups or groups[-1][1]:
                groups.append((set(), []))
            name = product_token(match[1])
            groups[-1][0].add(name if name == "*" else name.replace("*", ""))
        elif groups and _RULE.match(line):
            groups[-1][1].append(line)
    all_names = {name for names, _ in groups for name in names}
    best = max((name for name in all_names if name and agent.startswith(name)), key=len, default="*")
    applicable = [line for names, rules in groups if best in names for line in rules]
    return "\n".join(("User-agent: *", *applicable)) if applicable else ""


class RobotsCache:
    """Cache of robots.txt by origin; `ask` fetches each once, however many callers wait for it.

    The least recently used entries are evicted where there are more than `MAX_CACHE_CHARS` characters of rules.
    """

    def __init__(self, ask: Callable[[str], Awaitable[RobotsRules]]) -> None:
        self._ask = ask
        self._tasks: dict[str, asyncio.Task[RobotsRules]] = {}  # in order of use, the most recent last
        self._chars = 0

    def known(self, origin: str) -> RobotsRules | None:
        """Return the cached rules of an origin, None where they must be fetched or waited for."""
        task = self._tasks.get(origin)
        if task is None or not task.done() or not self._is_valid(task):
            return None
        self._tasks[origin] = self._tasks.pop(origin)
        return task.result()

    async def of(self, origin: str) -> RobotsRules:
        """Return the rules of an origin; fetch them where none are cached or they have expired."""
        task = self._tasks.pop(origin, None)
        if task is not None and task.done() and not self._is_valid(task):
            self._chars -= _chars(task)
            task = None
        if task is None:
            task = asyncio.create_task(self._fetch(origin))
        self._tasks[origin] = task
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel the requests that are under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _fetch(self, origin: str) -> RobotsRules:
        """Fetch an origin's rules, and evict old ones down to half of `MAX_CACHE_CHARS` where there are too many."""
        fetched = await self._ask(origin)
        self._chars += _ENTRY_CHARS + fetched.chars
        for old_origin, task in list(self._tasks.items()) if self._chars > MAX_CACHE_CHARS else ():
            if self._chars <= MAX_CACHE_CHARS // 2:
                break
            if task.done():
                self._chars -= _chars(self._tasks.pop(old_origin))
        return fetched

    @staticmethod
    def _is_valid(task: asyncio.Task[RobotsRules]) -> bool:
        return not task.cancelled() and task.exception() is None and task.result().until > time.monotonic()


def _chars(task: asyncio.Task[RobotsRules]) -> int:
    return 0 if task.cancelled() or task.exception() else _ENTRY_CHARS + task.result().chars
