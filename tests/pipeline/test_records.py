"""Published rows become batches of text that is safe to join, to store and to show."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.uids import uid
from pipeline.records import (
    EMPTY_CAPTION,
    MALFORMED,
    PROBLEMS,
    ROW_SCHEMA,
    SECRET_IN_URL,
    PublishedRow,
    malformed_row,
    to_batches,
)
from sources.registry import source_format

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=30)


def batched(*rows: PublishedRow) -> list[dict[str, Any]]:
    found = [row for batch in to_batches(rows, "cc12m", "part.tsv", size=3) for row in batch.to_pylist()]
    assert len(found) == len(rows)
    return found


def read(kind: str, content: bytes) -> list[dict[str, Any]]:
    return batched(*source_format(kind).read(io.BytesIO(content)))


def uids(rows: list[dict[str, Any]]) -> list[str]:
    return [uid(row["source"], row["record_id"], row["url"], row["caption"]) for row in rows]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_batches_keep_the_order_and_are_full_but_the_last(count: int) -> None:
    taken = []

    def rows() -> Iterator[PublishedRow]:
        for line in range(1, count + 1):
            taken.append(line)
            yield PublishedRow(line, str(line), f"http://a.test/{line}.jpg", "cap")

    batches = []
    for batch in to_batches(rows(), "cc12m", "part.tsv", size=3):
        assert batch.schema == ROW_SCHEMA
        batches.append(batch)
        assert len(taken) <= 3 * len(batches) + 1  # lazily: no file is held in memory
    assert [line for batch in batches for line in batch["line"].to_pylist()] == list(range(1, count + 1))
    assert [batch.num_rows for batch in batches[:-1]] == [3] * (len(batches) - 1)


def test_a_good_row_is_handed_on_as_published() -> None:
    (row,) = batched(PublishedRow(7, "id7", " http://a.test/1.jpg?w=640 ", " a cat\n", published={"b": 1, "a": "é"}))
    assert row == {
        "source": "cc12m",
        "record_id": "id7",
        "url": "http://a.test/1.jpg?w=640",
        "caption": "a cat",
        "file": "part.tsv",
        "line": 7,
        "problem": "",
        "detail": "",
        "published": json.dumps({"a": "é", "b": 1}),
        "licence": "",
        "hashes": "",
        "faces": "",
        "place": "",
    }


@pytest.mark.parametrize("caption", ["", " ", "\t\n", "\0", " \x1f\0 ", "\u3000"])
def test_a_caption_of_nothing_is_empty(caption: str) -> None:
    (row,) = batched(PublishedRow(1, url="http://a.test/1.jpg", caption=caption))
    assert (row["problem"], row["caption"]) == (EMPTY_CAPTION, "")


@pytest.mark.parametrize("url", ["", "  ", "\0"])
def test_a_row_without_url_is_malformed(url: str) -> None:
    (row,) = batched(PublishedRow(1, url=url, caption="cap"))
    assert (row["problem"], row["detail"]) == (MALFORMED, "expected a URL, found none")


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_text_becomes_a_row_that_can_be_stored(record_id: str, url: str, caption: str, other: str) -> None:
    (row,) = batched(PublishedRow(1, record_id, url, caption, published={"other": other, "nested": [other]}))
    assert row["problem"] in ("", *PROBLEMS)
    assert not {"\x1f", "\0"} & set(row["record_id"] + row["url"] + row["caption"])
    assert json.loads(row["published"]).keys() == {"other", "nested"}


def test_separators_cannot_make_two_rows_one() -> None:
    rows = batched(
        PublishedRow(1, "a", "http://a.test/1.jpg\x1fcap", "x"), PublishedRow(2, "a", "http://a.test/1.jpg", "cap\x1fx")
    )
    assert [row["url"] for row in rows] == ["http://a.test/1.jpg cap", "http://a.test/1.jpg"]
    assert len(set(uids(rows))) == 2


def test_a_lone_surrogate_is_replaced() -> None:
    content = rb'{"annotations": [{"image_id": "i\ud800", "url": "http://a.test/\udfff", "caption": "a \ud83d b"}]}'
    (row,) = read("redcaps", content)
    assert (row["record_id"], row["url"], row["caption"]) == ("i?", "http://a.test/?", "a ? b")


def test_malformed_rows_have_distinct_identities() -> None:
    rows = read("cc12m", b"same\nsame\nhttp://a.test/1.jpg\tcap\nsame\n\thttp no url\n")
    assert [row["problem"] for row in rows] == [MALFORMED, MALFORMED, "", MALFORMED, MALFORMED]
    assert rows[0]["record_id"] == "part.tsv#1"
    assert len(set(uids(rows))) == len(rows)


SECRET = "https://me:hunter2@a.test/1.jpg?X-Amz-Signature=hunter2&w=1#hunter2"


def test_a_url_with_a_secret_is_redacted_and_named() -> None:
    (row,) = batched(PublishedRow(1, url=SECRET, caption="cap"))
    assert (row["problem"], row["url"], row["caption"]) == (SECRET_IN_URL, "https://a.test/1.jpg", "cap")
    (bare,) = batched(PublishedRow(1, url=SECRET))
    assert bare["problem"] == SECRET_IN_URL


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("cc12m", f"{SECRET}\tcap\tone column too many\n"),
        ("cc12m", f"{SECRET}\n"),
        ("cc12m", f"http://[{SECRET[8:]}\tan unparsable URL\n"),
        ("yfcc", f"1\t2\t{SECRET}\n"),
        ("redcaps", json.dumps({"annotations": [{"url": SECRET, "no": "id"}]})),
        ("redcaps", json.dumps({"annotations": [{"image_id": 1, "url": "http://a.test/1.jpg", "permalink": SECRET}]})),
    ],
)
def test_a_secret_reaches_no_column(kind: str, content: str) -> None:
    (row,) = read(kind, content.encode())
    assert "hunter2" not in json.dumps(row)


def test_wit_pages_are_identities_without_secrets() -> None:
    (row,) = batched(PublishedRow(1, SECRET, "http://a.test/1.jpg", "cap", published={"page_url": SECRET, "n": 1}))
    assert row["record_id"] == "https://a.test/1.jpg"
    assert json.loads(row["published"]) == {"page_url": "https://a.test/1.jpg", "n": 1}


def test_malformed_says_what_was_expected_and_cuts_what_was_found() -> None:
    row = malformed_row(3, "two columns", "x" * 1000)
    assert (row.line, row.problem, row.detail) == (3, MALFORMED, f"expected two columns, found {'x' * 80}")
