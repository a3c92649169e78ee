"""Tombstones: what was taken down, as hashes alone, so that a later ingest knows it and nobody can read it off them.

A row of the table `tombstones` is a uid, the SHA-256 of a URL or of a host, the SHA-256 of an image (as fetched or as
stored), or an image's PDQ with a distance. They are read once by the driver and given to tasks. They are in no job's
id: a takedown edits what is there, and must not make an ingest run again.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.fetch.urls import domains_of, host_of, url_key
from pipeline.images.normalize import Picture
from pipeline.images.pdq import LEAST_QUALITY, PDQ_BYTES
from pipeline.images.pdq_search import Alike
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import TAKEN_DOWN

UID, URL, HOST, IMAGE, PRINT = "uid", "url", "host", "sha256", "pdq"


KINDS = (UID, URL, HOST, IMAGE, PRINT)


BLANK = {
    **dict.fromkeys(("record_id", "url", "caption", "detail", "hashes", "faces", "place"), ""),
    "published": "{}",
    "problem": TAKEN_DOWN,
}
"""What the columns of `pairs` hold in a row that is refused; its uid, source, file and line stay, its licence too."""


def hashed(text: str) -> str:
    """Return SHA-256 of a key, as a tombstone keeps it: 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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

    def looks_taken(self, image: Picture) -> bool:
        """Tell whether a stored image looks like one that was taken down, by PDQ of the quality that counts."""
        if not self.prints or image.fingerprint is None:
            return False
        bits, quality = image.fingerprint
        nearest = self._alike.closest(np.frombuffer(bits, np.uint8).reshape(1, -1))
        return quality >= LEAST_QUALITY and bool(nearest[0] >= 0)

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
