"""Matching of a takedown request: the pairs that a list names, and their copies by URL, by bytes and by PDQ.

A pair that is named by uid, URL, host or the bytes of its image is taken down together with all pairs of the same
image: those that look like it (PDQ within a distance), those with the same bytes as it or as one of these, and those
with its URL in any source. Copies are not followed further: a pair that looks like a copy only, or shares its URL only,
stays, and the URLs of copies are not blocked. A pair with the URL of a named one is taken down whatever was fetched
from there; its bytes are not searched for, since they may be what a site shows in place of a removed image.

The tables are read column by column and batch by batch: pairs that do not match are not kept in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.fetch.urls import host_of, noncanonical_urls, parent_domains, url_key
from pipeline.images.pdq import MIN_QUALITY, PDQ_BYTES
from pipeline.images.pdq_search import PdqIndex
from pipeline.ingest.tombstones import KIND_HOST, KIND_PDQ, KIND_SHA256, KIND_UID, KIND_URL, Tombstones, hash_key
from pipeline.ledger.scan import column_names, matching_rows, scan_table
from pipeline.ledger.tables import Ledger
from pipeline.ledger.value_filter import ValueFilter
from pipeline.takedown.request import TakedownRequest

NAMED, SAME_URL, LOOKS_ALIKE, SAME_BYTES = "named", "same_url", "looks_alike", "same_bytes"


@dataclass(frozen=True)
class MatchReason:
    """Why a pair is taken down: how it was found, and by which line of the list, 0 for a copy of a named pair."""

    how: str
    line: int = 0


@dataclass
class TakedownMatches:
    """The pairs to take down, by uid with the reason, and the tombstones that block them from later ingests."""

    pairs: dict[str, MatchReason] = field(default_factory=dict)
    tombstones: Tombstones = field(default_factory=Tombstones)
    notes: list[str] = field(default_factory=list)
    """What could not be searched for."""

    def add(self, uid: str, how: str, line: int = 0) -> None:
        """Add a pair, unless it was added before."""
        self.pairs.setdefault(uid, MatchReason(how, line))

    def counts(self) -> dict[str, int]:
        """Return the number of pairs found in each way."""
        ways = [why.how for why in self.pairs.values()]
        return {how: ways.count(how) for how in (NAMED, SAME_URL, LOOKS_ALIKE, SAME_BYTES)}


MAX_PREFILTERED_HOSTS = 32
"""Up to this many hosts, URLs that contain none of their names are skipped before they are parsed."""


def find_matches(ledger: Ledger, request: TakedownRequest, distance: int) -> TakedownMatches:
    """Return the pairs that a list names and their copies; `distance` is that of PDQs of named pairs, in bits."""
    matches = TakedownMatches()
    lines = request.of(KIND_SHA256)
    if lines:
        for row in _rows_by_image(ledger, ValueFilter(lines)):
            matches.add(row["uid"], NAMED, lines.get(row["raw_sha256"]) or lines[row["jpg_sha256"]])
    urls = _add_named_pairs(ledger, request, matches)
    pdqs = _add_lookalikes(ledger, request, distance, matches)
    if other_urls := ValueFilter(urls - request.of(KIND_URL).keys()):
        for _, row in matching_rows(
            scan_table(ledger, "pairs", ["uid", "url"]), lambda rows: _url_mask(rows["url"], other_urls)
        ):
            matches.add(row["uid"], SAME_URL)
    images = _add_same_bytes(ledger, request, matches)
    matches.tombstones = Tombstones.of(
        request.tombstones().rows()
        | {(KIND_UID, uid, 0) for uid in matches.pairs}
        | {(KIND_URL, hash_key(url), 0) for url in urls}
        | {(KIND_SHA256, image, 0) for image in images}
        | {(KIND_PDQ, pdq, distance) for pdq in pdqs}
    )
    return matches


_IMAGE_COLUMNS = ("raw_sha256", "jpg_sha256")


def _rows_by_uid(ledger: Ledger, table: str, columns: Sequence[str], uids: ValueFilter) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table with one of these uids."""
    for _, row in matching_rows(scan_table(ledger, table, ["uid", *columns]), lambda rows: uids.within(rows["uid"])):
        yield row


def _rows_by_image(ledger: Ledger, images: ValueFilter) -> Iterator[dict[str, Any]]:
    """Yield the rows of `samples` whose image, as fetched or as stored, has one of these SHA-256."""

    def mask(rows: pa.RecordBatch) -> Any:
        raw, jpg = (images.within(rows[name]) for name in _IMAGE_COLUMNS)
        return pc.or_(raw, jpg)

    for _, row in matching_rows(scan_table(ledger, "samples", ["uid", *_IMAGE_COLUMNS]), mask):
        yield row


def _url_mask(column: pa.Array, urls: ValueFilter) -> pa.Array:
    """Return a boolean mask of the URLs whose key is among `urls`."""
    matches = urls.within(column)
    irregular = noncanonical_urls(column)
    if not pc.any(irregular).as_py():
        return matches
    pairs = zip(column.to_pylist(), irregular.to_pylist(), matches.to_pylist(), strict=True)
    return pa.array([url_key(url) in urls.values if parse else is_match for url, parse, is_match in pairs], pa.bool_())


def _host_mask(column: pa.Array, hosts: Mapping[str, int]) -> pa.Array:
    """Return a boolean mask of the URLs on one of the hosts or a subdomain of it."""
    candidates = pc.invert(pc.string_is_ascii(column))  # a non-ASCII host name has another spelling in DNS
    for host in hosts if len(hosts) <= MAX_PREFILTERED_HOSTS else ():
        candidates = pc.or_(candidates, pc.match_substring(column, host, ignore_case=True))
    if len(hosts) > MAX_PREFILTERED_HOSTS:
        candidates = pc.not_equal(column, "")
    urls = zip(column.to_pylist(), candidates.to_pylist(), strict=True)
    return pa.array([is_candidate and _host_line(url, hosts) > 0 for url, is_candidate in urls], pa.bool_())


def _host_line(url: str, hosts: Mapping[str, int]) -> int:
    return min((hosts[domain] for domain in parent_domains(host_of(url)) if domain in hosts), default=0)


def _add_named_pairs(ledger: Ledger, request: TakedownRequest, matches: TakedownMatches) -> set[str]:
    """Add the pairs that are named by uid, URL or host; return the URL keys of all named pairs."""
    uids, urls, hosts = request.of(KIND_UID), request.of(KIND_URL), request.of(KIND_HOST)
    by_uid, by_url = ValueFilter({*uids, *matches.pairs}), ValueFilter(urls)
    keys = set(urls)

    def mask(rows: pa.RecordBatch) -> Any:
        selected = by_uid.within(rows["uid"])
        if by_url:
            selected = pc.or_(selected, _url_mask(rows["url"], by_url))
        return pc.or_(selected, _host_mask(rows["url"], hosts)) if hosts else selected

    for _, row in matching_rows(scan_table(ledger, "pairs", ["uid", "url"]), mask):
        uid, url = row["uid"], row["url"]
        line = uids.get(uid) or urls.get(url_key(url)) or _host_line(url, hosts)
        matches.add(uid, NAMED, line)
        if url:
            keys.add(url_key(url))
    return keys


def _pdq_tables(ledger: Ledger) -> dict[str, list[str]]:
    """Return the signal tables with PDQs, and the columns to read: the PDQ and, where there is one, its quality."""
    tables = {name: column_names(ledger, name) for name in ledger.tables() if name.startswith("signals_")}
    return {
        name: [column for column in ("pdq", "quality") if column in columns]
        for name, columns in tables.items()
        if "pdq" in columns
    }


def _bits(values: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, PDQ_BYTES)


def _add_lookalikes(ledger: Ledger, request: TakedownRequest, distance: int, matches: TakedownMatches) -> set[str]:
    """Add the pairs whose images look like those of named pairs, or are near a PDQ of the list.

    Return the PDQs of the named pairs, as hex.
    """
    tables = _pdq_tables(ledger)
    if not tables:
        matches.notes.append("no signal table has a column pdq: copies were searched for by bytes and URLs only")
        return set()
    seeds: set[str] = set()
    if named := ValueFilter(matches.pairs):
        for table, columns in tables.items():
            for row in _rows_by_uid(ledger, table, columns, named):
                if row["pdq"] is not None and (row.get("quality", MIN_QUALITY) or 0) >= MIN_QUALITY:
                    seeds.add(row["pdq"].hex())
    searched = [*request.prints(), *((value, distance, 0) for value in sorted(seeds))]
    if searched:
        pdqs = _bits([bytes.fromhex(value) for value, _, _ in searched])
        index = PdqIndex(pdqs, np.array([limit for _, limit, _ in searched], np.int64))
        for table, columns in tables.items():
            for uid, number in _pairs_near(ledger, table, columns, index):
                line = searched[number][2]
                matches.add(uid, NAMED if line else LOOKS_ALIKE, line)
    return seeds


def _pairs_near(ledger: Ledger, table: str, columns: Sequence[str], index: PdqIndex) -> Iterator[tuple[str, int]]:
    """Yield (uid, number of the nearest PDQ) for the pairs of a table within the distance of one."""
    for batch in scan_table(ledger, table, ["uid", *columns]):
        rows = batch.rows.filter(pc.is_valid(batch.rows["pdq"]))
        if "quality" in columns:
            rows = rows.filter(pc.greater_equal(rows["quality"], MIN_QUALITY))
        nearest = index.closest(_bits(rows["pdq"].to_pylist()))
        for row in np.flatnonzero(nearest >= 0):
            yield rows["uid"][int(row)].as_py(), int(nearest[row])


def _add_same_bytes(ledger: Ledger, request: TakedownRequest, matches: TakedownMatches) -> set[str]:
    """Add the pairs with the same bytes, as fetched or as stored, as a named pair or one that looks like it.

    Return the SHA-256 of all these bytes.
    """
    images = set(request.of(KIND_SHA256))
    pending = {uid for uid, why in matches.pairs.items() if why.how != SAME_URL}
    while pending:
        count_before = len(images)
        for row in _rows_by_uid(ledger, "samples", _IMAGE_COLUMNS, ValueFilter(pending)):
            images |= {row[name] for name in _IMAGE_COLUMNS}
        if len(images) == count_before:
            break
        pending = set()
        for row in _rows_by_image(ledger, ValueFilter(images)):
            if row["uid"] not in matches.pairs:
                pending.add(row["uid"])
                matches.add(row["uid"], SAME_BYTES)
    return images
