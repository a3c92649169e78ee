"""The one door to the web: which URLs, addresses, bodies and permissions are accepted, and what each refusal is called.

Only http and https; every address is checked at the socket, at every redirect, after name resolution, so that no
name and no redirect leads inside. A host is asked as often as its limit and its robots.txt allow, and left alone while
it asks for that. A body is read to a limit. A refusal is an outcome with what caused it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from pipeline.fetch import robots
from pipeline.fetch.addresses import AddressRules
from pipeline.fetch.attempt_timer import Clock
from pipeline.fetch.byte_budget import Budget, Claim
from pipeline.fetch.error_outcomes import KEEP_ALIVE, named
from pipeline.fetch.opt_out import Permissions
from pipeline.fetch.rate_limit import Host, HostLimits, Paused, TooLate, retry_after
from pipeline.fetch.resolver import Resolver, guarded_socket
from pipeline.fetch.robots import Robots, robots_of
from pipeline.fetch.urls import UrlRefused, checked, host_of, led
from pipeline.outcomes import STORED, TAKEN_DOWN, TRANSIENT, Attempt

REDIRECTS = frozenset({301, 302, 303, 307, 308})


BLOCK = 1 << 16


CLOSE = {"Connection": "close"}


LONGEST_HEADER = 1 << 15
"""Bytes; a page's Content-Security-Policy may pass aiohttp's own 8190."""


MOST_HOSTS = 50_000
"""How many hosts are remembered before those are forgotten that may be asked at once."""


OUT_OF_TIME = Attempt("out_of_time", detail="the shard's time was up")


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


@dataclass(frozen=True)
class _Way:
    """What one attempt has on its way: its time, its share of the budget, and how much of which kind it reads."""

    clock: Clock
    claim: Claim
    max_bytes: int
    image: bool = True
    alone: bool = False


class Client:
    """Fetches URLs by the rules; an async context manager. Cookies, proxies and netrc are off.

    What it learns of hosts (turns, pauses, robots.txt) lasts as long as it does. Each body that it returns must be
    given back to `budget` when it is done with. No redirect is followed to a URL that is `forbidden`, as taken down.
    """

    def __init__(
        self,
        rules: WebRules,
        system: AbstractResolver | None = None,
        forbidden: Callable[[str], bool] = lambda url: False,
    ) -> None:
        self.rules = rules
        self._forbidden = forbidden
        self.budget = Budget(rules.max_in_flight)
        self._gate = asyncio.Semaphore(rules.concurrency)
        self._hosts: dict[str, Host] = {}
        self._robots = robots.Book(self._ask_robots)
        self._resolver = Resolver(rules.addresses, system)
        connector = aiohttp.TCPConnector(
            limit=0,  # the gate is the limit
            resolver=self._resolver,
            socket_factory=guarded_socket(rules.addresses),
            ttl_dns_cache=60,
            keepalive_timeout=KEEP_ALIVE,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": rules.permissions.user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            middlewares=(_once,),
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._robots.close()
        await self._session.close()
        await self._resolver.close()

    def host(self, url: str) -> Host:
        """Return what is known of a URL's host."""
        name = host_of(url)
        if name not in self._hosts:
            if len(self._hosts) >= MOST_HOSTS:
                self._hosts = {name: host for name, host in self._hosts.items() if not host.forgettable}
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
        way = _Way(Clock(self.rules.timeout, deadline), Claim(self.budget), self.rules.max_bytes, alone=alone)
        found = OUT_OF_TIME
        try:
            if time.monotonic() < deadline:
                found = await self._attempt(url, way)
        except Paused as error:
            found = Attempt("retry_later", detail=str(error), retry_after=error.seconds)
        except TooLate:
            pass
        except Exception as error:  # noqa: BLE001 - as at a decoder: one answer must not end a shard
            found = named(error)
        finally:
            way.claim.settle(len(found.body))
        if found.outcome == "timeout" and time.monotonic() >= deadline:
            found = OUT_OF_TIME
        detail = found.detail[:200].encode("utf-8", "replace").decode()  # headers may hold bytes that are no text
        return Attempt(found.outcome, found.status, detail, found.body, max(way.clock.spent, 0.0), found.retry_after)

    async def _attempt(self, url: str, way: _Way) -> Attempt:
        """Follow `url` through its redirects, each of which is checked like a URL of its own."""
        target = checked(url)
        for _ in range(self.rules.max_redirects + 1):
            if self.rules.robots_txt and (refused := await self._unwanted(target, way.clock.deadline)):
                return refused
            found = await self._hop(target, way)
            if isinstance(found, Attempt):
                return found
            target = led(target, found)
            if self._forbidden(str(target)):
                return Attempt(TAKEN_DOWN)  # where it leads is written nowhere
        return Attempt("too_many_redirects", detail=f"more than {self.rules.max_redirects} redirects")

    async def _hop(self, url: URL, way: _Way) -> Attempt | str:
        """Return what one request came to, or the Location that it leads on to."""
        host = self.host(str(url))
        async with (
            host.turn(self._gate, self.rules.max_wait, way.clock.deadline),
            way.clock,
            self._session.get(url, allow_redirects=False, headers=CLOSE if way.alone else None) as reply,
        ):
            if reply.status in REDIRECTS and (location := reply.headers.get("Location")):
                return location
            if reply.status != 200:
                return _failed(reply, host)
            if way.image and (cause := self._unusable(reply, way.max_bytes)):
                return cause
            return await _body(reply, way)

    def _unusable(self, reply: aiohttp.ClientResponse, max_bytes: int) -> Attempt | None:
        if cause := self.rules.permissions.refused(reply.headers):
            return Attempt("opted_out", 200, cause)
        kind = reply.headers.get("Content-Type", "")
        if kind[:5].lower() == "text/":
            return Attempt("not_an_image", 200, f"Content-Type: {kind[:80]}")
        if (reply.content_length or 0) > max_bytes:
            return Attempt("body_too_large", 200, f"Content-Length: {reply.content_length}")
        return None

    async def _unwanted(self, url: URL, deadline: float) -> Attempt | None:
        """Return the outcome of a URL that its origin's robots.txt does not allow, or None."""
        origin = str(url.origin())
        found = self._robots.known(origin)
        if found is None:
            try:
                async with asyncio.timeout_at(deadline if deadline < float("inf") else None):
                    found = await self._robots.of(origin)
            except TimeoutError:
                raise TooLate from None
        if found.failed is not None:
            return found.failed
        if found.interval:
            self.host(str(url)).slow_to(found.interval)
        if cause := found.refusal(str(url), self.rules.permissions.user_agent):
            return Attempt("robots_refused", 0, cause)
        return None

    async def _ask_robots(self, origin: str) -> Robots:
        way = _Way(Clock(self.rules.timeout, float("inf")), Claim(self.budget), robots.MAX_BYTES, image=False)
        url = first = URL(f"{origin}/robots.txt")
        answer = Attempt("http_404", 404)  # RFC 9309: too many redirects are as none
        try:
            for _ in range(robots.MAX_REDIRECTS + 1):
                found = await self._hop(url, way)
                if isinstance(found, Attempt):
                    answer = found
                    break
                url = led(url, found)
        except Paused as error:
            answer = Attempt("retry_later", detail=str(error), retry_after=error.seconds)
        except Exception as error:  # noqa: BLE001 - as at an image
            answer = named(error)
            if url is not first or isinstance(error, UrlRefused):  # where it led to is not what the row asks for
                answer = Attempt("robots_unreachable", detail=f"{answer.outcome} {answer.detail}")
        finally:
            way.claim.settle()
        return robots_of(answer, self.rules.permissions.user_agent, time.monotonic())


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request; where its connection breaks, raise what aiohttp does not answer with a second one.

    That one would have no turn of its host, and stand nowhere.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _failed(reply: aiohttp.ClientResponse, host: Host) -> Attempt:
    """Return what a status other than 200 comes to; its host is left alone where it asks for that."""
    outcome, said = f"http_{reply.status}", reply.headers.get("Retry-After")
    if reply.status not in (429, 503) or (wait := retry_after(said)) is None:
        return Attempt(outcome, reply.status, reply.reason or "")
    host.pause(wait)
    return Attempt(outcome, reply.status, f"Retry-After: {said}", retry_after=wait)


async def _body(reply: aiohttp.ClientResponse, way: _Way) -> Attempt:
    """Read a body to its end or its limit, a block only once the budget has room for it."""
    body = bytearray()
    await _hold(way, min(reply.content_length or UNSAID, way.max_bytes))
    async for block in reply.content.iter_chunked(BLOCK):
        await _hold(way, len(body) + len(block))
        body += block
        if len(body) > way.max_bytes:
            said = f"more than {way.max_bytes} bytes"
            return Attempt("body_too_large", 200, said, b"" if way.image else bytes(body))
    return Attempt(STORED, 200, body=bytes(body))


async def _hold(way: _Way, size: int) -> None:
    if not way.claim.holds(size):
        with way.clock.stopped():
            await way.claim.hold(size)
