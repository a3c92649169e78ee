"""What exceptions stand for, all of aiohttp's among them, and whose fault it is when this machine has no room."""

import asyncio
import errno
import inspect
import resource
import socket
import ssl
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import client_exceptions
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from pipeline.fetch.addresses import AddressRefused
from pipeline.fetch.client import HttpClient
from pipeline.fetch.error_outcomes import outcome_of_error
from pipeline.fetch.urls import UrlRefused, check_url, redirect_target
from pipeline.outcomes import STORED, TRANSIENT
from tests.support.hostile_web import HOST, HostileWeb, web_rules

KEY = Mock(host="h", port=80, ssl=True, is_ssl=True)


def made(kind: type[Exception]) -> Exception:
    """Return an exception of aiohttp's, whatever it wants to be made of."""
    broken = OSError(errno.ECONNREFUSED, "refused")
    user = "http://user:hunter2@h/"
    for arguments in ((KEY, broken), ("/socket", KEY, broken), (Mock(), ()), (user,), (b"a", b"b", "h", 1), ()):
        try:
            error = kind(*arguments)
            str(error)
        except (TypeError, AttributeError):
            continue
        return error
    raise AssertionError(kind)


def test_every_exception_of_aiohttp_has_a_name_that_tells_no_secret() -> None:
    kinds = [one for _, one in inspect.getmembers(client_exceptions, inspect.isclass) if issubclass(one, Exception)]
    found = {
        kind.__name__: outcome_of_error(made(kind))
        for kind in kinds
        if kind.__module__.startswith("aiohttp.client_exc")
    }
    assert len(found) > 25
    for name, attempt in found.items():
        expected = {"connection", "url_refused", "timeout", "bad_certificate", "unknown_host"}
        if name != "WSMessageTypeError":  # no request of ours is a web socket
            assert attempt.outcome in expected, name
        assert "hunter2" not in attempt.detail
    assert found["ClientConnectorCertificateError"].outcome == "bad_certificate"
    assert found["ClientConnectorDNSError"].outcome == "unknown_host"
    assert found["SocketTimeoutError"].outcome == "timeout"
    assert found["InvalidUrlRedirectClientError"].outcome == "url_refused"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ssl.SSLCertVerificationError(1, "bad"), "bad_certificate"),
        (ssl.SSLError(1, "bad"), "connection"),
        (aiohttp.ClientConnectorError(KEY, AddressRefused("10.0.0.1")), "address_refused"),
        (aiohttp.ClientConnectorDNSError(KEY, AddressRefused("10.0.0.1")), "address_refused"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "no")), "unknown_host"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_AGAIN, "later")), "connection"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_FAIL, "fail")), "connection"),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EMFILE, "Too many open files")), "out_of_files"),
        (aiohttp.ClientOSError(errno.ENFILE, "Too many open files in system"), "out_of_files"),
        (OSError(errno.EADDRNOTAVAIL, "no port is free"), "out_of_files"),
        (OSError(errno.ENETUNREACH, "no way"), "connection"),
        (UrlRefused("why"), "url_refused"),
        (UnicodeError("http://user:hunter2@h"), "url_refused"),
        (TimeoutError(), "timeout"),
        (AssertionError("what"), "unforeseen"),
    ],
)
def test_exceptions_are_told_apart_by_their_cause(error: Exception, outcome: str) -> None:
    attempt = outcome_of_error(error)
    assert attempt.outcome == outcome
    assert "hunter2" not in attempt.detail


def test_our_own_faults_are_tried_again() -> None:
    assert {"out_of_files", "unforeseen", "out_of_time"} <= TRANSIENT


def test_a_process_without_a_free_file_waits_for_one_and_says_so(site: HostileWeb) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def run() -> None:
        async with HttpClient(web_rules(hosts=site.hosts, attempts=2, max_wait=10.0)) as client:
            held = [socket.socket()]
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[0].fileno() + 1, limit[1]))
            try:
                waiting = asyncio.create_task(client.fetch(f"{HOST}/image"))
                await asyncio.sleep(0.5)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            held[0].close()
            first, second = await waiting
            assert (first.outcome, second.outcome) == ("out_of_files", STORED)
            assert "Too many open files" in first.detail

    asyncio.run(run())


def test_a_connection_is_kept_for_a_host_that_is_asked_again_and_no_other(site: HostileWeb) -> None:
    async def run() -> None:
        async with HttpClient(web_rules(hosts=site.hosts)) as client:

            def kept() -> int:
                pool: Any = client._session.connector
                return sum(map(len, pool._conns.values()))

            for n in range(5):
                await client.fetch(f"http://h{n}.site.test/image", alone=True)
            assert kept() == 0
            for _ in range(5):
                await client.fetch(f"{HOST}/image")
            assert kept() == 1

    asyncio.run(run())


@given(st.text())
def test_any_location_leads_somewhere_or_is_refused_without_its_credentials(location: str) -> None:
    base = URL("http://h/a/b")
    for one in (location, f"http://{location}", f"http://user:hunter2@{location}"):
        try:
            assert redirect_target(base, one).scheme in ("http", "https")
        except UrlRefused as error:
            assert "hunter2" not in str(error)
            assert str(error).startswith("Location: ")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("../c?d", "http://h/c?d"),
        ("//x/y", "http://x/y"),
        ("?q", "http://h/a/b?q"),
        ("/caf\udce9", "http://h/caf%E9"),
        ("HTTPS://X/", "https://x/"),
        ("/a%20b|c", "http://h/a%20b%7Cc"),
    ],
)
def test_a_location_is_read_as_browsers_do(location: str, expected: str) -> None:
    assert str(redirect_target(URL("http://h/a/b"), location)) == expected


@pytest.mark.parametrize(
    "url", ["http://u@h/", "http://u:p@h/", "http://:p@h/", "http://:@h/", "http://@h:0/", "ftp://h/"]
)
def test_urls_with_credentials_without_a_port_or_of_another_kind_are_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        check_url(url)
