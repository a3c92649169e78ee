"""WebDataset tars: written byte-identical for the same input, read as untrusted input, with known member ranges.

A pair is three members, `<uid>.jpg`, `<uid>.txt`, `<uid>.json` in that order, USTAR, mtime 0. As the byte ranges are
known, an export copies bytes and decodes nothing.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

TAR_BLOCK_BYTES = 512
"""Size of a tar's block in bytes: each header is one block, and each member's data is padded to whole blocks."""


TAR_END = b"\0" * (2 * TAR_BLOCK_BYTES)


SUFFIXES = ("jpg", "txt", "json")


_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)


MAX_MEMBER_BYTES = 256 << 20


_KEY = re.compile(r"[0-9a-f]{32}")


class BadTar(ValueError):
    """A tar holds something that Cuvée's tars never hold."""


def padded_size(size: int) -> int:
    """Return `size` rounded up to whole blocks."""
    return -(-size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES


_SIZE_FIELD, _CHECKSUM_FIELD = slice(124, 136), slice(148, 156)
"""The places of size and checksum in a USTAR header; the name comes first (POSIX.1-1988, 10.1.1)."""


@cache
def _template() -> tuple[bytes, int]:
    """Return a header without name, size and checksum, and the sum of its bytes with spaces as the checksum."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[_SIZE_FIELD] = bytes(12)
    header[_CHECKSUM_FIELD] = b" " * 8
    return bytes(header), sum(header)


def _member(name: bytes, data: bytes) -> bytes:
    """Return a member as `tarfile` writes it, in a fifth of the time: headers differ in three fields only."""
    template, total = _template()
    size = b"%011o" % len(data)
    header = bytearray(template)
    header[: len(name)] = name
    header[124:135] = size
    header[_CHECKSUM_FIELD] = b"%06o\0 " % (total + sum(name) + sum(size))
    return bytes(header) + data + bytes(-len(data) % TAR_BLOCK_BYTES)


def pair_bytes(uid: str, jpg: bytes, caption: str, meta: dict[str, Any]) -> bytes:
    """Return a pair's three members as bytes of a tar; `meta` is written as canonical JSON."""
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    members = (jpg, caption.encode("utf-8", "replace"), text.encode("utf-8", "replace"))
    key = uid.encode("ascii")
    return b"".join(_member(b"%s.%s" % (key, suffix), data) for suffix, data in zip(_SUFFIXES, members, strict=True))


class ShardWriter:
    """Appends whole pairs to a tar and tracks its length (`bytes`) and SHA-256."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.bytes = 0

    def append(self, members: bytes) -> int:
        """Append a pair's members (`pair_bytes`, or a range of another tar); return their offset in bytes."""
        offset = self.bytes
        self._write(members)
        return offset

    def close(self) -> str:
        """Write the end of the tar; return the SHA-256 of the whole tar, 64 hex digits."""
        self._write(TAR_END)
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self.bytes += len(data)


@dataclass(frozen=True)
class StoredPair:
    """A pair read from a tar; `offset` and `size` span its members, in bytes."""

    uid: str
    jpg: bytes
    caption: str
    meta: dict[str, Any]
    offset: int
    size: int


def read_members(stream: BinaryIO, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str, bytes, int]]:
    """Yield (key, suffix, data, offset of the data) of each member, in order, from an untrusted tar.

    Raises BadTar at a member that is not a regular file, lies in a folder, has another suffix, or is larger than
    `MAX_MEMBER_BYTES` bytes, and at a tar that is truncated inside a member.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                key, _, suffix = info.name.partition(".")
                if not info.isreg() or "/" in info.name or not key or suffix not in suffixes:
                    raise BadTar(f"member {info.name!r}: expected a regular file <key>.{'|'.join(suffixes)}")
                if info.size > MAX_MEMBER_BYTES:
                    raise BadTar(f"member {info.name!r}: {info.size} bytes, expected at most {MAX_MEMBER_BYTES}")
                data = tar.extractfile(info)
                content = data.read() if data else b""
                if len(content) != info.size:
                    raise BadTar(f"member {info.name!r}: cut after {len(content)} of {info.size} bytes")
                yield key, suffix, content, info.offset_data
    except BadTar:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two: numbers in a malicious header
        raise BadTar(str(error)) from None


def read_pairs(stream: BinaryIO) -> Iterator[StoredPair]:
    """Yield the pairs of a tar of Cuvée's; raise BadTar where its layout is not that of `pair_bytes`."""
    members, end = read_members(stream, SUFFIXES), 0
    while (first := next(members, None)) is not None:
        parts = [first, *(next(members, ("", "", b"", 0)) for _ in SUFFIXES[1:])]
        key, offset = first[0], end
        names = [part[:2] for part in parts]
        if not _KEY.fullmatch(key) or names != [(key, suffix) for suffix in SUFFIXES]:
            raise BadTar(f"at byte {offset}: found members {names}, expected <uid>.jpg, .txt, .json of one uid")
        for _, suffix, data, data_offset in parts:
            if (
                data_offset != end + TAR_BLOCK_BYTES
            ):  # a pax header, a long name or a sparse map would make the ranges wrong
                raise BadTar(
                    f"{key}.{suffix}: data at byte {data_offset}, expected {end + TAR_BLOCK_BYTES}, "
                    "after one plain header"
                )
            end = data_offset + padded_size(len(data))
        jpg, text, meta = (part[2] for part in parts)
        try:
            fields = json.loads(meta)
        except (ValueError, RecursionError) as error:
            raise BadTar(f"{key}.json: expected JSON: {error}") from None
        yield StoredPair(key, jpg, text.decode("utf-8", "replace"), fields, offset, end - offset)
