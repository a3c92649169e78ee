"""The one door to the web: which URLs, addresses, bodies and permissions are accepted, and what each refusal is called.

Only http and https; every address is checked at the socket, at every redirect, after name resolution, so that no
name and no redirect leads inside. A host is asked as often as its limit and its robots.txt allow, and left alone while
it asks for that. A body is read to a limit. A refusal is an outcome with what caused it.
"""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from pipeline import robots
from pipeline.addresses import AddressRefused, AddressRules
from pipeline.outcomes import STORED, TRANSIENT, Attempt
from pipeline.permissions import Permissions
from pipeline.politeness import Budget, Host, HostLimits, Paused, TooLate, host_of, retry_after
from pipeline.resolver import Resolver, guarded_socket
from pipeline.robots import Robots, robots_of

REDIRECTS = frozenset({301, 302, 303, 307, 308})
BLOCK = 1 << 16
CLOSE = {"Connection": "close"}
OUT_OF_TIME = "the shard's time was up"
UNSAID = 1 << 18
"""Bytes that a body is taken to have where its length is not said."""


@dataclass(frozen=True)
class WebRules:
    """What the fetcher may do. Times in seconds, sizes in bytes.

    `timeout` is for one attempt, redirects included, without what is waited for a turn. `max_wait` is the longest wait
    that a site may ask for. `max_in_flight` bounds the bodies that are held at once.
    """

    permissions: Permissions
    timeout: float
    attempts: int
    max_bytes: int
    max_redirects: int
    concurrency: int
    back_off: float
    addresses: AddressRules = field(default_factory=AddressRules)
    limits: HostLimits = field(default_factory=HostLimits)
    robots_txt: bool = True
    max_wait: float = 60.0
    max_in_flight: int = 256 << 20


class _Clock:
    """Seconds on the network that one attempt has left."""

    def __init__(self, seconds: float) -> None:
        self.left = self.given = seconds

    @property
    def spent(self) -> float:
        return self.given - self.left

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Timeout]:
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self.left)) as limit:
                yield limit
        finally:
            self.left -= time.monotonic() - started


class Client:
    """Fetches URLs by the rules; an async context manager. Cookies, proxies and netrc are off.

    What it learns of hosts (turns, pauses, robots.txt) lasts as long as it does. Each body that it returns must be
    given back to `budget` when it is done with.
    """

    def __init__(self, rules: WebRules, system: AbstractResolver | None = None) -> None:
        self.rules = rules
        self.budget = Budget(rules.max_in_flight)
        self._gate = asyncio.Semaphore(rules.concurrency)
        self._hosts: dict[str, Host] = {}
        self._robots: dict[str, asyncio.Task[Robots]] = {}
        connector = aiohttp.TCPConnector(
            limit=0,  # the gate is the limit
            resolver=Resolver(rules.addresses, system),
            socket_factory=guarded_socket(rules.addresses),
            ttl_dns_cache=60,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": rules.permissions.user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._robots.values():
            task.cancel()
        await self._session.close()

    def host(self, url: str) -> Host:
        """Return what is known of a URL's host."""
        name = host_of(url)
        if name not in self._hosts:
            self._hosts[name] = Host(self.rules.limits.of(name))
        return self._hosts[name]

    async def fetch(self, url: str, deadline: float = float("inf"), alone: bool = False) -> list[Attempt]:
        """Return every attempt at `url`, the last one being the outcome; transient failures are tried again.

        Waits `back_off`, twice that, four times that … seconds between attempts, each spread by a random half up or
        down, or as long as the site asks (`Retry-After`). After `deadline`, on the monotonic clock, nothing is tried.
        `alone` says that its host will be asked for nothing else, so that no connection is kept for it.
        """
        attempts: list[Attempt] = []
        while True:
            found = await self._tried(url, deadline, alone)
            attempts.append(found)
            if found.outcome not in TRANSIENT or len(attempts) == self.rules.attempts:
                return attempts
            spread = 0.5 + random.random()  # noqa: S311 - no secret, only a spread in time
            wait = max(self.rules.back_off * 2 ** (len(attempts) - 1) * spread, found.retry_after or 0.0)
            if wait > self.rules.max_wait or time.monotonic() + wait > deadline:
                return attempts
            await asyncio.sleep(wait)

    async def _tried(self, url: str, deadline: float, alone: bool) -> Attempt:
        clock = _Clock(min(self.rules.timeout, deadline - time.monotonic()))
        try:
            found = await self._attempt(url, clock, deadline, alone)
        except Paused as error:
            found = Attempt("retry_later", detail=str(error), retry_after=error.seconds)
        except TooLate:
            found = Attempt("out_of_time", detail=OUT_OF_TIME)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            found = named(error)
        if found.outcome == "timeout" and time.monotonic() >= deadline:
            found = Attempt("out_of_time", detail=OUT_OF_TIME)
        detail = found.detail[:200].encode("utf-8", "replace").decode()  # headers may hold bytes that are no text
        return Attempt(found.outcome, found.status, detail, found.body, max(clock.spent, 0.0), found.retry_after)

    async def _attempt(self, url: str, clock: _Clock, deadline: float, alone: bool) -> Attempt:
        """Follow `url` through its redirects, each of which is checked like a URL of its own."""
        for _ in range(self.rules.max_redirects + 1):
            if not url.lower().startswith(("http://", "https://")):
                return Attempt("url_refused", detail="expected http or https")
            target = URL(url)
            if self.rules.robots_txt and (refused := await self._unwanted(target)):
                return refused
            found = await self._hop(target, clock, deadline, self.rules.max_bytes, headers=CLOSE if alone else None)
            if isinstance(found, Attempt):
                return found
            url = found
        return Attempt("too_many_redirects", detail=f"more than {self.rules.max_redirects} redirects")

    async def _hop(
        self,
        url: URL,
        clock: _Clock,
        deadline: float,
        max_bytes: int,
        image: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Attempt | str:
        """Return what one request came to, or the URL that it leads on to."""
        host = self.host(str(url))
        async with (
            host.turn(self._gate, self.rules.max_wait, deadline),
            clock.running() as limit,
            self._session.get(url, allow_redirects=False, headers=headers) as reply,
        ):
            if reply.status in REDIRECTS and (location := reply.headers.get("Location")):
                return str(url.join(URL(location)))
            if reply.status != 200:
                wait = retry_after(reply.headers.get("Retry-After")) if reply.status in (429, 503) else None
                if wait is not None:
                    host.pause(wait)
                return Attempt(f"http_{reply.status}", reply.status, reply.reason or "", retry_after=wait)
            if image and (cause := self._unusable(reply, max_bytes)):
                return cause
            return await self._body(reply, limit, max_bytes, image)

    def _unusable(self, reply: aiohttp.ClientResponse, max_bytes: int) -> Attempt | None:
        if cause := self.rules.permissions.refused(reply.headers):
            return Attempt("opted_out", 200, cause)
        kind = reply.headers.get("Content-Type", "")
        if kind[:5].lower() == "text/":
            return Attempt("not_an_image", 200, f"Content-Type: {kind[:80]}")
        if (reply.content_length or 0) > max_bytes:
            return Attempt("body_too_large", 200, f"Content-Length: {reply.content_length}")
        return None

    async def _body(
        self, reply: aiohttp.ClientResponse, limit: asyncio.Timeout, max_bytes: int, image: bool
    ) -> Attempt:
        held = min(reply.content_length or UNSAID, max_bytes)
        asked = time.monotonic()
        await self.budget.take(held)
        waited = time.monotonic() - asked
        if waited > 0.001 and (when := limit.when()) is not None:  # waiting for others is not the site's time
            limit.reschedule(when + waited)
        body = bytearray()
        kept = False
        try:
            async for block in reply.content.iter_chunked(BLOCK):
                body += block
                if len(body) > held:
                    self.budget.grow(len(body) - held)
                    held = len(body)
                if len(body) > max_bytes:
                    return Attempt("body_too_large", 200, f"more than {max_bytes} bytes", b"" if image else bytes(body))
            kept = True
            return Attempt(STORED, 200, body=bytes(body))
        finally:
            self.budget.give(held - len(body) if kept else held)

    async def _unwanted(self, url: URL) -> Attempt | None:
        """Return the outcome of a URL that its origin's robots.txt does not allow, or None."""
        origin = str(url.origin())
        task = self._robots.get(origin)
        if task is None or (task.done() and not task.cancelled() and task.result().until < time.monotonic()):
            task = self._robots[origin] = asyncio.create_task(self._ask_robots(origin))
        found = await asyncio.shield(task)
        if found.failed is not None:
            return found.failed
        agent = self.rules.permissions.user_agent
        if cause := found.refusal(str(url), agent):
            return Attempt("robots_refused", 0, cause)
        return None

    async def _ask_robots(self, origin: str) -> Robots:
        clock = _Clock(self.rules.timeout)
        url = f"{origin}/robots.txt"
        answer = Attempt("http_404", 404)  # RFC 9309: too many redirects are as none
        try:
            for _ in range(robots.MAX_REDIRECTS + 1):
                found = await self._hop(URL(url), clock, float("inf"), robots.MAX_BYTES, image=False)
                if isinstance(found, Attempt):
                    answer = found
                    break
                url = found
                if not url.startswith(("http://", "https://")):
                    break
        except Paused as error:
            answer = Attempt("retry_later", detail=str(error), retry_after=error.seconds)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            answer = named(error)
        if answer.outcome == STORED:
            self.budget.give(len(answer.body))
        result = robots_of(answer, time.monotonic())
        self.host(origin).slow_to(result.interval(self.rules.permissions.user_agent))
        return result


def named(error: Exception) -> Attempt:
    """Return the outcome that an exception of a request stands for."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return Attempt("address_refused", detail=str(cause))
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    if isinstance(error, TimeoutError):
        return Attempt("timeout", detail="no whole answer in time")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.CertificateError):
        return Attempt("bad_certificate", detail=str(getattr(error, "certificate_error", error)))
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | ValueError):
        return Attempt("url_refused", detail=type(error).__name__)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Attempt("unknown_host", detail="the name does not resolve")
    return Attempt("connection", detail=type(error).__name__)
