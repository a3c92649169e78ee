"""From published rows to a tar: each row's attempts, what is said of what is stored, the order, and what goes wrong."""

import hashlib
import io
import json
import random
import threading
import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline.images.normalize import ImageRules, RefusedImage, StoredImage
from pipeline.ingest import shard_builder
from pipeline.ingest.shard_fetcher import (
    HostPartitionFetcher,
    PartitionRules,
    ReadLocalBytes,
    count_mismatch,
    unfetched_rows,
)
from pipeline.ledger.schemas import TABLES
from pipeline.outcomes import STORED
from pipeline.shards.tar_format import TAR_BLOCK_BYTES, ShardWriter, StoredPair, read_pairs
from tests.support.hostile_web import HOST, HostileWeb, jpeg, web_rules
from tests.support.images import DRAWN, RULES, encoded, two_colours

Fetched = tuple[dict[str, pa.Table], bytes, list[StoredPair]]


def served(site: HostileWeb, body: bytes) -> str:
    """Return the URL of a body that is served as an image."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return HOST + site.answering(head.encode() + body)


def rows_of(urls: list[str]) -> list[dict[str, Any]]:
    """Return published rows in the order of their uids."""
    uids = sorted(hashlib.sha256(f"{n} {url}".encode()).hexdigest()[:32] for n, url in enumerate(urls))
    return [
        {"uid": uid, "source": "laion", "record_id": f"r{n}", "url": url, "caption": f"caption {n} é"}
        for n, (uid, url) in enumerate(zip(uids, urls, strict=True))
    ]


def in_lane(lane: HostPartitionFetcher, rows: list[dict[str, Any]]) -> Fetched:
    """Return the tables that a shard's fetching fills, the tar, and its pairs."""
    stream = io.BytesIO()
    writer = ShardWriter(stream)
    tables = lane.fetch(rows, writer)
    sha256 = writer.close()
    assert sha256 == hashlib.sha256(stream.getvalue()).hexdigest()
    assert {name: table.schema for name, table in tables.items()} == {n: TABLES[n] for n in ("fetches", "samples")}
    assert count_mismatch(pa.table({"uid": [row["uid"] for row in rows]}), tables["fetches"], tables["samples"]) == ""
    return tables, stream.getvalue(), list(read_pairs(io.BytesIO(stream.getvalue())))


def lane_rules(site: HostileWeb, rules: ImageRules = RULES, seconds: float = 60.0, **changes: object) -> PartitionRules:
    return PartitionRules(web_rules(**({"hosts": site.hosts} | changes)), rules, seconds)


def fetched(
    site: HostileWeb, rows: list[dict[str, Any]], local: ReadLocalBytes | None = None, **changes: object
) -> Fetched:
    with HostPartitionFetcher(lane_rules(site, **changes), local) as lane:  # type: ignore[arg-type]
        return in_lane(lane, rows)


def test_each_pair_has_one_final_attempt_and_what_is_stored_is_described_exactly(site: HostileWeb) -> None:
    expected = {
        served(site, DRAWN): [STORED],
        served(site, encoded(two_colours((400, 251)))): ["too_many_pixels"],
        served(site, b"no image at all"): ["not_an_image"],
        served(site, DRAWN[:-40]): ["truncated_image"],
        served(site, encoded(two_colours((40, 9)))): ["image_too_small"],
        served(site, encoded(two_colours())[:-90]): ["undecodable_image"],
        f"{HOST}/page": ["not_an_image"],
        f"{HOST}/status?is=503": ["http_503"] * 3,
        f"{HOST}/once?is=500&final": ["http_500", STORED],
        f"{HOST}/image?n=4&tag=noai": ["opted_out"],
        "ftp://www.site.test/a.jpg": ["url_refused"],
    }
    rows = rows_of(list(expected))
    tables, _, pairs = fetched(site, rows)
    fetches = tables["fetches"].to_pylist()
    assert [row["uid"] for row in fetches] == [row["uid"] for row in rows for _ in expected[row["url"]]]
    for row in rows:
        own = [one for one in fetches if one["uid"] == row["uid"]]
        assert [one["outcome"] for one in own] == expected[row["url"]]
        assert [one["final"] for one in own] == [False] * (len(own) - 1) + [True]
        assert [one["attempt"] for one in own] == list(range(1, len(own) + 1))
    assert [pair.uid for pair in pairs] == [row["uid"] for row in rows if expected[row["url"]][-1] == STORED]
    assert fetches[0]["bytes"] == len(DRAWN)


def test_a_samples_row_says_where_its_bytes_lie_and_what_they_are(site: HostileWeb) -> None:
    bodies = [DRAWN, encoded(two_colours((300, 150))), jpeg(3, (30, 40))]
    rows = rows_of([served(site, body) for body in bodies])
    tables, tar, pairs = fetched(site, rows)
    assert len(pairs) == len(bodies)
    for row, body, sample, pair in zip(rows, bodies, tables["samples"].to_pylist(), pairs, strict=True):
        data = tar[sample["offset"] + TAR_BLOCK_BYTES :][: sample["jpg_bytes"]]
        assert data == pair.jpg
        assert sample["jpg_sha256"] == hashlib.sha256(data).hexdigest()
        assert (sample["raw_bytes"], sample["raw_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert (sample["offset"], sample["size"]) == (pair.offset, pair.size)
        assert (sample["width"], sample["height"]) == Image.open(io.BytesIO(data)).size
        assert (sample["original_width"], sample["original_height"]) == Image.open(io.BytesIO(body)).size
        assert (sample["shard"], sample["source"], pair.caption) == ("", "laion", row["caption"])
        assert pair.meta == row | {"sha256": sample["raw_sha256"]} | {
            key: sample[key] for key in ("width", "height", "original_width", "original_height")
        }


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_the_tar_is_in_the_rows_order_however_late_the_answers_come(site: HostileWeb, concurrency: int) -> None:
    delays = [0.3, 0.0, 0.2, 0.0, 0.1, 0.0, 0.0, 0.15, 0.0]
    rows = rows_of([f"{HOST}/slow?s={delay}&n={n}" for n, delay in enumerate(delays)])
    tables, tar, pairs = fetched(site, rows, concurrency=concurrency)
    assert [pair.uid for pair in pairs] == [row["uid"] for row in rows] == sorted(row["uid"] for row in rows)
    assert tables["samples"]["uid"].to_pylist() == tables["fetches"]["uid"].to_pylist() == [row["uid"] for row in rows]
    random.Random(concurrency).shuffle(delays)
    quick = [row | {"url": f"{HOST}/slow?s={delay}"} for row, delay in zip(rows, delays, strict=True)]
    assert [pair.jpg for pair in fetched(site, quick)[2]] == [pair.jpg for pair in pairs]
    again = fetched(site, rows, concurrency=16)
    assert again[1] == tar
    assert again[0]["samples"] == tables["samples"]


def test_a_shard_without_rows_is_an_empty_tar(site: HostileWeb) -> None:
    tables, tar, pairs = fetched(site, [])
    assert [table.num_rows for table in tables.values()] == [0, 0]
    assert not any(tar)
    assert pairs == []


def local_rows(bodies: list[bytes], slack: int = 0) -> tuple[list[dict[str, Any]], ReadLocalBytes]:
    """Return rows whose images lie one behind the other in a file, and what reads it."""
    rows, file, at = rows_of([f"http://h/{n}" for n in range(len(bodies))]), b"".join(bodies), 0
    for row, body in zip(rows, bodies, strict=True):
        row |= {"file": "all.bin", "place": f"{at}:{len(body) + slack}"}
        at += len(body)
    return rows, lambda name, offset, size: file[offset : offset + size]


def test_bytes_that_a_source_brings_along_are_stored_without_the_web(site: HostileWeb) -> None:
    bodies = [jpeg(n, (40, 40)) for n in range(20)]
    rows, local = local_rows([*bodies, b"x" * 200_001])
    site.asked.clear()
    tables, _, pairs = fetched(site, rows, local, max_in_flight=1500)
    assert [row["outcome"] for row in tables["fetches"].to_pylist()] == [STORED] * 20 + ["body_too_large"]
    assert tables["fetches"]["detail"][0].as_py() == "all.bin at byte 0"
    assert len(pairs) == 20
    assert site.asked.total() == 0


def test_bytes_that_are_shorter_than_their_place_give_all_of_it_back(site: HostileWeb) -> None:
    rows, local = local_rows([jpeg(1, (40, 40))], slack=5000)
    with HostPartitionFetcher(lane_rules(site), local) as lane:
        for _ in range(3):
            assert in_lane(lane, rows)[0]["fetches"]["outcome"].to_pylist() == [STORED]
        client = lane._client
        assert client.budget.held - client.budget._returned == 0


def test_a_file_that_cannot_be_read_ends_the_shard_and_holds_nothing(site: HostileWeb) -> None:
    rows, good = local_rows([jpeg(1, (40, 40))])

    def gone(name: str, offset: int, size: int) -> bytes:
        raise FileNotFoundError(name)

    with HostPartitionFetcher(lane_rules(site), gone) as lane:
        with pytest.raises(FileNotFoundError):
            lane.fetch(rows, ShardWriter(io.BytesIO()))
        assert lane._client.budget.held == 0
        lane._local = good
        assert len(in_lane(lane, rows)[2]) == 1


def test_only_a_small_image_is_decoded_where_its_answer_came_in(
    site: HostileWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others, by their bytes or by their pixels, must not hold up the web."""
    at_once, made_of = [], shard_builder.store_image

    def told(image: shard_builder.OpenedImage, body: bytes, *rules: Any) -> StoredImage | RefusedImage:
        if threading.current_thread() is threading.main_thread():
            at_once.append(body)
        return made_of(image, body, *rules)

    monkeypatch.setattr(shard_builder, "store_image", told)
    noise = Image.frombytes("RGB", (160, 160), random.Random(0).randbytes(3 * 160 * 160))
    small, long = jpeg(90), encoded(noise)
    wide, broken = encoded(Image.new("L", (600, 600))), b"\x89PNG but no image"
    assert len(wide) < shard_builder.SMALL_BYTES < len(long)
    bodies = [wide, small, long, broken, small]
    with HostPartitionFetcher(lane_rules(site, replace(RULES, max_pixels=1_000_000))) as lane:
        tables, _, pairs = in_lane(lane, rows_of([served(site, body) for body in bodies]))
    assert sorted(at_once) == sorted([small, broken, small])
    assert tables["fetches"]["outcome"].to_pylist() == [STORED, STORED, STORED, "not_an_image", STORED]
    assert [(pair.meta["original_width"], pair.meta["original_height"]) for pair in pairs] == [
        Image.open(io.BytesIO(body)).size for body in (wide, small, long, small)
    ]
    assert tables["samples"]["uid"].to_pylist() == [pair.uid for pair in pairs]


@pytest.mark.parametrize("small", [0, shard_builder.SMALL_BYTES], ids=["in its thread", "where answers come in"])
def test_a_decoder_that_fails_ends_the_shard_though_bodies_wait_for_room(
    site: HostileWeb, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(shard_builder, "SMALL_BYTES", small)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    rows = rows_of([f"{HOST}/image?n={n}" for n in range(30)])
    with HostPartitionFetcher(lane_rules(site, max_in_flight=2000)) as lane:
        with monkeypatch.context() as broken:
            broken.setattr(shard_builder, "_pair", full)
            started = time.monotonic()
            with pytest.raises(OSError, match="No space left"):
                lane.fetch(rows, ShardWriter(io.BytesIO()))
            assert time.monotonic() - started < 60
        assert len(in_lane(lane, rows)[2]) == 30  # and what it held is given back
        assert lane._client.budget.held - lane._client.budget._returned == 0


def test_a_lane_goes_on_from_shard_to_shard(site: HostileWeb) -> None:
    with HostPartitionFetcher(lane_rules(site)) as lane:
        for number in range(3):
            rows = rows_of([f"{HOST}/image?n={number * 10 + n}" for n in range(10)])
            assert [pair.uid for pair in in_lane(lane, rows)[2]] == [row["uid"] for row in rows]


def test_attempts_go_on_counting_and_hashes_are_compared(site: HostileWeb) -> None:
    body = jpeg(2, (64, 64))
    rows = rows_of([f"{HOST}/image?n=2&v=1", f"{HOST}/image?n=2&v=2", f"{HOST}/status?is=404&again"])
    right, wrong, gone = sorted(rows, key=lambda row: row["record_id"])
    right["hashes"] = json.dumps({"sha256": hashlib.sha256(body).hexdigest()})
    wrong["hashes"] = json.dumps({"sha256": "0" * 64})
    gone["attempts"] = 4
    tables, _, _ = fetched(site, rows)
    verdicts = {row["uid"]: row["verdict"] for row in tables["samples"].to_pylist()}
    assert len(set(verdicts.values())) == 2
    assert set(verdicts) == {right["uid"], wrong["uid"]}
    attempts = {row["uid"]: row["attempt"] for row in tables["fetches"].to_pylist()}
    assert (attempts[gone["uid"]], attempts[right["uid"]]) == (5, 1)


def test_what_does_not_add_up_is_said() -> None:
    problems = [{"uid": uid, "source": "s", "problem": "no_url", "detail": "url: ''"} for uid in ("a", "b", "b")]
    fetches = unfetched_rows(problems)
    pairs, samples = pa.table({"uid": ["a", "b", "b"]}), TABLES["samples"].empty_table()
    assert fetches.schema == TABLES["fetches"]
    assert count_mismatch(pairs, fetches, samples) == ""
    assert "3 published rows, 2 have" in count_mismatch(pairs, fetches.slice(1), samples)
    assert "3 published rows, 3 have" in count_mismatch(pa.table({"uid": ["a", "a", "b"]}), fetches, samples)
    stored = fetches.set_column(
        fetches.schema.get_field_index("outcome"), "outcome", pa.array(["stored", "x", "x"], pa.string())
    )
    assert "1 pairs were stored, 0 lie in the shard" in count_mismatch(pairs, stored, samples)
