"""Concepts found in captions, against a matcher that tries each; captions that repeat; both by Spark."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from filters.signals.base import PairBatch
from filters.signals.caption_frequency import CaptionFrequency
from filters.signals.caption_text import normalise_caption
from filters.signals.concepts import MAX_BYTES, Concepts, read_concepts
from filters.signals.registry import signal_spec
from jobs.spark.frames import table_frame
from pipeline.errors import InputError
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.tables import Ledger
from pipeline.shards.tar_format import StoredPair
from pipeline.storage.store import Store


def batch_of(captions: list[str]) -> PairBatch:
    pairs = [StoredPair(f"{n:032x}", b"", caption, {}, 0, 0) for n, caption in enumerate(captions)]
    return PairBatch(pairs, [{}] * len(pairs))


def list_of(folder: Path, *concepts: str) -> str:
    path = folder / "concepts.txt"
    path.write_text("".join(f"{concept}\n" for concept in concepts), "utf-8")
    return str(path)


def found(folder: Path, concepts: list[str], captions: list[str], match: str = "words") -> list[list[str]]:
    """Return the concepts found in each caption, in the order of the list."""
    columns = Concepts(list_of(folder, *concepts), match).compute(batch_of(captions))
    assert columns["concept_count"] == [len(numbers) for numbers in columns["concepts"]]
    return [[concepts[number] for number in numbers] for numbers in columns["concepts"]]


def refusal(path: str, match: str = "words") -> str:
    with pytest.raises(InputError) as caught:
        Concepts(path, match)
    message = str(caught.value)
    assert message.startswith(f"file: {path}: ")
    assert "\n" not in message
    return message.removeprefix(f"file: {path}: ")


def test_concepts_are_found_as_whole_words_and_told_by_their_lines(tmp_path: Path) -> None:
    concepts = ["dog", "hot dog", "art", "U.S.", "New York", "c++", "♥", "don't", "straße", "3"]
    answers = {
        "A DOG, a hot\n\tdog & another dog": ["dog", "hot dog"],
        "party of hotdogs": [],
        "(dog)art": ["dog", "art"],
        "the u.s. navy in new  york": ["U.S.", "New York"],
        "newyork, new-york": [],
        "learn C++!": ["c++"],
        "i♥dogs": ["♥"],
        "Don’t": ["don't"],  # noqa: RUF001
        "STRASSE 3 &amp; 33": ["straße", "3"],
        "dog_house": [],
        "": [],
        "\ud800 \x00": [],
    }
    assert found(tmp_path, concepts, list(answers)) == list(answers.values())


def test_a_concept_may_be_asked_for_inside_words(tmp_path: Path) -> None:
    concepts = ["dog", "猫", "dog s"]
    assert found(tmp_path, concepts, ["hotDogs", "黒猫の写真", "dog  school"], "anywhere") == [
        ["dog"],
        ["猫"],
        ["dog", "dog s"],
    ]
    assert found(tmp_path, concepts, ["hotdogs", "黒猫の写真", "dog school"]) == [[], [], ["dog"]]


def in_a_row(needle: list[str], hay: list[str]) -> bool:
    return any(hay[at : at + len(needle)] == needle for at in range(len(hay) - len(needle) + 1))


def plain_tokens(text: str) -> list[str]:
    """Return a text's words and signs, character by character."""
    tokens: list[str] = []
    glued = False
    for char in normalise_caption(text).casefold():
        word = char == "_" or char.isalnum()
        if word and glued:
            tokens[-1] += char
        elif not char.isspace():
            tokens.append(char)
        glued = word
    return tokens


TEXT = st.text("ab .-'é_1猫Aß\u0301", max_size=14) | st.text(max_size=10)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=12), st.lists(TEXT, max_size=4), st.sampled_from(["words", "anywhere"]))
def test_what_is_found_is_what_trying_each_concept_finds(
    tmp_path_factory: pytest.TempPathFactory, given: list[str], captions: list[str], match: str
) -> None:
    keys: dict[Any, str] = {}
    for text in given:
        line = " ".join(text.split())
        key = tuple(plain_tokens(line)) if match == "words" else normalise_caption(line).casefold()
        if key:
            keys.setdefault(key, line)
    if not keys:
        return
    captions = [*captions, " ".join(given)]
    columns = Concepts(list_of(tmp_path_factory.getbasetemp(), *keys.values()), match).compute(batch_of(captions))
    assert len(columns["concepts"]) == len(captions) > 0
    for caption, numbers in zip(captions, columns["concepts"], strict=True):
        if match == "words":
            expected = [n for n, key in enumerate(keys) if in_a_row(list(key), plain_tokens(caption))]
        else:
            expected = [
                n for n, key in enumerate(keys) if re.search(re.escape(key), normalise_caption(caption).casefold())
            ]
        assert numbers == expected, (caption, list(keys))


def test_a_list_is_read_as_it_stands_with_either_line_end_or_none_at_the_last(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for data in (b"dog\ncat\n", b"dog\r\ncat\r\n", b"\xef\xbb\xbfdog\ncat", b" DOG\t\n cat"):
        path.write_bytes(data)
        assert read_concepts(str(path), "words") == (" dog ", " cat ")
        assert read_concepts(str(path), "anywhere") == ("dog", "cat")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1: expected a concept, found an empty line"),
        (b"dog\n\ncat\n", "line 2: expected a concept, found an empty line"),
        (b"dog\n \t \n", "line 2: expected a concept, found an empty line"),
        (b"dog\n\0\n", "line 2: expected a concept, found an empty line"),
        (b"dog\ncat\n\n", "line 3: expected a concept, found an empty line"),
        (b"dog\ncat\nDog\n", "line 3: expected each concept once, found 'Dog', already in line 1"),
        (b"a.b\na . b\n", "line 2: expected each concept once, found 'a . b', already in line 1"),
        (b"dog\nc\xe9\n", "line 2: expected UTF-8: "),
        (b"\xff\xfed\0o\0g\0", "line 1: expected UTF-8: "),
        (b"dog\n" * (MAX_BYTES // 4) + b"x", f"expected at most {MAX_BYTES} bytes, found more"),
    ],
)
def test_a_list_that_is_none_is_refused_by_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    assert refusal(str(path)).startswith(message)


def test_what_cannot_be_read_is_refused_and_so_are_settings(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(str(tmp_path / "absent.txt"))
    assert "cannot be read" in refusal(str(tmp_path))
    assert "cannot be read" in refusal("nothing://a/b")
    path = list_of(tmp_path, "dog")
    for said, message in (
        ({"file": path, "match": "parts"}, "signals.concepts_v1.match: expected one of words, anywhere, found 'parts'"),
        ({"file": ""}, "signals.concepts_v1.file: expected a text file"),
        ({"file": [path]}, "signals.concepts_v1.file: expected a text file"),
        ({}, "signals.concepts_v1: expected the setting 'file'"),
    ):
        with pytest.raises(InputError) as caught:
            signal_spec("concepts_v1", said)
        assert str(caught.value).startswith(message)
    assert signal_spec("concepts_v1", {"file": path}).files() == [path]


def test_a_list_that_changes_is_read_anew_and_one_that_does_not_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(tmp_path, ["dog"], ["a dog, a cat"]) == [["dog"]]
    assert found(tmp_path, ["cat", "bird"], ["a dog, a cat"]) == [["cat"]]
    path = str(tmp_path / "concepts.txt")
    before = read_concepts(path, "words")
    assert read_concepts(path, "words") is before


def committed(ledger: Ledger, table: str, rows: pa.Table) -> None:
    for part in (rows.slice(0, 2), rows.slice(2)):  # two jobs, as of two sources
        job = f"{part.num_rows:064x}"
        assert ledger.commit(job, table, rows.schema, [write_rows(ledger.store, job, table, part)])


def test_concepts_go_through_the_ledger_and_spark_as_lists_of_numbers(tmp_path: Path, spark: SparkSession) -> None:
    captions = ["a dog", "", "a hot dog at sea", "the sea", "hot dog dog"]
    columns = Concepts(list_of(tmp_path, "hot dog", "dog", "sea")).compute(batch_of(captions))
    schema = pa.schema([("uid", pa.string()), ("source", pa.string()), *Concepts.columns])
    names = {"uid": [f"u{n}" for n in range(5)], "source": ["s"] * 5}
    ledger = Ledger(Store(str(tmp_path / "store")))
    committed(ledger, "signals_concepts_v1", pa.Table.from_pydict({**names, **columns}, schema))
    expected = {"u0": [1], "u1": [], "u2": [0, 1, 2], "u3": [2], "u4": [0, 1]}
    rows = ledger.read("signals_concepts_v1")
    assert dict(zip(rows["uid"].to_pylist(), rows["concepts"].to_pylist(), strict=True)) == expected
    jobs = [job for job, _ in ledger.snapshot("signals_concepts_v1")]
    seen = table_frame(spark, ledger, "signals_concepts_v1", schema, ["uid", "concepts", "concept_count"], jobs).cache()
    seen.createOrReplaceTempView("concepts_v1")
    found = {row["uid"]: (row["concepts"], row["concept_count"]) for row in seen.collect()}
    assert found == {uid: (numbers, len(numbers)) for uid, numbers in expected.items()}
    exploded = spark.sql("select uid, explode(concepts) as concept from concepts_v1").collect()
    assert Counter(row["concept"] for row in exploded) == {0: 2, 1: 3, 2: 2}
    held = "select uid from (select uid, struct(concepts) as c from concepts_v1) where array_contains(c.concepts, 2)"
    assert {row["uid"] for row in spark.sql(held).collect()} == {"u2", "u3"}


CAPTIONS = ["IMAGE", "image", "Été", "ÉTÉ", "", "", "ΣΑΣ", "σας", "it's", "a dog", "", "été"]


def repeats_of(spark: SparkSession, rows: list[tuple[str, str, str]]) -> dict[str, tuple[str, int, int]]:
    table = spark.createDataFrame(rows, "uid string, source string, normalised string")
    table.repartition(3).createOrReplaceTempView("captions")
    answer = spark.sql(CaptionFrequency("caption_v1").query("captions"))
    assert answer.columns == ["uid", "source", *CaptionFrequency.columns.names]
    assert [field.dataType.typeName() for field in answer.schema][2:] == ["long", "integer"]
    return {row["uid"]: (row["source"], row["caption_pairs"], row["caption_sources"]) for row in answer.collect()}


def test_pairs_with_the_same_caption_are_counted_case_aside_with_their_sources(spark: SparkSession) -> None:
    rows = [(f"u{n}", "st"[n % 2], caption) for n, caption in enumerate(CAPTIONS)]
    pairs = Counter(caption.casefold() for caption in CAPTIONS)
    sources: dict[str, set[str]] = {}
    for _, source, caption in rows:
        sources.setdefault(caption.casefold(), set()).add(source)
    expected = {
        uid: (source, pairs[caption.casefold()], len(sources[caption.casefold()])) for uid, source, caption in rows
    }
    assert expected["u0"] == ("s", 2, 2)
    assert expected["u4"][1:] == (3, 2)
    for order in (rows, rows[::-1]):
        assert repeats_of(spark, order) == expected


def test_repeats_names_a_caption_signal() -> None:
    assert signal_spec("repeats_v1", {"caption": "caption_v1"}).inputs() == {"caption": "caption_v1"}
    for said in ({"caption": ""}, {"caption": 3}):
        with pytest.raises(InputError, match=r"signals\.repeats_v1\.caption: expected the name of a caption signal"):
            signal_spec("repeats_v1", said)
