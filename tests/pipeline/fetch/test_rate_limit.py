"""Politeness before servers that write down when they are asked, how many at once, and by how many connections."""

import asyncio
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fetch.client import HttpClient
from pipeline.fetch.rate_limit import DeadlinePassed, HostLimit, HostLimits, HostPaused, HostState
from pipeline.outcomes import STORED, Attempt
from tests.support.hostile_web import jpeg, web_rules

Answer = tuple[int, str, bytes]
"""Status, further header lines, body."""


IMAGE = jpeg()


EARLY = 0.005
"""Seconds that clocks may be apart; a server may see requests later than they were sent, never earlier."""


class Site:
    """Hosts `*.site.test` on loopback; `answer` says what a path's nth request gets. What happens is written down."""

    def __init__(self, answer: Callable[[str, int], Answer], delay: float = 0.0) -> None:
        self._answer, self._delay = answer, delay
        self.asked: list[tuple[float, str, str]] = []  # when, host, path
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.port = 0

    def times(self, host: str, path: str = "/") -> list[float]:
        return [when for when, asked, at in self.asked if asked == f"{host}.site.test" and at.startswith(path)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                when = time.monotonic()
                path, host = head.split()[1].decode(), re.search(rb"Host: ([^:\r]+)", head)
                assert host is not None
                name = host[1].decode()
                self.asked.append((when, name, path))
                self.now[name] += 1
                self.most[name] = max(self.most[name], self.now[name])
                if not path.startswith("/robots"):
                    await asyncio.sleep(self._delay)
                count = sum(asked == name and at == path for _, asked, at in self.asked)
                status, extra, body = self._answer(path, count)
                self.now[name] -= 1
                said = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
                writer.write(said.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def images(path: str, count: int) -> Answer:
    return (404, "", b"") if path == "/robots.txt" else (200, "", IMAGE)


@asynccontextmanager
async def opened(site: Site, **changes: Any) -> AsyncIterator[HttpClient]:
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    rules = web_rules(**({"hosts": {"*.site.test": f"127.0.0.1:{site.port}"}, "concurrency": 64} | changes))
    async with HttpClient(rules) as client:
        yield client
    server.close()


def fetch_all(site: Site, urls: list[str], seconds: float = float("inf"), **changes: Any) -> list[list[Attempt]]:
    """Return each URL's attempts, all asked for at once."""

    async def run() -> list[list[Attempt]]:
        async with opened(site, **changes) as client:
            deadline = time.monotonic() + seconds
            found = await asyncio.gather(*(client.fetch(url, deadline) for url in urls))
            assert client.budget.held == sum(len(attempts[-1].body) for attempts in found)
            return list(found)

    return asyncio.run(run())


def finals(found: list[list[Attempt]]) -> list[str]:
    return [attempts[-1].outcome for attempts in found]


def urls_of(host: str, count: int) -> list[str]:
    return [f"http://{host}.site.test/{n}" for n in range(count)]


def test_no_more_requests_are_in_flight_to_a_host_than_its_limit() -> None:
    site = Site(images, delay=0.03)
    limits = HostLimits(HostLimit(3, None), {"one.*": HostLimit(1, None)})
    found = fetch_all(site, urls_of("one", 6) + urls_of("three", 20), limits=limits)
    assert set(finals(found)) == {STORED}
    assert (site.most["one.site.test"], site.most["three.site.test"]) == (1, 3)


def test_requests_to_a_host_are_apart_and_hosts_do_not_slow_each_other() -> None:
    site = Site(images)
    limits = HostLimits(HostLimit(None, 5.0), {"free.*": HostLimit()})
    started = time.monotonic()
    found = fetch_all(site, urls_of("a", 12) + urls_of("b", 12) + urls_of("free", 12), limits=limits)
    spent = time.monotonic() - started
    assert set(finals(found)) == {STORED}
    for host in ("a", "b"):
        assert all(when - started >= n * 0.2 - EARLY for n, when in enumerate(site.times(host)))
    assert site.times("free")[-1] < site.times("a")[-1]
    assert 11 * 0.2 - EARLY <= spent < 4.4  # side by side: one after the other they would take this long


def test_waiting_for_a_turn_takes_no_place_that_others_need() -> None:
    site = Site(images)
    limits = HostLimits(HostLimit(), {"slow.*": HostLimit(1, 2.0)})
    fetch_all(site, urls_of("slow", 3) + urls_of("free", 20), limits=limits, concurrency=1)
    assert site.times("free")[-1] < site.times("slow")[1]  # half a second after the first


def test_a_host_is_paused_as_a_whole_for_as_long_as_it_asks() -> None:
    def answer(path: str, count: int) -> Answer:
        return (429, "Retry-After: 3\r\n", b"") if (path, count) == ("/0", 1) else images(path, count)

    async def run() -> Site:
        site = Site(answer)
        async with opened(site) as client:
            first = asyncio.create_task(client.fetch("http://a.site.test/0"))
            while not site.times("a"):
                await asyncio.sleep(0.01)
            others = [client.fetch(url) for url in urls_of("a", 5)[1:] + urls_of("b", 5)[1:]]
            assert set(finals(await asyncio.gather(*others))) == {STORED}
            assert [attempt.outcome for attempt in await first] == ["http_429", STORED]
        return site

    site = asyncio.run(run())
    paused = site.times("a")
    assert paused[1] - paused[0] >= 3 - EARLY
    assert site.times("b")[-1] < paused[1]


@pytest.mark.parametrize("status", [429, 503])
def test_a_host_that_asks_for_more_than_we_wait_is_asked_nothing_more(status: int) -> None:
    async def run() -> None:
        site = Site(lambda path, count: (status, "Retry-After: 3600\r\n", b"") if path == "/0" else images(path, count))
        async with opened(site, max_wait=30.0) as client:
            started = time.monotonic()
            (attempt,) = await client.fetch("http://a.site.test/0")
            assert (attempt.outcome, attempt.retry_after) == (f"http_{status}", 3600)
            found = await asyncio.gather(*(client.fetch(url) for url in urls_of("a", 9)))
            assert time.monotonic() - started < 25
        assert {len(attempts) for attempts in found} == {1}
        assert set(finals(found)) == {"retry_later"}
        assert found[0][0].detail == "Retry-After: 3600 more seconds"
        assert found[0][0].retry_after == pytest.approx(3600, abs=5)
        assert len(site.times("a")) == 1

    asyncio.run(run())


def test_a_date_is_waited_for_too() -> None:
    when = datetime.now(UTC) + timedelta(seconds=2)
    stamp = f"Retry-After: {format_datetime(when, usegmt=True)}\r\n"
    site = Site(lambda path, count: (503, stamp, b"") if count == 1 else images(path, count))
    ((first, second),) = fetch_all(site, ["http://a.site.test/0"])
    assert (first.outcome, second.outcome) == ("http_503", STORED)
    assert time.time() >= when.timestamp() - 1  # the header has whole seconds


def test_attempts_are_further_apart_each_time_and_not_in_step() -> None:
    site = Site(lambda path, count: (500, "", b""))
    fetch_all(site, urls_of("a", 30), back_off=0.1, attempts=3)
    gaps: dict[int, list[float]] = defaultdict(list)
    for n in range(30):
        times = sorted(when for when, _, path in site.asked if path == f"/{n}")
        for number, (earlier, later) in enumerate(pairwise(times)):
            gaps[number].append(later - earlier)
    for number, low in enumerate((0.05, 0.1)):
        assert min(gaps[number]) >= low - EARLY
        assert max(gaps[number]) - min(gaps[number]) > low / 4
    assert sum(gaps[1]) > 1.3 * sum(gaps[0])


def robots(text: str, status: int = 200, extra: str = "") -> Callable[[str, int], Answer]:
    return lambda path, count: (status, extra, text.encode()) if path == "/robots.txt" else (200, "", IMAGE)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_robots_txt_is_asked_once_for_each_origin_however_many_wait(status: int) -> None:
    site = Site(robots("User-agent: *\nDisallow: /1\n", status), delay=0.01)
    urls = urls_of("a", 30) + urls_of("b", 30) + [f"http://a.site.test:8080/{n}" for n in range(5)]
    found = finals(fetch_all(site, urls, robots_txt=True, attempts=1))
    origins = Counter(host for _, host, path in site.asked if path == "/robots.txt")
    assert origins == {"a.site.test": 2, "b.site.test": 1}  # a.site.test:8080 is an origin of its own
    refused = {200: "robots_refused", 404: STORED, 500: "robots_unreachable"}[status]
    assert found[1] == refused
    assert found[0] == (refused if status == 500 else STORED)
    assert not (status == 500 and site.times("a", "/0"))


def test_a_crawl_delay_slows_and_one_that_is_too_long_is_not_waited_for() -> None:
    site, started = Site(robots("User-agent: *\nCrawl-delay: 0.15\n")), time.monotonic()
    assert set(finals(fetch_all(site, urls_of("a", 5), robots_txt=True))) == {STORED}
    images_at = [when for when, _, path in site.asked if path != "/robots.txt"]
    assert all(when - started >= n * 0.15 - EARLY for n, when in enumerate(images_at))

    site = Site(robots("User-agent: cuvee\nCrawl-delay: 86400\nUser-agent: *\nDisallow: /\n"))
    started = time.monotonic()
    found = fetch_all(site, urls_of("a", 5), robots_txt=True, max_wait=1.0)
    assert time.monotonic() - started < 60
    assert Counter(finals(found)) == {STORED: 1, "retry_later": 4}
    assert {attempts[-1].detail for attempts in found} == {"", "robots.txt: a Crawl-delay of 86400 seconds"}
    assert len(site.asked) == 2


def test_our_own_limit_is_waited_for_however_long_it_is() -> None:
    limits = HostLimits(HostLimit(1, 2.0))
    assert set(finals(fetch_all(Site(images), urls_of("a", 3), limits=limits, max_wait=0.1))) == {STORED}


def test_after_the_deadline_nothing_is_asked_and_all_have_an_outcome() -> None:
    site = Site(images, delay=0.1)
    limits = HostLimits(HostLimit(1, None))
    urls = urls_of("a", 50) + [f"http://h{n}.site.test/" for n in range(50)]
    started = time.monotonic()
    found = fetch_all(site, urls, seconds=2.0, limits=limits, robots_txt=True, concurrency=2)
    assert time.monotonic() - started < 5  # all of them take longer
    assert set(finals(found)) == {STORED, "out_of_time"}
    assert all(when - started < 3.5 for when, _, _ in site.asked)
    before = len(site.asked)
    assert set(finals(fetch_all(site, ["http://new.site.test/"], seconds=-1.0, robots_txt=True))) == {"out_of_time"}
    assert len(site.asked) == before


def test_a_robots_txt_that_does_not_come_does_not_hold_the_shard() -> None:
    async def run() -> None:
        site = Site(images, delay=0.0)

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            site.asked.append((time.monotonic(), "", ""))
            await reader.read(1 << 20)
            await asyncio.sleep(30)

        site.serve = silent  # type: ignore[method-assign]
        async with opened(site, robots_txt=True, limits=HostLimits(HostLimit(1, None)), timeout=20.0) as client:
            started = time.monotonic()
            found = await asyncio.gather(*(client.fetch(url, started + 0.5) for url in urls_of("a", 9)))
            assert time.monotonic() - started < 15
        assert set(finals(list(found))) == {"out_of_time"}
        assert len(site.asked) == 1

    asyncio.run(run())


def test_a_turn_says_what_it_will_not_wait_for_and_leaves_nothing_taken() -> None:
    async def run() -> None:
        host, gate = HostState(HostLimit(1, 0.02)), asyncio.Semaphore(1)
        soon = time.monotonic() + 0.3
        async with host.turn(gate, 60, float("inf")):
            with pytest.raises(DeadlinePassed):  # the slot is not free in time
                async with host.turn(gate, 60, soon):
                    raise AssertionError
        with pytest.raises(DeadlinePassed):  # the next turn is 50 s away
            async with host.turn(gate, 60, time.monotonic() + 0.5):
                raise AssertionError
        host.pause(50)
        with pytest.raises(HostPaused, match=r"Retry-After: [45]\d more seconds"):
            async with host.turn(gate, 4, float("inf")):
                raise AssertionError
        waiting = asyncio.create_task(host.turn(gate, 60, float("inf")).__aenter__())
        await asyncio.sleep(0.01)
        assert not host.idle
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not host.idle  # its pause is not over
        assert host.slots._value == gate._value == 1
        assert HostState(HostLimit()).idle

    asyncio.run(run())


def test_hosts_that_say_nothing_are_forgotten_and_paused_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.fetch.client.MAX_HOSTS", 10)

    async def run() -> None:
        async with HttpClient(web_rules()) as client:
            client.host("http://paused/").pause(100)
            for n in range(100):
                client.host(f"http://h{n}/")
            assert len(client._hosts) <= 11
            assert not client.host("http://paused/").idle

    asyncio.run(run())


def test_waiting_for_room_is_not_the_sites_time() -> None:
    async def run() -> None:
        site = Site(images)
        async with opened(site, timeout=2.0, max_in_flight=len(IMAGE), attempts=1) as client:
            (first,) = await client.fetch("http://a.site.test/0")
            second = asyncio.create_task(client.fetch("http://a.site.test/1"))
            late = asyncio.create_task(client.fetch("http://a.site.test/2", time.monotonic() + 0.2))
            await asyncio.sleep(2.5)
            assert [attempt.outcome for attempt in await late] == ["out_of_time"]
            threading.Thread(target=client.budget.return_from_thread, args=(len(first.body),)).start()
            (found,) = await asyncio.wait_for(second, 60)
            assert found.outcome == STORED
            assert found.seconds < 2.0

    asyncio.run(run())


def test_a_limit_is_shared_by_the_tasks_that_ask_a_host() -> None:
    limits = HostLimits(HostLimit(8, 10.0), {"*.slow.org": HostLimit(1, None), "free.org": HostLimit()})
    shared = limits.shared(3)
    assert shared.of("a.org") == HostLimit(2, 10 / 3)
    assert shared.of("x.slow.org") == HostLimit(1, None)
    assert shared.of("free.org") == HostLimit()
    assert not shared.of("free.org").limited
    assert limits.shared(1) == limits


@given(st.integers(1, 100), st.integers(1, 20))
def test_shares_together_are_no_more_than_the_limit_unless_each_has_one(at_once: int, parts: int) -> None:
    shared = HostLimit(at_once, 5.0).shared(parts)
    assert shared.at_once is not None
    assert shared.per_second is not None
    assert shared.at_once == 1 or shared.at_once * parts <= at_once
    assert shared.per_second * parts == pytest.approx(5.0)
