"""Fingerprints among some: what counting bits finds, whatever the way they are looked up."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images import pdq_search
from pipeline.images.pdq_search import MAX_BAND_DISTANCE_BITS, PdqIndex


def codes(values: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, 32)


def counted(prints: list[bytes], others: list[bytes], limits: list[int]) -> list[int]:
    found = []
    for one in prints:
        slack = [
            limit - (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()
            for other, limit in zip(others, limits, strict=True)
        ]
        found.append(slack.index(max(slack)) if slack and max(slack) >= 0 else -1)
    return found


CODE = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize(("few", "part", "most"), [(0, 2, 3), (0, 100, 1000), (2, 100, 1), (100, 100, 2)])
@given(others=st.lists(CODE, max_size=6), data=st.data())
def test_the_closest_is_the_one_that_counting_bits_finds(
    few: int, part: int, most: int, others: list[bytes], data: st.DataObject
) -> None:
    prints = data.draw(st.lists(CODE, max_size=3))
    for other in others:  # and some about as far as bands reach
        flips = data.draw(st.sets(st.integers(0, 255), min_size=20, max_size=36))
        prints.append((int.from_bytes(other) ^ sum(1 << bit for bit in flips)).to_bytes(32))
    limits = [
        data.draw(st.sampled_from([0, 20, 30, MAX_BAND_DISTANCE_BITS, MAX_BAND_DISTANCE_BITS + 1, 200])) for _ in others
    ]
    with patch.multiple(pdq_search, FLAT_SEARCH_MAX=few, TABLE_FINGERPRINTS=part, MAX_PAIRS=most):
        found = PdqIndex(codes(others), np.array(limits, np.int64)).closest(codes(prints))
    assert found.tolist() == counted(prints, others, limits)


@given(st.lists(CODE, min_size=1, max_size=4), st.permutations(range(256)))
def test_bands_lose_no_copy_within_their_reach(others: list[bytes], bits: list[int]) -> None:
    near = [
        (int.from_bytes(one) ^ sum(1 << bit for bit in bits[:MAX_BAND_DISTANCE_BITS])).to_bytes(32) for one in others
    ]
    with patch.object(pdq_search, "FLAT_SEARCH_MAX", 0):
        found = PdqIndex(codes(others), np.full(len(others), MAX_BAND_DISTANCE_BITS)).closest(codes(near))
    assert (found >= 0).all()


def test_one_at_a_time_finds_the_same() -> None:
    rng = np.random.default_rng(0)
    others = rng.integers(0, 256, (3000, 32), np.uint8)
    flips = np.array([0, *[1] * MAX_BAND_DISTANCE_BITS], np.uint8)
    prints = np.concatenate([others[::100] ^ flips, rng.integers(0, 256, (20, 32), np.uint8)])
    limits = np.full(3000, MAX_BAND_DISTANCE_BITS)
    many, single = PdqIndex(others, limits), PdqIndex(others, limits, one_by_one=True)
    found = many.closest(prints).tolist()
    assert found == [*range(0, 3000, 100), *[-1] * 20]
    assert found == [int(single.closest(one[None])[0]) for one in prints]


@given(st.lists(CODE, min_size=1, max_size=3))
def test_a_band_has_every_sixteenth_bit(values: list[bytes]) -> None:
    bits = np.unpackbits(codes(values), axis=1).reshape(-1, 16, 16)
    expected = [[int("".join(map(str, one[:, band])), 2) for one in bits] for band in range(16)]
    assert pdq_search._values(codes(values)).tolist() == expected
