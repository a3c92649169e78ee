"""One shard of whatever the web has been seen to answer: each row has its outcome, and the shard ends in time."""

import hashlib
import io
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp.connector
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.fetch.client import HttpClient
from pipeline.ingest import shard_fetcher
from pipeline.ingest.shard_fetcher import HostPartitionFetcher, PartitionRules, count_mismatch
from pipeline.outcomes import STORED
from pipeline.shards.tar_format import ShardWriter, StoredPair, read_pairs
from tests.support.hostile_cases import ATTEMPTS, MAX_WAIT, TIMEOUT, Case, Names, everything, image
from tests.support.hostile_web import web_rules
from tests.support.images import RULES
from tests.support.raw_site import RawSite, certificate, reply


@dataclass(frozen=True)
class Done:
    """The shard, fetched once for all tests."""

    cases: dict[str, Case]
    site: RawSite
    rows: list[dict[str, Any]]
    tables: dict[str, pa.Table]
    pairs: list[StoredPair]
    seconds: float
    visited: bool
    held: int

    def fetches(self, name: str) -> list[dict[str, Any]]:
        uid = uid_of(name)
        return [row for row in self.tables["fetches"].to_pylist() if row["uid"] == uid]


def uid_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def listeners() -> tuple[list[socket.socket], int]:
    """Return sockets that listen inside, at one port, and the port."""
    first = socket.create_server(("127.0.0.1", 0))
    port = first.getsockname()[1]
    others = [socket.create_server(("127.0.0.3", port))]
    if socket.has_ipv6:
        others.append(socket.create_server(("::1", port), family=socket.AF_INET6))
    return [first, *others], port


def visited(sockets: Sequence[socket.socket]) -> bool:
    """Tell whether anything has connected to sockets that listen, and close them."""
    found = False
    for listener in sockets:
        with listener:
            listener.setblocking(False)
            try:
                listener.accept()
                found = True
            except BlockingIOError:
                pass
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("certificates")
    tls = {name: certificate(folder, name) for name in ("*.tls.test", "self.signed.test", "other.test")}
    trusted = ssl.create_default_context()
    for name in ("*.tls.test", "other.test"):
        trusted.load_verify_locations(tls[name][0])
    with pytest.MonkeyPatch.context() as patch, RawSite(tls) as site:
        patch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusted)
        patch.setattr(shard_fetcher, "HttpClient", partial(HttpClient, system=Names()))
        inside, port = listeners()
        cases = everything(port, site)
        for name, case in cases.items():
            label = case.url.partition("://")[2].split(".")[0].lower() if case.url else name
            label = label.encode("idna").decode() if label == "b\xfccher" else label
            site.says[label.partition(":")[0]] = case.says
            if case.robots is not None:
                site.robots[name] = case.robots
        site.says["127"], site.says["good"] = image(), image()
        site.robots["robots-target"] = reply(b"User-agent: *\nDisallow: /")
        hosts = {"*.raw.test": "", "*.tls.test": "*.tls.test", "self.signed.test": "self.signed.test"}
        mapped = {host: f"127.0.0.1:{site.ports[name]}" for host, name in hosts.items()}
        mapped["wrong.name.test"] = f"127.0.0.1:{site.ports['other.test']}"
        rules = web_rules(
            hosts=mapped,
            allow=("127.0.0.2/32",),
            attempts=ATTEMPTS,
            timeout=TIMEOUT,
            max_wait=MAX_WAIT,
            robots_txt=True,
            concurrency=200,
            max_in_flight=1 << 20,
        )
        rows = [
            {
                "uid": uid_of(name),
                "source": "laion",
                "record_id": name,
                "url": case.url if case.url or name.startswith("u-") else f"http://{name}.raw.test/a.jpg",
                "caption": name,
            }
            for name, case in cases.items()
        ]
        rows.sort(key=lambda row: row["uid"])
        stream = io.BytesIO()
        writer = ShardWriter(stream)
        with HostPartitionFetcher(PartitionRules(rules, RULES, 30.0)) as lane:
            started = time.monotonic()
            tables = lane.fetch(rows, writer)
            held = lane._client.budget.held - lane._client.budget._returned
        seconds = time.monotonic() - started
        writer.close()
        pairs = list(read_pairs(io.BytesIO(stream.getvalue())))
        yield Done(cases, site, rows, tables, pairs, seconds, visited(inside), held)


def test_every_row_has_the_outcome_that_its_site_deserves(done: Done) -> None:
    wrong = {}
    for name, case in done.cases.items():
        found = done.fetches(name)
        outcomes = [row["outcome"] for row in found]
        if outcomes != case.expected or case.detail not in found[-1]["detail"]:
            wrong[name] = (outcomes, found[-1]["detail"], case.expected, case.detail)
        assert [row["final"] for row in found] == [False] * (len(found) - 1) + [True]
    assert not wrong, "\n".join(f"{name}: {found}" for name, found in wrong.items())
    assert len(done.cases) > 150


def test_the_shard_ends_in_time_and_nothing_is_left_in_flight(done: Done) -> None:
    assert done.seconds < ATTEMPTS * (TIMEOUT + MAX_WAIT) + 5
    assert done.held == 0


def test_every_row_is_accounted_for_and_the_tar_holds_what_was_stored(done: Done) -> None:
    published = pa.table({"uid": [row["uid"] for row in done.rows]})
    assert count_mismatch(published, done.tables["fetches"], done.tables["samples"]) == ""
    stored = [row["uid"] for row in done.rows if done.cases[row["record_id"]].expected[-1] == STORED]
    assert [pair.uid for pair in done.pairs] == stored
    assert done.tables["samples"]["uid"].to_pylist() == sorted(stored)
    sizes = {pair.caption: Image.open(io.BytesIO(pair.jpg)).size for pair in done.pairs}
    assert sizes["turned"] == (64, 38)  # upright, though it lies on its side
    for pair in done.pairs:
        assert done.site.asked.total() > 0
        assert Image.open(io.BytesIO(pair.jpg)).format == "JPEG"


def test_nothing_inside_was_reached(done: Done) -> None:
    assert not done.visited
    assert done.site.asked["rebinding", "/a.jpg"] == 1


def test_no_secret_is_sent_or_written_down(done: Done) -> None:
    assert not any(b"authorization" in head.lower() for head in done.site.heads)
    for row in done.tables["fetches"].to_pylist():
        for secret in ("hunter2", "hun@", "ter2", "user:"):
            assert secret not in row["detail"]


def test_what_is_refused_is_asked_once_and_robots_txt_once_for_each_host(done: Done) -> None:
    asked = done.site.asked
    assert max(count for (_, path), count in asked.items() if path == "/robots.txt" and path) <= 6
    for name in ("good", "noai", "s404", "disallow", "robots500", "bomb", "shorter"):
        assert asked[name, "/robots.txt"] == 1
    assert asked["disallow", "/a.jpg"] == asked["robots500", "/a.jpg"] == 0
    for name, case in done.cases.items():
        if not case.url and "connection" in case.outcomes and case.robots is None:
            assert asked[name, "/a.jpg"] == ATTEMPTS, name
