"""Tombstones: what was taken down, as hashes alone, so that a later ingest knows it and nobody can read it off them.

A row of the table `tombstones` is a uid, the SHA-256 of a URL or of a host, the SHA-256 of an image (as fetched or as
stored), or an image's PDQ with a distance. They are read once by the driver and given to tasks. They are in no job's
id: a takedown edits what is there, and must not make an ingest run again.
"""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.alike import Alike
from pipeline.ledger import Ledger
from pipeline.outcomes import TAKEN_DOWN
from pipeline.pdq import LEAST_QUALITY, PDQ_BYTES, pdq
from pipeline.politeness import host_of

UID, URL, HOST, IMAGE, PRINT = "uid", "url", "host", "sha256", "pdq"
KINDS = (UID, URL, HOST, IMAGE, PRINT)

BLANK = {
    **dict.fromkeys(("record_id", "url", "caption", "detail", "hashes", "faces", "place"), ""),
    "published": "{}",
    "problem": TAKEN_DOWN,
}
"""What the columns of `pairs` hold in a row that is refused; its uid, source, file and line stay, its licence too."""

_PLAIN = r"^https?://[a-z0-9.-]*[a-z0-9]/[^#]*$"
"""URLs that are their own key; nearly all are, and are not taken apart."""
_IS_PLAIN = re.compile(_PLAIN)
_PARTS = re.compile(r"([^:/?#]+)://([^/?#]*)([^?#]*)((?:\?[^#]*)?)(?:#.*)?", re.DOTALL)
_PORT = re.compile(r":(\d*)$")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_key(host: str) -> str:
    """Return the one way to write a host: lower case, no dot at its end, in the letters of DNS where it has others."""
    host = host.lower().rstrip(".")
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def url_key(url: str) -> str:
    """Return the one way to write a URL: RFC 3986's case normalization of scheme and host, no default port, no
    fragment, "/" for an empty path; "" for no URL. What is no absolute URL is returned as it is.
    """
    if _IS_PLAIN.match(url):
        return url
    found = _PARTS.fullmatch(url)
    if not found:
        return url
    scheme, authority, path, query = found[1].lower(), found[2].rpartition("@")[2], found[3], found[4]
    port = _PORT.search(authority)
    shown = f":{port[1]}" if port and port[1] not in ("", _DEFAULT_PORTS.get(scheme)) else ""
    host = host_key(authority[: port.start()] if port else authority)
    return f"{scheme}://{host}{shown}{path or '/'}{query}"


def hashed(text: str) -> str:
    """Return SHA-256 of a key, as a tombstone keeps it: 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def odd_urls(urls: pa.Array) -> pa.Array:
    """Return which of the URLs are not their own key, as booleans; an empty one is not among them."""
    return pc.and_(pc.invert(pc.match_substring_regex(urls, _PLAIN)), pc.not_equal(urls, ""))


def domains_of(host: str) -> list[str]:
    """Return a host's key and the domains it is in: a.b.c, b.c, c."""
    parts = host_key(host).split(".")
    return [".".join(parts[start:]) for start in range(len(parts))] if host else []


@lru_cache(1 << 16)  # the rows of a shard are of few hosts
def _hashed_domains(host: str) -> tuple[str, ...]:
    return tuple(map(hashed, domains_of(host)))


@dataclass(frozen=True)
class Tombstones:
    """All tombstones of a store: uids, hashes of URLs, hosts and images as hex, PDQs as (hex, distance in bits)."""

    uids: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    prints: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, int]]) -> "Tombstones":
        """Return the tombstones of rows (kind, value, distance)."""
        ordered = sorted(set(rows))
        by_kind = {kind: [row[1:] for row in part] for kind, part in groupby(ordered, key=lambda row: row[0])}
        uids, urls, hosts, images = (
            frozenset(value for value, _ in by_kind.get(kind, ())) for kind in (UID, URL, HOST, IMAGE)
        )
        return cls(uids, urls, hosts, images, tuple(by_kind.get(PRINT, ())))

    def rows(self) -> set[tuple[str, str, int]]:
        """Return what `of` takes."""
        parts = zip((UID, URL, HOST, IMAGE), (self.uids, self.urls, self.hosts, self.images), strict=True)
        plain = {(kind, value, 0) for kind, values in parts for value in values}
        return plain | {(PRINT, value, distance) for value, distance in self.prints}

    def __bool__(self) -> bool:
        return bool(self.uids or self.urls or self.hosts or self.images or self.prints)

    def names(self, uid: str, url: str) -> bool:
        """Tell whether a published row is refused by its uid, its URL or its host."""
        if uid in self.uids:
            return True
        if not url:
            return False
        if self.urls and hashed(url_key(url)) in self.urls:
            return True
        return bool(self.hosts) and not self.hosts.isdisjoint(_hashed_domains(host_of(url)))

    def holds_image(self, *images: bytes) -> bool:
        """Tell whether one of these files, as fetched or as stored, is refused byte for byte."""
        return bool(self.images) and any(hashlib.sha256(image).hexdigest() in self.images for image in images)

    def looks_taken(self, jpg: bytes) -> bool:
        """Tell whether a stored picture looks like one that was taken down, by PDQ of the quality that counts."""
        if not self.prints:
            return False
        image = cv2.imdecode(np.frombuffer(jpg, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:
            return False
        bits, quality = pdq(np.asarray(image, np.uint8))
        found = self._alike.closest(np.frombuffer(bits, np.uint8).reshape(1, -1))
        return quality >= LEAST_QUALITY and bool(found[0] >= 0)

    @cached_property
    def _alike(self) -> Alike:
        values = b"".join(bytes.fromhex(value) for value, _ in self.prints)
        limits = np.array([distance for _, distance in self.prints], np.int64)
        return Alike(np.frombuffer(values, np.uint8).reshape(-1, PDQ_BYTES), limits, one_by_one=True)


NONE = Tombstones()
"""Those of a store from which nothing was taken down."""


def read(ledger: Ledger) -> Tombstones:
    """Return a store's tombstones, those of an unfinished takedown too."""
    if not ledger.store.exists("tables/tombstones"):
        return NONE
    rows = ledger.read("tombstones", ["kind", "value", "distance"]).to_pydict()
    return Tombstones.of(zip(rows["kind"], rows["value"], rows["distance"], strict=True))


def blanked(pairs: pa.Table, tombstones: Tombstones) -> pa.Table:
    """Return rows of `pairs` with those that are refused blanked: `BLANK` says how."""
    if not tombstones:
        return pairs
    named = zip(pairs["uid"].to_pylist(), pairs["url"].to_pylist(), strict=True)
    refused = pa.array([tombstones.names(uid, url) for uid, url in named], pa.bool_())
    for name, value in BLANK.items():
        place = pairs.schema.get_field_index(name)
        pairs = pairs.set_column(place, pairs.schema.field(place), pc.if_else(refused, value, pairs[name]))
    return pairs


class Keys:
    """Values to look for in a column: few by Arrow, which builds its table anew for each batch, many by Python."""

    FEW = 4096
    """Values up to which Arrow is quicker, beside as many as the column has: its table is then the lesser part."""

    def __init__(self, values: Collection[str]) -> None:
        self.values = frozenset(values)

    def __bool__(self) -> bool:
        return bool(self.values)

    @cached_property
    def _array(self) -> pa.Array:
        return pa.array(sorted(self.values), pa.string())

    def within(self, column: Any) -> pa.Array:
        """Return which entries of a string column are among the values, as booleans."""
        if len(self.values) <= self.FEW + len(column):
            return pc.is_in(column, self._array)
        return pa.array([value in self.values for value in column.to_pylist()], pa.bool_())
