"""robots.txt (RFC 9309), by protego: asked once for each origin, kept as long as the task that asked."""

from dataclasses import dataclass
from typing import Any

from pipeline.outcomes import Attempt
from pipeline.permissions import product

MAX_BYTES = 500 << 10
"""What is read of a robots.txt, in bytes: RFC 9309, 2.5, asks for at least 500 KiB."""
MAX_REDIRECTS = 5
"""RFC 9309, 2.3.1.2."""
RETRY_SECONDS = 30.0
"""How long a robots.txt that could not be had is not asked for again."""


@dataclass(frozen=True)
class Robots:
    """What an origin's robots.txt says to us; `failed` is the outcome of every URL there where it could not be had."""

    rules: Any = None  # protego's, None where all is allowed
    failed: Attempt | None = None
    until: float = float("inf")

    def refusal(self, url: str, user_agent: str) -> str:
        """Return why `url` may not be fetched, or ""."""
        if self.rules is None or self.rules.can_fetch(url, product(user_agent)):
            return ""
        return f"robots.txt: disallowed for {product(user_agent)}"

    def interval(self, user_agent: str) -> float:
        """Return the seconds that it wants between requests (Crawl-delay, Request-rate), 0 where it says none."""
        if self.rules is None:
            return 0.0
        delay = float(self.rules.crawl_delay(product(user_agent)) or 0.0)
        rate = self.rules.request_rate(product(user_agent))
        return max(delay, rate.seconds / rate.requests if rate and rate.requests else 0.0)


def robots_of(answer: Attempt, now: float) -> Robots:
    """Return what the answer to a request for robots.txt stands for.

    As in RFC 9309, 2.3.1: what is there is obeyed; where there is none (4xx), all is allowed; where it cannot be
    reached (5xx, no answer), nothing is. 429 counts as that, as it says nothing of what is there.
    """
    if answer.outcome == "stored":
        return Robots(_parsed(answer.body))
    if answer.outcome == "body_too_large":
        return Robots(_parsed(answer.body[:MAX_BYTES]))
    if 400 <= answer.status < 500 and answer.status != 429:
        return Robots()
    outcome = "robots_unreachable" if answer.outcome.startswith("http_") or answer.status else answer.outcome
    detail = f"robots.txt: {answer.outcome} {answer.detail}".strip()
    return Robots(failed=Attempt(outcome, 0, detail, retry_after=answer.retry_after), until=now + RETRY_SECONDS)


def _parsed(body: bytes) -> Any:
    from protego import Protego

    text = body.decode("utf-8", "replace")
    return Protego.parse(text) if text.strip() else None
