"""Host partitions: which pairs one task fetches, and which shard each pair is in. A host is in one partition only.

Hosts are hashed into `BUCKET_COUNT`. Adjacent buckets form a partition as long as one shard holds all of their pairs; a
bucket with more pairs is a partition by itself, cut into shards by ranges of uids. The result depends on the published
rows alone, so that neither the size of the cluster nor the order of the files changes a shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.fetch.urls import host_sql

BUCKET_COUNT = 4096


@dataclass(frozen=True)
class HostPartition:
    """A host partition: its number, its buckets [start, end), and its shards, `shards` of them from number `first`."""

    number: int
    start: int
    end: int
    first: int
    shards: int


def bucket_sql(url: str, uid: str) -> str:
    """Return the Spark SQL expression of a pair's bucket: by its URL's host, or by its uid if it has no host."""
    host = host_sql(url)
    return f"cast(crc32(if({host} = '', {uid}, {host})) % {BUCKET_COUNT} as int)"


def partition_hosts(counts: Mapping[int, int], pairs_per_shard: int) -> list[HostPartition]:
    """Return the host partitions of a source by the number of rows in each bucket; together they hold every bucket."""
    partitions: list[HostPartition] = []
    start, rows = 0, 0
    for bucket in range(BUCKET_COUNT + 1):
        count = counts.get(bucket, 0)
        if bucket == BUCKET_COUNT or (rows and count and rows + count > pairs_per_shard):
            first = partitions[-1].first + partitions[-1].shards if partitions else 0
            partitions.append(HostPartition(len(partitions), start, bucket, first, max(1, -(-rows // pairs_per_shard))))
            start, rows = bucket, 0
        rows += count
    return partitions


def shard_sql(uid: str, first: str, shards: str) -> str:
    """Return the Spark SQL expression of a pair's shard, by its partition's equal ranges of uids."""
    return f"cast({first} + floor(conv(substr({uid}, 1, 8), 16, 10) * {shards} / 4294967296L) as int)"
