"""Lines of a text file with their numbers, whatever compression the file's first bytes show; whole or in parts."""

import bz2
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

from pipeline.records import WHOLE, Part, PublishedRow, malformed
from sources.readers.bz2_blocks import Stretch, block_parts

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


MAX_LINE = 1 << 20
"""Longest line that is read as one, in bytes; a longer one is handed on cut, so that memory stays bounded."""


DAMAGE = (EOFError, zlib.error, OSError)
"""What gzip and bz2 raise for a file that is cut or damaged."""


GZIP, BZIP2 = b"\x1f\x8b", b"BZh"


class _Raw(io.RawIOBase):
    """Any stream as a raw one: what fsspec opens knows no `readline(limit)`. Closing it leaves the stream open."""

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


def _magic(stream: BinaryIO) -> bytes:
    stream.seek(0)
    magic = stream.read(3)
    stream.seek(0)
    return magic


def decompressed(stream: BinaryIO) -> BinaryIO:
    """Return `stream` opened through gzip or bz2 if its first bytes say so. `stream` must be seekable."""
    magic = _magic(stream)
    if magic[:2] == GZIP:
        return cast(BinaryIO, gzip.open(stream, "rb"))
    if magic == BZIP2:
        return cast(BinaryIO, bz2.open(stream, "rb"))
    return _buffered(stream)


def whole(
    rows: Iterator[PublishedRow],
    expected: str = "a whole compressed file",
    damage: tuple[type[Exception], ...] = DAMAGE,
) -> Iterator[PublishedRow]:
    """Yield `rows`; where the file under them is cut or damaged, end with one malformed row that says so."""
    line = 0
    try:
        for row in rows:
            line = row.line
            yield row
    except damage as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's fault, not the file's
            raise
        yield malformed(line + 1, expected, " ".join(str(error).split()))


def line_parts(stream: BinaryIO, size: int, header: int = 0) -> list[Part]:
    """Return the parts to read a text file in, of about `size` bytes each: of bytes, of bits for bz2, else [WHOLE].

    Every part holds a line at least, and the first one the `header` leading lines and one more, where the file has it.
    So a part's last line says how many there are, and the parts' line numbers add up.
    """
    magic = _magic(stream)
    if magic[:2] == GZIP:
        return [WHOLE]  # no place within a gzip stream can be found without reading all before it
    if magic == BZIP2:
        return block_parts(stream, max(1, size), header)
    starts = [0]
    total = stream.seek(0, io.SEEK_END)
    place = max(size, _after_lines(stream, 0, header + 1))
    while place < total and (start := _after_lines(stream, place - 1, 1)) < total:
        starts.append(start)
        place = start + max(1, size)
    return [Part(a, b) for a, b in zip(starts, [*starts[1:], None], strict=True)]


def _after_lines(stream: BinaryIO, place: int, count: int) -> int:
    """Return the byte behind the `count`th line end at byte `place` or behind it, or the file's length."""
    stream.seek(place)
    plain = _buffered(stream)
    while count and (line := plain.readline(MAX_LINE)):
        place += len(line)
        count -= line.endswith(b"\n")
    return place


def part_lines(stream: BinaryIO, part: Part) -> Iterator[tuple[int, str]]:
    """Yield (number from 1 within the part, text) of the lines that begin in a part; see `numbered_lines`."""
    if part == WHOLE:
        lines = _lines(decompressed(stream))
    elif _magic(stream) == BZIP2:
        stretch = Stretch(stream, part)
        lines = _lines(cast(BinaryIO, io.BufferedReader(stretch, 1 << 16)), stretch.owns)
        if part.start:
            next(lines, None)  # the rest of a line that the part before owns
    else:
        stream.seek(part.start)
        length = None if part.end is None else part.end - part.start
        lines = _lines(_buffered(stream), lambda offset: length is None or offset < length)
    for number, line in enumerate(lines, start=1):
        yield number, line.rstrip(b"\r\n").decode("utf-8", "replace")


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its line end); bytes that are not UTF-8 become U+FFFD."""
    return part_lines(stream, WHOLE)


def _lines(plain: BinaryIO, owns: Callable[[int], bool] = lambda _: True) -> Iterator[bytes]:
    """Yield lines, cut to MAX_LINE, as long as `owns` says of the byte on which the next begins that it is wanted."""
    offset = 0
    while owns(offset) and (line := plain.readline(MAX_LINE)):
        offset += len(line)
        rest = line
        while not rest.endswith(b"\n") and (rest := plain.readline(MAX_LINE)):
            offset += len(rest)
        yield line


class LineFormat:
    """A published format of one row a line: cut at line starts, plain or bz2. A subclass says what a line holds."""

    scores: Mapping[str, pa.DataType] = {}
    joins = ""

    def parts(self, stream: BinaryIO, size: int) -> list[Part]:
        """Return parts of whole lines, also of a bz2 file."""
        return line_parts(stream, size)

    def read(self, stream: BinaryIO, part: Part = WHOLE) -> Iterator[PublishedRow]:
        """Yield a row for every line of a part."""
        return whole(self.row(number, line) for number, line in part_lines(stream, part))

    def row(self, number: int, line: str) -> PublishedRow:
        """Return the row of a line, or the malformed row that stands for it."""
        raise TypeError(f"{type(self).__name__} does not say what a line holds")
