"""How hosts are put together into lanes, and lanes cut into shards."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.host_partitions import BUCKET_COUNT, partition_hosts

COUNTS = st.dictionaries(st.integers(0, BUCKET_COUNT - 1), st.integers(1, 300), max_size=60)


@given(COUNTS, st.integers(1, 200))
def test_a_lane_has_what_fits_in_a_shard_and_only_a_bucket_that_does_not_fit_has_several(
    counts: dict[int, int], pairs_per_shard: int
) -> None:
    made = partition_hosts(counts, pairs_per_shard)
    rows = [sum(counts.get(bucket, 0) for bucket in range(one.start, one.end)) for one in made]
    filled = [sum(one.start <= bucket < one.end for bucket in counts) for one in made]
    assert [one.number for one in made] == list(range(len(made)))
    assert [one.start for one in made] == [0, *[one.end for one in made[:-1]]]
    assert made[-1].end == BUCKET_COUNT
    assert [one.first for one in made] == [sum(one.shards for one in made[:number]) for number in range(len(made))]
    for held, buckets, one in zip(rows, filled, made, strict=True):
        assert one.shards == max(1, -(-held // pairs_per_shard))
        assert one.shards == 1 or buckets == 1
    for (before, after), one in zip(pairwise(rows), made[1:], strict=True):
        first = next(counts[bucket] for bucket in sorted(counts) if bucket >= one.start)
        assert (before > 0, after > 0, before + first > pairs_per_shard) == (True, True, True)


def test_no_rows_are_one_lane() -> None:
    [one] = partition_hosts({}, 10)
    assert (one.start, one.end, one.shards) == (0, BUCKET_COUNT, 1)
