"""WebDataset tars that are there already: the contract of `test_sources`, and what a hostile tar holds."""

import gzip
import io
import json
import random
import tarfile
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.records import EMPTY_CAPTION, MALFORMED, WHOLE_FILE, PublishedRow, clean_row
from sources import webdataset
from sources.registry import source_format
from tests.sources.test_contract import PAIRS, SourceContract, read

Member = tuple[str, bytes] | tarfile.TarInfo


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def header(info: tarfile.TarInfo, size: int | None = None) -> bytes:
    """Return a member's header with any size in it, as base 256, which holds negative ones too."""
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size is not None:
        block[124:136] = b"\xff" + size.to_bytes(11, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11)
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_file(members: Sequence[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                tar.addfile(one)
            else:
                tar.addfile(member(one[0], len(one[1])), io.BytesIO(one[1]))
    return stream.getvalue()


def image(key: str) -> bytes:
    return f"image of {key}".encode() * 40


def pair(key: str, caption: str | bytes, url: str = "", suffix: str = "jpg", **meta: Any) -> list[Member]:
    """Return a pair's three members as img2dataset writes them."""
    about: dict[str, Any] = {"url": url, "key": key, "status": "success", "error_message": None, "width": 256}
    about |= {"height": 256, "original_width": 640, "original_height": 480, "exif": "{}", "sha256": "ab" * 32} | meta
    text = caption if isinstance(caption, bytes) else caption.encode()
    about["caption"] = text.decode("utf-8", "replace")
    return [
        (f"{key}.{suffix}", image(key)),
        (f"{key}.txt", text),
        (f"{key}.json", json.dumps(about, indent=4).encode()),
    ]


class TestWebDataset(SourceContract):
    kind = "webdataset"
    form = tarfile.PAX_FORMAT

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        members: list[Member] = []
        for number, (url, text) in enumerate(pairs):
            members += pair(f"{number:09d}", text, url)[1 if number == spoil else 0 :]
        return tar_file(members, self.form)

    def test_ids_places_hashes_and_scalars(self) -> None:
        content = self.file(PAIRS)
        rows = read("webdataset", content)
        assert len(rows) == len(PAIRS)
        for number, row in enumerate(rows):
            offset, size = map(int, row.place.split(":"))
            assert content[offset : offset + size] == image(f"{number:09d}")
            assert row.record_id == f"{number:09d}"
            assert row.hashes == {"sha256": "ab" * 32}
            assert row.published == {
                **{"key": f"{number:09d}", "status": "success", "width": 256, "height": 256, "exif": "{}"},
                **{"original_width": 640, "original_height": 480},
            }

    def test_the_whole_is_the_only_part(self) -> None:
        assert source_format("webdataset").parts(io.BytesIO(self.file(PAIRS)), 1) == [WHOLE_FILE]


class TestWebDatasetUstar(TestWebDataset):
    form = tarfile.USTAR_FORMAT


class TestWebDatasetGnu(TestWebDataset):
    form = tarfile.GNU_FORMAT


def rows_of(members: Sequence[Member]) -> list[PublishedRow]:
    return read("webdataset", tar_file(members))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "gif", "JPG"])
def test_images_of_each_kind(suffix: str) -> None:
    (row,) = rows_of(pair("1", "cap", suffix=suffix))
    assert (row.caption, row.problem, bool(row.place)) == ("cap", "", True)


def test_a_pair_without_json_or_text_and_where_the_caption_comes_from() -> None:
    members: list[Member] = [("1.jpg", b"a"), ("1.txt", b"text")]
    members += [("2.jpg", b"a"), ("2.json", b'{"caption": "caption", "text": "other"}')]
    members += [("3.json", b'\xef\xbb\xbf{"text": "other"}'), ("3.jpg", b"a")]
    members += [("4.jpg", b"a"), ("4.txt", b" "), ("4.json", b'{"caption": "caption"}'), ("5.jpg", b"a")]
    rows = rows_of(members)
    assert [row.caption for row in rows] == ["text", "caption", "other", "caption", ""]
    assert [clean_row(row).problem for row in rows] == ["", "", "", "", EMPTY_CAPTION]


def test_folders_and_dots_are_part_of_names() -> None:
    first: list[Member] = [("a.b/1.jpg", b"a"), ("a.b/1.seg.png", b"b"), ("a.b/1.txt", b"one")]
    rows = rows_of([*first, ("../../etc/1.jpg", b"a"), ("../../etc/1.txt", b"two")])
    assert [(row.record_id, row.caption) for row in rows] == [("a.b/1", "one"), ("../../etc/1", "two")]


def test_members_of_other_kinds_are_not_looked_at() -> None:
    (row,) = rows_of([*pair("1", "cap"), ("1.pkl", b"cos\nsystem\n"), ("1.npy", b"x"), ("1.cls", b"3")])
    assert (row.problem, row.caption) == ("", "cap")


def test_numbers_that_are_no_json_and_lists_are_left_out() -> None:
    (row,) = rows_of(
        [
            ("1.jpg", b"a"),
            ("1.json", b'{"url": null, "a": NaN, "b": 1e999, "c": [1], "d": {"e": 1}, "f": true, "g": 1.5}'),
        ]
    )
    assert (row.published, row.hashes) == ({"f": True, "g": 1.5}, {})


ODD = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "of type b'3'",
    tarfile.BLKTYPE: "of type b'4'",
    tarfile.FIFOTYPE: "of type b'6'",
    tarfile.DIRTYPE: "a folder",
}


@pytest.mark.parametrize(("kind", "said"), ODD.items())
def test_members_that_are_no_files_are_named_and_make_their_key_malformed(kind: bytes, said: str) -> None:
    odd = member("2.jpg", kind=kind, linkname="/etc/passwd")
    rows = rows_of([*pair("1", "one"), odd, *pair("2", "two")[1:], *pair("3", "three")])
    assert [(row.line, row.problem) for row in rows] == [(1, ""), (2, MALFORMED), (3, "")]
    assert rows[1].detail == f"expected a regular file, found member '2.jpg', {said}"


def test_a_sparse_image_has_no_place() -> None:
    info = member("1.jpg", pax_headers={"GNU.sparse.map": "0,4", "GNU.sparse.size": "4"})
    (row,) = rows_of([info, ("1.txt", b"cap")])
    assert row.detail == "expected a regular file, found member '1.jpg', a sparse file"


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ([("1.txt", b"cap"), ("1.json", b"{}")], "expected an image member, found '1' with txt, json"),
        ([("README", b"")], "expected an image member, found 'README' with no suffix"),
        ([("._1.jpg", b"")], "expected an image member, found '._1.jpg' with no suffix"),
        ([("1.jpg", b""), ("1.png", b"")], "expected one image, found member '1.png' too"),
        ([("1.jpg", b""), ("1.txt", b""), ("1.txt", b"")], "expected one txt member, found member '1.txt' too"),
        ([("1.jpg", b""), ("1.json", b"[]")], "expected a JSON object in the json member, found []"),
        ([("1.jpg", b""), ("1.json", b'{"sha256": "x"}')], "expected sha256 as 64 hex digits, found x"),
        ([("1.jpg", b""), ("1.json", b'{"url": ["a"]}')], "expected text or a number in a cell, found ['a']"),
        (
            [("1.jpg", b""), ("1.txt", bytes(1048577))],
            "expected at most 1048576 bytes, found member '1.txt' of 1048577",
        ),
    ],
)
def test_keys_that_are_no_pairs(members: list[Member], detail: str) -> None:
    rows = rows_of([*members, *pair("9", "cap")])
    assert [row.problem for row in rows] == [MALFORMED, ""]
    assert rows[0].detail == detail


@pytest.mark.parametrize("content", [b"[" * 500_000, b'{"a": ' + b"9" * 5000 + b"}", b'{"a": ' + b"[" * 900_000])
def test_json_that_is_made_to_break_its_reader(content: bytes) -> None:
    rows = rows_of([("1.jpg", b"a"), ("1.json", content), *pair("2", "cap")])
    assert [row.problem for row in rows] == [MALFORMED, ""]


def test_an_image_beyond_the_limit_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_IMAGE_BYTES", 1000)
    rows = rows_of([("1.jpg", b"x" * 1001), ("1.txt", b"cap"), ("2.jpg", b"x" * 1000), ("2.txt", b"cap")])
    assert [row.problem for row in rows] == [MALFORMED, ""]
    assert rows[0].detail == "expected at most 1000 bytes, found member '1.jpg' of 1001"


class Counting(io.BytesIO):
    """Counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content


def test_images_are_stepped_over() -> None:
    members: list[Member] = []
    for number in range(20):
        members += [(f"{number}.jpg", bytes(1 << 20)), (f"{number}.txt", b"cap")]
    stream = Counting(tar_file(members))
    tracemalloc.start()
    rows = list(source_format("webdataset").read(stream))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 20
    assert stream.count < 200_000
    assert peak < 4 << 20


PLAIN = tar_file(pair("1", "one") + pair("2", "two"))


HEAD = PLAIN.rstrip(b"\0")


HEAD += b"\0" * (-len(HEAD) % tarfile.BLOCKSIZE)


END = b"\0" * 1024


@pytest.mark.parametrize(
    "behind",
    [
        b"",
        b"\0" * 100,
        b"x" * 512 + END,
        header(member("3.jpg"), -512) + END,
        header(member("3.jpg"), -(len(HEAD) + 512)) + END,
        header(member("3.jpg"), 1 << 40) + END,
        header(member("3.jpg"), 1 << 80) + END,
        header(member("x", kind=tarfile.XHDTYPE), -512) + END,
        header(member("x", kind=tarfile.XHDTYPE), 1 << 40) + END,
        header(member("x", kind=tarfile.GNUTYPE_LONGNAME), 1 << 40) + END,
        header(member("x", kind=tarfile.GNUTYPE_LONGNAME), 0) * 3000 + END,
        header(member("x", kind=tarfile.XGLTYPE), 0) * 3000 + END,
        header(member("x", kind=tarfile.GNUTYPE_SPARSE), 0)[:482] + b"\1" + b"\0" * 29,
        END + header(member("3.jpg"), 0) + END,
    ],
    ids=range(14),
)
def test_damage_behind_whole_pairs_is_one_malformed_row_and_soon(behind: bytes) -> None:
    began = time.process_time()
    rows = read("webdataset", HEAD + behind)
    assert time.process_time() - began < 5
    assert rows[0] == read("webdataset", PLAIN)[0]
    assert rows[-1].problem == MALFORMED
    assert rows[-1].detail.startswith("expected a whole tar, found ")
    assert [row.line for row in rows] == [1, 2]


def test_a_header_that_claims_much_is_not_read_into_memory() -> None:
    big = 64 << 20
    content = HEAD + header(member("x", kind=tarfile.XHDTYPE), big) + bytes(big) + END
    tracemalloc.start()
    rows = read("webdataset", content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows[-1].problem == MALFORMED
    assert peak < len(content) + (8 << 20)


def test_a_compressed_tar_is_no_tar_with_places() -> None:
    assert read("webdataset", gzip.compress(PLAIN, mtime=0))[0].detail.startswith("expected a whole tar, found ")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_read(form: int) -> None:
    key = "folder/" + "ü" * 150
    (row,) = read("webdataset", tar_file(pair(key, "cap"), form))
    assert (row.record_id, row.caption) == (key, "cap")


def with_damaged_headers(seed: int) -> bytes:
    chance = random.Random(seed)
    form = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[seed % 2]
    content = bytearray(tar_file(pair("ü" * 120, "one") + pair("2", "two"), form))
    for place in range(0, len(content), tarfile.BLOCKSIZE):
        if chance.random() < 0.3:
            field = place + chance.choice([0, 100, 124, 125, 136, 156, 257, 345, 482, 504])
            content[field] = chance.choice([0, 0x80, 0xFF, 0x2D, *b"0123456789LKxgS", chance.randrange(256)])
            content[place + 148 : place + 156] = b" " * 8
            content[place + 148 : place + 156] = b"%06o\0 " % sum(content[place : place + 512])
    return bytes(content)


def test_damaged_headers_give_rows_and_no_exception() -> None:
    counts = set()
    for seed in range(300):
        rows = read("webdataset", with_damaged_headers(seed))
        assert [row.line for row in rows] == list(range(1, len(rows) + 1)), seed
        counts.add(len(rows))
    assert len(counts) > 1
