"""Existing WebDataset tars, as written by img2dataset (Beaumont 2021) and similar tools.

The tar is not trusted: headers and small text members are read; an image's data is skipped, nothing is extracted, and
no member is read as anything but an image's position, text or JSON.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar, cast

import pyarrow as pa

from pipeline.records import WHOLE_FILE, FilePart, PublishedRow, malformed_row
from sources.readers.cells import HEX_DIGITS, BadCell, cell_text, image_hashes, plain_value

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif")


TEXT_SUFFIXES = ("txt", "json")


MAX_TEXT_BYTES = 1 << 20
"""Largest text or JSON member, in bytes."""


MAX_IMAGE_BYTES = 256 << 20
"""Largest image, in bytes."""


MAX_HEADERS_BYTES = 1 << 20
"""Most bytes that are read for one member's headers (its own, long names, pax records, sparse maps)."""


DAMAGE_ERRORS = (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)
"""tarfile's exceptions for damaged headers; the last four for unexpected numbers, lengths and chains."""


_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
"""WebDataset's convention: the key ends at the first dot of a member's file name; the suffix after it is the type."""


_LINKS = {tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.DIRTYPE: "a folder"}


@dataclass(frozen=True)
class WebDataset:
    """One row for each key, that is for consecutive members of one key; `line` is the key's number in the tar, from 1.

    `place` is the position of the image's bytes in the tar; the key is the record id. The caption is that of the `.txt`
    member, or "caption" or "text" of the JSON. Hashes are those of the JSON: img2dataset computes them from the bytes
    as fetched and re-encodes the image afterwards unless configured not to, so they need not be those of the bytes at
    `place`. Other scalars of the JSON are passed on. Other types of members are ignored.
    """

    name: ClassVar[str] = "webdataset"
    pattern: ClassVar[str] = "*.tar"
    citation: ClassVar[str] = "Beaumont 2021, img2dataset, github.com/rom1504/img2dataset"
    scores: ClassVar[Mapping[str, pa.DataType]] = {}
    joins: ClassVar[str] = ""

    def parts(self, stream: BinaryIO, size: int) -> list[FilePart]:
        """Return [WHOLE]: the start of a member is known only from the one before it."""
        return [WHOLE_FILE]

    def read(self, stream: BinaryIO, part: FilePart = WHOLE_FILE) -> Iterator[PublishedRow]:
        """Yield a row for each key. A tar that is truncated or damaged ends with one malformed row.

        That row also replaces the row of the key in which the damage is, as it is unknown what of it is missing.
        """
        line, pair = 0, None
        try:
            for info in _members(stream):
                key, suffix = _split_key(info)
                if pair is not None and pair.key != key:
                    line += 1
                    yield pair.row(line)
                    pair = None
                pair = pair or _Pair(key)
                _add_member(pair, info, suffix, stream)
        except DAMAGE_ERRORS as error:
            yield malformed_row(line + 1, "a whole tar", " ".join(str(error).split()) or type(error).__name__)
            return
        if pair is not None:
            yield pair.row(line + 1)


@dataclass
class _Pair:
    """The members of a key that were read so far."""

    key: str
    place: str = ""
    suffixes: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    problem: tuple[str, str] | None = None

    def row(self, line: int) -> PublishedRow:
        """Return the key's row, malformed where one of its members is invalid or there is no image."""
        if self.problem is not None:
            return malformed_row(line, *self.problem)
        if not self.place:
            return malformed_row(line, "an image member", f"{self.key!r} with {', '.join(self.suffixes)}")
        try:
            return self._row(line, _json(self.texts["json"]) if "json" in self.texts else {})
        except BadCell as bad:
            return malformed_row(line, bad.expected, bad.found)

    def _row(self, line: int, meta: dict[str, Any]) -> PublishedRow:
        captions = [self.texts.get("txt", ""), meta.pop("caption", None), meta.pop("text", None)]
        url, hashes = cell_text(meta.pop("url", None)), image_hashes(meta)
        published = {
            name: value
            for name, value in meta.items()
            if name not in HEX_DIGITS and value is not None and not isinstance(value, list | dict)
        }
        return PublishedRow(
            line,
            self.key,
            url,
            next((caption for value in captions if (caption := cell_text(value)).strip()), ""),
            published=published,
            hashes=hashes,
            place=self.place,
        )


def _json(content: str) -> dict[str, Any]:
    try:
        meta = plain_value(json.loads(content.removeprefix("\ufeff")))  # plain: NaN and 1e999 are not JSON
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise BadCell("a JSON object in the json member", content)
    return meta


def _add_member(pair: _Pair, info: tarfile.TarInfo, suffix: str, stream: BinaryIO) -> None:
    """Add a member to its key."""
    if len(pair.suffixes) < 8:  # enough for a message; a tar of one key must not fill the memory
        pair.suffixes.append(suffix or "no suffix")
    limit = MAX_IMAGE_BYTES if suffix in IMAGE_SUFFIXES else MAX_TEXT_BYTES
    if not info.isreg() or info.issparse():
        pair.problem = "a regular file", f"member {_decoded_name(info)!r}, {_type_name(info)}"
    elif suffix not in (*IMAGE_SUFFIXES, *TEXT_SUFFIXES):
        return
    elif info.size > limit:
        pair.problem = f"at most {limit} bytes", f"member {_decoded_name(info)!r} of {info.size}"
    elif suffix in IMAGE_SUFFIXES and pair.place:
        pair.problem = "one image", f"member {_decoded_name(info)!r} too"
    elif suffix in IMAGE_SUFFIXES:
        pair.place = f"{info.offset_data}:{info.size}"
    elif suffix in pair.texts:
        pair.problem = f"one {suffix} member", f"member {_decoded_name(info)!r} too"
    else:
        stream.seek(info.offset_data)
        pair.texts[suffix] = stream.read(info.size).decode("utf-8", "replace")


def _type_name(info: tarfile.TarInfo) -> str:
    return "a sparse file" if info.issparse() else _LINKS.get(info.type, f"of type {info.type!r}")


def _decoded_name(info: tarfile.TarInfo) -> str:
    return info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _split_key(info: tarfile.TarInfo) -> tuple[str, str]:
    """Return (key, suffix in lower case) of a member; one without a suffix is a key of its own."""
    name = _decoded_name(info)
    match = _KEY.fullmatch(name)
    return (match[1], match[2].lower()) if match else (name, "")


class _Headers:
    """A tar for tarfile that limits the bytes read for a member's headers, whatever length they claim."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left = MAX_HEADERS_BYTES
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:  # a negative length would read all of the file
            raise tarfile.ReadError(f"headers of more than {MAX_HEADERS_BYTES} bytes")
        self.left -= size
        return self._stream.read(size)


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield members' headers; raise one of BROKEN where the tar is truncated, damaged or continues after its end."""
    total = stream.seek(0, 2)
    stream.seek(0)
    headers = _Headers(stream)
    previous = 0
    with tarfile.open(fileobj=cast(BinaryIO, headers), mode="r:", encoding="utf-8") as tar:
        while (info := tar.next()) is not None:
            if info.size < 0 or tar.offset <= previous:  # tarfile would go back, in an endless loop
                raise tarfile.ReadError(f"member {_decoded_name(info)!r} of {info.size} bytes")
            end = info.offset_data + info.size if info.isreg() and not info.issparse() else 0
            if max(tar.offset, end) > total:
                raise tarfile.ReadError(f"truncated in member {_decoded_name(info)!r}")
            yield info
            previous, headers.left = tar.offset, MAX_HEADERS_BYTES
            cast(Any, tar).members.clear()  # otherwise it keeps every header
        _check_end(stream, tar.offset)


def _check_end(stream: BinaryIO, offset: int) -> None:
    """Raise ReadError where no block of zeros is at `offset`, or other data after it: tarfile reports neither."""
    stream.seek(offset)
    first = stream.read(tarfile.BLOCKSIZE)
    if len(first) < tarfile.BLOCKSIZE or any(first):
        raise tarfile.ReadError(f"no header and no end of the tar at byte {offset}")
    while block := stream.read(1 << 20):
        if any(block):
            raise tarfile.ReadError(f"more after the end of the tar at byte {offset}")
