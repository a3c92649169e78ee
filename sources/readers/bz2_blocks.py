"""The blocks of a bz2 file, found at any bit offset, so that a file of many blocks can be read in parts.

A bz2 stream is "BZh" and a level, then blocks without byte alignment, each starting with the magic `BLOCK_MAGIC` and
its CRC, then the magic `END_MAGIC` and the CRC of all; a file may contain several streams in sequence. There is no
index of block positions, so the magic is searched for. A block is wrapped as a stream of its own, which the ordinary
decompressor decompresses and checks.
"""

import bz2
import io
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from pipeline.records import WHOLE_FILE, FilePart

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


BLOCK_MAGIC = 0x314159265359


END_MAGIC = 0x177245385090


MAGIC_BITS = 48


CRC_BITS = 32


CHUNK_BYTES = 1 << 18
"""Bytes that are read and searched at a time."""


MAX_BLOCK_BYTES = 4 << 20
"""Largest size of a block, in bytes: 900,000 symbols of at most 20 bits, and code tables (bzip2's decompress.c)."""


MAX_END_TRIES = 4
"""Magics in turn that are tried as a block's end: one may occur within a block, by chance or in a hostile file."""


TRUNCATED = "Compressed file ended before the end-of-stream marker was reached"


INVALID = "Invalid data stream"


Magic = tuple[int, bool]
"""The position of a magic, in bits from the file's start, and whether it is that of a stream's end."""


def _patterns() -> list[tuple[int, int, int, bytes]]:
    """Return (magic, shift, bytes before the whole ones, whole bytes) of both magics at the 8 bit offsets in a byte."""
    patterns = []
    for magic in (BLOCK_MAGIC, END_MAGIC):
        for shift in range(8):
            spread = (magic << (8 - shift)).to_bytes(7, "big")
            patterns.append((magic, shift, 1 if shift else 0, spread[1:6] if shift else spread[:6]))
    return patterns


PATTERNS = _patterns()


def find_magics(content: bytes) -> list[Magic]:
    """Return every magic in `content`, in order, with its bit offset from the start of `content`."""
    marks = []
    for magic, shift, before, middle in PATTERNS:
        place = content.find(middle, before)
        while place >= 0:
            first = place - before
            # only some bits of the first and last byte belong to the magic
            window = int.from_bytes(content[first : first + 7].ljust(7, b"\0"), "big") >> (8 - shift)
            if window & ((1 << MAGIC_BITS) - 1) == magic and first * 8 + shift + MAGIC_BITS <= len(content) * 8:
                marks.append((first * 8 + shift, magic == END_MAGIC))
            place = content.find(middle, place + 1)
    return sorted(marks)


class BitReader:
    """A stream's bytes from a bit offset on, with the magics in them; only bytes that are still needed are kept."""

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self._stream = stream
        self._base = start // 8
        self._data = bytearray()
        self._marks: deque[Magic] = deque()
        stream.seek(self._base)

    def mark(self, bit: int, keep: int | None = None) -> Magic | None:
        """Return the first magic at or after `bit`, None at the end; bytes from bit `keep` on are kept.

        Raises OSError where a block that begins at `keep` would be longer than `MAX_BLOCK_BYTES`.
        """
        while True:
            while self._marks and self._marks[0][0] < bit:
                self._marks.popleft()
            if self._marks:
                return self._marks[0]
            if keep is not None and self._base + len(self._data) - keep // 8 > MAX_BLOCK_BYTES + CHUNK_BYTES:
                raise OSError(INVALID)
            if not self._more(keep):
                return None

    def _more(self, keep: int | None) -> bool:
        chunk = self._stream.read(CHUNK_BYTES)
        previous = len(self._data)
        first = max(0, previous - 6)  # a magic may span two chunks
        first_bit = (self._base + first) * 8
        self._data += chunk
        # a magic that ended within the earlier bytes was found before
        self._marks += [
            (first_bit + bit, end)
            for bit, end in find_magics(bytes(self._data[first:]))
            if first * 8 + bit + MAGIC_BITS > previous * 8
        ]
        drop = first if keep is None else max(0, keep // 8 - self._base)
        del self._data[:drop]
        self._base += drop
        return bool(chunk)

    def hold(self, bit: int, count: int) -> bool:
        """Return whether the stream has `count` bits from `bit` on; they are kept."""
        while bit + count > (self._base + len(self._data)) * 8:
            if not self._more(bit):
                return False
        return True

    def alone(self, start: int, end: int) -> bytes:
        """Return the block in these bits as a stream of its own, b"" where they are too few for a block."""
        length = end - start
        if length < MAGIC_BITS + CRC_BITS:
            return b""
        raw = self._data[start // 8 - self._base : -(-end // 8) - self._base]
        block = (int.from_bytes(raw, "big") >> (-end % 8)) & ((1 << length) - 1)
        crc = (block >> (length - MAGIC_BITS - CRC_BITS)) & ((1 << CRC_BITS) - 1)
        size = length + MAGIC_BITS + CRC_BITS
        stream_bits = (block << MAGIC_BITS | END_MAGIC) << CRC_BITS | crc
        return b"BZh9" + (stream_bits << (-size % 8)).to_bytes(-(-size // 8), "big")


def _decompress(stream: bytes) -> bytes | None:
    """Return the content of a stream of one block, None where it is not exactly one whole block."""
    decoder = bz2.BZ2Decompressor()
    try:
        content = decoder.decompress(stream)
    except OSError:
        return None
    return content if decoder.eof and not decoder.unused_data else None


def _read_block(bits: BitReader, start: int) -> tuple[bytes, Magic]:
    """Return the content of the block at bit `start`, and the magic after it; raise EOFError or OSError for damage."""
    search_from = start + MAGIC_BITS
    error: EOFError | OSError = EOFError(TRUNCATED)
    for _ in range(MAX_END_TRIES):
        mark = bits.mark(search_from, start)
        if mark is None:
            raise error
        content = _decompress(bits.alone(start, mark[0]))
        if content is not None:
            return content, mark
        search_from, error = mark[0] + 1, OSError(INVALID)
    raise error


def blocks(stream: BinaryIO, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (first bit, content) of each block from bit `start` on, of all streams in a file.

    Raises EOFError where the file is truncated, and OSError where a block is damaged.
    """
    bits = BitReader(stream, start)
    mark, complete = bits.mark(start), False
    while mark is not None:
        place, complete = mark
        if complete:
            complete = bits.hold(place, MAGIC_BITS + CRC_BITS)
            mark = bits.mark(place + MAGIC_BITS)
        else:
            content, mark = _read_block(bits, place)
            yield place, content
    if not complete:
        raise EOFError(TRUNCATED)


class PartStream(io.RawIOBase):
    """The content of the blocks that begin in a part, and then of those after it, where the part's last line ends."""

    def __init__(self, stream: BinaryIO, part: FilePart) -> None:
        super().__init__()
        self._end = part.end
        self._blocks = blocks(stream, part.start)
        self._rest = memoryview(b"")
        self._read = 0
        self._limit: int | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` with the next bytes and return their number, 0 at the file's end."""
        while not self._rest:
            place, content = next(self._blocks, (None, b""))
            if place is None:
                return 0
            if self._limit is None and self._end is not None and place >= self._end:
                self._limit = self._read
            self._rest = memoryview(content)
            self._read += len(content)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def owns(self, offset: int) -> bool:
        """Return whether a line that begins `offset` bytes after the part's start belongs to the part.

        A line that begins exactly where the next part does belongs to this part: the next part cannot know that a line
        begins there without the byte before it, and drops everything before its first line end.
        """
        return self._limit is None or offset <= self._limit


def block_parts(stream: BinaryIO, size: int, header: int = 0) -> list[FilePart]:
    """Return parts of a bz2 file in bits, each of about `size` compressed bytes; see
    `sources.readers.lines.line_parts`.
    """
    starts = [0]
    try:
        place = _first_cut(stream, header)
        while place is not None:
            cut = _next_cut(stream, max(place, starts[-1] + size * 8))
            if cut is None:
                break
            place, fits = cut
            if fits:
                starts.append(place)
            # a hostile file could consist of magics: after one that does not fit, a whole part's length is skipped
            place += 1 if fits else size * 8
    except (EOFError, OSError) as error:
        _raise_others(error)  # reading will find and report the damage, too
    return (
        [FilePart(a, b) for a, b in zip(starts, [*starts[1:], None], strict=True)] if len(starts) > 1 else [WHOLE_FILE]
    )


def _raise_others(error: Exception) -> None:
    """Raise an error of the disk or the network, as opposed to one of the file."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _first_cut(stream: BinaryIO, header: int) -> int | None:
    """Return the bit of the first block with at least `header` lines and the start of one more before it."""
    line_ends, is_first = 0, True
    for place, content in blocks(stream):
        if not is_first and line_ends >= header:
            return place
        line_ends += content.count(b"\n")
        is_first = False
    return None


def _next_cut(stream: BinaryIO, start: int) -> tuple[int, bool] | None:
    """Return the first block at or after bit `start`, and whether a part may begin there; None at the end.

    It may where the block is whole and a line begins in it, so that no part is without a line.
    """
    bits = BitReader(stream, start)
    mark = bits.mark(start)
    while mark is not None and mark[1]:
        mark = bits.mark(mark[0] + MAGIC_BITS)
    if mark is None:
        return None
    try:
        content, _ = _read_block(bits, mark[0])
    except (EOFError, OSError) as error:
        _raise_others(error)
        return mark[0], False
    return mark[0], b"\n" in content[:-1]
