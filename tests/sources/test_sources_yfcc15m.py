"""OpenAI's list of YFCC15M: ids to be joined to YFCC100M's rows. It has no URLs, as `SourceContract` wants them."""

import bz2
import json
import random

import pytest

from pipeline.records import MALFORMED, PublishedRow
from sources.registry import FORMATS, source_format
from tests.sources.test_contract import read, read_parts

PHOTOS = [(11, 6_000_011, "0b" * 16), (98, 6_000_098, "62" * 16), (100_000_000, 9_999_999_999, "ff" * 16)]


def listed(photos: list[tuple[int, int, str]]) -> bytes:
    return b"".join(f"{line}\t{photo}\t{photo_hash}\n".encode() for line, photo, photo_hash in photos)


@pytest.mark.parametrize("pack", [bytes, bz2.compress])
def test_each_photo_is_a_row_without_url_and_caption(pack: type[bytes]) -> None:
    assert read("yfcc15m", pack(listed(PHOTOS))) == [
        PublishedRow(number, str(photo), published={"yfcc_line": line, "yfcc_hash": photo_hash})
        for number, (line, photo, photo_hash) in enumerate(PHOTOS, start=1)
    ]


def test_its_rows_join_a_format_by_the_record_id_and_publish_plain_json() -> None:
    reader = source_format("yfcc15m")
    assert reader.joins == "yfcc"
    assert reader.joins in FORMATS
    for row in read("yfcc15m", listed(PHOTOS)):
        assert json.loads(json.dumps(row.published, allow_nan=False)) == row.published


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"11", b"11\t6000011", b"11\t6000011\t0b0b\textra", b"x\t6000011\t0b0b", b"11\t-1\t0b0b"),
        *(
            b"11\t6000011\t",
            b"1.5\t6000011\t0b",
            "\u0661\t6000011\t0b0b".encode(),
            b"9" * 5000 + b"\t1\t0b",
            b"\xff\t1\t0b",
        ),
    ],
)
def test_another_line_stands_in_its_place_as_malformed(line: bytes) -> None:
    rows = read("yfcc15m", listed(PHOTOS[:1]) + line + b"\n" + listed(PHOTOS[1:]))
    assert [row.problem for row in rows] == ["", MALFORMED, "", ""]
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert rows[1].detail.startswith("expected line number, photo id, photo hash, found ")


@pytest.mark.parametrize("size", [1, 60, 200, 60_000, 1 << 30])
def test_the_parts_of_a_file_give_the_rows_of_the_whole(size: int) -> None:
    chance = random.Random(size)
    many = [(number, chance.randrange(10**10), chance.randbytes(16).hex()) for number in range(6_000)]
    packed = bz2.compress(listed(many), 1)
    for content in (listed(many[:200]), listed(PHOTOS), b"", packed, packed[: len(packed) // 2]):
        assert read_parts("yfcc15m", content, size) == read("yfcc15m", content)


def test_a_cut_file_ends_with_a_row_that_says_so() -> None:
    content = bz2.compress(listed(PHOTOS))
    rows = read("yfcc15m", content[:-5])
    assert [row.problem for row in rows] == ["", "", "", MALFORMED]
    assert "expected a whole compressed file" in rows[-1].detail
