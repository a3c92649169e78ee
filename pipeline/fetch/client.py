"""The only HTTP client: which URLs, addresses, bodies and opt-outs are accepted, and the outcome of each refusal.

Only http and https. Every address is checked at the socket, at every redirect, after name resolution, so that no name
and no redirect leads to an internal address. A host is queried as often as its rate limit and its robots.txt allow,
and not at all while it asks for a pause. A body is read up to a limit. A refusal is an outcome with its cause.
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
from pipeline.fetch.attempt_timer import AttemptTimer
from pipeline.fetch.byte_budget import BudgetClaim, ByteBudget
from pipeline.fetch.error_outcomes import KEEP_ALIVE_S, outcome_of_error
from pipeline.fetch.opt_out import OptOutRules
from pipeline.fetch.rate_limit import DeadlinePassed, HostLimits, HostPaused, HostState, parse_retry_after
from pipeline.fetch.resolver import Resolver, guarded_socket
from pipeline.fetch.robots import RobotsRules, robots_from_response
from pipeline.fetch.urls import UrlRefused, check_url, host_of, redirect_target
from pipeline.outcomes import STORED, TAKEN_DOWN, TRANSIENT, Attempt

REDIRECTS = frozenset({301, 302, 303, 307, 308})


READ_BYTES = 1 << 16


CLOSE_HEADERS = {"Connection": "close"}


MAX_HEADER_BYTES = 1 << 15
"""Bytes; a page's Content-Security-Policy may exceed aiohttp's default of 8190."""


MAX_HOSTS = 50_000
"""Number of hosts whose state is kept before idle ones (`Host.idle`) are dropped."""


OUT_OF_TIME = Attempt("out_of_time", detail="the shard's time was up")


UNKNOWN_LENGTH_BYTES = 1 << 18
"""Assumed bytes of a body whose length is not stated."""


@dataclass(frozen=True)
class FetchRules:
    """The client's limits. Times in seconds, sizes in bytes.

    `timeout` is for one attempt, redirects included, waiting for a turn excluded. `max_wait` is the longest wait that a
    site may ask for. `max_in_flight` bounds the bodies that are held at once.
    """

    permissions: OptOutRules
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
class _AttemptState:
    """The state and limits of one attempt: its clock, its claim on the budget, and what it may read.

    `image` says whether an image is expected, not a robots.txt; `alone` is as in `Client.fetch`.
    """

    clock: AttemptTimer
    claim: BudgetClaim
    max_bytes: int
    image: bool = True
    alone: bool = False


class HttpClient:
    """Fetches URLs by the rules; an async context manager. Cookies, proxies and netrc are off.

    The state of hosts (turns, pauses, robots.txt) lasts as long as the client. The bytes of each body that it returns
    must be returned to `budget` after use. No redirect is followed to a URL that is `forbidden` by a takedown.
    """

    def __init__(
        self,
        rules: FetchRules,
        system: AbstractResolver | None = None,
        forbidden: Callable[[str], bool] = lambda url: False,
    ) -> None:
        self.rules = rules
        self._forbidden = forbidden
        self.budget = ByteBudget(rules.max_in_flight)
        self._gate = asyncio.Semaphore(rules.concurrency)
        self._hosts: dict[str, HostState] = {}
        self._robots = robots.RobotsCache(self._fetch_robots)
        self._resolver = Resolver(rules.addresses, system)
        connector = aiohttp.TCPConnector(
            limit=0,  # the gate limits connections
            resolver=self._resolver,
            socket_factory=guarded_socket(rules.addresses),
            ttl_dns_cache=60,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": rules.permissions.user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            middlewares=(_send_once,),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def __aenter__(self) -> "HttpClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._robots.close()
        await self._session.close()
        await self._resolver.close()

    def host(self, url: str) -> HostState:
        """Return the state of a URL's host."""
        name = host_of(url)
        if name not in self._hosts:
            if len(self._hosts) >= MAX_HOSTS:
                self._hosts = {name: host for name, host in self._hosts.items() if not host.idle}
            self._hosts[name] = HostState(self.rules.limits.of(name))
        return self._hosts[name]

    async def fetch(self, url: str, deadline: float = float("inf"), alone: bool = False) -> list[Attempt]:
        """Return every attempt at `url`, the last one being the outcome; transient failures are tried again.

        Waits `back_off`, twice that, four times that … seconds between attempts, each randomly spread by up to half, or
        as long as the site asks (`Retry-After`). After `deadline`, on the monotonic clock, nothing is tried. `alone`
        says that nothing else will be fetched from this host, so that no connection is kept open to it.
        """
        attempts: list[Attempt] = []
        while True:
            attempt = await self._try_once(url, deadline, alone)
            attempts.append(attempt)
            if attempt.outcome not in TRANSIENT or len(attempts) == self.rules.attempts:
                return attempts
            spread = 0.5 + random.random()  # noqa: S311 - not a secret, only a spread in time
            wait = max(self.rules.back_off * 2 ** (len(attempts) - 1) * spread, attempt.retry_after or 0.0)
            if wait > self.rules.max_wait or time.monotonic() + wait > deadline:
                return attempts
            await asyncio.sleep(wait)

    async def _try_once(self, url: str, deadline: float, alone: bool) -> Attempt:
        """Return the outcome of one attempt at `url`, whatever it raises, with the seconds spent on the network."""
        state = _AttemptState(
            AttemptTimer(self.rules.timeout, deadline), BudgetClaim(self.budget), self.rules.max_bytes, alone=alone
        )
        attempt = OUT_OF_TIME
        try:
            if time.monotonic() < deadline:
                attempt = await self._attempt(url, state)
        except HostPaused as error:
            attempt = Attempt("retry_later", detail=str(error), retry_after=error.seconds)
        except DeadlinePassed:
            pass
        except Exception as error:  # noqa: BLE001 - as with a decoder: one response must not end a shard
            attempt = outcome_of_error(error)
        finally:
            state.claim.settle(len(attempt.body))
        if attempt.outcome == "timeout" and time.monotonic() >= deadline:
            attempt = OUT_OF_TIME
        detail = attempt.detail[:200].encode("utf-8", "replace").decode()  # headers may hold bytes that are not text
        return Attempt(
            attempt.outcome, attempt.status, detail, attempt.body, max(state.clock.spent, 0.0), attempt.retry_after
        )

    async def _attempt(self, url: str, state: _AttemptState) -> Attempt:
        """Fetch `url` through its redirects, each of which is checked like a URL of its own."""
        target = check_url(url)
        for _ in range(self.rules.max_redirects + 1):
            if self.rules.robots_txt and (refusal := await self._robots_refusal(target, state.clock.deadline)):
                return refusal
            result = await self._request(target, state)
            if isinstance(result, Attempt):
                return result
            target = redirect_target(target, result)
            if self._forbidden(str(target)):
                return Attempt(TAKEN_DOWN)  # the redirect's target is not recorded
        return Attempt("too_many_redirects", detail=f"more than {self.rules.max_redirects} redirects")

    async def _request(self, url: URL, state: _AttemptState) -> Attempt | str:
        """Return the outcome of one request, or the Location that it redirects to."""
        host = self.host(str(url))
        async with (
            host.turn(self._gate, self.rules.max_wait, state.clock.deadline),
            state.clock,
            self._session.get(url, allow_redirects=False, headers=CLOSE_HEADERS if state.alone else None) as response,
        ):
            if response.status in REDIRECTS and (location := response.headers.get("Location")):
                return location
            if response.status != 200:
                return _failure(response, host)
            if state.image and (refusal := self._header_refusal(response, state.max_bytes)):
                return refusal
            return await _read_body(response, state)

    def _header_refusal(self, response: aiohttp.ClientResponse, max_bytes: int) -> Attempt | None:
        """Return the outcome of a response whose headers rule out its body, or None."""
        if cause := self.rules.permissions.refused(response.headers):
            return Attempt("opted_out", 200, cause)
        content_type = response.headers.get("Content-Type", "")
        if content_type[:5].lower() == "text/":
            return Attempt("not_an_image", 200, f"Content-Type: {content_type[:80]}")
        if (response.content_length or 0) > max_bytes:
            return Attempt("body_too_large", 200, f"Content-Length: {response.content_length}")
        return None

    async def _robots_refusal(self, url: URL, deadline: float) -> Attempt | None:
        """Return the outcome of a URL that its origin's robots.txt does not allow, or None; note its Crawl-delay."""
        origin = str(url.origin())
        rules = self._robots.known(origin)
        if rules is None:
            try:
                async with asyncio.timeout_at(deadline if deadline < float("inf") else None):
                    rules = await self._robots.of(origin)
            except TimeoutError:
                raise DeadlinePassed from None
        if rules.failed is not None:
            return rules.failed
        if rules.interval:
            self.host(str(url)).slow_to(rules.interval)
        if cause := rules.refusal(str(url), self.rules.permissions.user_agent):
            return Attempt("robots_refused", 0, cause)
        return None

    async def _fetch_robots(self, origin: str) -> RobotsRules:
        """Fetch an origin's robots.txt through its redirects."""
        state = _AttemptState(
            AttemptTimer(self.rules.timeout, float("inf")), BudgetClaim(self.budget), robots.MAX_BYTES, image=False
        )
        url = first = URL(f"{origin}/robots.txt")
        answer = Attempt("http_404", 404)  # RFC 9309: too many redirects count as a missing file
        try:
            for _ in range(robots.MAX_REDIRECTS + 1):
                result = await self._request(url, state)
                if isinstance(result, Attempt):
                    answer = result
                    break
                url = redirect_target(url, result)
        except HostPaused as error:
            answer = Attempt("retry_later", detail=str(error), retry_after=error.seconds)
        except Exception as error:  # noqa: BLE001 - as with an image
            answer = outcome_of_error(error)
            if url is not first or isinstance(error, UrlRefused):  # the target's fault is not the row's
                answer = Attempt("robots_unreachable", detail=f"{answer.outcome} {answer.detail}")
        finally:
            state.claim.settle()
        return robots_from_response(answer, self.rules.permissions.user_agent, time.monotonic())


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request; where its connection breaks, raise an error that does not make aiohttp send it again.

    The repetition would not wait for the host's turn, and would not be recorded.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _failure(response: aiohttp.ClientResponse, host: HostState) -> Attempt:
    """Return the outcome of a status other than 200; pause the host where it asks for that."""
    outcome, value = f"http_{response.status}", response.headers.get("Retry-After")
    if response.status not in (429, 503) or (wait := parse_retry_after(value)) is None:
        return Attempt(outcome, response.status, response.reason or "")
    host.pause(wait)
    return Attempt(outcome, response.status, f"Retry-After: {value}", retry_after=wait)


async def _read_body(response: aiohttp.ClientResponse, state: _AttemptState) -> Attempt:
    """Read a body to its end or to the limit; each block is read only once the budget has room for it."""
    body = bytearray()
    await _hold(state, min(response.content_length or UNKNOWN_LENGTH_BYTES, state.max_bytes))
    async for block in response.content.iter_chunked(READ_BYTES):
        await _hold(state, len(body) + len(block))
        body += block
        if len(body) > state.max_bytes:
            detail = f"more than {state.max_bytes} bytes"
            return Attempt("body_too_large", 200, detail, b"" if state.image else bytes(body))
    return Attempt(STORED, 200, body=bytes(body))


async def _hold(state: _AttemptState, size: int) -> None:
    """Hold at least `size` bytes of the budget; a wait for them does not count as network time."""
    if not state.claim.holds(size):
        with state.clock.stopped():
            await state.claim.hold(size)
