"""Seeded sampling by hashes: each number is independent of the others and of any order, and SQL computes the same."""

import hashlib

import numpy as np
import numpy.typing as npt

from pipeline.core.uid_arrays import UidKeys, halves

SAMPLE_BITS = 52
"""Bits of a random number: a multiple of 2^-52, which a float64 holds exactly."""


def uniform_hash(seed: int, *what: str | int) -> float:
    """Return a number in [0, 1): the first 52 bits of SHA-256 over seed and `what` (a uid, say), joined by colons."""
    text = ":".join(map(str, (seed, *what)))
    return int(hashlib.sha256(text.encode()).hexdigest()[: SAMPLE_BITS // 4], 16) / (1 << SAMPLE_BITS)


def uniform_hash_sql(seed: int, *what: str) -> str:
    """Return the Spark SQL expression of `draw`; `what` are SQL expressions."""
    text = f"concat_ws(':', '{seed}', {', '.join(what)})"
    return f"cast(conv(substr(sha2({text}, 256), 1, {SAMPLE_BITS // 4}), 16, 10) as double) / {1 << SAMPLE_BITS}D"


def _mix_bits(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return each number with its bits mixed, (n,): SplitMix64's finalizer (Steele, Lea and Flood 2014, OOPSLA)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def order_keys(seed: int, copy: int, keys: UidKeys) -> npt.NDArray[np.uint64]:
    """Return the sort keys, (n,), that order the copies number `copy` of all pairs among each other."""
    start = np.frombuffer(hashlib.sha256(f"order:{seed}:{copy}".encode()).digest()[:16], np.uint64)
    high, low = halves(keys)
    return _mix_bits(_mix_bits(high ^ start[0]) ^ low ^ start[1])


def rank_sql(seed: int, uid: str = "uid") -> str:
    """Return the Spark SQL expression of a pair's rank: SHA-256 over seed and uid, not a random generator."""
    return f"sha2(concat('{seed}', ':', {uid}), 256)"


def rank_key(seed: int, uid: str) -> str:
    """Return the rank of one uid, the same as `rank_sql` computes."""
    return hashlib.sha256(f"{seed}:{uid}".encode()).hexdigest()


def sample_rows(count: int, of: int) -> npt.NDArray[np.int64]:
    """Return `count` of the row numbers below `of`, sorted, (count,) int64: those of least SplitMix64 hash."""
    numbers = (np.arange(of, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return np.sort(np.argsort(_mix_bits(numbers), kind="stable")[:count])


def is_held_out(uid: str, share: float, seed: int) -> bool:
    """Return whether a pair is held out: by a hash of its uid, independent of the one that samples the mixture."""
    hashed = hashlib.sha256(f"held out:{seed}:{uid}".encode()).digest()[:8]
    return int.from_bytes(hashed, "big") < share * 2**64
