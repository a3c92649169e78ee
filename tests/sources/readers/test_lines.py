"""Lines in parts: whatever is cut where, the parts of a file give the lines of the whole, each once, in their order."""

import bz2
import gzip
import io
import random
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import MALFORMED, WHOLE_FILE, FilePart, PublishedRow
from sources.readers import bz2_blocks as bz
from sources.readers.lines import MAX_LINE_BYTES, line_parts, numbered_lines, part_lines, report_damage

SIZES = st.sampled_from([1, 7, 100, 5_000, 60_000, 1 << 30])


def texts(content: bytes) -> list[str]:
    return [text for _, text in numbered_lines(io.BytesIO(content))]


def in_parts(content: bytes, size: int, header: int = 0) -> list[list[str]]:
    """Return each part's lines, having checked that there are some and that they are numbered from 1."""
    found = []
    for part in line_parts(io.BytesIO(content), size, header):
        lines = list(part_lines(io.BytesIO(content), part))
        assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
        found.append([text for _, text in lines])
    return found


def assert_parts_give_the_whole(content: bytes, size: int, header: int = 0) -> int:
    parts, expected = in_parts(content, size, header), texts(content)
    assert [text for part in parts for text in part] == expected
    if expected:
        assert all(parts)
        assert len(parts[0]) > min(header, len(expected) - 1)
    return len(parts)


def noise(seed: int, size: int, longest: int) -> bytes:
    """Return lines of about `size` bytes that bzip2 can hardly compress, the last one without an end."""
    chance, lines, length = random.Random(seed), [], 0
    while length < size:
        lines.append(chance.randbytes(chance.randrange(longest)).replace(b"\n", b""))
        length += len(lines[-1]) + 1
    return b"\n".join(lines)


def streams(content: bytes, level: int, piece: int) -> bytes:
    """Return bz2 as pbzip2 writes it: a stream of its own for each piece."""
    return b"".join(bz2.compress(content[start : start + piece], level) for start in range(0, len(content), piece))


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30), max_size=40)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 200), st.integers(0, 3))
def test_plain_parts_give_the_lines_of_the_whole(
    lines: list[str], end: str, ended: bool, size: int, header: int
) -> None:
    content = (end.join(lines) + (end if ended else "")).encode()
    if content[:3] != b"BZh" and content[:2] != b"\x1f\x8b":
        assert_parts_give_the_whole(content, size, header)


@given(LINES, st.integers(1, 9), st.integers(1, 80), SIZES, st.integers(0, 3))
def test_parts_of_many_small_bz2_streams_give_the_lines_of_the_whole(
    lines: list[str], level: int, piece: int, size: int, header: int
) -> None:
    assert_parts_give_the_whole(streams("\n".join(lines).encode(), level, piece), size, header)


@pytest.mark.parametrize("seed", range(6))
def test_parts_of_bz2_of_several_blocks_give_the_lines_of_the_whole(seed: int) -> None:
    chance = random.Random(seed)
    content = noise(seed, 700_000, chance.choice([40, 2_000, 150_000]))
    for packed in (bz2.compress(content, 1), streams(content, chance.randint(1, 9), 130_000 + seed)):
        counts = [assert_parts_give_the_whole(packed, size, chance.randrange(3)) for size in (1, 250_000, 1 << 30)]
        assert counts[0] > counts[1] > counts[2] == 1


@pytest.mark.parametrize("level", range(1, 10))
def test_every_level_is_cut_at_its_blocks(level: int) -> None:
    content = noise(level, 250_000 * level, 300)
    packed = bz2.compress(content, level)
    parts = line_parts(io.BytesIO(packed), 1)
    assert len(parts) == 3  # bzip2 ends a block some bytes before level * 100,000
    assert parts[0].start == 0
    assert parts[-1].end is None
    assert [text for part in in_parts(packed, 1) for text in part] == texts(packed)


def test_line_ends_on_a_blocks_edge_belong_to_one_part() -> None:
    line = b"0123456789abcdef" * 8  # with its line end as long as the pieces, or off by one
    for piece in (128, 129, 130, 258):
        assert_parts_give_the_whole(streams(b"\n".join([line] * 60), 9, piece), 1)


def test_lines_longer_than_blocks_and_parts_and_the_limit() -> None:
    content = b"short\n" + b"x" * (3 * MAX_LINE_BYTES) + b"\nlast\n" + b"\n" * 50
    for packed in (content, bz2.compress(content, 1), streams(content, 1, 90_001)):
        for size in (1, 100):
            assert_parts_give_the_whole(packed, size)


def test_a_header_stays_with_the_first_row() -> None:
    content = b"name\n" + b"\n".join(b"row %d" % number for number in range(9))
    assert [len(part) for part in in_parts(content, 1)] == [1] * 10
    assert [len(part) for part in in_parts(content, 1, header=1)] == [2] + [1] * 8
    assert [len(part) for part in in_parts(content, 1, header=20)] == [10]
    assert len(in_parts(streams(content, 9, 20), 1, header=1)[0]) >= 2


def test_gzip_and_empty_files_are_not_cut() -> None:
    for content in (gzip.compress(b"a\nb\nc\n"), b"", bz2.compress(b""), b"BZh", b"BZh9garbage"):
        assert line_parts(io.BytesIO(content), 1) == [WHOLE_FILE]


def test_only_a_stretch_around_each_cut_is_read() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    packed = streams(noise(1, 4_000_000, 300), 1, 100_000)
    stream = Counting(packed)
    assert len(line_parts(stream, 2_000_000)) == 2
    assert stream.taken < 4 * bz.CHUNK_BYTES


@given(
    st.binary(max_size=64), st.integers(0, 7), st.sampled_from([bz.BLOCK_MAGIC, bz.END_MAGIC]), st.binary(max_size=20)
)
def test_magics_are_found_at_every_bit(before: bytes, shift: int, magic: int, after: bytes) -> None:
    value = (int.from_bytes(before, "big") << 56 | magic << (8 - shift)).to_bytes(len(before) + 7, "big")
    content = value + after
    bits = "".join(f"{byte:08b}" for byte in content)
    expected = {
        (place, end) for place in range(len(bits)) for end in (False, True)
        if bits[place : place + 48] == f"{bz.END_MAGIC if end else bz.BLOCK_MAGIC:048b}"
    }  # fmt: skip
    assert set(bz.find_magics(content)) == expected
    assert (len(before) * 8 + shift, magic == bz.END_MAGIC) in expected


@pytest.mark.parametrize("chunk", [1, 5, 6, 7, 13, 1000])
def test_magics_across_chunks_are_found_once(chunk: int) -> None:
    packed = streams(noise(3, 3_000, 50), 9, 400)
    with patch.object(bz, "CHUNK_BYTES", chunk):
        assert b"".join(content for _, content in bz.blocks(io.BytesIO(packed))) == bz2.decompress(packed)
        assert_parts_give_the_whole(packed, 1)


def deceptive() -> bytes:
    """Return text whose block holds the magic of a block: in the map of the bytes that occur, 3 bits into it.

    The 3 bits before the map are the last of the number of the row at which the sorted text begins, so some texts fit.
    """
    letters = [0x00, 0x01, 0x04, 0x07, 0x0A, 0x0B, 0x0E, 0x40, 0x43, 0x44, 0x46, 0x48, 0x49, 0x4C, 0x61, 0xC3, 0xE9]
    for seed in range(200):
        chance = random.Random(seed)
        text = bytes([*letters, *chance.choices(letters, k=500)])
        if len(bz.find_magics(bz2.compress(text))) > 2:
            return text
    raise AssertionError("no text with a magic in its block was found")


def test_a_magic_within_a_block_is_not_taken_for_the_next_block() -> None:
    text = deceptive()
    packed = streams(b"first\nlines\n", 9, 100) + bz2.compress(text) + streams(b"more\nlines", 9, 100)
    assert sum(not end for _, end in bz.find_magics(packed)) == 4
    assert [content for _, content in bz.blocks(io.BytesIO(packed))] == [b"first\nlines\n", text, b"more\nlines"]
    assert assert_parts_give_the_whole(packed, 1) == 3


def rows_of(content: bytes, part: FilePart) -> list[PublishedRow]:
    def rows() -> Iterator[PublishedRow]:
        for number, text in part_lines(io.BytesIO(content), part):
            yield PublishedRow(number, caption=text)

    return list(report_damage(rows()))


def test_damage_in_a_block_costs_its_part_and_says_so() -> None:
    content = noise(5, 500_000, 200)
    packed = bytearray(bz2.compress(content, 1))
    parts = line_parts(io.BytesIO(packed), 1)
    intact = [rows_of(bytes(packed), part) for part in parts]
    packed[(parts[2].start // 8 + parts[3].start // 8) // 2] ^= 0xFF
    found = [rows_of(bytes(packed), part) for part in parts]
    assert [[row.problem for row in rows].count(MALFORMED) for rows in found] == [0, 1, 1, 0, 0, 0][: len(parts)]
    assert found[1][-1].detail == "expected a whole compressed file, found Invalid data stream"
    assert [rows for rows, before in zip(found, intact, strict=True) if rows == before] == [intact[0], *intact[3:]]
    assert found[1][:-1] == intact[1][:-1]  # but for the line that ends in the damaged block
    # cutting a damaged file anew leaves no line out but those of the damaged block
    anew = [row.caption for part in line_parts(io.BytesIO(packed), 1) for row in rows_of(bytes(packed), part)]
    assert set(anew) >= {row.caption for rows in (intact[0], *intact[3:]) for row in rows}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_bz2_file_ends_with_a_row_that_says_so(share: float) -> None:
    content = noise(6, 400_000, 200)
    packed = bz2.compress(content, 1)
    cut = packed[: int(len(packed) * share)]
    rows = [row for part in line_parts(io.BytesIO(cut), 1) for row in rows_of(cut, part)]
    assert rows[-1].problem == MALFORMED
    lines = texts(packed)
    assert [row.caption for row in rows[:-1]] == lines[: len(rows) - 1]


def test_the_disks_fault_is_not_the_files() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 200_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    packed = bz2.compress(noise(7, 600_000, 200), 1)
    with pytest.raises(OSError, match="Input/output"):
        line_parts(Broken(packed), 100_000)
    with pytest.raises(OSError, match="Input/output"):
        list(part_lines(Broken(packed), FilePart(32, None)))


def test_a_file_of_nothing_but_magics_costs_no_more_than_its_length() -> None:
    content = b"BZh9" + (bz.BLOCK_MAGIC.to_bytes(6, "big") + b"\0\0\0\0") * 50_000
    assert line_parts(io.BytesIO(content), 100_000) == [WHOLE_FILE]
    (only,) = rows_of(content, WHOLE_FILE)
    assert only.problem == MALFORMED
    (part,) = rows_of(content, FilePart(32, None))
    assert part.problem == MALFORMED


def test_a_block_that_never_ends_is_not_kept_in_memory() -> None:
    content = (
        b"BZh9"
        + bz.BLOCK_MAGIC.to_bytes(6, "big")
        + random.Random(1).randbytes(bz.MAX_BLOCK_BYTES + 3 * bz.CHUNK_BYTES)
    )
    with pytest.raises(OSError, match="Invalid data"):
        list(bz.blocks(io.BytesIO(content)))


@pytest.mark.parametrize("pack", [bytes, lambda content: bz2.compress(content, 1)])
def test_a_stream_without_a_limit_to_readline_will_do(pack: Any) -> None:
    class Remote(fsspec.spec.AbstractBufferedFile):
        """What s3fs and its like open: `readline` takes no limit."""

        def _fetch_range(self, start: int, end: int) -> bytes:
            return content[start:end]

    content = pack(noise(8, 300_000, 200))
    stream = Remote(fsspec.filesystem("memory"), "/x", size=len(content), block_size=50_000)
    parts = line_parts(stream, 60_000)
    assert len(parts) > 1
    assert [text for part in parts for _, text in part_lines(stream, part)] == texts(content)
    assert not stream.closed
