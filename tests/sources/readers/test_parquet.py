"""The published formats in Parquet (LAION, DataComp, COYO): the contract of `test_sources`, and their traps."""

import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.records import MALFORMED, WHOLE_FILE, PublishedRow
from sources.registry import source_format
from tests.sources.test_contract import PAIRS, SourceContract, read


def parquet_file(columns: dict[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, **options)
    return stream.getvalue()


def texts(values: Sequence[str | bytes]) -> pa.Array:
    """Return a column of strings, as publishers write them: nothing checks that they are UTF-8."""
    raw = [value if isinstance(value, bytes) else value.encode() for value in values]
    return pa.array(raw, pa.binary()).cast(pa.string(), safe=False)


class ParquetContract(SourceContract):
    """What every format in Parquet keeps beyond the contract; `columns` are those of its published files."""

    url, text = "url", "text"
    test_a_row_that_cannot_be_read_stands_in_its_place = None  # Parquet has no such row: each has all columns

    def columns(self, pairs: Sequence[tuple[str, str | bytes]]) -> dict[str, Any]:
        raise NotImplementedError

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        return parquet_file(self.columns(pairs), row_group_size=2)

    def test_columns_in_another_order_and_more_of_them(self) -> None:
        columns = dict(reversed(self.columns(PAIRS).items())) | {"new": [[1]] * len(PAIRS)}
        assert read(self.kind, parquet_file(columns)) == read(self.kind, self.file(PAIRS))

    @pytest.mark.parametrize(
        "kind",
        [pa.binary(), pa.large_binary(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    )
    def test_text_columns_of_other_types(self, kind: pa.DataType) -> None:
        columns = self.columns(PAIRS)
        for name in (self.url, self.text):
            columns[name] = pa.array(columns[name].to_pylist()).cast(kind)
        assert read(self.kind, parquet_file(columns)) == read(self.kind, self.file(PAIRS))

    def test_nulls_are_empty(self) -> None:
        columns = self.columns(PAIRS[:1])
        nulls = {name: pa.nulls(1, column.type) for name, column in columns.items()}
        (only,) = read(self.kind, parquet_file(nulls))
        assert only == PublishedRow(1)

    def test_a_missing_column_is_named_once(self) -> None:
        columns = self.columns(PAIRS)
        del columns[self.text]
        content = parquet_file(columns, row_group_size=1)
        assert source_format(self.kind).parts(io.BytesIO(content), 1) == [WHOLE_FILE]
        (only,) = read(self.kind, content)
        assert (only.line, only.problem) == (1, MALFORMED)
        assert only.detail.startswith(f"expected columns {self.text}, found ")
        assert self.url in only.detail

    def test_a_cell_that_is_no_text_costs_its_row_alone(self) -> None:
        columns = self.columns(PAIRS) | {self.url: pa.array([["http://a.test/"]] * len(PAIRS))}
        assert [row.problem for row in read(self.kind, parquet_file(columns))] == [MALFORMED] * len(PAIRS)

    def test_empty_row_groups_count_no_rows(self) -> None:
        table = pa.table(self.columns(PAIRS))
        stream = io.BytesIO()
        with pq.ParquetWriter(stream, table.schema) as writer:
            for piece in (table.slice(0, 0), table.slice(0, 3), table.slice(0, 0), table.slice(3)):
                writer.write_table(piece)
        rows = read(self.kind, stream.getvalue())
        assert [(row.line, row.url) for row in rows] == list(enumerate((url for url, _ in PAIRS), start=1))

    def test_a_damaged_row_group_is_one_malformed_row_and_the_next_is_read(self) -> None:
        many = PAIRS * 4
        content = parquet_file(self.columns(many), row_group_size=5, use_dictionary=False, write_page_checksum=True)
        group = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(1)
        first = min(group.column(number).data_page_offset for number in range(group.num_columns))
        damaged = bytearray(content)
        last = first + sum(group.column(number).total_compressed_size for number in range(group.num_columns))
        damaged[last - 3 : last] = b"\xff\xff\xff"
        for place in range(first, first + 12):
            damaged[place] ^= 0xFF
        rows = read(self.kind, bytes(damaged))
        whole = read(self.kind, content)
        (bad,) = [row for row in rows if row.problem]
        assert bad.detail.startswith("expected a whole row group 1, found ")
        assert rows[:5] == whole[:5]
        assert [row.url for row in rows[-10:]] == [row.url for row in whole[-10:]]
        assert [row.line for row in rows] == list(range(1, len(rows) + 1))


class TestLaion(ParquetContract):
    """LAION-400M's columns."""

    kind = "laion"
    url, text = "URL", "TEXT"

    def columns(self, pairs: Sequence[tuple[str, str | bytes]]) -> dict[str, Any]:
        count = len(pairs)
        return {
            "SAMPLE_ID": pa.array(range(2**62, 2**62 + count), pa.int64()),
            "URL": texts([url for url, _ in pairs]),
            "TEXT": texts([text for _, text in pairs]),
            "HEIGHT": pa.array([480] * count, pa.int32()),
            "WIDTH": pa.array([640] * count, pa.int32()),
            "LICENSE": pa.array(["?", "cc-by-2.0", "", None, "?"] * count, pa.string())[:count],
            "NSFW": pa.array(["UNLIKELY", None, "UNSURE", "NSFW", ""] * count, pa.string())[:count],
            "similarity": pa.array([float("nan"), 1.7, -1.2, 0.3, float("inf")] * count, pa.float64())[:count],
        }

    def test_ids_licences_and_scores_are_as_published(self) -> None:
        rows = read("laion", self.file(PAIRS))
        assert [row.record_id for row in rows] == [str(2**62 + number) for number in range(5)]
        assert [row.licence for row in rows] == ["", "cc-by-2.0", "", "", ""]
        size = {"HEIGHT": 480, "WIDTH": 640}
        assert [row.published for row in rows] == [
            size | {"NSFW": "UNLIKELY"},
            size | {"similarity": 1.7},
            size | {"NSFW": "UNSURE", "similarity": -1.2},
            size | {"NSFW": "NSFW", "similarity": 0.3},
            size,
        ]

    def test_ids_and_sizes_as_floats_or_decimals(self) -> None:
        columns = self.columns(PAIRS[:2])
        columns["SAMPLE_ID"] = pa.array([1_000_000_000_001.0, None], pa.float64())
        assert [row.record_id for row in read("laion", parquet_file(columns))] == ["1000000000001", ""]
        columns["SAMPLE_ID"] = pa.array([Decimal(12), Decimal(13)], pa.decimal128(20, 2))
        assert [row.record_id for row in read("laion", parquet_file(columns))] == ["12", "13"]

    def test_scores_are_those_that_the_reader_names(self) -> None:
        scores = source_format("laion").scores
        assert scores["similarity"] == pa.float64()
        assert scores["NSFW"] == pa.string()


class TestLaionJoined(ParquetContract):
    """LAION-2B-en joined with safety and watermark, as the aesthetics carry it on: no id, floats as float32."""

    kind = "laion"
    url, text = "URL", "TEXT"

    def columns(self, pairs: Sequence[tuple[str, str | bytes]]) -> dict[str, Any]:
        count = len(pairs)
        return {
            "URL": texts([url for url, _ in pairs]),
            "TEXT": texts([text for _, text in pairs]),
            "WIDTH": pa.array([640.0] * count, pa.float64()),
            "HEIGHT": pa.array([480.0] * count, pa.float64()),
            "similarity": pa.array([0.25] * count, pa.float64()),
            "hash": pa.array([-(2**63) + 1] * count, pa.int64()),
            "punsafe": pa.array([0.5, None, float("nan"), 0.25, 0.125] * count, pa.float32())[:count],
            "pwatermark": pa.array([0.75] * count, pa.float32()),
            "AESTHETIC_SCORE": pa.array([6.5] * count, pa.float32()),
        }

    def test_hash_is_carried_and_is_no_hash_of_the_image(self) -> None:
        row = read("laion", self.file(PAIRS))[0]
        assert row.hashes == {}
        assert row.published == {
            "WIDTH": 640.0,
            "HEIGHT": 480.0,
            "similarity": 0.25,
            "hash": -(2**63) + 1,
            "punsafe": 0.5,
            "pwatermark": 0.75,
            "AESTHETIC_SCORE": 6.5,
        }

    @pytest.mark.parametrize("caption", ["text", "caption"])
    def test_names_in_lower_case_have_the_same_names_behind(self, caption: str) -> None:
        columns = {name.lower(): column for name, column in self.columns(PAIRS).items()}
        columns = {caption if name == "text" else name: column for name, column in columns.items()}
        assert read("laion", parquet_file(columns)) == read("laion", self.file(PAIRS))

    def test_a_column_that_stands_twice_is_missing(self) -> None:
        arrays, names = [texts(["a"])] * 3, ["URL", "TEXT", "TEXT"]
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, names), stream)
        (only,) = read("laion", stream.getvalue())
        assert only.detail == "expected columns TEXT, found URL, TEXT, TEXT"

    def test_a_score_that_is_no_number_is_kept_as_text_beside(self) -> None:
        columns = self.columns(PAIRS[:2]) | {"punsafe": ["0.5", "high" * 30]}
        rows = read("laion", parquet_file(columns))
        assert rows[0].published["punsafe"] == 0.5
        assert "punsafe" not in rows[1].published
        assert rows[1].published["punsafe_unreadable"] == "high" * 20


BOX = [0.1, 0.2, 0.3, 0.4]


NAN, INFINITY = float("nan"), float("inf")


NO_BOXES = [None, [], BOX[:3], [*BOX, 0.5], [0.1, 0.2, None, 0.4], [0.1, NAN, 0.3, 0.4], [0.1, 0.2, INFINITY, 0.4]]


NO_BOXES += [[0.3, 0.2, 0.1, 0.4], [0.1, 0.2, 0.1, 0.4]]


class TestDataComp(ParquetContract):
    kind = "datacomp"

    def columns(self, pairs: Sequence[tuple[str, str | bytes]], faces: Any = None) -> dict[str, Any]:
        count = len(pairs)
        boxes = [[], [BOX], None, [BOX, [0.5, 0.5, 0.75, 1.0]], []] if faces is None else faces
        return {
            "uid": texts([f"{number:032x}" for number in range(count)]),
            "url": texts([url for url, _ in pairs]),
            "text": texts([text for _, text in pairs]),
            "original_width": pa.array([640] * count, pa.int64()),
            "original_height": pa.array([480] * count, pa.int64()),
            "clip_b32_similarity_score": pa.array([0.25] * count, pa.float32()),
            "clip_l14_similarity_score": pa.array([float("nan")] * count, pa.float32()),
            "face_bboxes": pa.array((boxes * count)[:count], pa.list_(pa.list_(pa.float64()))),
            "sha256": texts(["AB" * 32] * count),
        }

    def test_ids_hashes_boxes_and_scores(self) -> None:
        rows = read("datacomp", self.file(PAIRS))
        assert rows[1].record_id == "0" * 31 + "1"
        assert rows[1].hashes == {"sha256": "ab" * 32}
        assert [len(row.faces) for row in rows] == [0, 1, 0, 2, 0]
        assert rows[3].faces == ((0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.75, 1.0))
        size = {"original_width": 640, "original_height": 480}
        assert rows[1].published == size | {"clip_b32_similarity_score": 0.25}

    def test_a_box_over_the_edge_is_clipped_and_one_beyond_it_left_out(self) -> None:
        faces = [[[-0.1, 0.5, 0.2, 1.25], [1.1, 0.1, 1.2, 0.2]]]
        (row,) = read("datacomp", parquet_file(self.columns(PAIRS[:1], faces)))
        assert row.faces == ((0.0, 0.5, 0.2, 1.0),)

    @pytest.mark.parametrize("box", NO_BOXES)
    def test_a_row_with_a_box_that_is_none_is_malformed(self, box: Any) -> None:
        rows = read("datacomp", parquet_file(self.columns(PAIRS[:3], [[BOX], [BOX, box], [BOX]])))
        assert [row.problem for row in rows] == ["", MALFORMED, ""]
        assert "face box" in rows[1].detail

    @pytest.mark.parametrize("value", ["ab", "xy" * 32, "ab" * 33])
    def test_a_row_whose_hash_is_none_is_malformed(self, value: str) -> None:
        columns = self.columns(PAIRS[:1]) | {"sha256": texts([value])}
        (row,) = read("datacomp", parquet_file(columns))
        assert row.detail == f"expected sha256 as 64 hex digits, found {value}"

    def test_a_file_without_face_boxes_is_not_one_without_faces(self) -> None:
        columns = self.columns(PAIRS)
        del columns["face_bboxes"]
        (only,) = read("datacomp", parquet_file(columns))
        assert only.detail.startswith("expected columns face_bboxes, found uid, url")


class TestCoyo(ParquetContract):
    kind = "coyo"

    def columns(self, pairs: Sequence[tuple[str, str | bytes]]) -> dict[str, Any]:
        count = len(pairs)
        integers = ("width", "height", "text_length", "word_count", "num_tokens_bert", "num_tokens_gpt", "num_faces")
        floats = ("clip_similarity_vitb32", "clip_similarity_vitl14", "nsfw_score_opennsfw2", "nsfw_score_gantman")
        return {
            "id": pa.array(range(841_814_333_321, 841_814_333_321 + count), pa.int64()),
            "url": texts([url for url, _ in pairs]),
            "text": texts([text for _, text in pairs]),
            "image_phash": texts(["c9b6a7d8469c1959"] * count),
            **{name: pa.array([7] * count, pa.int32()) for name in integers},
            **{name: pa.array([0.5] * count, pa.float32()) for name in floats},
            "watermark_score": pa.array([float("nan"), 0.25, None, 0.25, 0.25] * count, pa.float32())[:count],
            "aesthetic_score_laion_v2": pa.array([5.5] * count, pa.float32()),
        }

    def test_the_phash_is_carried_and_checks_nothing(self) -> None:
        row = read("coyo", self.file(PAIRS))[1]
        assert row.record_id == "841814333322"
        assert row.hashes == {}
        assert row.published["image_phash"] == "c9b6a7d8469c1959"

    def test_scores_keep_their_names(self) -> None:
        reader, rows = source_format("coyo"), read("coyo", self.file(PAIRS))
        assert {name: rows[1].published[name] for name in reader.scores} == {
            "num_faces": 7.0,
            "clip_similarity_vitb32": 0.5,
            "clip_similarity_vitl14": 0.5,
            "nsfw_score_opennsfw2": 0.5,
            "nsfw_score_gantman": 0.5,
            "watermark_score": 0.25,
            "aesthetic_score_laion_v2": 5.5,
        }
        assert ["watermark_score" in row.published for row in rows] == [False, True, False, True, True]


LAION, DATACOMP = TestLaion(), TestDataComp()
"""Makers of files for other tests."""
