"""Opt-outs from training in response headers, and which of them count. Each refusal is kept verbatim."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_AGENT = re.compile(r"\*|[a-z0-9][\w./-]*")


_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives of X-Robots-Tag that contain a colon themselves."""


def product_token(user_agent: str) -> str:
    """Return the product token by which sites name a crawler: the user agent up to the first "/", in lower case."""
    return user_agent.split("/")[0].strip().lower()


def robots_tag_refusal(values: Sequence[str], agent: str, refuse: frozenset[str]) -> str:
    """Return the `X-Robots-Tag` value that refuses us, verbatim, or "".

    A value is "[agent:] directive, directive", or several of these joined by commas; directives after an agent count
    only if that is our product token (`product`) or "*". "none" means "noindex, nofollow".
    https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag
    """
    ours = (product_token(agent), "*")
    for value in values:
        applies = True
        for part in value.lower().split(","):
            head, colon, tail = part.partition(":")
            if colon and _AGENT.fullmatch(head.strip()) and head.strip() not in _WITH_VALUE:
                applies, part = product_token(head) in ours, tail
            directives = {part.strip(), "noindex", "nofollow"} if part.strip() == "none" else {part.strip()}
            if applies and directives & refuse:
                return value
    return ""


def tdm_refusal(values: Sequence[str]) -> str:
    """Return the `tdm-reservation` value that reserves text and data mining, verbatim, or "".

    1 reserves the rights, 0 does not, and any other value means nothing (TDM Reservation Protocol, W3C community group,
    2024, "tdm-reservation").
    """
    return next((value for value in values if value.strip() == "1"), "")


def content_usage_refusal(values: Sequence[str], categories: Sequence[str]) -> str:
    """Return the `Content-Usage` value that disallows a use, verbatim, or "".

    The header is a dictionary of structured fields (RFC 9651), category=y or =n (AIPREF, draft-ietf-aipref-attach).
    `categories` go from the most specific to the most general: the first that is stated decides, so "bots=n,
    train-ai=y" allows training. A category that occurs twice has its last value (RFC 9651).
    """
    stated: dict[str, str] = {}
    for member in ",".join(values).lower().split(","):
        key, _, value = member.partition(";")[0].partition("=")
        stated[key.strip()] = value.strip()
    decision = next((stated[name] for name in categories if stated.get(name) in ("y", "n")), "y")
    return ", ".join(values) if decision == "n" else ""


@dataclass(frozen=True)
class OptOutRules:
    """Which opt-outs count: those for `user_agent` or for all agents.

    `refuse` are directives of X-Robots-Tag, in lower case. `tdm_reservation` says whether that header counts.
    `content_usage` are categories of Content-Usage, the most specific first.
    """

    user_agent: str
    refuse: frozenset[str]
    tdm_reservation: bool = True
    content_usage: Sequence[str] = ()

    def refused(self, headers: Any) -> str:
        """Return the header that refuses us as "Name: value", verbatim, or ""; `headers` is aiohttp's multidict."""
        if value := robots_tag_refusal(headers.getall("X-Robots-Tag", ()), self.user_agent, self.refuse):
            return f"X-Robots-Tag: {value}"
        if self.tdm_reservation and (value := tdm_refusal(headers.getall("tdm-reservation", ()))):
            return f"tdm-reservation: {value}"
        if self.content_usage and (values := headers.getall("Content-Usage", ())):
            value = content_usage_refusal(values, self.content_usage)
            return f"Content-Usage: {value}" if value else ""
        return ""
