"""What the door to the web refuses: URLs, addresses inside, and images whose site says no."""

import socket
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from pipeline.fetch.addresses import AddressRules
from pipeline.fetch.opt_out import robots_tag_refusal
from pipeline.outcomes import STORED
from tests.support.hostile_web import HostileWeb, ask, outcomes


@pytest.fixture
def inside() -> Iterator[socket.socket]:
    """A socket that listens on loopback and that nobody may reach; the fixture's end looks whether someone did."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def to(url: str) -> str:
    return f"/to?url={quote(url, safe='')}"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "data:image/png;base64,iVBORw0KGgo=",
        "ftp://www.site.test/a.jpg",
        "javascript:alert(1)",
        "//www.site.test/a.jpg",
        "/etc/passwd",
        "http:www.site.test/a.jpg",
        "http:///a.jpg",
        "http://",
        "https://?",
        "http://[",
        "http://[::1/a.jpg",
        "http://[site]/a.jpg",
        "http://www.site.test:99999/a.jpg",
        "http://www.site.test:port/a.jpg",
        "http://www.site.test:-1/a.jpg",
        f"http://{'a' * 64}.site.test/a.jpg",
        "http://2130706433/a.jpg",
        "http://127.1/a.jpg",
        "not a url",
        "",
    ],
)
def test_urls_that_are_none_are_refused_once(site: HostileWeb, url: str) -> None:
    path = "" if url.startswith("/") else url  # `ask` takes what begins with a slash for a path of the site
    assert outcomes(site, path) == ["url_refused"]
    assert site.asked.total() == 0


@pytest.mark.parametrize("url", ["HTTP://WWW.SITE.TEST/image", "http://www.site.test/image?w=20#top"])
def test_urls_in_unusual_dress_are_taken(site: HostileWeb, url: str) -> None:
    assert outcomes(site, url) == [STORED]


def test_a_redirect_to_another_allowed_host_is_followed(site: HostileWeb) -> None:
    assert outcomes(site, to("http://images.site.test/image?n=5")) == [STORED]
    assert site.asked["/image?n=5"] == 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("file:///etc/passwd", "url_refused"),
        ("data:image/png;base64,iVBORw0KGgo=", "url_refused"),
        ("ftp://www.site.test/a.jpg", "url_refused"),
        ("http://[::1/", "url_refused"),
        ("http://169.254.169.254/latest/meta-data/", "address_refused"),
        ("http://metadata@169.254.169.254/", "url_refused"),
        ("http://10.0.0.1/", "address_refused"),
        ("http://0.0.0.0/", "address_refused"),
        ("//169.254.169.254/", "address_refused"),
    ],
)
def test_a_redirect_leads_nowhere_else(site: HostileWeb, target: str, expected: str) -> None:
    assert outcomes(site, to(target)) == [expected]
    assert outcomes(site, to(f"/to?url={quote(target, safe='')}")) == [expected]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "0.0.0.0"],
)
def test_no_connection_reaches_loopback(site: HostileWeb, inside: socket.socket, host: str) -> None:
    url = f"http://{host}:{inside.getsockname()[1]}/secret"
    direct, redirected = ask(site, url), ask(site, to(url))
    assert [attempt.outcome for attempt in direct + redirected] == ["address_refused"] * 2
    assert "not globally routable" in direct[0].detail


def test_a_name_with_several_inside_addresses_is_refused_once(
    site: HostileWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_addresses(*_: object, **__: object) -> list[tuple[object, ...]]:
        kinds = (socket.SOCK_STREAM, 6, "")
        return [
            (socket.AF_INET6, *kinds, ("::1", 80, 0, 0)),
            (socket.AF_INET, *kinds, ("127.0.0.1", 80)),
            (socket.AF_INET, *kinds, ("10.0.0.1", 80)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    assert outcomes(site, "http://rebinding.example/") == ["address_refused"]


def test_a_name_that_does_not_resolve_is_unknown(site: HostileWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    assert outcomes(site, "http://gone.example/a.jpg") == ["unknown_host"]


INSIDE = [
    *(
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "192.0.0.192",
        "192.88.99.1",
        "168.63.129.16",
    ),
    *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1"),
    *("100::1", "5f00::1", "4000::1", "2001:0:7f00:1::1", "2002:c000:c0::"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1"),  # NAT64 and 6to4 of inside ones
]


def test_addresses_that_are_not_globally_routable_are_not_allowed() -> None:
    assert [address for address in INSIDE if AddressRules().allows(address, 80)] == []


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14"]
)
def test_addresses_of_the_web_are_allowed(address: str) -> None:
    assert AddressRules().allows(address, 80)


def test_a_mapped_host_allows_its_address_and_port_alone() -> None:
    rules = AddressRules({"*.site.test": "127.0.0.1:8080"})
    assert rules.mapped("a.b.site.test") == ("127.0.0.1", 8080)
    assert rules.mapped("site.test.evil.example") is None
    assert rules.allows("127.0.0.1", 8080)
    assert not rules.allows("127.0.0.1", 8081)
    assert not rules.allows("127.0.0.2", 8080)


REFUSED = [
    ["noai"],
    ["NoAI"],
    [" noindex , nofollow"],
    ["all, noimageai"],
    ["cuvee: noai"],
    ["CUVEE : NOAI"],
    ["*: noai"],
    ["otherbot: nofollow, cuvee: noai"],
    ["cuvee: nofollow, noai"],
    ["otherbot: noai", "noai"],
    ["nofollow", "cuvee: noimageindex"],
    ["none"],
    ["max-image-preview: large, noai"],
    ["max-snippet: -1, max-image-preview: large, max-video-preview: -1, noindex"],
    ["noai, unavailable_after: 25 Jun 2010 15:00:00 PST"],
    ["unavailable_after: Friday, 25-Jun-10 15:00:00 PST, noai"],
]


ALLOWED = [
    [],
    [""],
    ["all"],
    ["index, follow"],
    ["nofollow"],
    ["noarchive, nosnippet"],
    ["otherbot: noai"],
    ["otherbot: noindex, noai"],
    ["cuvee: nofollow, otherbot: noai"],
    ["cuvees: noai"],
    ["max-image-preview: large"],
    ["max-snippet: -1, max-image-preview: large, max-video-preview: -1"],
    ["unavailable_after: 25 Jun 2010 15:00:00 PST"],
    ["noaim, x-noai, no ai"],
    [", : ,::, noai:"],
]


@pytest.mark.parametrize("tags", REFUSED, ids=str)
def test_a_site_that_says_no_is_heard(site: HostileWeb, tags: list[str]) -> None:
    (attempt,) = ask(site, "/image?" + "&".join(f"tag={quote(tag)}" for tag in tags))
    assert (attempt.outcome, attempt.status) == ("opted_out", 200)
    assert attempt.detail.startswith("X-Robots-Tag: ")
    assert attempt.detail.removeprefix("X-Robots-Tag: ") in [tag.strip() for tag in tags]


@pytest.mark.parametrize("tags", ALLOWED, ids=str)
def test_what_says_no_to_others_is_no_refusal(site: HostileWeb, tags: list[str]) -> None:
    assert outcomes(site, "/image?" + "&".join(f"tag={quote(tag)}" for tag in tags)) == [STORED]


def test_only_the_refusals_that_are_asked_for_count() -> None:
    assert robots_tag_refusal(["noindex"], "cuvee/0.1", frozenset({"noai"})) == ""
    assert robots_tag_refusal(["none"], "cuvee/0.1", frozenset({"noai"})) == ""
    assert robots_tag_refusal(["noai"], "cuvee/0.1", frozenset()) == ""
    assert robots_tag_refusal(["Noindex"], "cuvee/0.1", frozenset({"noindex"})) == "Noindex"
