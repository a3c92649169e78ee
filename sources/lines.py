"""Lines of a text file with their numbers, whatever compression the file's first bytes show."""

import bz2
import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from pipeline.records import PublishedRow, malformed

MAX_LINE = 1 << 20
"""Longest line that is read as one, in bytes; a longer one is handed on cut, so that memory stays bounded."""

DAMAGE = (EOFError, zlib.error, OSError)
"""What gzip and bz2 raise for a file that is cut or damaged."""


def decompressed(stream: BinaryIO) -> BinaryIO:
    """Return `stream` opened through gzip or bz2 if its first bytes say so. `stream` must be seekable."""
    magic = stream.read(3)
    stream.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(stream, "rb"))
    if magic == b"BZh":
        return cast(BinaryIO, bz2.open(stream, "rb"))
    return stream


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


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its line end); bytes that are not UTF-8 become U+FFFD."""
    plain = decompressed(stream)
    number = 0
    while line := plain.readline(MAX_LINE):
        number += 1
        if not line.endswith(b"\n"):
            while (rest := plain.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield number, line.rstrip(b"\r\n").decode("utf-8", "replace")
