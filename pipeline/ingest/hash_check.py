"""Compares a fetched image with the source's published hashes: by a hash of its bytes, else by its PDQ fingerprint."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.images.normalize import StoredImage, decode_rgb
from pipeline.images.pdq import MIN_QUALITY, PDQ_BYTES, SAME_PICTURE_BITS, hamming, pdq_fingerprint
from pipeline.outcomes import (
    VERDICT_MATCH,
    VERDICT_MISMATCH,
    VERDICT_NO_HASH,
    VERDICT_SAME_PICTURE,
    VERDICT_TOO_FLAT,
    VERDICT_UNREADABLE_HASH,
)

_HASH_BYTES = {"sha512": 64, "sha256": 32, "sha1": 20, "md5": 16, "pdq": PDQ_BYTES}
"""The length of each kind of published hash, in the order in which they are compared."""


@dataclass(frozen=True)
class Verdict:
    """The result of comparing a body with the source's hashes.

    `verdict` is "" where the source published none, "match" where a hash of the bytes is equal, "same_picture" where
    the bytes differ (or have no hash) and the PDQ fingerprints are near, "too_flat" where only a PDQ was published and
    the image has too little detail for one, "unreadable_hash" where no published hash can be parsed, else "mismatch".
    `detail` names the hash that decided and, for a mismatch, the first 16 digits expected and found.
    """

    verdict: str
    detail: str = ""


def _parse_hash(name: str, text: object) -> bytes | None:
    """Return a published hash's bytes, or None where it is not hex of its kind's length."""
    if not isinstance(text, str) or len(text) != 2 * _HASH_BYTES.get(name, 0):
        return None
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return None
    return value if len(value) == _HASH_BYTES[name] else None  # fromhex ignores spaces


def _fingerprint(body: bytes, picture: StoredImage) -> tuple[bytes, int] | None:
    """Return the PDQ of the whole image: of the stored one, or of the body if the stored one is cropped."""
    aspect_error = picture.width * picture.original_height - picture.height * picture.original_width
    if abs(aspect_error) <= max(picture.original_width, picture.original_height):  # sides are rounded to a pixel
        return picture.fingerprint
    pixels = decode_rgb(body)
    return None if pixels is None else pdq_fingerprint(pixels)


def _pdq_verdict(expected: bytes, body: bytes, picture: StoredImage) -> Verdict:
    """Return the verdict by a published PDQ fingerprint."""
    fingerprint = _fingerprint(body, picture)
    if fingerprint is None:
        return Verdict(VERDICT_TOO_FLAT, "pdq: the picture cannot be compared")
    actual, quality = fingerprint
    distance = hamming(expected, actual)
    if quality < MIN_QUALITY:
        return Verdict(VERDICT_TOO_FLAT, f"pdq: quality {quality}, expected at least {MIN_QUALITY}")
    if distance <= SAME_PICTURE_BITS:
        return Verdict(VERDICT_SAME_PICTURE, f"pdq: {distance} of 256 bits differ")
    return Verdict(VERDICT_MISMATCH, f"pdq: {distance} of 256 bits differ, {_difference(expected.hex(), actual.hex())}")


def _difference(expected: str, found: str) -> str:
    return f"expected {expected[:16]}, found {found[:16]}"


def compare_hashes(hashes: Mapping[str, str], body: bytes, picture: StoredImage, raw_sha256: str) -> Verdict:
    """Return the verdict by the published `hashes` (`PublishedRow.hashes`) on `body` and the image stored from it.

    `raw_sha256` is the body's, as hex, which the caller has computed already. The image is decoded only where a "pdq"
    was published and no hash of the bytes is equal.
    """
    if not hashes:
        return Verdict(VERDICT_NO_HASH)
    readable = {name: value for name in _HASH_BYTES if (value := _parse_hash(name, hashes.get(name))) is not None}
    differing = ""
    for name, expected in readable.items():
        if name == "pdq":
            continue
        actual = raw_sha256 if name == "sha256" else hashlib.new(name, body, usedforsecurity=False).hexdigest()
        if expected.hex() == actual:
            return Verdict(VERDICT_MATCH, name)
        differing = differing or f"{name}: {_difference(expected.hex(), actual)}"
    by_pdq = _pdq_verdict(readable["pdq"], body, picture) if "pdq" in readable else None
    if by_pdq and (by_pdq.verdict == VERDICT_SAME_PICTURE or not differing):
        return by_pdq
    if differing:
        return Verdict(VERDICT_MISMATCH, differing)
    name, text = next(iter(hashes.items()))
    length = f"{2 * _HASH_BYTES[name]} hex digits" if name in _HASH_BYTES else f"one of {', '.join(_HASH_BYTES)}"
    return Verdict(VERDICT_UNREADABLE_HASH, f"{name}: expected {length}, found {str(text)[:80]!r}")
