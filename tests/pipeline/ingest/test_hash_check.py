"""Published hashes: which one decides, what is the same picture, and what a hash that is none is called."""

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.normalize import ImageRules, StoredImage, to_stored_image
from pipeline.images.pdq import PDQ_BYTES, hamming, pdq_fingerprint
from pipeline.ingest.hash_check import Verdict, compare_hashes
from pipeline.outcomes import VERDICTS
from sources.world.pictures import Picture as Drawn
from sources.world.pictures import draw_picture, encode
from sources.world.shapes import CLASSES

RULES = ImageRules("keep_ratio", 128, 95, 16, 1_000_000)


PIXELS = draw_picture(Drawn((3, 1), CLASSES[2], "photo"))


OTHER = draw_picture(Drawn((3, 2), CLASSES[5], "photo"))


BODY = encode(PIXELS, "jpg", 90)


PDQ = pdq_fingerprint(PIXELS)[0].hex()


KINDS = ["md5", "sha1", "sha256", "sha512"]


def made(body: bytes, rules: ImageRules = RULES) -> StoredImage:
    found = to_stored_image(body, rules)
    assert isinstance(found, StoredImage)
    return found


def asked(hashes: dict[str, str], body: bytes = BODY, rules: ImageRules = RULES) -> Verdict:
    found = compare_hashes(hashes, body, made(body, rules), hashlib.sha256(body).hexdigest())
    assert found.verdict in VERDICTS
    return found


def of(kind: str, body: bytes = BODY) -> str:
    return hashlib.new(kind, body).hexdigest()


def test_without_a_hash_there_is_no_verdict() -> None:
    assert asked({}) == Verdict("")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hash_of_the_bytes_matches_in_any_case_of_its_letters(kind: str) -> None:
    for text in (of(kind), of(kind).upper()):
        assert asked({kind: text}) == Verdict("match", kind)
    assert asked({kind: of(kind), "pdq": "0" * 64}) == Verdict("match", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_other_bytes_are_a_mismatch_that_shows_both(kind: str) -> None:
    other = of(kind, BODY + b"\0")
    assert asked({kind: other}) == Verdict("mismatch", f"{kind}: expected {other[:16]}, found {of(kind)[:16]}")


def test_one_hash_that_is_equal_is_enough() -> None:
    assert asked({"sha256": of("sha1") + "0" * 24, "md5": of("md5")}) == Verdict("match", "md5")


@pytest.mark.parametrize("mode", ["keep_ratio", "center_crop", "border", "none"])
def test_the_same_picture_in_other_bytes_is_told_from_another(mode: str) -> None:
    rules = ImageRules(mode, 96, 95, 16, 1_000_000)
    wrong = {"md5": "0" * 32}
    found = asked({"pdq": PDQ} | wrong, rules=rules)
    assert found.verdict == "same_picture"
    assert int(found.detail.split()[1]) <= 31
    again = encode(PIXELS, "png", 0)
    assert asked({"pdq": PDQ.upper()}, again, rules).verdict == "same_picture"
    found = asked({"pdq": pdq_fingerprint(OTHER)[0].hex()}, rules=rules)
    assert found.verdict == "mismatch"
    assert found.detail.startswith("pdq: ")
    assert f"expected {pdq_fingerprint(OTHER)[0].hex()[:16]}, found " in found.detail
    assert asked({"pdq": pdq_fingerprint(OTHER)[0].hex()} | wrong, rules=rules).detail.startswith("md5: expected 0000")


def test_the_same_picture_ends_behind_31_bits() -> None:
    stored = np.asarray(Image.open(io.BytesIO(made(BODY).jpg)))
    bits = int.from_bytes(pdq_fingerprint(stored)[0])
    for distance, expected in ((0, "same_picture"), (31, "same_picture"), (32, "mismatch"), (256, "mismatch")):
        other = (bits ^ ((1 << distance) - 1)).to_bytes(PDQ_BYTES)
        found = asked({"pdq": other.hex()})
        assert found.verdict == expected
        assert found.detail.startswith(f"pdq: {distance} of 256 bits differ")


def test_a_flat_picture_has_no_look_to_compare() -> None:
    flat = encode(np.full((64, 64, 3), 90, np.uint8), "jpg", 90)
    for look in (PDQ, "0" * 64):
        assert asked({"pdq": look}, flat).verdict == "too_flat"
        assert asked({"pdq": look, "md5": "0" * 32}, flat).verdict == "mismatch"
        assert asked({"pdq": look, "md5": of("md5", flat)}, flat).verdict == "match"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("md5", ""),
        ("md5", "0" * 31),
        ("md5", "0" * 31 + "g"),
        ("md5", " ".join(["00"] * 11)),
        ("sha256", "0" * 40),
        ("pdq", "0" * 62),
        ("crc32", "0" * 8),
        ("sha512", "é" * 128),
    ],
)
def test_a_hash_that_is_none_is_called_so_unless_another_decides(kind: str, text: str) -> None:
    found = asked({kind: text})
    assert found.verdict == "unreadable_hash"
    assert kind in found.detail
    assert len(found.detail) <= 200
    others = {"sha1": of("sha1")}
    assert asked({kind: text} | others).verdict == "match"
    assert asked({kind: text, "sha1": "0" * 40}).verdict == "mismatch"


def test_no_picture_is_decoded_where_the_bytes_decide() -> None:
    unread = StoredImage(b"no image", 10, 10, 10, 10)
    sha256 = of("sha256")
    assert compare_hashes({"sha256": sha256, "pdq": PDQ}, BODY, unread, sha256).verdict == "match"
    assert compare_hashes({"sha256": "0" * 64}, BODY, unread, sha256).verdict == "mismatch"


@given(st.dictionaries(st.sampled_from([*KINDS, "pdq", "other"]), st.text("0123456789abcdefABCDEF g", max_size=130)))
def test_any_hashes_have_a_verdict(hashes: dict[str, str]) -> None:
    assert (asked(hashes).verdict == "") == (not hashes)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_the_distance_counts_the_bits_that_differ(left: bytes, right: bytes) -> None:
    bits = np.unpackbits(np.frombuffer(left, np.uint8)) != np.unpackbits(np.frombuffer(right, np.uint8))
    assert hamming(left, right) == hamming(right, left) == int(bits.sum())
    assert hamming(left, left) == 0


def test_only_fingerprints_have_a_distance() -> None:
    for left, right in ((b"", b""), (bytes(32), bytes(31)), (bytes(33), bytes(33))):
        with pytest.raises(ValueError, match="fingerprints of 32 bytes"):
            hamming(left, right)
