"""The caption signal: what it says of captions that are known, and that no caption can upset it."""

import html
import math
import time
from typing import Any

import ftfy
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filters.signals.base import PairBatch
from filters.signals.caption import BOILERPLATE_PHRASES, CaptionSignal, detect_language
from filters.signals.caption_text import normalise_caption
from pipeline.shards.tar_format import StoredPair


def of_caption(text: str) -> dict[str, Any]:
    columns = CaptionSignal().compute(PairBatch([StoredPair("0" * 32, b"", text, {}, 0, 0)], [{}]))
    assert list(columns) == CaptionSignal.columns.names
    return {name: values[0] for name, values in columns.items()}


def test_a_captions_characters_words_and_letters_are_counted() -> None:
    found = of_caption("Two dogs, 1 cat!")
    assert (found["chars"], found["words"]) == (16, 4)
    assert found["letter_ratio"] == pytest.approx(10 / 13)
    assert of_caption("naïve café")["words"] == 2
    assert of_caption("naïve café")["letter_ratio"] == 1.0


@pytest.mark.parametrize(
    "text", ["IMG_1234", "DSC00042.JPG", "dscn 12", "Screenshot-2020.01.02", "photo 3", "p1010.png"]
)
def test_names_that_cameras_and_tools_give_are_file_names(text: str) -> None:
    assert of_caption(text)["is_file_name"]


@pytest.mark.parametrize(
    "text", ["photo of 3 dogs", "image", "a jpg of a dog", "dog.jpg on the wall", "12 dogs", "piano 12", ""]
)
def test_captions_that_only_resemble_file_names_are_none(text: str) -> None:
    assert not of_caption(text)["is_file_name"]


def test_urls_and_markup_are_seen_and_plain_signs_are_not() -> None:
    assert of_caption("see HTTPS://a.test/1")["has_url"]
    assert of_caption("www.a.test")["has_url"]
    assert not of_caption("http is a protocol, awww")["has_url"]
    for text in ("a <b>bold</b> dog", "cats &amp; dogs", "a&#39;s", 'see <a href="x">'):
        assert of_caption(text)["has_markup"], text
    for text in ("2 < 3 > 1", "AT&T", "cats & dogs; birds", "I <3 you"):
        assert not of_caption(text)["has_markup"], text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man is riding a brown horse through the green field near the river", "en"),
        ("Ein Hund läuft über die grüne Wiese hinter dem Haus", "de"),
        ("un chien court dans le jardin derrière la maison blanche", "fr"),
        ("これは猫の写真です", "ja"),
        ("un chien court derri&egrave;re la maison &eacute;toil&eacute;e", "fr"),
    ],
)
def test_the_language_of_a_clear_sentence_is_found(text: str, expected: str) -> None:
    found = of_caption(text)
    assert found["language"] == expected
    assert found["language_probability"] > 0.9


@pytest.mark.parametrize("text", ["", "   ", "😀🎉", "!!! ???"])
def test_text_without_a_word_has_no_language(text: str) -> None:
    found = of_caption(text)
    assert (found["language"], found["language_probability"], found["words"]) == ("und", 0.0, 0)
    assert found["letter_ratio"] == 0.0
    assert found["chars"] == len(text)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.text("<a&;#1 .jpgIMG_https://", max_size=80))
def test_any_text_gives_finite_numbers(text: str) -> None:
    found = of_caption(text)
    assert 0 <= found["letter_ratio"] <= 1
    assert 0 <= found["language_probability"] <= 1.0001
    assert math.isfinite(found["language_probability"])
    assert found["words"] <= found["chars"] == len(text)
    assert detect_language(text)[0]


@pytest.mark.parametrize(
    "part",
    ["<a", "&a", "&#1", "p_", ". ", "a.jpg ", "<a>", "http", "Ã©", "\ud800", "\x1b[3", "x\u0301", "&amp;", "no image"],
)
def test_a_huge_hostile_caption_takes_no_more_time_than_its_length_asks_for(part: str) -> None:
    of_caption("load the language model")
    started = time.process_time()
    of_caption(part * 150_000)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "digits", "upper", "punctuation"),
    [
        ("Two dogs, 1 cat!", 1 / 13, 1 / 10, 2 / 13),
        ("ABC def", 0, 0.5, 0),
        ("$5 ♥", 1 / 3, 0, 2 / 3),
        ("猫 99", 2 / 3, 0, 0),
        ("", 0, 0, 0),
        (" \t\n\u3000", 0, 0, 0),
    ],
)
def test_digits_capitals_and_punctuation_are_shares(text: str, digits: float, upper: float, punctuation: float) -> None:
    found = of_caption(text)
    assert found["digit_ratio"] == pytest.approx(digits)
    assert found["upper_ratio"] == pytest.approx(upper)
    assert found["punctuation_ratio"] == pytest.approx(punctuation)


def test_words_that_repeat_are_counted_once_case_aside() -> None:
    assert of_caption("shop Shop SHOP shoes")["unique_word_ratio"] == 0.5
    assert of_caption("straße STRASSE")["unique_word_ratio"] == 0.5
    assert of_caption("one two")["unique_word_ratio"] == 1
    assert of_caption("...")["unique_word_ratio"] == 0


def test_every_stock_phrase_is_seen_in_any_case_and_only_as_whole_words() -> None:
    assert len(BOILERPLATE_PHRASES) > 20
    for phrase in BOILERPLATE_PHRASES:
        assert phrase == normalise_caption(phrase).casefold()
        for text in (phrase, f"Red shoes ({phrase.upper()})", f"red\xa0shoes - {phrase.replace(' ', '  ')}!"):
            assert of_caption(text)["has_boilerplate"], text
        assert not of_caption(f"x{phrase}x")["has_boilerplate"], phrase


@pytest.mark.parametrize(
    "text", ["", "a livestock photo from the fair", "a dog named Click", "two dogs play in the snow", "my thumb nail"]
)
def test_a_description_is_no_boilerplate(text: str) -> None:
    assert not of_caption(text)["has_boilerplate"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog", "a dog"),
        ("  a \t\r\n dog\u3000\xa0 ", "a dog"),
        ("cats &amp; dogs", "cats & dogs"),
        ("cats &amp;amp; dogs", "cats & dogs"),
        ("derri&egrave;re", "derrière"),
        ("l\u2019humanitÃ©", "l'humanité"),
        ("cafe\u0301", "café"),
        ("\uff21\uff22\uff23 ﬁsh", "ABC fish"),
        ("a\x00b\x1b[31mc\u200f", "abc\u200f"),
        ("a&#8217;s &hellip; &nbsp;", "a's …"),
        ("\ud83d\ude00 \ud800", "😀 \ufffd"),
        ("", ""),
        ("&#0; \x07", "\ufffd"),
    ],
)
def test_a_normalised_caption_is_plain_text(text: str, expected: str) -> None:
    assert of_caption(text)["normalised"] == expected


@pytest.mark.parametrize(
    "text",
    ["a dog", "cats &amp; dogs", "derri&egrave;re la maison", "l\u2019humanitÃ©", " ﬁsh\n&lt;b&gt; ", "&amp;lt; 3"],
)
def test_normalised_is_what_clips_tokenizer_reads_but_for_case(text: str) -> None:
    from open_clip.tokenizer import basic_clean, whitespace_clean

    assert normalise_caption(text) == whitespace_clean(basic_clean(text))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127)) | st.text("ab &amp;#x1\t\x1b[0m\x7f"))
def test_the_short_way_of_plain_ascii_is_ftfys(text: str) -> None:
    config = ftfy.TextFixerConfig(unescape_html=False)
    slow = ftfy.fix_text(html.unescape(html.unescape(text)), config)
    assert normalise_caption(text) == " ".join(slow.split())


ANY = st.text(st.characters()) | st.text("\ud800\udfff\x00\x1b[31m\u202e\u0301ﬁÃ©&#;x ")


@settings(max_examples=200, deadline=None)
@given(ANY)
@example("\ud800")
def test_any_caption_is_a_row_of_the_table(text: str) -> None:
    found = of_caption(text)
    for name in ("letter_ratio", "digit_ratio", "upper_ratio", "punctuation_ratio", "unique_word_ratio"):
        assert 0 <= found[name] <= 1, name
    assert (found["unique_word_ratio"] > 0) == (found["words"] > 0)
    plain = found["normalised"]
    assert plain == " ".join(plain.split())
    [row] = pa.Table.from_pylist([found], CaptionSignal.columns).to_pylist()
    assert row["normalised"] == plain
    assert row["chars"] == len(text)


@given(ANY)
def test_shares_are_those_of_a_count_character_by_character(text: str) -> None:
    found, bare = of_caption(text), [char for char in text if not char.isspace()]
    cased = [char for char in text if char.isupper() or char.islower()]
    assert found["letter_ratio"] == sum(map(str.isalpha, bare)) / max(len(bare), 1)
    assert found["digit_ratio"] == sum(map(str.isdigit, bare)) / max(len(bare), 1)
    assert found["upper_ratio"] == sum(map(str.isupper, cased)) / max(len(cased), 1)
