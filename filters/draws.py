"""Seeded draws: a hash of what is drawn for, never a generator's state: none depends on another, or on any order."""

import hashlib

BITS = 52
"""A draw is a multiple of 2^-52, which a float64 holds exactly."""


def draw(seed: int, *what: str | int) -> float:
    """Return a draw in [0, 1): the first 52 bits of SHA-256 over seed and `what` (a uid, say), joined by colons."""
    text = ":".join(map(str, (seed, *what)))
    return int(hashlib.sha256(text.encode()).hexdigest()[: BITS // 4], 16) / (1 << BITS)


def draw_sql(seed: int, *what: str) -> str:
    """Return the Spark SQL expression of `draw`; `what` are expressions."""
    text = f"concat_ws(':', '{seed}', {', '.join(what)})"
    return f"cast(conv(substr(sha2({text}, 256), 1, {BITS // 4}), 16, 10) as double) / {1 << BITS}D"
