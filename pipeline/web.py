"""The one door to the web: which URLs, addresses, bodies and permissions are accepted, and what each refusal is called.

Only http and https; every address is checked at the socket, at every redirect, after name resolution, so that no
name and no redirect leads inside. A body is read to a limit. A refusal is an outcome with what caused it.
"""

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

STORED = "stored"
TRANSIENT = frozenset({"http_429", "http_500", "http_502", "http_503", "http_504", "timeout", "connection"})
"""Outcomes that another attempt may change."""


class AddressRefused(OSError):
    """A host resolves to an address that is not globally routable and not allowed."""


@dataclass(frozen=True)
class WebRules:
    """What the fetcher may do. Times in seconds, sizes in bytes.

    `hosts` maps host patterns (``*.yfcc.test``) to "address:port", as curl's --connect-to does; the address of
    such a mapping is allowed, and no other that is not globally routable.
    """

    user_agent: str
    timeout: float
    attempts: int
    max_bytes: int
    max_redirects: int
    concurrency: int
    back_off: float
    refuse: frozenset[str]
    hosts: Mapping[str, str] = field(default_factory=dict)

    def mapped(self, host: str) -> tuple[str, int] | None:
        """Return (address, port) that `host` is mapped to, or None."""
        for pattern, target in self.hosts.items():
            if fnmatch(host, pattern):
                address, _, port = target.rpartition(":")
                return address, int(port)
        return None

    def allows(self, address: str, port: int) -> bool:
        """Tell whether a connection to an address may be opened."""
        if f"{address}:{port}" in set(self.hosts.values()):
            return True
        return _outside(ipaddress.ip_address(address.partition("%")[0]))


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _outside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an address is globally routable, and so is the IPv4 address that it may wrap (6to4, NAT64)."""
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return _outside(wrapped)
        if ip.is_site_local or int(ip) >> 32 == 0:
            return False
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True)
class Attempt:
    """What one request came to. `outcome` is `STORED` for a body in hand; `detail` is the cause, verbatim."""

    outcome: str
    status: int = 0
    detail: str = ""
    body: bytes = b""
    seconds: float = 0.0


class _Resolver(AbstractResolver):
    """Resolves through the rules' mapping first."""

    def __init__(self, rules: WebRules) -> None:
        self._rules = rules
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses to connect to; raise ValueError for what can't be a name (RFC 1035, 2.3.4)."""
        if len(host) > 253 or any(len(label) > 63 for label in host.split(".")):
            raise ValueError(f"{host[:80]} is no host name")
        target = self._rules.mapped(host)
        if target is None:
            found = await self._system.resolve(host, port, family)
            outside = [result for result in found if self._rules.allows(result["host"], result["port"])]
            if found and not outside:
                raise AddressRefused(f"{host} is {found[0]['host']}, which is not globally routable")
            return outside
        address, mapped_port = target
        return [ResolveResult(hostname=host, host=address, port=mapped_port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Release the system's resolver."""
        await self._system.close()


def _guarded_socket(rules: WebRules) -> Any:
    """Return a socket factory that refuses an inside address before a packet leaves."""

    def create(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        if not rules.allows(address[0], address[1]):
            raise AddressRefused(f"{address[0]}:{address[1]} is not globally routable")
        return socket.socket(family=family, type=kind, proto=proto)

    return create


def session(rules: WebRules) -> aiohttp.ClientSession:
    """Return a client session that keeps the rules. Cookies, proxies and netrc are off."""
    connector = aiohttp.TCPConnector(
        limit=rules.concurrency,
        resolver=_Resolver(rules),
        socket_factory=_guarded_socket(rules),
        ttl_dns_cache=60,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=rules.timeout),
        headers={"User-Agent": rules.user_agent},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


_AGENT = re.compile(r"\*|[a-z][\w./-]*")
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives that have a colon of their own."""


def refusal(values: list[str], agent: str, refuse: frozenset[str]) -> str:
    """Return the `X-Robots-Tag` value that refuses us, verbatim, or "".

    A value is "[agent:] directive, directive", or several of these joined by commas; directives behind an agent count
    only if that is ours (its first word before any "/"). "none" says "noindex, nofollow".
    https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag
    """
    ours = (agent.split("/")[0].strip().lower(), "*")
    for value in values:
        meant = True
        for part in value.lower().split(","):
            head, colon, tail = part.partition(":")
            if colon and _AGENT.fullmatch(head.strip()) and head.strip() not in _WITH_VALUE:
                meant, part = head.strip() in ours, tail
            said = {part.strip(), "noindex", "nofollow"} if part.strip() == "none" else {part.strip()}
            if meant and said & refuse:
                return value
    return ""


async def _attempt(client: aiohttp.ClientSession, rules: WebRules, url: str) -> Attempt:
    # aiohttp counts to the redirect that it refuses, and reads 0 as no limit
    async with client.get(url, max_redirects=rules.max_redirects + 1) as reply:
        if reply.status != 200:
            return Attempt(f"http_{reply.status}", reply.status, reply.reason or "")
        if cause := refusal(reply.headers.getall("X-Robots-Tag", []), rules.user_agent, rules.refuse):
            return Attempt("opted_out", 200, f"X-Robots-Tag: {cause}")
        kind = reply.headers.get("Content-Type", "").lower()
        if kind.startswith("text/"):
            return Attempt("not_an_image", 200, f"Content-Type: {kind[:80]}")
        if (reply.content_length or 0) > rules.max_bytes:
            return Attempt("body_too_large", 200, f"Content-Length: {reply.content_length}")
        body = bytearray()
        async for block in reply.content.iter_chunked(1 << 16):
            body += block
            if len(body) > rules.max_bytes:
                return Attempt("body_too_large", 200, f"more than {rules.max_bytes} bytes")
        return Attempt(STORED, 200, body=bytes(body))


def _named(error: Exception) -> Attempt:
    """Return the outcome that an exception of a request stands for."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return Attempt("address_refused", detail=str(cause))
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    if isinstance(error, TimeoutError):
        return Attempt("timeout", detail="no whole answer in time")
    if isinstance(error, aiohttp.TooManyRedirects):
        return Attempt("too_many_redirects", detail=f"{len(error.history)} redirects")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | ValueError):
        return Attempt("url_refused", detail=type(error).__name__)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Attempt("unknown_host", detail="the name does not resolve")
    return Attempt("connection", detail=type(error).__name__)


async def fetch(client: aiohttp.ClientSession, rules: WebRules, url: str) -> list[Attempt]:
    """Return every attempt at `url`, the last one being the outcome; transient failures are tried again.

    Waits `back_off`, twice that, four times that … seconds between attempts.
    """
    attempts: list[Attempt] = []
    for number in range(rules.attempts):
        if number:
            await asyncio.sleep(rules.back_off * 2 ** (number - 1))
        started = time.monotonic()
        if not url.lower().startswith(("http://", "https://")):
            found = Attempt("url_refused", detail="expected http or https")
        else:
            try:
                found = await _attempt(client, rules, url)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                found = _named(error)
        seconds = time.monotonic() - started
        detail = found.detail[:200].encode("utf-8", "replace").decode()  # headers may hold bytes that are no text
        attempts.append(Attempt(found.outcome, found.status, detail, found.body, seconds))
        if found.outcome not in TRANSIENT:
            break
    return attempts
