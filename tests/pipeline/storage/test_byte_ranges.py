"""Ranges are gathered byte for byte, by few requests from a bucket, and one that is not there leaves nothing behind."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.tar_writer import write_tar
from pipeline.storage.byte_ranges import ByteRanges, merge_ranges, read_ranges
from pipeline.storage.store import Store
from tests.support.s3 import BUCKET, bucket
from tests.support.shard_files import PAIRS, members_of, write_shards


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def pieces(store: Store) -> ByteRanges:
    return write_shards(store)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, ByteRanges]:
    """Write one store for all examples of a property."""
    store = Store(str(tmp_path_factory.mktemp("gathered")))
    return store, write_shards(store)


@given(st.permutations(range(PAIRS)), st.integers(1, 40_000))
def test_windows_of_any_size_gather_the_same_bytes(
    same: tuple[Store, ByteRanges], order: list[int], window: int
) -> None:
    store, pieces = same
    found = list(map(bytes, read_ranges(store, pieces.take(np.array(order)), window)))
    assert b"".join(found) == b"".join(map(members_of, order))
    assert max(map(len, found)) <= max(window, int(pieces.sizes.max()))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2000), st.integers(1, 30)), min_size=1, max_size=60),
    st.integers(0, 40),
    st.integers(1, 300),
)
def test_requests_cover_every_range_and_no_more_than_their_bounds(
    given_: list[tuple[int, int, int]], gap: int, most: int
) -> None:
    blocks = sorted({(shard, start) for shard, start, _ in given_})
    rows = [(shard, start, min(length, after - start)) for (shard, start), length, after in _with_next(blocks, given_)]
    of, offsets, lengths = (np.array(column) for column in zip(*rows, strict=True))
    found = merge_ranges(of.astype(np.int32), offsets, lengths, gap, most)
    assert found.first[0] == 0
    assert found.first[-1] == len(rows)
    for number, (first, last) in enumerate(zip(found.first[:-1], found.first[1:], strict=True)):
        mine = rows[first:last]
        start, end = int(found.starts[number]), int(found.ends[number])
        assert {row[0] for row in mine} == {int(found.of[number])}
        assert (start, end) == (mine[0][1], mine[-1][1] + mine[-1][2])
        assert end - start <= most or len(mine) == 1
        assert all(later[1] - (one[1] + one[2]) <= gap for one, later in pairwise(mine))
    for one, later in zip(found.first[1:-1], found.first[2:], strict=True):  # no request could have held the next range
        assert later > one
        before, row = rows[one - 1], rows[one]
        number = int(np.searchsorted(found.first, one, "left")) - 1
        near = before[0] == row[0] and row[1] - before[1] - before[2] <= gap
        assert not near or row[1] + row[2] - int(found.starts[number]) > most


def _with_next(blocks: list[tuple[int, int]], given_: list[tuple[int, int, int]]) -> Iterator[Any]:
    """Yield each range's place, its length, and where the next range of its shard starts: they do not overlap."""
    lengths = {(shard, start): length for shard, start, length in given_}
    for block, later in zip(blocks, [*blocks[1:], (-1, 0)], strict=True):
        yield block, lengths[block], later[1] if later[0] == block[0] else 10**9


@pytest.mark.parametrize(("offset", "size"), [(0, 1 << 20), (1 << 20, 512), (-512, 512), (0, -512), (0, 0), (0, 511)])
def test_a_range_outside_its_shard_is_an_error_and_leaves_nothing(
    store: Store, pieces: ByteRanges, offset: int, size: int
) -> None:
    pieces.offsets[1], pieces.sizes[1] = offset, size
    with pytest.raises((OSError, ValueError), match=r"ledger"):
        write_tar(store, "e", 0, pieces)
    assert store.files("e") == []


def test_a_range_over_the_end_names_shard_place_and_lengths(store: Store, pieces: ByteRanges) -> None:
    length = store.size(pieces.shards[0])
    pieces.offsets[0], pieces.sizes[0] = length - 100, 512
    with pytest.raises(OSError, match=rf"{pieces.shards[0]}: 100 bytes at {length - 100}, the ledger says 512"):
        write_tar(store, "e", 0, pieces)


def test_a_shard_that_is_gone_is_an_error_and_leaves_nothing(store: Store, pieces: ByteRanges) -> None:
    store.remove(pieces.shards[-1])
    with pytest.raises(FileNotFoundError):
        write_tar(store, "e", 0, pieces)
    assert store.files("e") == []


def test_an_export_that_fails_leaves_the_tar_that_was_there(store: Store, pieces: ByteRanges) -> None:
    write_tar(store, "e", 0, pieces.take(np.array([0])))
    before = store.read("e/00000000.tar")
    pieces.offsets[0] = 1 << 30
    with pytest.raises(OSError, match="the ledger says"):
        write_tar(store, "e", 0, pieces)
    assert store.read("e/00000000.tar") == before


def test_a_bucket_is_asked_few_times_for_ranges_that_lie_near(
    store: Store, pieces: ByteRanges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = np.array([20, 0, 7, 21, 5, 2, 16, 9, 4, 22, 11])
    here = write_tar(store, "e", 0, pieces.take(chosen))
    with bucket(tmp_path):
        there = Store(f"s3://{BUCKET}/x")
        for shard in pieces.shards:
            there.write(shard, store.read(shard))
        asked: list[tuple[str, str]] = []
        call = type(there.fs)._call_s3

        async def counted(fs: Any, method: str, *arguments: Any, **named: Any) -> Any:
            if method == "get_object":
                asked.append((named["Key"], named.get("Range", "")))
            return await call(fs, method, *arguments, **named)

        monkeypatch.setattr(type(there.fs), "_call_s3", counted)
        assert write_tar(there, "e", 0, pieces.take(chosen)) == here
        assert there.read("e/00000000.tar") == store.read("e/00000000.tar")
        ranged = [key for key, span in asked if span]
        assert len(ranged) == len(set(ranged)) == len(pieces.shards) < len(chosen)  # one request for each shard
        pieces.offsets[0] = store.size(pieces.shards[0]) - 512
        with pytest.raises(OSError, match="the ledger says"):
            write_tar(there, "f", 0, pieces.take(np.array([0])))
        assert there.files("f") == []
