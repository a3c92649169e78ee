"""The door to the web, before a web that is broken or hostile: each refusal has its name, nothing inside is reached."""

import asyncio
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fetch.client import HttpClient
from pipeline.outcomes import STORED
from tests.support.hostile_web import HOST, MAX_BYTES, HostileWeb, ask, jpeg, outcomes, web_rules


def test_an_image_is_stored_as_it_came(site: HostileWeb) -> None:
    (attempt,) = ask(site, "/image?n=3")
    assert (attempt.outcome, attempt.status, attempt.detail) == (STORED, 200, "")
    assert attempt.body == jpeg(3, (64, 64))
    assert attempt.seconds > 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/status?is=404", ["http_404"]),
        ("/status?is=403", ["http_403"]),
        ("/status?is=204", ["http_204"]),
        ("/status?is=500", ["http_500"] * 3),
        ("/status?is=503", ["http_503"] * 3),
        ("/status?is=429", ["http_429"] * 3),
        ("/once?is=500", ["http_500", STORED]),
        ("/once?is=429", ["http_429", STORED]),
        ("/page", ["not_an_image"]),
        (f"/chunked?bytes={MAX_BYTES}", [STORED]),
        (f"/chunked?bytes={MAX_BYTES + 10_000}", ["body_too_large"]),
        (f"/declared?bytes={MAX_BYTES}", [STORED]),
        (f"/declared?bytes={MAX_BYTES + 1}", ["body_too_large"]),
        ("/hop?left=2", [STORED]),
        ("/hop?left=3", ["too_many_redirects"]),
        ("/hop?left=-1", ["too_many_redirects"]),
    ],
)
def test_answers_have_outcomes_and_transient_ones_are_asked_again(
    site: HostileWeb, path: str, expected: list[str]
) -> None:
    site.asked.clear()
    assert outcomes(site, path) == expected
    if "hop" not in path:
        assert site.asked[path] == len(expected)


def test_no_redirects_means_none(site: HostileWeb) -> None:
    assert outcomes(site, "/hop?left=0", max_redirects=0) == [STORED]
    assert outcomes(site, "/hop?left=1", max_redirects=0) == ["too_many_redirects"]


def test_the_timeout_is_for_the_whole_answer_not_for_a_read(site: HostileWeb) -> None:
    (attempt,) = ask(site, "/drip", timeout=1.0, attempts=1)
    assert attempt.outcome == "timeout"
    assert 0.9 < attempt.seconds < 3


def test_attempts_wait_longer_each_time(site: HostileWeb) -> None:
    async def timed() -> float:
        rules = web_rules(hosts=site.hosts, back_off=0.1)
        started = asyncio.get_running_loop().time()
        async with HttpClient(rules) as client:
            await client.fetch(f"{HOST}/status?is=500&timed")
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(timed()) >= (0.1 + 0.2) / 2  # half of it is random


def test_a_gzip_bomb_ends_at_the_limit_and_not_in_memory(site: HostileWeb) -> None:
    outcomes(site, "/image")  # what is imported lazily is imported now
    tracemalloc.start()
    try:
        (attempt,) = ask(site, "/bomb")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert attempt.outcome == "body_too_large"
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\nno gzip",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\r\n\r\n",
        b"",
    ],
)
def test_a_broken_connection_is_tried_again_and_named(site: HostileWeb, reply: bytes) -> None:
    path = site.answering(reply)
    assert outcomes(site, path) == ["connection"] * 3
    assert site.asked[path] == 3  # aiohttp sends nothing that is no attempt


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 404 n\xff\xfe\x80t f\xe9und\r\nContent-Length: 0\r\n\r\n", "http_404"),
        (b"HTTP/1.1 200 OK\r\nX-Robots-Tag: noai, \xff\xfe\r\nContent-Length: 0\r\n\r\n", "opted_out"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/\xff\xfe\r\nContent-Length: 0\r\n\r\n", "not_an_image"),
        (b"HTTP/1.1 404 " + b"x" * 3000 + b"\r\nContent-Length: 0\r\n\r\n", "http_404"),
    ],
)
def test_headers_that_are_no_text_can_be_stored(site: HostileWeb, reply: bytes, expected: str) -> None:
    assert outcomes(site, site.answering(reply)) == [expected]  # `ask` checks the detail


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=200).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail),
        st.tuples(st.binary(max_size=20), st.binary(max_size=200)).map(
            lambda parts: b"HTTP/1.1 302 F\r\nLocation: %s\r\nContent-Length: 0\r\n%s\r\n\r\n" % parts
        ),
    )
)
def test_whatever_is_answered_has_an_outcome(site: HostileWeb, reply: bytes) -> None:
    everywhere = {"*": site.hosts["*.site.test"]}  # a redirect to any name comes back here
    assert outcomes(site, site.answering(reply), attempts=1, timeout=1.0, hosts=everywhere)
