"""Lines of a text file with their numbers, whatever compression the file's first bytes show."""

import bz2
import gzip
from collections.abc import Iterator
from typing import BinaryIO, cast

MAX_LINE = 1 << 20
"""Longest line that is read as one, in bytes; a longer one is handed on cut, so that memory stays bounded."""


def decompressed(stream: BinaryIO) -> BinaryIO:
    """Return `stream` opened through gzip or bz2 if its first bytes say so. `stream` must be seekable."""
    magic = stream.read(3)
    stream.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(stream, "rb"))
    if magic == b"BZh":
        return cast(BinaryIO, bz2.open(stream, "rb"))
    return stream


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
