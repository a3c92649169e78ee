"""Uids as numbers: the same order, the same text, and files of them read or refused by their entry."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.uid_arrays import find_keys, halves, sort_order, uid_keys, uid_strings, unique_keys
from pipeline.errors import InputError, StageFailed
from pipeline.storage import uid_files
from pipeline.storage.uid_files import read_uids, write_subset

HALVES = st.sampled_from(["0" * 16, "f" * 16]) | st.text("0123456789abcdef", min_size=16, max_size=16)


UIDS = st.lists(st.builds("{}{}".format, HALVES, HALVES), max_size=40)


ENDS = ["0" * 32, "f" * 32, "0" * 31 + "1", "1" + "0" * 31, "ab" * 15 + "0000"[:2]]


@given(UIDS, st.integers(0, 5), st.integers(0, 5))
@example(ENDS, 0, 0)
@example(ENDS, 1, 2)
@example([], 0, 0)
def test_a_column_of_uids_is_read_and_written_as_it_is(given_: list[str], skip: int, cut: int) -> None:
    column = pa.chunked_array([pa.array(given_, pa.string()), pa.array(given_, pa.string())]).slice(skip)
    column = column.slice(0, max(0, len(column) - cut))
    assert uid_strings(uid_keys(column)).to_pylist() == column.to_pylist()
    assert uid_strings(uid_keys(pa.array(given_, pa.large_string()))).type == pa.string()


@given(UIDS)
@example(ENDS)
def test_keys_are_in_the_order_of_their_texts(given_: list[str]) -> None:
    found = uid_keys(pa.array(given_, pa.string()))
    assert uid_strings(found[sort_order(found)]).to_pylist() == sorted(given_)
    assert uid_strings(unique_keys(found)).to_pylist() == sorted(set(given_))
    high, low = halves(found)
    assert [(int(one), int(other)) for one, other in zip(high, low, strict=True)] == [
        (int(uid[:16], 16), int(uid[16:], 16)) for uid in given_
    ]


@given(UIDS, UIDS)
@example(ENDS, ENDS[:2])
@example(ENDS, [])
def test_places_are_found_where_a_key_is(wanted: list[str], among: list[str]) -> None:
    ordered = sorted({*among, *wanted[::2]})
    at, there = find_keys(uid_keys(pa.array(wanted, pa.string())), uid_keys(pa.array(ordered, pa.string())))
    assert there.tolist() == [uid in ordered for uid in wanted]
    assert [ordered[place] for place in at[there]] == [uid for uid in wanted if uid in ordered]


@pytest.mark.parametrize("uid", ["0" * 31, "0" * 33, "x" * 32, "", None])
def test_what_is_no_uid_in_the_ledger_is_a_failure(uid: str | None) -> None:
    with pytest.raises(StageFailed, match="32 hex digits"):
        uid_keys(pa.array(["0" * 32, uid], pa.string()))


@given(UIDS, st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
def test_a_file_of_uids_is_read_whatever_its_blocks(
    tmp_path_factory: pytest.TempPathFactory, given_: list[str], newline: str, ends: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "uids"
    path.write_bytes((newline.join(given_) + (newline if ends else "")).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uid_files, "_TEXT_BLOCK", 50)
        found, repeated = read_uids(str(path))
    assert uid_strings(found).to_pylist() == sorted(set(given_))
    assert repeated == len(given_) - len(set(given_))
    with path.open("wb") as stream:
        write_subset(stream, uid_keys(pa.array(given_, pa.string())))
    assert read_uids(str(path))[0].tolist() == found.tolist()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"0" * 31, r"entry 1: expected a uid of 32 hex digits, found '0000"),
        (b"0" * 32 + b"\n" + b"g" * 32, r"entry 2: expected a uid"),
        (b"0" * 32 + b"\n" + b"A" * 32, r"entry 2: expected a uid"),
        (b"\xff\xfe\n", r"entry 1: expected a uid"),
        (b"1" * 100_000, r"expected a uid a line, found a line of more than 4096 bytes"),
        ((b"1" * 32 + b" ") * 200, r"expected a uid a line, found a line of more than 4096 bytes"),
        (b"\x93NUMPY\x01\x00", r"expected a subset as DataComp writes it"),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_entry(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "uids"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        read_uids(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 300
    with pytest.raises(InputError, match="cannot be read"):
        read_uids(str(tmp_path / "none"))


def test_no_uid_in_a_file_is_no_uid(tmp_path: Path) -> None:
    (tmp_path / "uids").write_bytes(b"")
    found, repeated = read_uids(str(tmp_path / "uids"))
    assert (len(found), repeated) == (0, 0)
    assert np.array_equal(unique_keys(found), found)
