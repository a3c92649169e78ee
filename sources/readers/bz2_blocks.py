"""The blocks of a bz2 file, found at any bit, so that a file of many blocks can be read in parts.

A bz2 stream is "BZh" and a level, then blocks that follow each other bit by bit, each begun by `BLOCK` and its CRC,
then `END` and the CRC of all; several streams may stand one behind another. No index says where a block begins, so its
magic is searched for. A block wrapped as a stream of its own is decompressed and checked by the ordinary decompressor.
"""

import bz2
import io
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from pipeline.records import WHOLE, Part

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


BLOCK = 0x314159265359


END = 0x177245385090


MAGIC_BITS = 48


CRC_BITS = 32


CHUNK = 1 << 18
"""How many bytes are read and searched at a time."""


MAX_BLOCK = 4 << 20
"""No block is longer, in bytes: 900,000 symbols of at most 20 bits, and the code tables (bzip2's decompress.c)."""


TRIES = 4
"""How many places in turn are tried as a block's end: a magic may stand within a block, by chance or by malice."""


CUT = "Compressed file ended before the end-of-stream marker was reached"


INVALID = "Invalid data stream"


Mark = tuple[int, bool]
"""Where a magic stands, in bits from the file's start, and whether it is that of a stream's end."""


def _patterns() -> list[tuple[int, int, int, bytes]]:
    """Return (magic, shift, bytes before the whole ones, whole bytes) of both magics at the 8 places in a byte."""
    found = []
    for magic in (BLOCK, END):
        for shift in range(8):
            spread = (magic << (8 - shift)).to_bytes(7, "big")
            found.append((magic, shift, 1 if shift else 0, spread[1:6] if shift else spread[:6]))
    return found


PATTERNS = _patterns()


def marks_in(content: bytes) -> list[Mark]:
    """Return every magic in `content`, in order, by its bit from the start of `content`."""
    found = []
    for magic, shift, before, middle in PATTERNS:
        place = content.find(middle, before)
        while place >= 0:
            first = place - before
            # of the bytes at the two edges only some bits belong to the magic
            window = int.from_bytes(content[first : first + 7].ljust(7, b"\0"), "big") >> (8 - shift)
            if window & ((1 << MAGIC_BITS) - 1) == magic and first * 8 + shift + MAGIC_BITS <= len(content) * 8:
                found.append((first * 8 + shift, magic == END))
            place = content.find(middle, place + 1)
    return sorted(found)


class Bits:
    """A stream's bytes from a bit on, with the magics in them; only what is still needed is kept."""

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self._stream = stream
        self._base = start // 8
        self._data = bytearray()
        self._marks: deque[Mark] = deque()
        stream.seek(self._base)

    def mark(self, bit: int, keep: int | None = None) -> Mark | None:
        """Return the first magic at `bit` or behind it, None at the end; bytes from bit `keep` on are kept.

        Raises OSError where a block that begins at `keep` would be longer than any is.
        """
        while True:
            while self._marks and self._marks[0][0] < bit:
                self._marks.popleft()
            if self._marks:
                return self._marks[0]
            if keep is not None and self._base + len(self._data) - keep // 8 > MAX_BLOCK + CHUNK:
                raise OSError(INVALID)
            if not self._more(keep):
                return None

    def _more(self, keep: int | None) -> bool:
        chunk = self._stream.read(CHUNK)
        held = len(self._data)
        begin = max(0, held - 6)  # a magic may lie across two chunks
        before = (self._base + begin) * 8
        self._data += chunk
        # one that ended within the bytes held was found before
        self._marks += [
            (before + bit, end)
            for bit, end in marks_in(bytes(self._data[begin:]))
            if begin * 8 + bit + MAGIC_BITS > held * 8
        ]
        drop = begin if keep is None else max(0, keep // 8 - self._base)
        del self._data[:drop]
        self._base += drop
        return bool(chunk)

    def hold(self, bit: int, count: int) -> bool:
        """Return whether `count` bits from `bit` on are there; they are kept."""
        while bit + count > (self._base + len(self._data)) * 8:
            if not self._more(bit):
                return False
        return True

    def alone(self, start: int, end: int) -> bytes:
        """Return the block in these bits as a stream of its own, b"" where they are too few to be one."""
        length = end - start
        if length < MAGIC_BITS + CRC_BITS:
            return b""
        raw = self._data[start // 8 - self._base : -(-end // 8) - self._base]
        block = (int.from_bytes(raw, "big") >> (-end % 8)) & ((1 << length) - 1)
        crc = (block >> (length - MAGIC_BITS - CRC_BITS)) & ((1 << CRC_BITS) - 1)
        size = length + MAGIC_BITS + CRC_BITS
        alone = (block << MAGIC_BITS | END) << CRC_BITS | crc
        return b"BZh9" + (alone << (-size % 8)).to_bytes(-(-size // 8), "big")


def _content(alone: bytes) -> bytes | None:
    """Return what a block that stands alone holds, None where it is not one whole block."""
    decoder = bz2.BZ2Decompressor()
    try:
        content = decoder.decompress(alone)
    except OSError:
        return None
    return content if decoder.eof and not decoder.unused_data else None


def _block(bits: Bits, start: int) -> tuple[bytes, Mark]:
    """Return what the block at bit `start` holds, and the magic behind it; raise EOFError or OSError for damage."""
    after = start + MAGIC_BITS
    error: EOFError | OSError = EOFError(CUT)
    for _ in range(TRIES):
        mark = bits.mark(after, start)
        if mark is None:
            raise error
        content = _content(bits.alone(start, mark[0]))
        if content is not None:
            return content, mark
        after, error = mark[0] + 1, OSError(INVALID)
    raise error


def blocks(stream: BinaryIO, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (bit at which it begins, what it holds) of each block from bit `start` on, of all the streams in a file.

    Raises EOFError where the file is cut, and OSError where a block is damaged.
    """
    bits = Bits(stream, start)
    mark, whole = bits.mark(start), False
    while mark is not None:
        place, whole = mark
        if whole:
            whole = bits.hold(place, MAGIC_BITS + CRC_BITS)
            mark = bits.mark(place + MAGIC_BITS)
        else:
            content, mark = _block(bits, place)
            yield place, content
    if not whole:
        raise EOFError(CUT)


class Stretch(io.RawIOBase):
    """What the blocks that begin in a part hold, and then those behind it: a line begun in the part ends there."""

    def __init__(self, stream: BinaryIO, part: Part) -> None:
        super().__init__()
        self._end = part.end
        self._blocks = blocks(stream, part.start)
        self._rest = memoryview(b"")
        self._read = 0
        self._limit: int | None = None

    def readable(self) -> bool:
        """Return True: it is there to be read."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` with what comes next and return the number of bytes, 0 at the file's end."""
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
        """Return whether a line that begins `offset` bytes behind the part's start is the part's.

        One that begins exactly where the next part does is this part's: the next cannot tell that a line begins there
        without the byte before it, and drops what it holds before its first line end.
        """
        return self._limit is None or offset <= self._limit


def block_parts(stream: BinaryIO, size: int, header: int = 0) -> list[Part]:
    """Return parts of a bz2 file in bits, each of about `size` compressed bytes; see
    `sources.readers.lines.line_parts`.
    """
    starts = [0]
    try:
        place = _earliest(stream, header)
        while place is not None:
            found = _cut(stream, max(place, starts[-1] + size * 8))
            if found is None:
                break
            place, fits = found
            if fits:
                starts.append(place)
            # a hostile file could hold nothing but magics: what does not fit costs a whole part's length
            place += 1 if fits else size * 8
    except (EOFError, OSError) as error:
        _raise_others(error)  # reading will come to the damage too, and say so
    return [Part(a, b) for a, b in zip(starts, [*starts[1:], None], strict=True)] if len(starts) > 1 else [WHOLE]


def _raise_others(error: Exception) -> None:
    """Raise what is the disk's or the network's fault, not the file's."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _earliest(stream: BinaryIO, header: int) -> int | None:
    """Return the bit of the first block that leaves `header` lines and the start of one more before it."""
    ends, first = 0, True
    for place, content in blocks(stream):
        if not first and ends >= header:
            return place
        ends += content.count(b"\n")
        first = False
    return None


def _cut(stream: BinaryIO, start: int) -> tuple[int, bool] | None:
    """Return the first block at bit `start` or behind it, and whether a part may begin there; None at the end.

    It may where the block is whole and a line begins in it: then no part is without a line.
    """
    bits = Bits(stream, start)
    mark = bits.mark(start)
    while mark is not None and mark[1]:
        mark = bits.mark(mark[0] + MAGIC_BITS)
    if mark is None:
        return None
    try:
        content, _ = _block(bits, mark[0])
    except (EOFError, OSError) as error:
        _raise_others(error)
        return mark[0], False
    return mark[0], b"\n" in content[:-1]
