"""Shards: any reader of tars reads them back, the same bytes every time, and a hostile tar is refused by name."""

import hashlib
import io
import json
import random
import tarfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.tar_format import (
    MAX_MEMBER_BYTES,
    SUFFIXES,
    TAR_BLOCK_BYTES,
    TAR_END,
    BadTar,
    ShardWriter,
    StoredPair,
    pair_bytes,
    read_members,
    read_pairs,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


JSON = st.dictionaries(TEXT, TEXT | st.integers() | st.booleans() | st.none() | st.lists(TEXT, max_size=2), max_size=4)


UID = st.integers(0, 16**32 - 1).map(lambda number: f"{number:032x}")


IMAGE = st.binary(max_size=1500) | st.sampled_from(
    [b"", b"\0" * TAR_BLOCK_BYTES, b"x" * (2 * TAR_BLOCK_BYTES), b"x" * (TAR_BLOCK_BYTES + 1)]
)


Pair = tuple[str, bytes, str, dict[str, Any]]


PAIRS = st.lists(st.tuples(UID, IMAGE, TEXT, JSON), max_size=6, unique_by=lambda pair: pair[0])


THREE: list[Pair] = [(f"{n:032x}", bytes([n]) * (300 * n), f"caption {n}", {"n": n}) for n in (1, 2, 3)]


def written(pairs: list[Pair]) -> tuple[bytes, list[tuple[int, int]], str]:
    """Return a tar's bytes, the (offset, size) of its pairs, and the SHA-256 that its writer gave."""
    stream = io.BytesIO()
    writer, ranges = ShardWriter(stream), []
    for pair in pairs:
        members = pair_bytes(*pair)
        ranges.append((writer.append(members), len(members)))
    sha256 = writer.close()
    assert writer.bytes == len(stream.getvalue())
    return stream.getvalue(), ranges, sha256


def back(content: bytes) -> list[StoredPair]:
    return list(read_pairs(io.BytesIO(content)))


@given(PAIRS)
def test_what_is_written_is_read_back_with_its_ranges(pairs: list[Pair]) -> None:
    content, ranges, sha256 = written(pairs)
    assert sha256 == hashlib.sha256(content).hexdigest()
    found = back(content)
    assert [(pair.uid, pair.jpg, pair.caption, pair.meta) for pair in found] == pairs
    assert [(pair.offset, pair.size) for pair in found] == ranges
    assert written(pairs)[0] == content


@given(PAIRS)
def test_pythons_tarfile_reads_the_same(pairs: list[Pair]) -> None:
    with tarfile.open(fileobj=io.BytesIO(written(pairs)[0]), mode="r:") as tar:
        members = tar.getmembers()
        texts = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert [member.name for member in members] == [f"{pair[0]}.{suffix}" for pair in pairs for suffix in SUFFIXES]
    assert {(member.mtime, member.type, member.uid, member.uname) for member in members} <= {
        (0, tarfile.REGTYPE, 0, "")
    }
    assert texts[0::3] == [jpg for _, jpg, _, _ in pairs]
    assert [text.decode() for text in texts[1::3]] == [caption for _, _, caption, _ in pairs]
    assert [json.loads(text) for text in texts[2::3]] == [meta for *_, meta in pairs]


@settings(max_examples=15, deadline=None)
@given(pairs=PAIRS.filter(bool))
def test_plain_webdataset_reads_the_same(tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]) -> None:
    path = tmp_path_factory.mktemp("wds") / "00000000.tar"
    path.write_bytes(written(pairs)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = list(wds.WebDataset(str(path), shardshuffle=False))
    assert [(sample["__key__"], sample["jpg"]) for sample in samples] == [(uid, jpg) for uid, jpg, _, _ in pairs]
    assert [sample["txt"].decode() for sample in samples] == [caption for _, _, caption, _ in pairs]
    assert [json.loads(sample["json"]) for sample in samples] == [meta for *_, meta in pairs]


@given(PAIRS)
def test_a_pairs_range_is_a_tar_by_itself(pairs: list[Pair]) -> None:
    content, ranges, _ = written(pairs)
    assert len(ranges) == len(pairs)
    for pair, (offset, size) in zip(pairs, ranges, strict=True):
        part = content[offset : offset + size]
        assert part[TAR_BLOCK_BYTES : TAR_BLOCK_BYTES + len(pair[1])] == pair[1]
        (alone,) = back(part + TAR_END)
        assert (alone.uid, alone.jpg, alone.caption, alone.meta) == pair
        assert (alone.offset, alone.size) == (0, size)


def test_ranges_copied_in_another_order_are_a_good_tar() -> None:
    content, ranges, _ = written(THREE)
    stream = io.BytesIO()
    writer = ShardWriter(stream)
    offsets = [writer.append(content[offset : offset + size]) for offset, size in reversed(ranges)]
    writer.close()
    assert [(pair.uid, pair.offset) for pair in back(stream.getvalue())] == [
        (pair[0], offset) for pair, offset in zip(reversed(THREE), offsets, strict=True)
    ]


def test_meta_is_written_canonically_whatever_its_order() -> None:
    one, other = {"b": 1, "a": "ü"}, {"a": "ü", "b": 1}
    assert pair_bytes("0" * 32, b"", "", one) == pair_bytes("0" * 32, b"", "", other)
    assert '{"a":"ü","b":1}'.encode() in pair_bytes("0" * 32, b"", "", one)


def test_text_that_utf8_cannot_hold_is_replaced_and_no_exception() -> None:
    (found,) = back(pair_bytes("0" * 32, b"", "a\ud800b", {"c": "\udfff"}) + TAR_END)
    assert (found.caption, found.meta) == ("a?b", {"c": "?"})


def test_a_cut_tar_is_refused_or_gives_fewer_pairs() -> None:
    content, ranges, _ = written(THREE)
    ends = [offset + size for offset, size in ranges]
    for length in range(0, len(content) - len(TAR_END), 100):
        whole = sum(end <= length for end in ends)
        try:
            assert len(back(content[:length])) == whole < len(THREE)  # the count is what tells
        except BadTar:
            continue
    for end in ends[:-1]:
        assert len(back(content[:end])) < len(THREE)
    assert len(back(content[: -len(TAR_END)])) == len(THREE)


@pytest.mark.parametrize(
    "cut",
    [
        1,
        TAR_BLOCK_BYTES // 2,
        TAR_BLOCK_BYTES + 1,
        TAR_BLOCK_BYTES + 299,
        2 * TAR_BLOCK_BYTES + 10,
        3 * TAR_BLOCK_BYTES,
    ],
)
def test_a_tar_cut_inside_its_first_pair_is_refused(cut: int) -> None:
    with pytest.raises(BadTar):
        back(written(THREE)[0][:cut])


UID_1 = f"{1:032x}"


Entry = tuple[str, bytes, Callable[[tarfile.TarInfo], None]]


def plain(_: tarfile.TarInfo) -> None:
    pass


def kind(letter: bytes, link: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = letter, link

    return change


def floating_mtime(info: tarfile.TarInfo) -> None:
    info.mtime = 1.5


def tar_of(*entries: Entry, form: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data, change in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            change(info)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def good(**instead: Entry) -> list[Entry]:
    """Return the three members of a good pair, some of them replaced."""
    members = {"jpg": b"jpg", "txt": b"txt", "json": b"{}"}
    return [instead.get(suffix, (f"{UID_1}.{suffix}", data, plain)) for suffix, data in members.items()]


def test_the_good_pair_of_these_tests_is_good() -> None:
    assert [pair.uid for pair in back(tar_of(*good()))] == [UID_1]


HOSTILE = {
    "symlink": good(jpg=(f"{UID_1}.jpg", b"", kind(tarfile.SYMTYPE, "/etc/passwd"))),
    "hard link": good(txt=(f"{UID_1}.txt", b"", kind(tarfile.LNKTYPE, f"{UID_1}.jpg"))),
    "device": good(jpg=(f"{UID_1}.jpg", b"", kind(tarfile.CHRTYPE))),
    "fifo": good(jpg=(f"{UID_1}.jpg", b"", kind(tarfile.FIFOTYPE))),
    "directory": [("images", b"", kind(tarfile.DIRTYPE)), *good()],
    "folder": good(jpg=(f"images/{UID_1}.jpg", b"jpg", plain)),
    "absolute": good(jpg=(f"/{UID_1}.jpg", b"jpg", plain)),
    "parent": good(jpg=(f"../{UID_1}.jpg", b"jpg", plain)),
    "dots": good(jpg=("..jpg", b"jpg", plain)),
    "no key": good(jpg=(".jpg", b"jpg", plain)),
    "pickle": good(json=(f"{UID_1}.pkl", b"{}", plain)),
    "pyd": [*good(), (f"{UID_1}.pyd", b"\x80\x04", plain)],
    "pth": [*good(), (f"{UID_1}.pth", b"\x80\x04", plain)],
    "two suffixes": good(jpg=(f"{UID_1}.pyd.jpg", b"jpg", plain)),
    "capitals": good(jpg=(f"{UID_1}.JPG", b"jpg", plain)),
    "no suffix": good(jpg=(UID_1, b"jpg", plain)),
    "another order": good()[::-1],
    "twice": [*good()[:1], *good()],
    "missing": good()[:2],
    "two uids": good(txt=(f"{2:032x}.txt", b"txt", plain)),
    "no uid": [(f"image.{suffix}", b"{}", plain) for suffix in SUFFIXES],
    "long uid": [(f"{UID_1}0.{suffix}", b"{}", plain) for suffix in SUFFIXES],
    "bad json": good(json=(f"{UID_1}.json", b"{", plain)),
    "deep json": good(json=(f"{UID_1}.json", b"[" * 100_000, plain)),
    "json that is not UTF-8": good(json=(f"{UID_1}.json", b'{"a": "\xff"}', plain)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_refused(name: str) -> None:
    with pytest.raises(BadTar):
        back(tar_of(*HOSTILE[name]))


@pytest.mark.parametrize("place", range(3))
def test_extended_headers_are_refused_as_ranges_would_be_wrong(place: int) -> None:
    entries = good()
    name, data, _ = entries[place]
    entries[place] = (name, data, floating_mtime)
    with pytest.raises(BadTar, match="one plain header"):
        back(tar_of(*entries, form=tarfile.PAX_FORMAT))


def test_the_evaluation_sets_of_others_may_have_extended_headers() -> None:
    """`webdataset.TarWriter` writes such: a pax header for a modification time with a fraction."""
    content = tar_of(("a.webp", b"x", floating_mtime), ("a.cls", b"0", floating_mtime), form=tarfile.PAX_FORMAT)
    found = [(key, suffix, data) for key, suffix, data, _ in read_members(io.BytesIO(content), ("webp", "cls"))]
    assert found == [("a", "webp", b"x"), ("a", "cls", b"0")]


def with_size(field: bytes) -> bytes:
    """Return a pair's tar whose first header claims another size, its checksum put right."""
    content = bytearray(tar_of(*good()))
    content[124:136] = field
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:TAR_BLOCK_BYTES])
    return bytes(content)


@pytest.mark.parametrize(
    "field",
    [
        b"%011o\0" % (MAX_MEMBER_BYTES + 1),
        b"77777777777\0",
        b"\x80" + (1 << 40).to_bytes(11, "big"),
        b"\xff" * 12,  # minus one
        b"\xff" + b"\0" * 11,
        b"00000002000\0",
        b"not a number",
    ],
)
def test_a_size_that_lies_is_refused(field: bytes) -> None:
    with pytest.raises(BadTar):
        back(with_size(field))


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x1f\x8b" + b"x" * 1000, b"PK\x03\x04" * 400, random.Random(1).randbytes(4096)]
)
def test_what_is_no_tar_is_refused(content: bytes) -> None:
    with pytest.raises(BadTar):
        back(content)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_tar_gives_pairs_or_bad_tar_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(written(THREE)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, TAR_BLOCK_BYTES - 1)) + data.draw(
            st.sampled_from(range(0, len(content), TAR_BLOCK_BYTES))
        )
        content[place] = data.draw(st.integers(0, 255))
    for start in range(0, len(content) - len(TAR_END), TAR_BLOCK_BYTES):  # so that damage gets past the checksums
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + TAR_BLOCK_BYTES])
    with suppress(BadTar):
        assert len(back(bytes(content))) <= len(THREE)


def test_a_file_on_disk_is_read_from_its_start(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(written(THREE)[0])
    with (tmp_path / "a.tar").open("rb") as stream:
        assert [pair.meta for pair in read_pairs(stream)] == [{"n": 1}, {"n": 2}, {"n": 3}]
