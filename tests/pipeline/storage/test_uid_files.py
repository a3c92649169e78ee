"""Subset files: what DataComp's tools write is read, what we write they read, and a file that is none is refused."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli.main import main
from pipeline.errors import InputError
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.storage.store import Store
from pipeline.storage.uid_files import check_subset, contains, open_subset, read_subset, write_subset

UIDS = st.lists(
    st.text("0123456789abcdef", min_size=32, max_size=32)
    | st.sampled_from(["0" * 32, "f" * 32, "0" * 16 + "f" * 16, "0" * 15 + "1" + "0" * 16, "0" * 30 + "10"]),
    max_size=40,
)


def keys_of(uids: list[str]) -> Any:
    return np.frombuffer(bytes.fromhex("".join(uids)), "S16")


def as_datacomp(uids: list[str]) -> Any:
    """Return what mlfoundations/datacomp makes of uids: pairs of whole numbers, sorted."""
    found = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in sorted(set(uids))], np.dtype("u8,u8"))
    return np.sort(found)


def written(uids: list[str]) -> bytes:
    stream = io.BytesIO()
    assert write_subset(stream, keys_of(uids)) == len(set(uids))
    return stream.getvalue()


@given(UIDS)
def test_a_subset_is_what_datacomp_would_write_and_comes_back_as_it_was(uids: list[str]) -> None:
    data = written(uids)
    theirs = io.BytesIO()
    np.save(theirs, as_datacomp(uids))
    assert data == theirs.getvalue()


@given(uids=UIDS, others=UIDS)
def test_a_subset_that_is_read_or_mapped_lists_what_was_written(
    uids: list[str], others: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.npy"
    path.write_bytes(written(uids))
    check_subset(str(path))
    assert [key.ljust(16, b"\0").hex() for key in read_subset(str(path))] == sorted(set(uids))
    mapped = open_subset(path)
    assert [f"{high:016x}{low:016x}" for high, low in mapped.tolist()] == sorted(set(uids))
    asked = others + uids
    assert contains(mapped, keys_of(asked)).tolist() == [uid in uids for uid in asked]


def test_reading_goes_on_from_block_to_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.uid_files._BLOCK", 3)
    uids = [f"{number:032x}" for number in range(10)]
    path = tmp_path / "blocks.npy"
    path.write_bytes(written(uids))
    assert len(read_subset(str(path))) == len(open_subset(path)) == 10
    wrong = as_datacomp(uids)
    wrong[[2, 3]] = wrong[[3, 2]]  # on both sides of where a block ends
    np.save(path, wrong)
    for read in (lambda: read_subset(str(path)), lambda: open_subset(path)):
        with pytest.raises(InputError, match=r"blocks.npy: expected sorted uids, each once; entry 3 is not above"):
            read()


GOOD = written([f"{number:032x}" for number in range(4)])


HEADER = len(GOOD) - 64


def saved(array: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "expected a subset"),
    "text": (b"0123456789abcdef0123456789abcdef\n", "expected a subset"),
    "cut in the magic": (GOOD[:5], "expected a subset"),
    "cut in the header": (GOOD[: HEADER - 9], "expected a subset"),
    "cut between uids": (GOOD[:-16], "expected 4 uids"),
    "cut in a uid": (GOOD[:-7], "(expected 4 uids|cannot be read)"),
    "more than announced": (GOOD + bytes(16), "expected 4 uids"),
    "unsorted": (saved(as_datacomp([f"{number:032x}" for number in range(4)])[::-1].copy()), "entry 1"),
    "twice": (saved(as_datacomp(["0" * 32, "1" * 32])[[0, 1, 1]]), "entry 2"),
    "other numbers": (saved(np.zeros(4, "i8,i8")), "expected a subset"),
    "other ends": (saved(np.zeros(4, ">u8,>u8")), "expected a subset"),
    "plain numbers": (saved(np.zeros((4, 2), np.uint64)), "expected a subset"),
    "a table": (saved(np.zeros((2, 2), "u8,u8")), "expected a subset"),
    "other names": (saved(np.zeros(4, [("a", "u8"), ("b", "u8")])), "expected a subset"),
    "objects": (saved(np.array([("a", 1)], object), allow_pickle=True), "expected a subset"),
    "a shape that is code": (GOOD.replace(b"(4,)", b"(9**9,)"[:4]), "expected a subset"),
    "a header that is code": (GOOD.replace(b"'shape': (4,)", b"'shape': f(4)"), "expected a subset"),
    "a header without end": (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000, "expected a subset"),
    "a version that is none": (GOOD.replace(b"\x01\x00", b"\x07\x00", 1), "expected a subset"),
    "more than there can be": (GOOD.replace(b"(4,), }" + b" " * 14, b"(999999999999999,), }"), "999999999999999 uids"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_is_no_subset_is_refused_by_its_name(what: str, tmp_path: Path) -> None:
    data, said = HOSTILE[what]
    path = tmp_path / "hostile.npy"
    path.write_bytes(data)
    for read in (read_subset, check_subset, lambda name: open_subset(Path(name))):
        with pytest.raises(InputError, match=rf"{path}: .*{said}"):
            read(str(path))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path):
        for read in (read_subset, lambda name: open_subset(Path(name))):
            with pytest.raises(InputError, match=f"{path}: cannot be read"):
                read(str(path))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in which the filter `best` was decided twice; the later one keeps every third pair."""
    root = tmp_path / "store"
    ledger = Ledger(Store(str(root)))
    for number, job in enumerate(("a" * 64, "b" * 64)):
        uids = [f"{one * 7919:032x}" for one in range(30)]
        keeps = [one % 3 == 0 or number == 0 for one in range(30)]
        rows = {"uid": uids, "source": ["s"] * 30, "filter": ["best"] * 30, "keep": keeps, "reason": [""] * 30}
        table = pa.table(rows, TABLES["decisions"])
        files = [write_rows(ledger.store, job, "decisions", part) for part in (table.slice(0, 11), table.slice(11))]
        ledger.commit(job, "decisions", TABLES["decisions"], files)
        when = datetime(2026, 11, 1 + number, tzinfo=UTC)
        ledger.finish([JobRow(job, "decide", "best", when, when, {"decisions": 30}, {}, [], "", {}, {})])
    return root


def test_the_command_writes_what_the_latest_decision_keeps(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept.npy"
    assert main(["subset", str(store), "best", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"filter": "best", "job": "b" * 64, "pairs": 10, "file": str(out)}
    expected = as_datacomp([f"{one * 7919:032x}" for one in range(0, 30, 3)])
    assert np.array_equal(np.load(out, allow_pickle=False), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.npy", "store"]
    assert main(["subset", str(store), "best", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 10 pairs kept by best\n"


def test_what_the_command_cannot_do_is_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        (
            [str(store), "bset", "--out", str(tmp_path / "x.npy")],
            "unknown decided filter 'bset' (did you mean 'best'?)",
        ),
        ([str(store), "best", "--out", str(tmp_path / "no" / "x.npy")], "no: no such folder"),
        ([str(store), "best", "--out", str(store)], "cannot be written"),
        ([str(tmp_path / "none"), "best", "--out", "x.npy"], "no store"),
    ):
        assert main(["subset", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.startswith("cuvee: ") and error.count("\n") == 1  # noqa: PT018
    assert list(tmp_path.glob("*.draft")) == []
