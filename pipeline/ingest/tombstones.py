"""Tombstones: what was taken down, as hashes only, so that a later ingest recognises it and nobody can read it.

A row of the table `tombstones` is a uid, the SHA-256 of a URL or of a host, the SHA-256 of an image (as fetched or as
stored), or an image's PDQ with a distance. The driver reads them once and passes them to tasks. They are in no
job's id: a takedown edits the existing data, and must not make an ingest run again.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.fetch.urls import host_of, parent_domains, url_key
from pipeline.images.normalize import StoredImage
from pipeline.images.pdq import MIN_QUALITY, PDQ_BYTES
from pipeline.images.pdq_search import PdqIndex
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import TAKEN_DOWN

KIND_UID, KIND_URL, KIND_HOST, KIND_SHA256, KIND_PDQ = "uid", "url", "host", "sha256", "pdq"


KINDS = (KIND_UID, KIND_URL, KIND_HOST, KIND_SHA256, KIND_PDQ)


BLANKED_COLUMNS = {
    **dict.fromkeys(("record_id", "url", "caption", "detail", "hashes", "faces", "place"), ""),
    "published": "{}",
    "problem": TAKEN_DOWN,
}
"""The values of the columns of `pairs` in a refused row; its uid, source, file, line and licence stay."""


def hash_key(text: str) -> str:
    """Return the SHA-256 of a key, as a tombstone stores it: 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(1 << 16)  # a shard's rows have few hosts
def _hashed_domains(host: str) -> tuple[str, ...]:
    return tuple(map(hash_key, parent_domains(host)))


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
            frozenset(value for value, _ in by_kind.get(kind, ()))
            for kind in (KIND_UID, KIND_URL, KIND_HOST, KIND_SHA256)
        )
        return cls(uids, urls, hosts, images, tuple(by_kind.get(KIND_PDQ, ())))

    def rows(self) -> set[tuple[str, str, int]]:
        """Return the tombstones as rows (kind, value, distance), as `of` takes them."""
        parts = zip(
            (KIND_UID, KIND_URL, KIND_HOST, KIND_SHA256), (self.uids, self.urls, self.hosts, self.images), strict=True
        )
        plain = {(kind, value, 0) for kind, values in parts for value in values}
        return plain | {(KIND_PDQ, value, distance) for value, distance in self.prints}

    def __bool__(self) -> bool:
        return bool(self.uids or self.urls or self.hosts or self.images or self.prints)

    def names(self, uid: str, url: str) -> bool:
        """Return whether a published row is refused by its uid, its URL or its host."""
        if uid in self.uids:
            return True
        if not url:
            return False
        if self.urls and hash_key(url_key(url)) in self.urls:
            return True
        return bool(self.hosts) and not self.hosts.isdisjoint(_hashed_domains(host_of(url)))

    def refuses_bytes(self, *images: bytes) -> bool:
        """Return whether one of these files (as fetched or as stored) is refused by its exact bytes."""
        return bool(self.images) and any(hashlib.sha256(image).hexdigest() in self.images for image in images)

    def is_near_removed(self, image: StoredImage) -> bool:
        """Return whether a stored image is near one that was taken down, by a PDQ of sufficient quality."""
        if not self.prints or image.fingerprint is None:
            return False
        bits, quality = image.fingerprint
        nearest = self._pdq_index.closest(np.frombuffer(bits, np.uint8).reshape(1, -1))
        return quality >= MIN_QUALITY and bool(nearest[0] >= 0)

    @cached_property
    def _pdq_index(self) -> PdqIndex:
        values = b"".join(bytes.fromhex(value) for value, _ in self.prints)
        limits = np.array([distance for _, distance in self.prints], np.int64)
        return PdqIndex(np.frombuffer(values, np.uint8).reshape(-1, PDQ_BYTES), limits, one_by_one=True)


NO_TOMBSTONES = Tombstones()
"""The tombstones of a store from which nothing was taken down."""


def read_tombstones(ledger: Ledger) -> Tombstones:
    """Return a store's tombstones, including those of an unfinished takedown."""
    if not ledger.store.exists("tables/tombstones"):
        return NO_TOMBSTONES
    rows = ledger.read("tombstones", ["kind", "value", "distance"]).to_pydict()
    return Tombstones.of(zip(rows["kind"], rows["value"], rows["distance"], strict=True))


def blank_refused(pairs: pa.Table, tombstones: Tombstones) -> pa.Table:
    """Return rows of `pairs` in which the refused ones hold the values of `BLANKED_COLUMNS`."""
    if not tombstones:
        return pairs
    keys = zip(pairs["uid"].to_pylist(), pairs["url"].to_pylist(), strict=True)
    refused = pa.array([tombstones.names(uid, url) for uid, url in keys], pa.bool_())
    for name, value in BLANKED_COLUMNS.items():
        index = pairs.schema.get_field_index(name)
        pairs = pairs.set_column(index, pairs.schema.field(index), pc.if_else(refused, value, pairs[name]))
    return pairs
