"""Which evaluation images pairs resemble, against a plain loop over the same rows."""

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from filters.signals.evaluation_overlap import PER_SET
from pipeline.analysis.contamination import CopyThresholds, find_copies

SETS = ("photo", "sketch")


KEYS = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))


@st.composite
def entries(draw: st.DrawFn, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"set": name, "pdq_quality": draw(st.integers(0, 100))}
    numbers = {"pdq_distance": st.integers(0, 60), "cosine": st.sampled_from([0.5, 0.9, 0.95]), "aligned": st.just(0.8)}
    for column, values in numbers.items():
        key = draw(KEYS)
        found[column.replace("pdq_distance", "pdq") + "_key"] = key
        found[column] = None if key is None else draw(values)
    return found


ROWS = st.lists(st.tuples(*(entries(name) for name in SETS)), min_size=1, max_size=12)


NEAR = st.builds(
    CopyThresholds,
    st.one_of(st.none(), st.integers(0, 60)),
    st.one_of(st.none(), st.sampled_from([0.9, 1.0])),
    st.one_of(st.none(), st.sampled_from([0.7, 0.9])),
    st.just(50),
)


def resembled(one: dict[str, Any], near: CopyThresholds) -> set[str]:
    """Return the keys of the images that an entry says a pair resembles."""
    keys = set()
    distance, quality = one["pdq_distance"], one["pdq_quality"]
    if None not in (near.pdq_distance, distance) and distance <= near.pdq_distance and quality >= near.min_quality:
        keys.add(one["pdq_key"])
    for search, least in (("cosine", near.cosine), ("aligned", near.aligned)):
        if None not in (least, one[search]) and one[search] >= least:
            keys.add(one[f"{search}_key"])
    return keys


@given(ROWS, NEAR)
def test_pairs_and_images_are_those_that_the_thresholds_reach(rows: list[Any], near: CopyThresholds) -> None:
    column = pa.chunked_array([pa.array(map(list, rows), pa.list_(pa.field("element", PER_SET)))])
    found = find_copies(column, near)
    for place, name in enumerate(SETS):
        mine = [resembled(row[place], near) for row in rows]
        assert found[name].pairs == sum(map(bool, mine))
        assert found[name].keys == set().union(*mine)


def test_a_score_at_the_threshold_is_one_of_a_copy() -> None:
    """Scores are kept in 32 bits, in which 0.9 is not what it is in 64."""
    one = {"set": "photo", "cosine": 0.9, "cosine_key": "k"}
    column = pa.chunked_array([pa.array([[one]], pa.list_(pa.field("element", PER_SET)))])
    assert find_copies(column, CopyThresholds(None, 0.9, None, 50))["photo"].keys == {"k"}


def test_of_no_pairs_nothing_is_said() -> None:
    column = pa.chunked_array([pa.array([], pa.list_(pa.field("element", PER_SET)))])
    assert find_copies(column, CopyThresholds(31, 0.9, 0.7, 50)) == {}
