"""Whether what was fetched is what the source published: by the hash of its bytes, else by the look of its picture."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.images.normalize import Picture, decoded
from pipeline.images.pdq import LEAST_QUALITY, PDQ_BYTES, SAME_PICTURE, hamming, pdq
from pipeline.outcomes import MATCH, MISMATCH, NO_HASH, SAME, TOO_FLAT, UNREADABLE

_BYTES = {"sha512": 64, "sha256": 32, "sha1": 20, "md5": 16, "pdq": PDQ_BYTES}
"""How long each published hash is; the order is that in which they are asked."""


@dataclass(frozen=True)
class Verdict:
    """What the source's hashes say of a body.

    `verdict` is "" where the source published none, "match" where a hash of the bytes is equal, "same_picture" where
    the bytes are others (or unknown) and the picture looks the same, "too_flat" where only a look was published and
    the picture has too little in it to have one, "unreadable_hash" where no published hash is one, else "mismatch".
    `detail` names the hash that decided and, where it did not match, the first 16 digits that were expected and found.
    """

    verdict: str
    detail: str = ""


def _readable(name: str, text: object) -> bytes | None:
    """Return a published hash's bytes, or None where it is no hex of its kind's length."""
    if not isinstance(text, str) or len(text) != 2 * _BYTES.get(name, 0):
        return None
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return None
    return value if len(value) == _BYTES[name] else None  # fromhex passes over spaces


def _fingerprint(body: bytes, picture: Picture) -> tuple[bytes, int] | None:
    """Return PDQ of the whole image: of the stored one, or of the body where that was cropped."""
    stretched = picture.width * picture.original_height - picture.height * picture.original_width
    if abs(stretched) <= max(picture.original_width, picture.original_height):  # sides are rounded to a pixel
        return picture.fingerprint
    pixels = decoded(body)
    return None if pixels is None else pdq(pixels)


def _by_look(expected: bytes, body: bytes, picture: Picture) -> Verdict:
    """Return the verdict of a PDQ fingerprint."""
    fingerprint = _fingerprint(body, picture)
    if fingerprint is None:
        return Verdict(TOO_FLAT, "pdq: the picture cannot be compared")
    found, quality = fingerprint
    distance = hamming(expected, found)
    if quality < LEAST_QUALITY:
        return Verdict(TOO_FLAT, f"pdq: quality {quality}, expected at least {LEAST_QUALITY}")
    if distance <= SAME_PICTURE:
        return Verdict(SAME, f"pdq: {distance} of 256 bits differ")
    return Verdict(MISMATCH, f"pdq: {distance} of 256 bits differ, {_both(expected.hex(), found.hex())}")


def _both(expected: str, found: str) -> str:
    return f"expected {expected[:16]}, found {found[:16]}"


def verdict(hashes: Mapping[str, str], body: bytes, picture: Picture, raw_sha256: str) -> Verdict:
    """Return what the published `hashes` (`PublishedRow.hashes`) say of `body` and of the picture stored of it.

    `raw_sha256` is the body's, as hex: it is known already. A picture is decoded only where a "pdq" was published and
    no hash of the bytes is equal.
    """
    if not hashes:
        return Verdict(NO_HASH)
    readable = {name: value for name in _BYTES if (value := _readable(name, hashes.get(name))) is not None}
    differing = ""
    for name, expected in readable.items():
        if name == "pdq":
            continue
        found = raw_sha256 if name == "sha256" else hashlib.new(name, body, usedforsecurity=False).hexdigest()
        if expected.hex() == found:
            return Verdict(MATCH, name)
        differing = differing or f"{name}: {_both(expected.hex(), found)}"
    look = _by_look(readable["pdq"], body, picture) if "pdq" in readable else None
    if look and (look.verdict == SAME or not differing):
        return look
    if differing:
        return Verdict(MISMATCH, differing)
    name, text = next(iter(hashes.items()))
    length = f"{2 * _BYTES[name]} hex digits" if name in _BYTES else f"one of {', '.join(_BYTES)}"
    return Verdict(UNREADABLE, f"{name}: expected {length}, found {str(text)[:80]!r}")
