"""Uids as numbers: 16 bytes each in numpy, so that millions of them are sorted, matched and written without a loop."""

import binascii

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StageFailed

Keys = npt.NDArray[np.bytes_]
"""Uids, (n,) of dtype S16: the 16 bytes that 32 hex digits stand for."""


HEX = 32
"""How many hex digits a uid has."""


def keys(column: pa.Array | pa.ChunkedArray) -> Keys:
    """Return a column of uids as keys; raise StageFailed where one is not 32 hex digits."""
    parts = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        texts = chunk.cast(pa.large_binary())
        if len(texts) and (texts.null_count or pc.min_max(pc.binary_length(texts)).as_py() != {"min": HEX, "max": HEX}):
            raise StageFailed("a uid in the ledger is not of 32 hex digits")
        start = texts.offset * HEX if not len(texts) else np.frombuffer(texts.buffers()[1], np.int64)[texts.offset]
        data = memoryview(texts.buffers()[2] or b"")[int(start) : int(start) + HEX * len(texts)]
        try:
            parts.append(np.frombuffer(binascii.unhexlify(data), "S16"))
        except binascii.Error:
            raise StageFailed("a uid in the ledger is not of 32 hex digits") from None
    return np.concatenate(parts) if parts else np.empty(0, "S16")


def texts(found: Keys) -> pa.Array:
    """Return keys as a column of uids."""
    data = binascii.hexlify(np.ascontiguousarray(found, "S16").tobytes())
    ends = np.arange(0, HEX * (len(found) + 1), HEX, dtype=np.int64)
    return pa.Array.from_buffers(pa.large_string(), len(found), [None, pa.py_buffer(ends), pa.py_buffer(data)]).cast(
        pa.string()
    )


def halves(found: Keys) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the first and the second eight bytes of each key as numbers, whose order is the keys'."""
    pairs = np.ascontiguousarray(found, "S16").view(">u8").reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def order(found: Keys) -> npt.NDArray[np.intp]:
    """Return the places of the keys in their order; those of equal keys in theirs.

    By the first halves where these are all different, as those of hashes are: it takes a third of the time.
    """
    high, low = halves(found)
    at = np.argsort(high)
    return np.lexsort((low, high)) if _repeats(high[at]) else at


def _repeats(ordered: npt.NDArray[np.uint64]) -> bool:
    return bool((ordered[1:] == ordered[:-1]).any())


def unique(found: Keys) -> Keys:
    """Return the keys in their order, each once."""
    ordered = found[order(found)]
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(found) else ordered


def places(wanted: Keys, among: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return for each of `wanted` its place in the sorted keys `among`, and whether it is there."""
    if not len(among):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.bool_)
    found = _searched(wanted, among)
    found[found == len(among)] = 0
    return found, among[found] == wanted


def _searched(wanted: Keys, among: Keys) -> npt.NDArray[np.intp]:
    """Return where each key would stand: by first halves in a sixth of the time, but for a pass over all of `among`."""
    if len(among) <= 8 * len(wanted):
        there = halves(among)[0]
        if not _repeats(there):
            return np.searchsorted(there, halves(wanted)[0])
    return np.searchsorted(among, wanted)
