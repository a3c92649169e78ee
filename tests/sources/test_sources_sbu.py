"""SBU Captioned Photos: the contract of `test_sources`, and the traps of parallel arrays."""

import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.records import MALFORMED, WHOLE_FILE
from sources.sbu import Sbu
from tests.sources.test_contract import PAIRS, SourceContract, read


def sbu_file(urls: Any, captions: Any, users: Any = None) -> bytes:
    """Return the file as published: image_urls, user_ids, captions."""
    arrays = {"image_urls": urls, "user_ids": users, "captions": captions}
    return json.dumps({name: array for name, array in arrays.items() if array is not None}, ensure_ascii=False).encode()


class TestSbu(SourceContract):
    kind = "sbu"

    def file(self, pairs: Sequence[tuple[str, str | bytes]], spoil: int | None = None) -> bytes:
        raw = [text for _, text in pairs if isinstance(text, bytes)]
        captions = ["@raw@" if isinstance(text, bytes) else text for _, text in pairs]
        urls = [None if number == spoil else url for number, (url, _) in enumerate(pairs)]
        users = [f"{number}@N00" for number in range(len(pairs))]
        return sbu_file(urls, captions, users).replace(b"@raw@", b"".join(raw))

    def test_the_user_is_carried_along_and_there_is_no_id(self) -> None:
        rows = read("sbu", self.file(PAIRS))
        assert [row.published for row in rows] == [{"user_id": f"{number}@N00"} for number in range(len(PAIRS))]
        assert {row.record_id for row in rows} == {""}

    def test_it_may_be_gzipped_and_is_read_whole(self) -> None:
        assert read("sbu", gzip.compress(self.file(PAIRS))) == read("sbu", self.file(PAIRS))
        (cut,) = read("sbu", gzip.compress(self.file(PAIRS))[:-9])
        assert cut.problem == MALFORMED
        assert Sbu().parts(None, 1) == [WHOLE_FILE]  # type: ignore[arg-type]


@pytest.mark.parametrize(("urls", "captions", "users"), [(3, 2, 3), (2, 3, 3), (3, 3, 2), (2, 3, None), (2, 2, 3)])
def test_arrays_of_other_lengths_have_their_common_rows_and_the_surplus_is_malformed(
    urls: int, captions: int, users: int | None
) -> None:
    links = [f"http://a.test/{number}.jpg" for number in range(urls)]
    texts = [f"caption {number}" for number in range(captions)]
    rows = read("sbu", sbu_file(links, texts, None if users is None else ["me"] * users))
    assert [row.problem for row in rows] == ["", "", MALFORMED]
    assert [row.line for row in rows] == [1, 2, 3]
    assert rows[1].caption == "caption 1"
    assert f"{urls} image_urls" in rows[2].detail
    assert f"{captions} captions" in rows[2].detail


@pytest.mark.parametrize(("url", "caption"), [(None, "cap"), (3, "cap"), ({}, "cap"), ("http://a.test/1.jpg", 3)])
def test_elements_of_another_kind_are_malformed(url: Any, caption: Any) -> None:
    rows = read("sbu", sbu_file([url, "http://a.test/2.jpg"], [caption, None], [float("nan"), 7]))
    assert [row.problem for row in rows] == [MALFORMED, ""]
    assert (rows[1].caption, rows[1].published) == ("", {"user_id": 7})


NO_SBU = [
    *(b"{", b"[]", b"3", b"null", b"{}", b"[" * 100_000, b'{"image_urls": []}', b'{"captions": []}'),
    *(b'{"image_urls": {}, "captions": []}', b'{"image_urls": [], "captions": "abc"}', b"9" * 5000),
    b'{"image_urls": [], "captions": [], "user_ids": 3}',
]


@pytest.mark.parametrize("content", NO_SBU)
def test_other_json_is_one_malformed_row(content: bytes) -> None:
    (only,) = read("sbu", content)
    assert only.problem == MALFORMED
    assert only.detail.startswith("expected JSON with arrays image_urls, captions, found ")
