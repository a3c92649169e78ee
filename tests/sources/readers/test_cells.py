"""Parquet and its cells without trust: parts, damaged footers, and cells of every kind as plain JSON."""

import io
import json
import random
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pipeline.records import MALFORMED, WHOLE_FILE, FilePart, PublishedRow
from sources.readers import cells, parquet
from sources.registry import source_format
from tests.sources.readers.test_parquet import BOX, DATACOMP, LAION, parquet_file, texts
from tests.sources.test_contract import PAIRS, read, read_parts


def test_parts_are_runs_of_row_groups_of_about_the_size() -> None:
    content = parquet_file(LAION.columns(PAIRS * 20), row_group_size=10)
    reader = source_format("laion")
    assert reader.parts(io.BytesIO(content), 1) == [*(FilePart(n, n + 1) for n in range(9)), FilePart(9, None)]
    assert len(reader.parts(io.BytesIO(content), len(content) // 3)) == 3
    assert reader.parts(io.BytesIO(content), 1 << 40) == [FilePart(0, None)]
    assert [row.line for row in reader.read(io.BytesIO(content), FilePart(3, 5))] == list(range(1, 21))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"no parquet at all"])
def test_a_file_without_a_footer_is_one_part_with_one_malformed_row(content: bytes) -> None:
    assert source_format("coyo").parts(io.BytesIO(content), 1) == [WHOLE_FILE]
    (only,) = read("coyo", content)
    assert only.detail.startswith("expected a whole Parquet file, found ")


def test_a_damaged_footer_ends_no_process() -> None:
    """What pyarrow says of single columns aborts the process where their statistics are damaged."""
    content = DATACOMP.file(PAIRS * 4)
    footer = int.from_bytes(content[-8:-4], "little")
    assert footer > 400
    for bit in range(8):
        for place in random.Random(bit).sample(range(footer), 80):
            damaged = bytearray(content)
            damaged[len(content) - 8 - footer + place] ^= 1 << bit
            rows = read_parts("datacomp", bytes(damaged), 1)
            assert [row.line for row in rows] == list(range(1, len(rows) + 1)), (bit, place)


class Vanishing(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails_is_no_malformed_row() -> None:
    stream = Vanishing(parquet_file({"a": [1]}))
    with pytest.raises(OSError, match="Input/output error"):
        list(source_format("laion").read(stream))
    with pytest.raises(OSError, match="Input/output error"):
        source_format("laion").parts(stream, 1)


def test_cells_of_every_kind_become_plain_json() -> None:
    text = texts([b"caf\xe9"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), text)
    large = pa.LargeListArray.from_arrays(pa.array([0, 1], pa.int64()), text)
    columns = {
        "lists": lists,
        "large": large,
        "coded": pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), text.dictionary_encode()),
        "struct": pa.StructArray.from_arrays([text, lists], ["a", "b"]),
        "map": pa.array([[("k", 1.5)]], pa.map_(pa.string(), pa.float32())),
        "half": pa.array([1.5], pa.float16()),
        "exact": pa.array([Decimal("1.50")], pa.decimal128(5, 2)),
        "day": pa.array([date(2020, 2, 29)]),
        "moment": pa.array([datetime(2020, 2, 29, 12)], pa.timestamp("us")),
        "nan": pa.array([[float("nan"), 1.0]]),
        "flag": pa.array([True]),
    }
    wanted = parquet.ParquetColumns({name: (name,) for name in columns}, ())
    (row,) = parquet.read(
        io.BytesIO(parquet_file(columns)), WHOLE_FILE, wanted, lambda line, row: PublishedRow(line, published=dict(row))
    )
    assert row.published == {
        "lists": ["caf�"],
        "large": ["caf�"],
        "coded": ["caf�"],
        "struct": {"a": "caf�", "b": ["caf�"]},
        "map": [["k", 1.5]],
        "half": 1.5,
        "exact": 1.5,
        "day": "2020-02-29",
        "moment": "2020-02-29T12:00:00",
        "nan": [None, 1.0],
        "flag": True,
    }
    assert json.loads(json.dumps(row.published, allow_nan=False)) == row.published


def test_a_moment_that_python_cannot_hold_costs_its_row_group_alone() -> None:
    moments = pa.array([0, 2**62, 0], pa.timestamp("us"))
    content = parquet_file({"moment": moments}, row_group_size=1)
    rows = list(
        parquet.read(
            io.BytesIO(content),
            WHOLE_FILE,
            parquet.ParquetColumns({"moment": ("moment",)}, ()),
            lambda n, _: PublishedRow(n),
        )
    )
    assert [(row.line, row.problem) for row in rows] == [(1, ""), (2, MALFORMED), (3, "")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1e3", 1000.0),
        (" 2 ", 2.0),
        ("nan", None),
        ("-inf", None),
        ("1e999", None),
        (10**400, None),
        ("", None),
        (3, 3),
    ],
)
def test_numbers(value: Any, expected: float | None) -> None:
    assert cells.cell_number(value) == expected


@pytest.mark.parametrize("value", ["1_000", "high", "0x10", True, [1], {"a": 1}])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"number|float"):
        cells.cell_number(value)


def test_face_boxes_as_json_text() -> None:
    assert cells.face_boxes(json.dumps([BOX])) == (tuple(BOX),)
    assert cells.face_boxes(" ") == ()
    for bad in ("[", "3", "{}", "[[1]]", "[[true, 0, 1, 1]]", "[" * 100_000, '["a"]'):
        with pytest.raises(cells.BadCell):
            cells.face_boxes(bad)
