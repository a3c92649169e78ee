"""What an answer's headers say about use for training, and which of it counts: each refusal is kept word for word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_AGENT = re.compile(r"\*|[a-z0-9][\w./-]*")


_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives of X-Robots-Tag that have a colon of their own."""


def product(user_agent: str) -> str:
    """Return the word by which a site names a crawler: the user agent up to the first "/", in lower case."""
    return user_agent.split("/")[0].strip().lower()


def refusal(values: Sequence[str], agent: str, refuse: frozenset[str]) -> str:
    """Return the `X-Robots-Tag` value that refuses us, verbatim, or "".

    A value is "[agent:] directive, directive", or several of these joined by commas; directives behind an agent count
    only if that is ours (its first word before any "/"). "none" says "noindex, nofollow".
    https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag
    """
    ours = (product(agent), "*")
    for value in values:
        meant = True
        for part in value.lower().split(","):
            head, colon, tail = part.partition(":")
            if colon and _AGENT.fullmatch(head.strip()) and head.strip() not in _WITH_VALUE:
                meant, part = product(head) in ours, tail
            said = {part.strip(), "noindex", "nofollow"} if part.strip() == "none" else {part.strip()}
            if meant and said & refuse:
                return value
    return ""


def reserved(values: Sequence[str]) -> str:
    """Return the `tdm-reservation` value that reserves text and data mining, verbatim, or "".

    1 reserves the rights, 0 does not, and anything else says nothing (TDM Reservation Protocol, W3C community group,
    2024, "tdm-reservation").
    """
    return next((value for value in values if value.strip() == "1"), "")


def usage_refused(values: Sequence[str], categories: Sequence[str]) -> str:
    """Return the `Content-Usage` value that disallows a use, verbatim, or "".

    The header is a dictionary of structured fields (RFC 9651), category=y or =n (AIPREF, draft-ietf-aipref-attach).
    `categories` go from the most specific to the most general: the first that is stated decides, so "bots=n,
    train-ai=y" allows training. A category that stands twice has its last value, as RFC 9651 says.
    """
    stated: dict[str, str] = {}
    for member in ",".join(values).lower().split(","):
        key, _, value = member.partition(";")[0].partition("=")
        stated[key.strip()] = value.strip()
    decisive = next((stated[name] for name in categories if stated.get(name) in ("y", "n")), "y")
    return ", ".join(values) if decisive == "n" else ""


@dataclass(frozen=True)
class Permissions:
    """Whose refusals count: `refuse` are directives of X-Robots-Tag, in lower case; `content_usage` are categories."""

    user_agent: str
    refuse: frozenset[str]
    tdm_reservation: bool = True
    content_usage: Sequence[str] = ()

    def refused(self, headers: Any) -> str:
        """Return the header that refuses us as "Name: value", verbatim, or ""; `headers` is aiohttp's multidict."""
        if value := refusal(headers.getall("X-Robots-Tag", ()), self.user_agent, self.refuse):
            return f"X-Robots-Tag: {value}"
        if self.tdm_reservation and (value := reserved(headers.getall("tdm-reservation", ()))):
            return f"tdm-reservation: {value}"
        if self.content_usage and (values := headers.getall("Content-Usage", ())):
            value = usage_refused(values, self.content_usage)
            return f"Content-Usage: {value}" if value else ""
        return ""
