"""Digests of plain data and of streams: SHA-256, in hexadecimal."""

import hashlib
import json
from typing import Any, BinaryIO


def digest(value: Any) -> str:
    """Return SHA-256 (64 hex digits) over `value` as canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stream_sha256(stream: BinaryIO) -> tuple[str, int]:
    """Return (SHA-256 as 64 hex digits, length in bytes) of the rest of `stream`, read in blocks of 1 MiB."""
    state, size = hashlib.sha256(), 0
    while block := stream.read(1 << 20):
        state.update(block)
        size += len(block)
    return state.hexdigest(), size
