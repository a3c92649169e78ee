"""Pairs in the shards of a store, for the tests that copy them."""

import numpy as np

from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.byte_ranges import ByteRanges
from pipeline.storage.store import Store

PAIRS = 23


PER_SHARD = 6


UIDS = [f"{number * 7:032x}" for number in range(PAIRS)]


KEYS = np.array([bytes.fromhex(uid) for uid in UIDS], "S16")


def members_of(number: int) -> bytes:
    jpg = bytes([number]) * (1 + 211 * number)
    return pair_bytes(UIDS[number], jpg, f"caption {number} ü", {"number": number, "uid": UIDS[number]})


def write_shards(store: Store) -> ByteRanges:
    """Write the pairs to shards and return where each lies, in the order of their numbers."""
    of, offsets, lengths, names = [], [], [], []
    for first in range(0, PAIRS, PER_SHARD):
        names.append(f"shards/s/{first:08d}.tar")
        with store.create(names[-1]) as stream:
            writer = ShardWriter(stream)
            for number in range(first, min(first + PER_SHARD, PAIRS)):
                members = members_of(number)
                of.append(len(names) - 1)
                offsets.append(writer.append(members))
                lengths.append(len(members))
            writer.close()
    return ByteRanges(tuple(names), KEYS, np.array(of, np.int32), np.array(offsets), np.array(lengths))
