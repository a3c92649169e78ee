"""PDQ, a 256-bit perceptual fingerprint (Facebook, https://github.com/facebook/ThreatExchange/tree/main/pdq)."""

import numpy as np
import numpy.typing as npt
import pdqhash

RESULT_VERSION = 1
"""The version of pdqhash's results: raised where a new version of pdqhash gives other bits."""


PDQ_BYTES = 32


SAME_PICTURE_BITS = 31
"""The largest Hamming distance, in bits of 256, at which two fingerprints count as the same image: PDQ's README
(facebook/ThreatExchange, pdq/README.md, "Matching") recommends to start with <= 31."""


MIN_QUALITY = 50
"""Fingerprints of a lower quality are not compared: the same README recommends to discard <= 49."""


def pdq_fingerprint(image: npt.NDArray[np.uint8]) -> tuple[bytes, int]:
    """Return the fingerprint (32 bytes) and quality (0 to 100) of an RGB image, (height, width, 3) uint8."""
    bits, quality = pdqhash.compute(np.ascontiguousarray(image))
    return np.packbits(bits.astype(np.uint8)).tobytes(), int(quality)


def hamming(left: bytes, right: bytes) -> int:
    """Return how many of 256 bits differ between two fingerprints of 32 bytes; raise ValueError for other lengths."""
    if not len(left) == len(right) == PDQ_BYTES:
        raise ValueError(f"expected two fingerprints of {PDQ_BYTES} bytes, found {len(left)} and {len(right)}")
    return (int.from_bytes(left) ^ int.from_bytes(right)).bit_count()
