"""What a takedown is about: the pairs that a list names, and their copies by URL, by bytes and by look.

A pair that is named by uid, URL, host or the bytes of its image is taken with all that hold the same image: those that
look like it (PDQ within a distance), those with the same bytes as it or as one of these, and those with its URL under
any source. Copies are not followed further: what looks like a copy alone stays, as does what shares its URL, and no
URL of a copy is forbidden. A pair with the URL of a named one is taken whatever came from there; its bytes are not
looked for, since they may be what a site shows in place of an image that is gone.

The tables are read column by column and batch by batch: nothing is held of a pair that is not taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.fetch.urls import domains_of, host_of, odd_urls, url_key
from pipeline.images.pdq import LEAST_QUALITY, PDQ_BYTES
from pipeline.images.pdq_search import Alike
from pipeline.ingest.tombstones import HOST, IMAGE, PRINT, UID, URL, Tombstones, hashed
from pipeline.ledger.scan import columns_of, matching, scan
from pipeline.ledger.tables import Ledger
from pipeline.ledger.value_filter import Keys
from pipeline.takedown.request import Wanted

NAMED, SAME_URL, LOOKS_ALIKE, SAME_BYTES = "named", "same_url", "looks_alike", "same_bytes"


@dataclass(frozen=True)
class Why:
    """Why a pair is taken: how it was found, and by which line of the list, 0 for a copy of a named pair."""

    how: str
    line: int = 0


@dataclass
class Found:
    """The pairs to take down by uid, why, and the tombstones that keep them away."""

    pairs: dict[str, Why] = field(default_factory=dict)
    tombstones: Tombstones = field(default_factory=Tombstones)
    notes: list[str] = field(default_factory=list)
    """What could not be looked for."""

    def add(self, uid: str, how: str, line: int = 0) -> None:
        """Take a pair, unless it is taken already."""
        self.pairs.setdefault(uid, Why(how, line))

    def counts(self) -> dict[str, int]:
        """Return how many pairs were found in each way."""
        ways = [why.how for why in self.pairs.values()]
        return {how: ways.count(how) for how in (NAMED, SAME_URL, LOOKS_ALIKE, SAME_BYTES)}


FEW_HOSTS = 32
"""Up to so many hosts, URLs that hold none of their names are passed over before they are taken apart."""


def find(ledger: Ledger, wanted: Wanted, distance: int) -> Found:
    """Return the pairs that a list names and their copies; `distance` is that of PDQs of named pairs, in bits."""
    found = Found()
    lines = wanted.of(IMAGE)
    if lines:
        for row in _with_images(ledger, Keys(lines)):
            found.add(row["uid"], NAMED, lines.get(row["raw_sha256"]) or lines[row["jpg_sha256"]])
    urls = _named_in_pairs(ledger, wanted, found)
    prints = _alike(ledger, wanted, distance, found)
    if other := Keys(urls - wanted.of(URL).keys()):
        for _, row in matching(scan(ledger, "pairs", ["uid", "url"]), lambda rows: _of_urls(rows["url"], other)):
            found.add(row["uid"], SAME_URL)
    images = _same_bytes(ledger, wanted, found)
    found.tombstones = Tombstones.of(
        wanted.tombstones().rows()
        | {(UID, uid, 0) for uid in found.pairs}
        | {(URL, hashed(url), 0) for url in urls}
        | {(IMAGE, image, 0) for image in images}
        | {(PRINT, print_, distance) for print_ in prints}
    )
    return found


_IMAGES = ("raw_sha256", "jpg_sha256")


def _with_uids(ledger: Ledger, table: str, columns: Sequence[str], uids: Keys) -> Iterator[dict[str, Any]]:
    """Yield the rows of some pairs."""
    for _, row in matching(scan(ledger, table, ["uid", *columns]), lambda rows: uids.within(rows["uid"])):
        yield row


def _with_images(ledger: Ledger, images: Keys) -> Iterator[dict[str, Any]]:
    """Yield the rows of `samples` whose image, as fetched or as stored, is one of these by its SHA-256."""

    def mask(rows: pa.RecordBatch) -> Any:
        raw, jpg = (images.within(rows[name]) for name in _IMAGES)
        return pc.or_(raw, jpg)

    for _, row in matching(scan(ledger, "samples", ["uid", *_IMAGES]), mask):
        yield row


def _of_urls(column: pa.Array, urls: Keys) -> pa.Array:
    """Return which URLs have their key among `urls`."""
    found = urls.within(column)
    odd = odd_urls(column)
    if not pc.any(odd).as_py():
        return found
    pairs = zip(column.to_pylist(), odd.to_pylist(), found.to_pylist(), strict=True)
    return pa.array([url_key(url) in urls.values if apart else plain for url, apart, plain in pairs], pa.bool_())


def _of_hosts(column: pa.Array, hosts: Mapping[str, int]) -> pa.Array:
    """Return which URLs are of one of the hosts or of a host below it."""
    maybe = pc.invert(pc.string_is_ascii(column))  # a host in other letters has another spelling in DNS
    for host in hosts if len(hosts) <= FEW_HOSTS else ():
        maybe = pc.or_(maybe, pc.match_substring(column, host, ignore_case=True))
    if len(hosts) > FEW_HOSTS:
        maybe = pc.not_equal(column, "")
    urls = zip(column.to_pylist(), maybe.to_pylist(), strict=True)
    return pa.array([perhaps and _host_line(url, hosts) > 0 for url, perhaps in urls], pa.bool_())


def _host_line(url: str, hosts: Mapping[str, int]) -> int:
    return min((hosts[domain] for domain in domains_of(host_of(url)) if domain in hosts), default=0)


def _named_in_pairs(ledger: Ledger, wanted: Wanted, found: Found) -> set[str]:
    """Add the pairs that are named by uid, URL or host; return the keys of the URLs of all named ones."""
    uids, urls, hosts = wanted.of(UID), wanted.of(URL), wanted.of(HOST)
    by_uid, by_url = Keys({*uids, *found.pairs}), Keys(urls)
    keys = set(urls)

    def mask(rows: pa.RecordBatch) -> Any:
        chosen = by_uid.within(rows["uid"])
        if by_url:
            chosen = pc.or_(chosen, _of_urls(rows["url"], by_url))
        return pc.or_(chosen, _of_hosts(rows["url"], hosts)) if hosts else chosen

    for _, row in matching(scan(ledger, "pairs", ["uid", "url"]), mask):
        uid, url = row["uid"], row["url"]
        line = uids.get(uid) or urls.get(url_key(url)) or _host_line(url, hosts)
        found.add(uid, NAMED, line)
        if url:
            keys.add(url_key(url))
    return keys


def _print_tables(ledger: Ledger) -> dict[str, list[str]]:
    """Return the signal tables that have PDQs, with the columns to read of each: the PDQ and, if there, its quality."""
    tables = {name: columns_of(ledger, name) for name in ledger.tables() if name.startswith("signals_")}
    return {
        name: [column for column in ("pdq", "quality") if column in columns]
        for name, columns in tables.items()
        if "pdq" in columns
    }


def _bits(values: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, PDQ_BYTES)


def _alike(ledger: Ledger, wanted: Wanted, distance: int, found: Found) -> set[str]:
    """Add the pairs whose pictures look like those of the named ones, or like a PDQ of the list.

    Return the named ones' PDQs, as hex.
    """
    tables = _print_tables(ledger)
    if not tables:
        found.notes.append("no signal table has a column pdq: copies were looked for by their bytes and URLs alone")
        return set()
    seeds: set[str] = set()
    if mine := Keys(found.pairs):
        for table, columns in tables.items():
            for row in _with_uids(ledger, table, columns, mine):
                if row["pdq"] is not None and (row.get("quality", LEAST_QUALITY) or 0) >= LEAST_QUALITY:
                    seeds.add(row["pdq"].hex())
    listed = [*wanted.prints(), *((value, distance, 0) for value in sorted(seeds))]
    if listed:
        prints = _bits([bytes.fromhex(value) for value, _, _ in listed])
        alike = Alike(prints, np.array([bits for _, bits, _ in listed], np.int64))
        for table, columns in tables.items():
            for uid, place in _near(ledger, table, columns, alike):
                line = listed[place][2]
                found.add(uid, NAMED if line else LOOKS_ALIKE, line)
    return seeds


def _near(ledger: Ledger, table: str, columns: Sequence[str], alike: Alike) -> Iterator[tuple[str, int]]:
    """Yield (uid, number of the PDQ that it is nearest to) of the pairs of a table that are near one."""
    for part in scan(ledger, table, ["uid", *columns]):
        rows = part.rows.filter(pc.is_valid(part.rows["pdq"]))
        if "quality" in columns:
            rows = rows.filter(pc.greater_equal(rows["quality"], LEAST_QUALITY))
        places = alike.closest(_bits(rows["pdq"].to_pylist()))
        for index in np.flatnonzero(places >= 0):
            yield rows["uid"][int(index)].as_py(), int(places[index])


def _same_bytes(ledger: Ledger, wanted: Wanted, found: Found) -> set[str]:
    """Add the pairs with the bytes, as fetched or as stored, of one that is named or looks like one.

    Return SHA-256 of all these bytes.
    """
    images = set(wanted.of(IMAGE))
    todo = {uid for uid, why in found.pairs.items() if why.how != SAME_URL}
    while todo:
        before = len(images)
        for row in _with_uids(ledger, "samples", _IMAGES, Keys(todo)):
            images |= {row[name] for name in _IMAGES}
        if len(images) == before:
            break
        todo = set()
        for row in _with_images(ledger, Keys(images)):
            if row["uid"] not in found.pairs:
                todo.add(row["uid"])
                found.add(row["uid"], SAME_BYTES)
    return images
