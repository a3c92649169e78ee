"""A web that misbehaves as told: a real aiohttp server on loopback, in a thread of its own."""

import asyncio
import gzip
import io
import re
import threading
from collections import Counter
from types import TracebackType

from aiohttp import web
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict
from PIL import Image

from pipeline.fetch.addresses import AddressRules
from pipeline.fetch.client import FetchRules, HttpClient
from pipeline.fetch.opt_out import OptOutRules
from pipeline.outcomes import STORED, TRANSIENT, Attempt

HOST = "http://www.site.test"


MAX_BYTES = 200_000


OUTCOMES = re.compile(
    r"stored|http_\d{3}|opted_out|not_an_image|body_too_large|address_refused|timeout|too_many_redirects|url_refused"
    r"|unknown_host|connection|bad_certificate|robots_refused|robots_unreachable|retry_later|out_of_time|out_of_files"
)


BOMB = gzip.compress(bytes(64 << 20), 9)  # 64 MiB in 65 kB


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a JPEG of one colour that follows from `seed`."""
    stream = io.BytesIO()
    Image.new("RGB", size, (seed * 37 % 256, seed * 101 % 256, 90)).save(stream, "JPEG")
    return stream.getvalue()


def web_rules(**changes: object) -> FetchRules:
    """Return quick rules: 3 attempts, 2 redirects, `MAX_BYTES`, no robots.txt.

    `hosts`, `allow` and `refuse` are those of the addresses and the permissions.
    """
    hosts, allow = changes.pop("hosts", {}), changes.pop("allow", ())
    refuse = changes.pop("refuse", frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml"}))
    given = {
        "permissions": OptOutRules(
            "Cuvee/0.1 (+https://cuvee.test)",
            refuse,  # type: ignore[arg-type]
            content_usage=("train-ai", "ai", "bots", "all"),
        ),
        "timeout": 5.0,
        "attempts": 3,
        "max_bytes": MAX_BYTES,
        "max_redirects": 2,
        "concurrency": 8,
        "back_off": 0.01,
        "addresses": AddressRules(hosts, allow),  # type: ignore[arg-type]
        "robots_txt": False,
    }
    return FetchRules(**(given | changes))  # type: ignore[arg-type]


class HostileWeb:
    """The server; a context manager. `asked` counts requests by path and query, as they arrive."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.port = 0
        self._replies: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    @property
    def hosts(self) -> dict[str, str]:
        """The mapping of host names to this server."""
        return {"*.site.test": f"127.0.0.1:{self.port}"}

    def answering(self, reply: bytes) -> str:
        """Return a path that is answered with these bytes and no others; then the connection is closed."""
        self._replies.append(reply)
        return f"/raw?n={len(self._replies) - 1}"

    def __enter__(self) -> "HostileWeb":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        for name in (
            "image",
            "status",
            "once",
            "slow",
            "drip",
            "page",
            "chunked",
            "declared",
            "bomb",
            "to",
            "hop",
            "raw",
        ):
            app.router.add_get(f"/{name}", getattr(self, f"_{name}"))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def _count(self, request: web.Request) -> int:
        self.asked[request.path_qs] += 1
        return self.asked[request.path_qs]

    async def _image(self, request: web.Request) -> web.Response:
        """/image?n=SEED&w=PX&tag=X-ROBOTS-TAG (repeatable)."""
        self._count(request)
        side = int(request.query.get("w", 64))
        headers = CIMultiDict(("X-Robots-Tag", tag) for tag in request.query.getall("tag", []))
        body = jpeg(int(request.query.get("n", 0)), (side, side))
        return web.Response(body=body, content_type="image/jpeg", headers=headers)

    async def _status(self, request: web.Request) -> web.Response:
        """/status?is=CODE."""
        self._count(request)
        return web.Response(status=int(request.query["is"]))

    async def _once(self, request: web.Request) -> web.Response:
        """/once?is=CODE: that status for the first request, an image for the others."""
        if self._count(request) == 1:
            return web.Response(status=int(request.query["is"]))
        return web.Response(body=jpeg(), content_type="image/jpeg")

    async def _slow(self, request: web.Request) -> web.Response:
        """/slow?s=SECONDS."""
        self._count(request)
        await asyncio.sleep(float(request.query["s"]))
        return web.Response(body=jpeg(), content_type="image/jpeg")

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        """A byte every 0.3 s, which keeps every read alive."""
        self._count(request)
        reply = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        await reply.prepare(request)
        for byte in jpeg()[:60]:
            await reply.write(bytes([byte]))
            await asyncio.sleep(0.3)
        return reply

    async def _page(self, request: web.Request) -> web.Response:
        self._count(request)
        return web.Response(text="<html>gone</html>", content_type="text/html")

    async def _chunked(self, request: web.Request) -> web.StreamResponse:
        """/chunked?bytes=N, without a length."""
        self._count(request)
        reply = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        reply.enable_chunked_encoding()
        await reply.prepare(request)
        left = int(request.query["bytes"])
        while left > 0:
            await reply.write(b"x" * min(left, 10_000))
            left -= 10_000
        return reply

    async def _declared(self, request: web.Request) -> web.Response:
        """/declared?bytes=N: a body of that length, its length said."""
        self._count(request)
        return web.Response(body=b"x" * int(request.query["bytes"]), content_type="image/jpeg")

    async def _bomb(self, request: web.Request) -> web.Response:
        self._count(request)
        return web.Response(body=BOMB, headers={"Content-Encoding": "gzip", "Content-Type": "image/jpeg"})

    async def _to(self, request: web.Request) -> web.Response:
        """/to?url=URL: a redirect there."""
        self._count(request)
        return web.Response(status=302, headers={"Location": request.query["url"]})

    async def _hop(self, request: web.Request) -> web.Response:
        """/hop?left=N: N redirects, then an image; -1 for ever."""
        self._count(request)
        left = int(request.query["left"])
        if left == 0:
            return web.Response(body=jpeg(), content_type="image/jpeg")
        target = left if left < 0 else left - 1
        return web.Response(status=301, headers={"Location": f"/hop?left={target}"})

    async def _raw(self, request: web.Request) -> web.Response:
        """/raw?n=NUMBER: that reply of `answering`."""
        self._count(request)
        assert request.transport is not None
        request.transport.write(self._replies[int(request.query["n"])])
        request.transport.close()
        return web.Response()


def tried(rules: FetchRules, url: str, system: AbstractResolver | None = None) -> list[Attempt]:
    """Return the attempts at a URL, checked for what holds of all attempts."""

    async def once() -> list[Attempt]:
        async with HttpClient(rules, system) as client:
            attempts = await client.fetch(url)
            assert client.budget.held == sum(len(attempt.body) for attempt in attempts)
            return attempts

    attempts = asyncio.run(once())
    assert 1 <= len(attempts) <= rules.attempts
    for attempt in attempts:
        assert OUTCOMES.fullmatch(attempt.outcome), attempt
        assert attempt.outcome == STORED or not attempt.body
        assert attempt.detail.encode().decode() == attempt.detail
        assert len(attempt.detail) <= 200
    assert {attempt.outcome for attempt in attempts[:-1]} <= TRANSIENT
    return attempts


def ask(site: HostileWeb, url: str, system: AbstractResolver | None = None, **changes: object) -> list[Attempt]:
    """Return the attempts at a URL, or at a path of the site."""
    rules = web_rules(**({"hosts": site.hosts} | changes))
    return tried(rules, HOST + url if url.startswith("/") else url, system)


def outcomes(site: HostileWeb, url: str, **changes: object) -> list[str]:
    return [attempt.outcome for attempt in ask(site, url, **changes)]
