"""The list of a takedown: one thing to take down in each line, told apart by how it is written."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.redaction import holds_secret, without_secret
from pipeline.core.uids import clean
from pipeline.errors import InputError
from pipeline.fetch.urls import host_key, host_of, url_key
from pipeline.images.pdq import SAME_PICTURE
from pipeline.ingest.tombstones import HOST, IMAGE, PRINT, UID, URL, Tombstones, hashed

MOST_DISTANCE = 64
"""The largest distance that is taken, in bits of 256: between pictures that have nothing in common it is 128 on
average with a standard deviation of 8, as for any two random strings of 256 bits, so beyond it anything may match."""


EXPECTED = (
    "a uid (32 hex digits), a URL (http:// or https://), domain:example.org, a SHA-256 (64 hex digits) or "
    f"pdq:<64 hex digits> with /distance (0 to {MOST_DISTANCE}) behind it or without"
)


_MOST_CHARACTERS = 8192


_UID, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")


_URL = re.compile(r"https?://[^\s/?#](?:(?!\s\S*://).)*", re.IGNORECASE)
"""Spaces are taken, as some published URLs have them, but not a second URL in the line."""


_DOMAIN = re.compile(r"domain:((?:[^\s/.:?#@*]{1,63}\.)+[^\s/.:?#@*]{1,63})\.?", re.IGNORECASE)


_PDQ = re.compile(r"pdq:([0-9a-f]{64})(?:/([0-9]{1,3}))?")


Named = tuple[str, str, int]
"""Kind, value and distance: a uid, a URL's key, a host's key, a SHA-256, or a PDQ with its distance in bits."""


@dataclass(frozen=True)
class Wanted:
    """What a list names, each with the number of the first line that does; URLs and hosts as their keys."""

    lines: Mapping[Named, int] = field(default_factory=dict)

    def of(self, kind: str) -> dict[str, int]:
        """Return the values of a kind with their lines; of PDQs too, where the least line of a value counts."""
        found: dict[str, int] = {}
        for (one, value, _), line in self.lines.items():
            if one == kind:
                found[value] = min(line, found.get(value, line))
        return found

    def prints(self) -> list[tuple[str, int, int]]:
        """Return the PDQs as (hex, distance, line), in the order of their lines."""
        found = [(value, distance, line) for (kind, value, distance), line in self.lines.items() if kind == PRINT]
        return sorted(found, key=lambda one: one[2])

    def tombstones(self) -> Tombstones:
        """Return the tombstones of what is named itself, whether a store holds a pair of it or not."""
        return Tombstones.of(
            (kind, hashed(value) if kind in (URL, HOST) else value, distance) for kind, value, distance in self.lines
        )


def named(text: str, distance: int = SAME_PICTURE) -> Named | None:
    """Return what one line names, None where it is none of the things that can be named.

    `distance` is that of a PDQ without one.
    """
    lower = text.lower()
    if _UID.fullmatch(lower):
        return UID, lower, 0
    if _SHA256.fullmatch(lower):
        return IMAGE, lower, 0
    if found := _PDQ.fullmatch(lower):
        bits = int(found[2]) if found[2] else distance
        return (PRINT, found[1], bits) if bits <= MOST_DISTANCE else None
    if found := _DOMAIN.fullmatch(text):
        return HOST, host_key(found[1]), 0
    if _URL.fullmatch(text) and host_of(text):
        url = clean(text)  # as in `pairs`, where no credential is kept either
        return URL, url_key(without_secret(url) if holds_secret(url) else url), 0
    return None


def parsed(text: str, name: str, distance: int = SAME_PICTURE) -> Wanted:
    """Return what a list's text names; raise InputError for a line that names nothing, or where none names anything.

    A line's spaces at both ends, empty lines and those that begin with "#" are passed over. `name` is the file's, for
    messages.
    """
    found: dict[Named, int] = {}
    for number, line in _lines(text):
        one = named(line, distance) if len(line) <= _MOST_CHARACTERS else None
        if one is None:
            raise InputError(f"{name} line {number}: found {line[:80]!r}, expected {EXPECTED}")
        found.setdefault(one, number)
    if not found:
        raise InputError(f"{name}: names nothing; expected in each line {EXPECTED}")
    return Wanted(found)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if (line := line.strip()) and not line.startswith("#"):
            yield number, line


def read_list(path: Path, distance: int = SAME_PICTURE) -> Wanted:
    """Return what a list's file names; raise InputError where it cannot be read, or as `parsed` does."""
    if not 0 <= distance <= MOST_DISTANCE:
        raise InputError(f"--pdq-distance: found {distance}, expected 0 to {MOST_DISTANCE} of 256 bits")
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path}: expected UTF-8, found byte {byte:#04x} at {error.start}") from None
    return parsed(text, str(path), distance)
