"""Numbered lines of a text file, decompressed as its first bytes indicate; the whole file or a part of it."""

import bz2
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers.bz2_blocks import PartStream, block_parts

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


MAX_LINE_BYTES = 1 << 20
"""Longest line, in bytes; a longer one is truncated, so that memory is bounded."""


DAMAGE_ERRORS = (EOFError, zlib.error, OSError)
"""The exceptions of gzip and bz2 for a file that is truncated or damaged."""


GZIP, BZIP2 = b"\x1f\x8b", b"BZh"


class _Raw(io.RawIOBase):
    """A stream as a raw one, as fsspec's files lack `readline(limit)`. Closing it leaves the stream open."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        content = self._stream.read(len(target))
        target[: len(content)] = content
        return len(content)


def _buffered(stream: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_Raw(stream), 1 << 16)


def _leading_bytes(stream: BinaryIO) -> bytes:
    stream.seek(0)
    head = stream.read(3)
    stream.seek(0)
    return head


def decompressed(stream: BinaryIO) -> BinaryIO:
    """Return `stream` decompressed by gzip or bz2 if its first bytes indicate it. `stream` must be seekable."""
    magic = _leading_bytes(stream)
    if magic[:2] == GZIP:
        return cast(BinaryIO, gzip.open(stream, "rb"))
    if magic == BZIP2:
        return cast(BinaryIO, bz2.open(stream, "rb"))
    return _buffered(stream)


def report_damage(
    rows: Iterator[PublishedRow],
    expected: str = "a whole compressed file",
    damage: tuple[type[Exception], ...] = DAMAGE_ERRORS,
) -> Iterator[PublishedRow]:
    """Yield `rows`; where their file is truncated or damaged, end with one malformed row that says so."""
    line = 0
    try:
        for row in rows:
            line = row.line
            yield row
    except damage as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # an error of the disk or the network, not of the file
            raise
        yield malformed_row(line + 1, expected, " ".join(str(error).split()))


def line_parts(stream: BinaryIO, size: int, header: int = 0) -> list[FilePart]:
    """Return parts of a text file of about `size` bytes each: in bytes, in bits for bz2, [WHOLE] for gzip.

    Every part has at least one line, and the first one the `header` leading lines and one more, where the file has it.
    So the number of a part's last line is its number of lines, and the parts' line numbers add up.
    """
    magic = _leading_bytes(stream)
    if magic[:2] == GZIP:
        return [WHOLE_FILE]  # a position within a gzip stream is known only after reading everything before it
    if magic == BZIP2:
        return block_parts(stream, max(1, size), header)
    starts = [0]
    total = stream.seek(0, io.SEEK_END)
    place = max(size, _after_lines(stream, 0, header + 1))
    while place < total and (start := _after_lines(stream, place - 1, 1)) < total:
        starts.append(start)
        place = start + max(1, size)
    return [FilePart(a, b) for a, b in zip(starts, [*starts[1:], None], strict=True)]


def _after_lines(stream: BinaryIO, place: int, count: int) -> int:
    """Return the byte after the `count`th line end at or after byte `place`, or the file's length."""
    stream.seek(place)
    buffered = _buffered(stream)
    while count and (line := buffered.readline(MAX_LINE_BYTES)):
        place += len(line)
        count -= line.endswith(b"\n")
    return place


def part_lines(stream: BinaryIO, part: FilePart) -> Iterator[tuple[int, str]]:
    """Yield (number from 1 within the part, text) of the lines that begin in a part; see `numbered_lines`."""
    if part == WHOLE_FILE:
        lines = _lines(decompressed(stream))
    elif _leading_bytes(stream) == BZIP2:
        stretch = PartStream(stream, part)
        lines = _lines(cast(BinaryIO, io.BufferedReader(stretch, 1 << 16)), stretch.owns)
        if part.start:
            next(lines, None)  # the rest of a line that belongs to the part before
    else:
        stream.seek(part.start)
        length = None if part.end is None else part.end - part.start
        lines = _lines(_buffered(stream), lambda offset: length is None or offset < length)
    for number, line in enumerate(lines, start=1):
        yield number, line.rstrip(b"\r\n").decode("utf-8", "replace")


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its line end); bytes that are not UTF-8 become U+FFFD."""
    return part_lines(stream, WHOLE_FILE)


def _lines(plain: BinaryIO, owns: Callable[[int], bool] = lambda _: True) -> Iterator[bytes]:
    """Yield lines, truncated to MAX_LINE, as long as `owns` is true of the byte offset of the next line."""
    offset = 0
    while owns(offset) and (line := plain.readline(MAX_LINE_BYTES)):
        offset += len(line)
        rest = line
        while not rest.endswith(b"\n") and (rest := plain.readline(MAX_LINE_BYTES)):
            offset += len(rest)
        yield line


class LineFormat:
    """A published format of one row per line, cut at line starts, plain or bz2. A subclass parses a line."""

    scores: Mapping[str, pa.DataType] = {}
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return parts of whole lines; bz2 files are cut, too."""
        return line_parts(stream, size)

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield a row for every line of a part."""
        return report_damage(self.row(number, line) for number, line in part_lines(stream, part))

    def row(self, number: int, line: str) -> PublishedRow:
        """Return the row of a line, or a malformed row in its place."""
        raise TypeError(f"{type(self).__name__} does not implement row")
