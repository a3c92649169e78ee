"""What a list may name, what a tombstone keeps away, and how pairs are cut out of a tar."""

import io
import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import InputError, StageFailed
from pipeline.fetch.urls import host_key, parent_domains, url_key
from pipeline.images.normalize import ImageRules
from pipeline.images.pdq import pdq_fingerprint
from pipeline.ingest.shard_builder import ShardBuilder
from pipeline.ingest.tombstones import NO_TOMBSTONES, Tombstones, blank_refused, hash_key
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.value_filter import ValueFilter
from pipeline.outcomes import STORED, TAKEN_DOWN, TRANSIENT, Attempt
from pipeline.shards.tar_format import TAR_END, ShardWriter, pair_bytes, read_pairs
from pipeline.shards.tar_rewrite import plan_cut, write_cut
from pipeline.takedown.matching import _host_mask, _url_mask
from pipeline.takedown.request import MAX_REQUEST_DISTANCE_BITS, parse_entry, parse_request, read_list
from tests.support.takedown_store import picture

HEX = st.text("0123456789abcdef", min_size=32, max_size=32)


HEX64 = st.text("0123456789abcdef", min_size=64, max_size=64)


LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)


HOST = st.lists(LABEL, min_size=2, max_size=4).map(".".join)


PATH = st.text(string.ascii_letters + string.digits + "/._-~%", max_size=20)


@given(HEX)
def test_a_uid_is_named_in_any_case(uid: str) -> None:
    assert parse_entry(uid.upper()) == parse_entry(uid) == ("uid", uid, 0)


@given(HEX64, st.integers(0, MAX_REQUEST_DISTANCE_BITS))
def test_a_sha256_and_a_fingerprint_are_told_apart(value: str, bits: int) -> None:
    assert parse_entry(value) == ("sha256", value, 0)
    assert parse_entry(f"pdq:{value}/{bits}") == parse_entry(f"PDQ:{value.upper()}", bits) == ("pdq", value, bits)


@given(HOST, PATH)
def test_a_url_is_named_however_its_host_is_written(host: str, path: str) -> None:
    expected = ("url", f"http://{host}/{path}", 0)
    for text in (f"http://{host}/{path}", f"HTTP://{host.upper()}:80/{path}#part", f"http://{host}./{path}"):
        assert parse_entry(text) == expected, text


@given(HOST)
def test_a_domain_is_named_in_any_case_and_with_its_last_dot(host: str) -> None:
    assert parse_entry(f"domain:{host}") == parse_entry(f"DOMAIN:{host.upper()}.") == ("host", host, 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "0" * 31, "0" * 33, "0" * 63, "0" * 65, "g" * 32, f"pdq:{'0' * 63}", f"pdq:{'0' * 64}/65"),
        *(
            f"pdq:{'0' * 64}/",
            f"pdq:{'0' * 64}/-1",
            "domain:",
            "domain:org",
            "domain:.org",
            "domain:a..b",
            "domain:*.a.b",
        ),
        *("domain:http://a.b", "domain:a.b/c", "example.org", "ftp://a.b/c", "http://", "http:///x", "https:// a.b"),
        *("http://a.b/c http://d.e/f", "file:///etc/passwd", "s3://bucket/key", "d41d8cd98f00b204e9800998ecf8427e/3"),
    ],
)
def test_what_names_nothing_is_no_guess(text: str) -> None:
    assert parse_entry(text) is None


@given(st.text(max_size=60))
@example("\x00")
@example("http://[::1")
@example("http://\ud800/")
def test_any_text_names_one_thing_or_nothing(text: str) -> None:
    found = parse_entry(text)
    assert found is None or found[0] in ("uid", "url", "host", "sha256", "pdq")


@given(st.lists(st.one_of(HEX, HEX64, HOST.map("domain:{}".format), HOST.map("https://{}/a b".format)), min_size=1))
def test_a_list_names_each_of_its_lines_once(lines: list[str]) -> None:
    text = "# why\n\n" + "\r\n".join(f"  {line}\t" for line in lines)
    wanted = parse_request(text, "list")
    assert {parse_entry(line) for line in lines} == set(wanted.lines)
    for line in lines:
        one = parse_entry(line)
        assert one is not None
        assert wanted.lines[one] == 3 + [parse_entry(other) for other in lines].index(one)
    assert wanted.tombstones().rows() == {
        (kind, hash_key(value) if kind in ("url", "host") else value, bits) for kind, value, bits in wanted.lines
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"# nothing\n\n", "list: found no entries, expected on each line a uid"),
        (b"x" * 9000, "list line 1: found 'xxxx"),
        (b"\n\nnonsense", "list line 3: found 'nonsense', expected a uid (32 hex digits), a URL (http:// or"),
        (b"\xff", "list: expected UTF-8, found byte 0xff at 0"),
    ],
)
def test_a_bad_list_is_told_by_file_line_and_what_was_found(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_list(tmp_path / "list")
    assert str(caught.value).startswith(f"{tmp_path}/{said}")
    assert len(str(caught.value)) < 500


def test_a_credential_in_a_url_is_left_out_as_it_is_in_pairs() -> None:
    assert parse_entry("http://user:word@a.b/c?x=1") == parse_entry("http://a.b/c") == ("url", "http://a.b/c", 0)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://a.b/c?d=E#f", "http://a.b/c?d=E"),
        ("https://A.b:443", "https://a.b/"),
        ("https://a.b:8443/", "https://a.b:8443/"),
        ("http://a.b:/x", "http://a.b/x"),
        ("HTTP://BÜCHER.example/ü", "http://xn--bcher-kva.example/ü"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("", ""),
        ("no url", "no url"),
    ],
)
def test_the_key_of_a_url(url: str, key: str) -> None:
    assert url_key(url) == key
    assert url_key(key) == key


@given(st.text(max_size=40))
@example("http://a.b/c\n")
def test_a_key_is_its_own_key(url: str) -> None:
    assert url_key(url_key(url)) == url_key(url)


URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "HTTPS"]),
    HOST,
    st.sampled_from(["", ":80", "."]),
    PATH.map("/{}".format),
)


@given(st.lists(st.one_of(st.just(""), URLS), max_size=20), st.data())
def test_columns_are_searched_as_single_urls_are(urls: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from(urls or [""])))
    keys = {url_key(url) for url in chosen} - {""}
    column = pa.array(urls, pa.string())
    assert _url_mask(column, ValueFilter(keys)).to_pylist() == [url_key(url) in keys for url in urls]
    hosts = {domain: 1 for url in keys for domain in parent_domains(url.split("/")[2])[:2]}
    stones = Tombstones(hosts=frozenset(map(hash_key, hosts)))
    assert _host_mask(column, hosts).to_pylist() == [stones.names("", url) for url in urls]


def test_many_values_are_found_as_few_are() -> None:
    column = pa.array(["a", "b", None, "c"], pa.string())
    many = ValueFilter({"a", "c", *map(str, range(ValueFilter.FEW + 4))})
    assert (
        many.within(column).to_pylist()
        == ValueFilter({"a", "c"}).within(column).to_pylist()
        == [True, False, False, True]
    )


def test_hosts_are_known_with_all_that_lies_below_them() -> None:
    assert parent_domains("Img.Site.TEST.") == ["img.site.test", "site.test", "test"]
    assert parent_domains("") == []
    assert host_key("BÜCHER.example") == "xn--bcher-kva.example"
    stones = Tombstones(hosts=frozenset({hash_key("site.test")}))
    assert stones.names("", "http://site.test/")
    assert stones.names("", "https://a.b.SITE.test:99/x")
    assert not stones.names("", "http://notsite.test/")
    assert not stones.names("", "http://site.test.example/")


def pairs(*urls: str) -> pa.Table:
    rows = [
        {name: f"{name} {n}" for name in TABLES["pairs"].names}
        | {"uid": f"{n:032x}", "url": url, "line": n, "problem": ""}
        for n, url in enumerate(urls)
    ]
    return pa.Table.from_pylist(rows, TABLES["pairs"])


def test_of_a_refused_row_nothing_is_kept_by_which_it_could_be_known() -> None:
    rows = pairs("http://a.test/1", "http://b.test/1", "http://c.test/1", "http://d.test/1")
    stones = Tombstones(
        frozenset({f"{0:032x}"}), frozenset({hash_key("http://b.test/1")}), frozenset({hash_key("c.test")})
    )
    found = blank_refused(rows, stones)
    assert found.schema == rows.schema
    assert found.slice(3) == rows.slice(3)
    for number, row in enumerate(found.to_pylist()[:3]):
        kept = {"uid", "source", "file", "line", "licence"}
        assert {name: row[name] for name in kept} == {name: rows[name][number].as_py() for name in kept}
        assert row["problem"] == TAKEN_DOWN
        assert row["published"] == "{}"
        assert {row[name] for name in row.keys() - kept - {"problem", "published"}} == {""}
    assert blank_refused(rows, NO_TOMBSTONES) is rows


def test_a_refusal_is_never_tried_again() -> None:
    assert TAKEN_DOWN not in TRANSIENT


RULES = ImageRules(mode="keep_ratio", size=80, quality=90, min_side=8, max_pixels=10**6)


def filled(tombstones: Tombstones, *bodies: bytes) -> dict[str, str]:
    """Return what becomes of bodies, by outcome of each row, and check that nothing of the refused ones is written."""
    rows = [
        {"uid": f"{n:032x}", "source": "s", "record_id": "", "url": f"http://u.test/{n}", "caption": f"caption {n}"}
        for n in range(len(bodies))
    ]
    shard = ShardBuilder(rows, RULES, lambda size: None, tombstones)
    for number, body in enumerate(bodies):
        shard.answered(number, [Attempt(STORED, 200, "", body)])
    shard.decoded()
    stream = io.BytesIO()
    writer = ShardWriter(stream)
    tables = shard.write(writer)
    writer.close()
    shard.close()
    outcomes = dict(zip(tables["fetches"]["uid"].to_pylist(), tables["fetches"]["outcome"].to_pylist(), strict=True))
    stored = {pair.uid for pair in read_pairs(io.BytesIO(stream.getvalue()))}
    assert stored == set(tables["samples"]["uid"].to_pylist()) == {uid for uid in outcomes if outcomes[uid] == STORED}
    return outcomes


def test_an_image_is_refused_by_its_bytes_as_fetched_or_as_stored_and_by_its_look() -> None:
    import hashlib

    from PIL import Image

    from pipeline.images.normalize import StoredImage, to_stored_image

    bodies = [picture(number) for number in range(4)] + [picture(2, quality=50)]
    made = to_stored_image(bodies[1], RULES)
    assert isinstance(made, StoredImage)
    shown = np.asarray(Image.open(io.BytesIO(bodies[2])).convert("RGB"))
    stones = Tombstones(
        images=frozenset(hashlib.sha256(data).hexdigest() for data in (bodies[0], made.jpg)),
        prints=((pdq_fingerprint(shown)[0].hex(), 31), ("f" * 64, 0)),
    )
    outcomes = list(filled(stones, *bodies).values())
    assert outcomes == [TAKEN_DOWN, TAKEN_DOWN, TAKEN_DOWN, STORED, TAKEN_DOWN]
    assert set(filled(NO_TOMBSTONES, *bodies).values()) == {STORED}


def test_a_flat_picture_is_not_refused_by_its_look() -> None:
    flat = picture(1, flat=True)
    assert set(filled(Tombstones(prints=(("0" * 64, 64),)), flat).values()) == {STORED}


PAIRS = st.lists(st.tuples(HEX, st.binary(max_size=1500)), max_size=8, unique_by=lambda one: one[0])


def tar(parts: list[tuple[str, bytes]]) -> tuple[bytes, list[tuple[int, int]], str]:
    """Return a tar of pairs, where each lies in it, and its SHA-256."""
    stream = io.BytesIO()
    writer = ShardWriter(stream)
    places = []
    for uid, jpg in parts:
        members = pair_bytes(uid, jpg, f"caption of {uid}", {"uid": uid})
        places.append((writer.append(members), len(members)))
    return stream.getvalue() + TAR_END, places, writer.close()


@given(PAIRS, st.data())
def test_a_tar_without_pairs_is_the_tar_of_the_others(parts: list[tuple[str, bytes]], data: st.DataObject) -> None:
    whole, places, _ = tar(parts)
    gone = data.draw(st.sets(st.sampled_from(range(len(parts))))) if parts else set()
    left, new_places, sha256 = tar([part for number, part in enumerate(parts) if number not in gone])
    made = plan_cut(places[::-1], {places[number][0] for number in gone}, len(whole), "x.tar")
    stream = io.BytesIO()
    assert write_cut(io.BytesIO(whole), stream, made, "x.tar") == sha256
    assert stream.getvalue() == left
    assert made.bytes == len(left)
    kept = [places[number] for number in range(len(parts)) if number not in gone]
    assert [(made.moved[offset], size) for offset, size in kept] == new_places
    assert len(made.moved) == len(kept)
    assert len(made.runs) <= len(gone) + 1


@pytest.mark.parametrize(
    ("places", "size", "said"),
    [
        ([(0, 512), (1024, 512)], 2560, "x.tar: expected a pair at byte 512, found the next one in the ledger at 1024"),
        ([(512, 512)], 2048, "x.tar: expected a pair at byte 0, found the next one in the ledger at 512"),
        ([(0, 512), (0, 512)], 2048, "x.tar: expected a pair at byte 512, found the next one in the ledger at 0"),
        ([(0, 0)], 1024, "x.tar: expected a pair at byte 0, found the next one in the ledger at 0"),
        ([(0, 512)], 2048, "x.tar: found 2048 bytes, expected 1536 for the ledger's pairs"),
        ([], 0, "x.tar: found 0 bytes, expected 1024 for the ledger's pairs"),
    ],
)
def test_a_tar_that_is_not_what_the_ledger_says_is_not_cut(places: list[tuple[int, int]], size: int, said: str) -> None:
    with pytest.raises(StageFailed) as caught:
        plan_cut(places, set(), size, "x.tar")
    assert str(caught.value) == said


def test_a_tar_that_ends_too_early_is_not_copied() -> None:
    made = plan_cut([(0, 512), (512, 512)], {0}, 2048, "x.tar")
    with pytest.raises(StageFailed, match=r"x\.tar: found its end at byte 700, expected byte 1024"):
        write_cut(io.BytesIO(bytes(700)), io.BytesIO(), made, "x.tar")
