"""WebDataset tars: written byte-identical for the same input, read without trust, their members' ranges known.

A pair is three members, `<uid>.jpg`, `<uid>.txt`, `<uid>.json` in that order, USTAR, mtime 0. As ranges are known,
an export copies bytes and decodes nothing.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

BLOCK = 512
"""A tar's block in bytes: each header is one, and each member's data is padded to whole ones."""


END = b"\0" * (2 * BLOCK)


SUFFIXES = ("jpg", "txt", "json")


_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)


MAX_MEMBER = 256 << 20


_KEY = re.compile(r"[0-9a-f]{32}")


class BadTar(ValueError):
    """A tar holds what no tar of ours holds."""


def padded(size: int) -> int:
    """Return `size` rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


_SIZE, _SUM = slice(124, 136), slice(148, 156)
"""Where a USTAR header holds the size and the checksum; the name leads it (POSIX.1-1988, 10.1.1)."""


@cache
def _template() -> tuple[bytes, int]:
    """Return a header without name, size and checksum, and the sum of its bytes with a checksum of spaces."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[_SIZE] = bytes(12)
    header[_SUM] = b" " * 8
    return bytes(header), sum(header)


def _member(name: bytes, data: bytes) -> bytes:
    """Return a member as `tarfile` writes it, in a fifth of its time: the header differs in three fields only."""
    template, total = _template()
    size = b"%011o" % len(data)
    header = bytearray(template)
    header[: len(name)] = name
    header[124:135] = size
    header[_SUM] = b"%06o\0 " % (total + sum(name) + sum(size))
    return bytes(header) + data + bytes(-len(data) % BLOCK)


def pair_bytes(uid: str, jpg: bytes, caption: str, meta: dict[str, Any]) -> bytes:
    """Return a pair's three members as they stand in a tar; `meta` is written as canonical JSON."""
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    members = (jpg, caption.encode("utf-8", "replace"), text.encode("utf-8", "replace"))
    key = uid.encode("ascii")
    return b"".join(_member(b"%s.%s" % (key, suffix), data) for suffix, data in zip(_SUFFIXES, members, strict=True))


class ShardWriter:
    """Appends whole pairs to a tar and keeps its length and SHA-256 as it goes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.bytes = 0

    def append(self, members: bytes) -> int:
        """Append a pair's members (`pair_bytes`, or a range of another tar); return their offset in bytes."""
        offset = self.bytes
        self._put(members)
        return offset

    def close(self) -> str:
        """Write the end of the tar; return the SHA-256 of the whole, 64 hex digits."""
        self._put(END)
        return self._hash.hexdigest()

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self.bytes += len(data)


@dataclass(frozen=True)
class StoredPair:
    """A pair as it was read back from a tar; `offset` and `size` span its members, in bytes."""

    uid: str
    jpg: bytes
    caption: str
    meta: dict[str, Any]
    offset: int
    size: int


def read_members(stream: BinaryIO, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str, bytes, int]]:
    """Yield (key, suffix, data, offset of the data) of each member, in order, from a tar that is not trusted.

    Raises BadTar at a member that is no regular file, lies in a folder, has another suffix, or is larger than
    `MAX_MEMBER`, and at a tar that is cut inside a member.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                key, _, suffix = info.name.partition(".")
                if not info.isreg() or "/" in info.name or not key or suffix not in suffixes:
                    raise BadTar(f"member {info.name!r}: expected a regular file <key>.{'|'.join(suffixes)}")
                if info.size > MAX_MEMBER:
                    raise BadTar(f"member {info.name!r}: {info.size} bytes, expected at most {MAX_MEMBER}")
                data = tar.extractfile(info)
                content = data.read() if data else b""
                if len(content) != info.size:
                    raise BadTar(f"member {info.name!r}: cut after {len(content)} of {info.size} bytes")
                yield key, suffix, content, info.offset_data
    except BadTar:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: numbers in a hostile header
        raise BadTar(str(error)) from None


def read_pairs(stream: BinaryIO) -> Iterator[StoredPair]:
    """Yield the pairs of one of our own tars; raise BadTar where it is not built as `pair_bytes` builds it."""
    members, end = read_members(stream, SUFFIXES), 0
    while (first := next(members, None)) is not None:
        parts = [first, *(next(members, ("", "", b"", 0)) for _ in SUFFIXES[1:])]
        key, offset = first[0], end
        found = [part[:2] for part in parts]
        if not _KEY.fullmatch(key) or found != [(key, wanted) for wanted in SUFFIXES]:
            raise BadTar(f"at byte {offset}: found members {found}, expected <uid>.jpg, .txt, .json of one uid")
        for _, suffix, data, place in parts:
            if place != end + BLOCK:  # a pax header, a long name or a sparse map: the ranges would be wrong
                raise BadTar(f"{key}.{suffix}: data at byte {place}, expected {end + BLOCK}, behind one plain header")
            end = place + padded(len(data))
        jpg, text, meta = (part[2] for part in parts)
        try:
            fields = json.loads(meta)
        except (ValueError, RecursionError) as error:
            raise BadTar(f"{key}.json: expected JSON: {error}") from None
        yield StoredPair(key, jpg, text.decode("utf-8", "replace"), fields, offset, end - offset)
