"""Identity: uids that cannot collide by joining, URLs with credentials known as such, digests that follow the code."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.digests import digest
from pipeline.core.redaction import holds_secret, redact, strip_secret
from pipeline.core.uids import clean_text, uid

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=30)  # lone surrogates and controls too


FOUR = st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)


def test_uid_known_vector() -> None:
    # printf 'cc12m\x1f\x1fhttp://a.test/1.jpg\x1fa cat' | sha256sum | cut -c-32
    assert uid("cc12m", "", "http://a.test/1.jpg", "a cat") == "8c774a703a054cb8c2cbcee0b7ae1510"


@given(FOUR)
def test_uid_is_32_hex_digits_and_repeats(parts: tuple[str, str, str, str]) -> None:
    found = uid(*parts)
    assert len(found) == 32
    assert set(found) <= set("0123456789abcdef")
    assert uid(*parts) == found


@given(FOUR, FOUR)
def test_cleaned_parts_share_a_uid_only_if_they_are_equal(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    first, second = [tuple(map(clean_text, parts)) for parts in (one, other)]
    assert (uid(*first) == uid(*second)) == (first == second)


@given(st.lists(ANY_TEXT, min_size=4, max_size=4), st.integers(0, 2))
def test_a_separator_cannot_move_text_between_parts(parts: list[str], place: int) -> None:
    """Joined as they came, ("a U+001F b", "c") and ("a", "b U+001F c") would be one; cleaned, they are two."""
    left, right = list(parts), list(parts)
    left[place], left[place + 1] = f"{parts[place]}\x1fb", "c"
    right[place], right[place + 1] = parts[place], "b\x1fc"
    assert "\x1f".join(left) == "\x1f".join(right)
    assert uid(*map(clean_text, left)) != uid(*map(clean_text, right))


@given(ANY_TEXT)
def test_cleaned_text_can_be_stored_anywhere(text: str) -> None:
    cleaned = clean_text(text)
    assert not {"\x1f", "\0"} & set(cleaned)
    assert cleaned.encode().decode() == cleaned
    assert clean_text(cleaned) == cleaned
    assert len(cleaned) == len(text)


SECRET_URLS = [
    "https://b.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK&X-Amz-Signature=0f",
    "https://b.s3.amazonaws.com/a.jpg?AWSAccessKeyId=AK&Expires=1&Signature=vj%3D",
    "https://b.s3.amazonaws.com/a.jpg?x-amz-security-token=FwoG",
    "https://storage.googleapis.com/b/a.jpg?X-Goog-Algorithm=GOOG4&X-Goog-Signature=247a",
    "https://storage.googleapis.com/b/a.jpg?GoogleAccessId=me&Expires=1&Signature=x",
    "https://d1.cloudfront.net/a.jpg?Expires=1&Signature=x&Key-Pair-Id=APK",
    "https://a.blob.core.windows.net/c/a.jpg?sv=2020-08-04&se=2026&sp=r&sig=x",
    "https://user:password@host.test/a.jpg",
    "ftp://user@host.test/a.jpg",
    "https://host.test/a.jpg?w=640&TOKEN=x",
    "https://host.test/a.jpg?X-Amz%2DSignature=x",
    "https://host.test/a.jpg?access_token=",
    "http://user:password@[::1/a.jpg",
    "http://[bad/a.jpg?signature=password",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_secrets_in_urls_are_found_and_cut_out(url: str) -> None:
    assert holds_secret(url)
    kept = strip_secret(url)
    assert "/a.jpg" in kept
    assert not {"@", "?", "#"} & set(kept)
    assert "password" not in kept
    assert not holds_secret(kept)


@pytest.mark.parametrize(
    "url",
    [
        "https://host.test/a.jpg",
        "https://host.test/a.jpg?w=640",
        "https://host.test/token/signature=1/a.jpg",
        "https://host.test/a.jpg?tokens=1&design=2&signed=no",
        "https://host.test/a.jpg?q=token%3Dx",
        "https://host.test/@user/a.jpg",
        "https://host.test/a.jpg?by=me@host.test",
        "https://host.test/a.jpg#signature=none",
        "not a url",
        "http://[::1",
        "",
    ],
)
def test_harmless_urls_hold_no_secret(url: str) -> None:
    assert not holds_secret(url)
    assert redact(f"see {url} here") == f"see {url} here"


@given(ANY_TEXT, ANY_TEXT)
def test_a_password_never_survives(before: str, after: str) -> None:
    url = f"https://{quote(before, safe='', errors='replace')}:hunter2@host.test/{after}"
    assert holds_secret(url)
    assert "hunter2" not in strip_secret(url).partition("host.test")[0]


@given(ANY_TEXT)
def test_any_text_can_be_asked_about(text: str) -> None:
    holds_secret(text)
    strip_secret(text)
    redact(text)


def test_redacted_cuts_secrets_out_of_running_text() -> None:
    text = "found 'https://me:pw@host.test/a.jpg\\tcap' and http://host.test/b.jpg?sig=1 and http://host.test/c?w=1"
    kept = redact(text)
    assert "pw" not in kept
    assert "sig" not in kept
    assert "host.test/a.jpg" in kept
    assert kept.endswith(" and http://host.test/b.jpg and http://host.test/c?w=1")


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)))
def test_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert digest(value) == digest(backwards) == digest(json.loads(json.dumps(value)))
    assert len(digest(value)) == 64


def test_digest_tells_values_apart_and_refuses_nan() -> None:
    assert len({digest(value) for value in ({}, [], "", 0, "0", None, False, {"a": None}, {"a": 1}, {"a": 1.5})}) == 10
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})
