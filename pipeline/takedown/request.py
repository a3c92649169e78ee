"""The list of a takedown: one entry a line, whose kind follows from its form."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.redaction import holds_secret, strip_secret
from pipeline.core.uids import clean_text
from pipeline.errors import InputError
from pipeline.fetch.urls import host_key, host_of, url_key
from pipeline.images.pdq import SAME_PICTURE_BITS
from pipeline.ingest.tombstones import KIND_HOST, KIND_PDQ, KIND_SHA256, KIND_UID, KIND_URL, Tombstones, hash_key

MAX_REQUEST_DISTANCE_BITS = 64
"""The largest accepted distance, in bits of 256. Between unrelated images the distance is 128 on average with a
standard deviation of 8, as for any two random strings of 256 bits, so a larger limit could match anything."""


EXPECTED_ENTRY = (
    "a uid (32 hex digits), a URL (http:// or https://), domain:example.org, a SHA-256 (64 hex digits) or "
    f"pdq:<64 hex digits> optionally followed by /distance (0 to {MAX_REQUEST_DISTANCE_BITS})"
)


_MAX_CHARACTERS = 8192


_UID, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")


_URL = re.compile(r"https?://[^\s/?#](?:(?!\s\S*://).)*", re.IGNORECASE)
"""Spaces are accepted, as some published URLs have them, but not a second URL on the line."""


_DOMAIN = re.compile(r"domain:((?:[^\s/.:?#@*]{1,63}\.)+[^\s/.:?#@*]{1,63})\.?", re.IGNORECASE)


_PDQ = re.compile(r"pdq:([0-9a-f]{64})(?:/([0-9]{1,3}))?")


RequestEntry = tuple[str, str, int]
"""Kind, value and distance: a uid, a URL's key, a host's key, a SHA-256, or a PDQ with its distance in bits."""


@dataclass(frozen=True)
class TakedownRequest:
    """The entries of a list, each with the number of its first line; URLs and hosts as their keys."""

    lines: Mapping[RequestEntry, int] = field(default_factory=dict)

    def of(self, kind: str) -> dict[str, int]:
        """Return the values of a kind with their lines; for a PDQ with several distances, its first line."""
        lines: dict[str, int] = {}
        for (entry_kind, value, _), line in self.lines.items():
            if entry_kind == kind:
                lines[value] = min(line, lines.get(value, line))
        return lines

    def prints(self) -> list[tuple[str, int, int]]:
        """Return the PDQs as (hex, distance, line), in line order."""
        pdqs = [(value, distance, line) for (kind, value, distance), line in self.lines.items() if kind == KIND_PDQ]
        return sorted(pdqs, key=lambda pdq: pdq[2])

    def tombstones(self) -> Tombstones:
        """Return the tombstones of the entries themselves, whether or not a store holds a matching pair."""
        return Tombstones.of(
            (kind, hash_key(value) if kind in (KIND_URL, KIND_HOST) else value, distance)
            for kind, value, distance in self.lines
        )


def parse_entry(text: str, distance: int = SAME_PICTURE_BITS) -> RequestEntry | None:
    """Return the entry on one line, None where the line has no known form.

    `distance` is used for a PDQ without one.
    """
    lower = text.lower()
    if _UID.fullmatch(lower):
        return KIND_UID, lower, 0
    if _SHA256.fullmatch(lower):
        return KIND_SHA256, lower, 0
    if match := _PDQ.fullmatch(lower):
        bits = int(match[2]) if match[2] else distance
        return (KIND_PDQ, match[1], bits) if bits <= MAX_REQUEST_DISTANCE_BITS else None
    if match := _DOMAIN.fullmatch(text):
        return KIND_HOST, host_key(match[1]), 0
    if _URL.fullmatch(text) and host_of(text):
        url = clean_text(text)  # as in `pairs`, where credentials are removed too
        return KIND_URL, url_key(strip_secret(url) if holds_secret(url) else url), 0
    return None


def parse_request(text: str, name: str, distance: int = SAME_PICTURE_BITS) -> TakedownRequest:
    """Return the entries of a list's text; raise InputError for a line that is no entry, or where there is none.

    Spaces at both ends of a line, empty lines and lines that begin with "#" are ignored. `name` is the file's name, for
    messages.
    """
    lines: dict[RequestEntry, int] = {}
    for number, line in _lines(text):
        entry = parse_entry(line, distance) if len(line) <= _MAX_CHARACTERS else None
        if entry is None:
            raise InputError(f"{name} line {number}: found {line[:80]!r}, expected {EXPECTED_ENTRY}")
        lines.setdefault(entry, number)
    if not lines:
        raise InputError(f"{name}: found no entries, expected on each line {EXPECTED_ENTRY}")
    return TakedownRequest(lines)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if (line := line.strip()) and not line.startswith("#"):
            yield number, line


def read_list(path: Path, distance: int = SAME_PICTURE_BITS) -> TakedownRequest:
    """Return the entries of a list file; raise InputError where it cannot be read, or as `parsed` does."""
    if not 0 <= distance <= MAX_REQUEST_DISTANCE_BITS:
        raise InputError(f"--pdq-distance: found {distance}, expected 0 to {MAX_REQUEST_DISTANCE_BITS} of 256 bits")
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path}: expected UTF-8, found byte {byte:#04x} at {error.start}") from None
    return parse_request(text, str(path), distance)
