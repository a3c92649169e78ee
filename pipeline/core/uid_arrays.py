"""Uids as 16-byte keys in numpy, so that millions of them are sorted, matched and written without a Python loop."""

import binascii

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StageFailed

UidKeys = npt.NDArray[np.bytes_]
"""Uids, (n,) of dtype S16: the 16 bytes that 32 hex digits encode."""


UID_HEX_DIGITS = 32
"""Number of hex digits of a uid."""


def uid_keys(column: pa.Array | pa.ChunkedArray) -> UidKeys:
    """Return a column of uids as keys, (n,); raise StageFailed where one is not 32 hex digits."""
    parts = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        texts = chunk.cast(pa.large_binary())
        if len(texts) and (
            texts.null_count
            or pc.min_max(pc.binary_length(texts)).as_py() != {"min": UID_HEX_DIGITS, "max": UID_HEX_DIGITS}
        ):
            raise StageFailed("found a uid in the ledger that is not of 32 hex digits")
        start = (
            texts.offset * UID_HEX_DIGITS
            if not len(texts)
            else np.frombuffer(texts.buffers()[1], np.int64)[texts.offset]
        )
        data = memoryview(texts.buffers()[2] or b"")[int(start) : int(start) + UID_HEX_DIGITS * len(texts)]
        try:
            parts.append(np.frombuffer(binascii.unhexlify(data), "S16"))
        except binascii.Error:
            raise StageFailed("found a uid in the ledger that is not of 32 hex digits") from None
    return np.concatenate(parts) if parts else np.empty(0, "S16")


def uid_strings(found: UidKeys) -> pa.Array:
    """Return keys, (n,), as a string column of uids."""
    data = binascii.hexlify(np.ascontiguousarray(found, "S16").tobytes())
    ends = np.arange(0, UID_HEX_DIGITS * (len(found) + 1), UID_HEX_DIGITS, dtype=np.int64)
    return pa.Array.from_buffers(pa.large_string(), len(found), [None, pa.py_buffer(ends), pa.py_buffer(data)]).cast(
        pa.string()
    )


def halves(found: UidKeys) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the first and the second eight bytes of each key as numbers, which sort like the keys."""
    pairs = np.ascontiguousarray(found, "S16").view(">u8").reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def sort_order(found: UidKeys) -> npt.NDArray[np.intp]:
    """Return the indices, (n,), that sort the keys; equal keys keep their order.

    Sorts by the first halves where these are all different, as those of hashes are: it takes a third of the time.
    """
    high, low = halves(found)
    indices = np.argsort(high)
    return np.lexsort((low, high)) if _has_repeats(high[indices]) else indices


def _has_repeats(ordered: npt.NDArray[np.uint64]) -> bool:
    """Tell whether sorted numbers hold one twice."""
    return bool((ordered[1:] == ordered[:-1]).any())


def unique_keys(found: UidKeys) -> UidKeys:
    """Return the keys sorted, each once."""
    ordered = found[sort_order(found)]
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(found) else ordered


def find_keys(wanted: UidKeys, among: UidKeys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return for each of `wanted`, (n,), its index in the sorted keys `among`, and whether it is among them."""
    if not len(among):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), np.bool_)
    indices = _insertion_points(wanted, among)
    indices[indices == len(among)] = 0
    return indices, among[indices] == wanted


def _insertion_points(wanted: UidKeys, among: UidKeys) -> npt.NDArray[np.intp]:
    """Return the index at which each key would be inserted.

    A search by first halves takes a sixth of the time, but first reads all of `among` once.
    """
    if len(among) <= 8 * len(wanted):
        first_halves = halves(among)[0]
        if not _has_repeats(first_halves):
            return np.searchsorted(first_halves, halves(wanted)[0])
    return np.searchsorted(among, wanted)
