"""Which pairs are fetched by one task after another, and which shard each is in: a host belongs to one lane alone.

Hosts are spread over `BUCKETS` by a hash. Buckets side by side make a lane as long as a shard holds all of their pairs;
a bucket that holds more is a lane by itself, cut into shards by ranges of uids. All of it follows from the published
rows alone, so that neither the size of the cluster nor the order of the files changes a shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.fetch.urls import host_sql

BUCKETS = 4096


@dataclass(frozen=True)
class Lane:
    """A lane's number, its buckets [start, end), and its shards: `shards` of them from number `first` on."""

    number: int
    start: int
    end: int
    first: int
    shards: int


def bucket_sql(url: str, uid: str) -> str:
    """Return the Spark SQL expression of a pair's bucket: by its URL's host, or by its uid where it has none."""
    host = host_sql(url)
    return f"cast(crc32(if({host} = '', {uid}, {host})) % {BUCKETS} as int)"


def lanes(counts: Mapping[int, int], pairs_per_shard: int) -> list[Lane]:
    """Return the lanes of a source from the number of its rows in each bucket; together they hold every bucket."""
    made: list[Lane] = []
    start, rows = 0, 0
    for bucket in range(BUCKETS + 1):
        more = counts.get(bucket, 0)
        if bucket == BUCKETS or (rows and more and rows + more > pairs_per_shard):
            first = made[-1].first + made[-1].shards if made else 0
            made.append(Lane(len(made), start, bucket, first, max(1, -(-rows // pairs_per_shard))))
            start, rows = bucket, 0
        rows += more
    return made


def shard_sql(uid: str, first: str, shards: str) -> str:
    """Return the Spark SQL expression of a pair's shard: which of its lane's equal ranges of uids it falls in."""
    return f"cast({first} + floor(conv(substr({uid}, 1, 8), 16, 10) * {shards} / 4294967296L) as int)"
