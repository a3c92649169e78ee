"""What the web has been seen to answer, each with the outcome that it deserves; every case has a host of its own."""

import asyncio
import gzip
import io
import socket
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import cv2
import numpy as np
from aiohttp.abc import AbstractResolver, ResolveResult
from PIL import Image

from pipeline.outcomes import STORED
from sources.world.publish import pixel_bomb
from tests.support.hostile_web import jpeg
from tests.support.images import DRAWN, encoded, oriented, two_colours
from tests.support.raw_site import RawSite, Says, reply

PICTURE = jpeg(1)


ATTEMPTS, TIMEOUT, MAX_WAIT = 3, 4.0, 2.5


AGAIN = "again"
"""Marks an outcome that stands once for each attempt."""


class Names(AbstractResolver):
    """Name servers of a test's own: 127.0.0.2 stands for an address outside, and 127.0.0.3 for one inside."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        self.asked.append(host)
        answers = {
            "private.dns.test": ["10.0.0.1"],
            "loopback.dns.test": ["127.0.0.3"],
            "mixed.dns.test": ["127.0.0.2", "10.0.0.1"],
            "mixed6.dns.test": ["127.0.0.2", "fd00::1"],
            "rebinding.dns.test": ["127.0.0.2" if self.asked.count(host) == 1 else "127.0.0.3"],
            "dot.dns.test.": ["127.0.0.2"],
            "empty.dns.test": [],
            "0x7f000001": ["127.0.0.1"],  # as the C library reads it
        }
        if host == "deaf.dns.test":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host == "hangs.dns.test":
            await asyncio.sleep(60)
        if host not in answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_UNSPEC, proto=0, flags=0)
            for one in answers[host]
        ]

    async def close(self) -> None:
        return None


@dataclass(frozen=True)
class Case:
    """What a host says, and what becomes of the row; `detail` stands in the last attempt's detail."""

    outcomes: str
    says: Says = b""
    detail: str = ""
    robots: Says | None = None
    url: str = ""

    @property
    def expected(self) -> list[str]:
        return [self.outcomes.split()[0]] * ATTEMPTS if AGAIN in self.outcomes else self.outcomes.split()


async def nothing(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def drip(*parts: bytes, head: bytes = b"", seconds: float = 0.2) -> Says:
    """Return what writes `head` and then `parts` over and over, one every so many seconds."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(seconds)

    return write


def image(*headers: str, body: bytes = PICTURE, kind: str = "image/jpeg") -> bytes:
    return reply(body, "200 OK", f"Content-Type: {kind}", *headers)


def to(url: str, status: str = "302 Found") -> bytes:
    return reply(b"", status, f"Location: {url}")


def animation() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (40, 40), (n * 60, 0, 0)) for n in range(3)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def robots_bomb() -> bytes:
    agents = b"".join(b"User-agent: a%d\n" % n for n in range(14_000))
    return agents + b"".join(b"Allow: /%x\n" % n for n in range(16_000))


def deep() -> bytes:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    return bytes(cv2.imencode(".png", ramp)[1])


def statuses() -> dict[str, Case]:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    far = format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True)
    cases = {
        f"s{code}": Case(f"http_{code}", reply(b"", f"{code} Said So"), "Said So") for code in (404, 403, 410, 451)
    }
    cases |= {f"s{code}": Case(f"http_{code}", reply(b"", f"{code} N")) for code in (204, 206, 304, 300, 305, 418, 501)}
    cases |= {f"s{code}": Case(f"http_{code} {AGAIN}", reply(b"", f"{code} N")) for code in (408, 425, 429, 500, 502)}
    for name, value, outcome in (
        ("seconds", "1", f"http_503 {STORED}"),
        ("zero", "0", f"http_503 {STORED}"),
        ("date", soon, f"http_503 {STORED}"),
        ("past", "Wed, 21 Oct 2015 07:28:00 GMT", f"http_503 {STORED}"),
        ("far", far, "http_503"),
        ("absurd", "9" * 300, "http_503"),
        ("negative", "-5", f"http_503 {STORED}"),
        ("garbage", "\x80soon\xff", f"http_503 {STORED}"),
        ("none", "", f"http_503 {STORED}"),
    ):
        for code in (429, 503):
            said = reply(b"", f"{code} N", *([f"Retry-After: {value}"] if value else []))
            cases[f"after-{name}-{code}"] = Case(outcome.replace("503", str(code)), [said, image()])
    cases["http2"] = Case(f"connection {AGAIN}", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    cases["upgrade"] = Case("http_101", b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
    return cases


def redirects(inside: int, site: RawSite) -> dict[str, Case]:
    plain = site.ports[""]
    cases = {f"r{code}": Case(STORED, to("http://good.raw.test/", f"{code} N")) for code in (301, 302, 303, 307, 308)}
    for name, target, outcome in (
        ("loopback", f"http://127.0.0.1:{inside}/secret", "address_refused"),
        ("localhost", f"http://[::1]:{inside}/secret", "address_refused"),
        ("metadata", "http://169.254.169.254/latest/meta-data/", "address_refused"),
        ("private", "http://private.dns.test/", "address_refused"),
        ("mixed", f"http://mixed.dns.test:{plain}/", "address_refused"),
        ("mixed6", f"http://mixed6.dns.test:{plain}/", "address_refused"),
        ("file", "file:///etc/passwd", "url_refused"),
        ("data", "data:image/png;base64,iVBORw0KGgo=", "url_refused"),
        ("ftp", "ftp://good.raw.test/a.jpg", "url_refused"),
        ("script", "javascript:alert(1)", "url_refused"),
        ("broken", "http://[::1/", "url_refused"),
        ("port0", "http://good.raw.test:0/", "url_refused"),
    ):
        detail = f"Location: {target}" if outcome == "url_refused" else "not globally routable"
        cases[f"to-{name}"] = Case(outcome, to(target), detail)
    return cases | {
        "relative": Case(STORED, [to("../b?c=d#e"), image()]),
        "nowhere": Case("http_302", reply(b"", "302 Found")),
        "empty-location": Case("http_302", reply(b"", "302 Found", "Location: ")),
        "loop": Case("too_many_redirects", to("/"), "more than 2 redirects"),
        "many": Case("too_many_redirects", [to(f"/{n}") for n in range(9)]),
        "latin": Case(STORED, [to("/caf\xe9"), image()]),
        "secret": Case(
            "url_refused", to("http://user:hunter2@good.raw.test/"), "Location: http://[...]@good.raw.test/"
        ),
        "secret-ftp": Case("url_refused", to("ftp://user:hun@ter2@h/"), "Location: ftp://[...]@h/"),
        "downgrade": Case(STORED, to("http://good.raw.test/"), url="https://downgrade.tls.test/a.jpg"),
        "rebinding": Case(
            "address_refused",
            to(f"http://rebinding.dns.test:{inside}/"),
            "rebinding.dns.test is 127.0.0.3",
            url=f"http://rebinding.dns.test:{plain}/a.jpg",
        ),
    }


def bodies() -> dict[str, Case]:
    broken, slow = f"connection {AGAIN}", f"timeout {AGAIN}"
    chunked = "Transfer-Encoding: chunked"
    return {
        "good": Case(STORED, image()),
        "bomb": Case("body_too_large", image("Content-Encoding: gzip", body=gzip.compress(bytes(32 << 20)))),
        "gzip": Case(STORED, image("Content-Encoding: gzip", body=gzip.compress(PICTURE))),
        "deflate": Case(STORED, image("Content-Encoding: deflate", body=zlib.compress(PICTURE))),
        "deflate-garbage": Case(broken, image("Content-Encoding: deflate", body=b"\xff" * 500)),
        "br-garbage": Case(broken, image("Content-Encoding: br", body=b"\xff" * 500)),
        "shorter": Case(broken, image("Content-Length: 5000", body=PICTURE[:200])),
        "longer": Case(broken, image(f"Content-Length: {len(PICTURE)}", body=PICTURE + b"HTTP/1.1 200 OK\r\n\r\n")),
        "lies": Case(broken, image("Content-Length: 200", body=PICTURE)),
        "too-long": Case("body_too_large", image("Content-Length: 999999999"), "Content-Length: 999999999"),
        "too-long-unsaid": Case(
            "body_too_large", b"HTTP/1.1 200 OK\r\n\r\n" + bytes(300_000), "more than 200000 bytes"
        ),
        "length-twice": Case(broken, image("Content-Length: 5", "Content-Length: 6")),
        "chunked": Case(STORED, image(chunked, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE))),
        "chunked-broken": Case(broken, image(chunked, body=b"zz\r\nnothing")),
        "chunked-cut": Case(broken, image(chunked, body=b"ff\r\nshort")),
        "chunked-endless": Case(slow, drip(b"1\r\nx\r\n", head=image(chunked, body=b""), seconds=1.0)),
        "chunked-trailers": Case(broken, drip(b"X-T: y\r\n" * 900, head=image(chunked, body=b"0\r\n"), seconds=0.01)),
        "body-drip": Case(slow, drip(b"x", head=image("Content-Length: 5000", body=b""))),
        "header-drip": Case(slow, drip(b"X-A: b\r\n", head=b"HTTP/1.1 200 OK\r\n")),
        "line-drip": Case(slow, drip(b"a", head=b"HTTP/1.1 200 OK\r\nX-A: ")),
        "continues": Case(slow, drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 20, seconds=0.01)),
        "silent": Case(slow, nothing),
        "reset": Case(broken, reset),
        "closes": Case(broken, b""),
        "megabyte": Case(broken, b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (1 << 20) + b"\r\n\r\n"),
        "many-headers": Case(broken, b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n"),
        "long-policy": Case(STORED, image("Content-Security-Policy: " + "x" * 12_000)),
        "banner": Case(broken, b"SSH-2.0-OpenSSH_9.6\r\n"),
        "old": Case(STORED, b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE),
        "cookies": Case(STORED, image(*(f"Set-Cookie: a{n}={'b' * 500}" for n in range(50)))),
    }


def pictures() -> dict[str, Case]:
    svg, html = b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"<!doctype html><title>gone</title>"
    return {
        "as-html": Case(
            "not_an_image", image(kind="text/html; charset=utf-8"), "Content-Type: text/html; charset=utf-8"
        ),
        "html": Case("not_an_image", image(body=html)),
        "no-kind": Case(STORED, reply(PICTURE)),
        "octets": Case(STORED, image(kind="application/octet-stream")),
        "svg": Case("not_an_image", image(body=svg, kind="image/svg+xml")),
        "gif": Case(STORED, image(body=animation(), kind="image/gif")),
        "pixels": Case("too_many_pixels", image(body=pixel_bomb(32_000), kind="image/png"), "1024000000 pixels"),
        "cmyk": Case(STORED, image(body=encoded(two_colours().convert("CMYK"), "JPEG"))),
        "deep": Case(STORED, image(body=deep(), kind="image/png")),
        "turned": Case(STORED, image(body=oriented(two_colours((100, 60)), 6))),
        "cut": Case("truncated_image", image(body=DRAWN[:-40])),
        "no-bytes": Case("not_an_image", image(body=b"")),
        "one-pixel": Case("image_too_small", image(body=encoded(Image.new("RGB", (1, 1)))), "1 x 1"),
    }


def permissions() -> dict[str, Case]:
    cases = {}
    for name, outcome, headers in (
        ("noai", "opted_out", ["X-Robots-Tag: noai"]),
        ("noimageai", "opted_out", ["X-Robots-Tag: NoImageAI, noarchive"]),
        ("noml", "opted_out", ["X-Robots-Tag: noml"]),
        ("none", "opted_out", ["X-Robots-Tag: none"]),
        ("ours", "opted_out", ["X-Robots-Tag: otherbot: nofollow, cuvee: noai"]),
        ("version", "opted_out", ["X-Robots-Tag: Cuvee/0.1: noai"]),
        ("bytes", "opted_out", ["X-Robots-Tag: noai, \xff"]),
        ("other", STORED, ["X-Robots-Tag: otherbot: noai, noindex"]),
        ("number", STORED, ["X-Robots-Tag: 360spider: noai, noindex"]),
        ("tdm1", "opted_out", ["tdm-reservation: 1", "tdm-policy: https://h/p"]),
        ("tdm0", STORED, ["tdm-reservation: 0"]),
        ("tdmx", STORED, ["tdm-reservation: yes please"]),
        ("usage-n", "opted_out", ["Content-Usage: train-ai=n"]),
        ("usage-y", STORED, ["Content-Usage: train-ai=y"]),
        ("bots-n", "opted_out", ["Content-Usage: bots=n"]),
        ("bots-but", STORED, ["Content-Usage: bots=n, train-ai=y"]),
        ("usage-x", STORED, ['Content-Usage: =;,train-ai,\xff=?1, "n']),
    ):
        cases[name] = Case(outcome, image(*headers), "" if outcome == STORED else headers[0].replace("\xff", "?"))
    cases["several"] = Case("opted_out", image("X-Robots-Tag: all", "X-Robots-Tag: noai"), "X-Robots-Tag: noai")
    return cases


def robots(inside: int) -> dict[str, Case]:
    unreachable = f"robots_unreachable {AGAIN}"

    def case(outcome: str, body: bytes, detail: str = "") -> Case:
        return Case(outcome, image(), detail, reply(body))

    refused = "robots.txt: disallowed for cuvee"
    return {
        "disallow": case("robots_refused", b"User-agent: *\nDisallow: /", refused),
        "disallow-us": case(
            "robots_refused", b"User-agent: CUVEE\nDisallow: /a.jpg\n\nUser-agent: *\nAllow: /", refused
        ),
        "mark": case("robots_refused", b"\xef\xbb\xbfUser-agent: *\nDisallow: /", refused),
        "allow": case(STORED, b"User-agent: *\nDisallow: /\nUser-agent: cuvee\nAllow: /"),
        "robots404": Case(STORED, image()),
        "robots204": Case(STORED, image(), robots=reply(b"", "204 N")),
        "robots500": Case(unreachable, image(), "robots.txt: http_500", reply(b"", "500 N")),
        "robots429": Case(unreachable, image(), "robots.txt: http_429", reply(b"", "429 N")),
        "robots-later": Case(
            "robots_unreachable", image(), robots=reply(b"", "503 N", "Retry-After: 999"), detail="robots.txt: http_503"
        ),
        "robots-reset": Case(f"connection {AGAIN}", image(), "robots.txt: connection", reset),
        "robots-silent": Case(f"timeout {AGAIN}", image(), "robots.txt: timeout", nothing),
        "robots-long": case("robots_refused", b"User-agent: *\nDisallow: /a\n" + b"#" * (10 << 20), refused),
        "robots-cut": case("robots_refused", cut_robots(), refused),
        "robots-binary": case(STORED, bytes(range(256)) * 300),
        "robots-bomb": case(STORED, robots_bomb()),
        "robots-rate": case(STORED, b"User-agent: *\nRequest-rate: 1/" + b"9" * 400),
        "robots-delay": case(STORED, b"User-agent: *\nCrawl-delay: 1\n"),
        "robots-to": Case("robots_refused", image(), refused, to("http://robots-target.raw.test/robots.txt")),
        "robots-inside": Case(unreachable, image(), "address_refused", to(f"http://127.0.0.1:{inside}/")),
        "robots-loop": Case(STORED, image(), robots=to("/robots.txt")),
        "robots-file": Case(unreachable, image(), "Location: file:///etc/passwd", to("file:///etc/passwd")),
    }


def cut_robots() -> bytes:
    """Return a robots.txt whose line "Allow: /public" is cut at "Allow: /"."""
    head = b"User-agent: *\nDisallow: /\n"
    pad = (500 << 10) - len(head) - len(b"Allow: /")
    return head + b"#" * (pad - 1) + b"\n" + b"Allow: /public\n"


def urls(inside: int, site: RawSite) -> dict[str, Case]:
    plain = site.ports[""]
    broken = f"connection {AGAIN}"
    cases = {
        "u-tls": Case(STORED, image(), url="https://u-tls.tls.test/a.jpg"),
        "u-self": Case("bad_certificate", image(), "self-signed", url="https://self.signed.test/a.jpg"),
        "u-wrong": Case("bad_certificate", image(), "not valid for", url="https://wrong.name.test/a.jpg"),
        "u-plain-on-tls": Case(broken, url="http://u-plain-on-tls.tls.test/a.jpg"),
        "u-tls-on-plain": Case(broken, url="https://u-tls-on-plain.raw.test/a.jpg"),
        "u-dot": Case(STORED, image(), url=f"http://dot.dns.test.:{plain}/a.jpg"),
        "u-idna": Case(STORED, image(), url="http://b\xfccher.raw.test/a.jpg"),
        "u-deaf": Case(broken, detail="name servers", url="http://deaf.dns.test/"),
        "u-hangs": Case(f"timeout {AGAIN}", url="http://hangs.dns.test/"),
        "u-outside": Case(STORED, image(), url=f"http://127.0.0.2:{plain}/a.jpg"),
    }
    refused = {
        "url_refused": (
            "http://user:hunter2@good.raw.test/a.jpg",
            "http://user@good.raw.test/a.jpg",
            "http://:@good.raw.test/a.jpg",
            "http://good.raw.test:0/a.jpg",
            "http://good.raw.test:99999/a.jpg",
            f"http://2130706433:{inside}/",
            f"http://127.1:{inside}/",
            f"http://0177.0.0.1:{inside}/",
            "http://" + "a." * 130 + "raw.test/",
            "http://" + "a" * 64 + ".raw.test/",
            f"http://127.0.0.%31:{inside}/",
            "http://go%6fd.raw.test/",
            "http://a..raw.test/",
            "http://good.raw.test\\@evil.test/",
            "http:// good.raw.test/",
            "http://",
            "file:///etc/passwd",
            "",
        ),
        "unknown_host": ("http://gone.dns.test/", "http://empty.dns.test/"),
        "address_refused": (
            *(f"http://{host}:{inside}/" for host in ("[::1]", "127.0.0.1", "0.0.0.0", "[::]")),
            *(f"http://{host}:{inside}/" for host in ("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]")),
            *(f"http://{host}:{inside}/" for host in ("\uff11\uff12\uff17.0.0.1", "loopback.dns.test", "127.0.0.3")),
            f"http://0x7f000001:{inside}/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[fe80::1%25eth0]/",
        ),
    }
    for outcome, given in refused.items():
        cases |= {f"u-{outcome}-{n}": Case(outcome, url=url) for n, url in enumerate(given)}
    return cases


def everything(inside: int, site: RawSite) -> dict[str, Case]:
    """Return all cases; `inside` is a port of loopback that nobody may reach."""
    cases = statuses() | redirects(inside, site) | bodies() | pictures() | permissions() | robots(inside)
    return cases | urls(inside, site)
