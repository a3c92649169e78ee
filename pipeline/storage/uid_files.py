"""Subset files as DataComp's tools write and read them: a `.npy` of uids as two 64-bit numbers, sorted and unique.

The form is `np.array([(int(uid[:16], 16), int(uid[16:32], 16)), ...], "u8,u8")`, sorted (mlfoundations/datacomp
baselines/apply_filter.py writes it, resharder.py reads it). The header is matched against the
one that numpy writes and not evaluated, so nothing in a file is executed. In memory uids are keys of 16 bytes, which
sort in the same order.
"""

import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.core.uid_arrays import UID_HEX_DIGITS, UidKeys, unique_keys
from pipeline.errors import InputError
from pipeline.storage.object_store import error_message, io_errors, open_source

UidPairs = npt.NDArray[np.void]
"""Uids, (n,) of dtype PAIR, as in a file."""


UID_PAIR_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8")])


_NUMPY_MAGIC = b"\x93NUMPY"


_HEADER = re.compile(
    rb"\{'descr': \[\('f0', '<u8'\), \('f1', '<u8'\)\], "
    rb"'fortran_order': (?:False|True), 'shape': \((\d{1,15}),\), \} *\n"
)


_MAX_HEADER_BYTES = 4096
"""Largest accepted header, in bytes; numpy writes about 118."""


_BLOCK = 1 << 20
"""Number of uids that are read and checked at once."""


def write_subset(stream: BinaryIO, keys: UidKeys) -> int:
    """Write uids, in any order and possibly repeated, as a subset; return its length. 32 bytes of memory for each."""
    pairs = np.empty(len(keys), UID_PAIR_DTYPE)
    numbers = np.ascontiguousarray(keys, "S16").view(">u8").reshape(-1, 2)
    order = np.lexsort((numbers[:, 1], numbers[:, 0]))
    pairs["f0"], pairs["f1"] = numbers[order, 0], numbers[order, 1]
    distinct = pairs[np.append(True, pairs[1:] != pairs[:-1])] if len(pairs) else pairs
    np.lib.format.write_array(stream, distinct, allow_pickle=False)
    return len(distinct)


def read_subset(path: str) -> UidKeys:
    """Return the uids of a subset, a local path or a URL; raise InputError where the file is not a valid subset."""
    return np.concatenate([np.empty(0, "S16"), *map(_keys, _blocks(path))])


def check_subset(path: str) -> None:
    """Raise InputError where `read_subset` would; at most one block of it is in memory."""
    for _ in _blocks(path):
        pass


def _blocks(path: str) -> Iterator[UidPairs]:
    """Yield the checked uids of a subset, `_BLOCK` at a time; raise InputError where the file is not a valid subset."""
    done, last = 0, None
    try:
        with open_source(path) as stream:
            count = _count(path, stream)
            while done < count and len(data := stream.read(UID_PAIR_DTYPE.itemsize * min(_BLOCK, count - done))):
                pairs = np.frombuffer(data, UID_PAIR_DTYPE)
                last = _check_order(path, done, last, pairs)
                done += len(pairs)
                yield pairs
            if done < count or stream.read(1):
                raise InputError(
                    f"{path}: expected {count} uids as its header says, found {done}, then its end or other bytes"
                )
    except io_errors(ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error_message(error)}") from None


def open_subset(path: Path) -> UidPairs:
    """Map a local subset into memory, with the checks of `read_subset`."""
    try:
        with path.open("rb") as stream:
            count, offset = _count(str(path), stream), stream.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error_message(error)}") from None
    if (size := path.stat().st_size - offset) != count * UID_PAIR_DTYPE.itemsize:
        raise InputError(f"{path}: expected {count} uids as its header says, found {size} bytes of them")
    if not count:
        return np.empty(0, UID_PAIR_DTYPE)
    mapped: UidPairs = np.memmap(path, UID_PAIR_DTYPE, "r", offset, (count,))
    last = None
    for start in range(0, count, _BLOCK):
        last = _check_order(str(path), start, last, mapped[start : start + _BLOCK])
    return mapped


def contains(subset: UidPairs, keys: UidKeys) -> npt.NDArray[np.bool_]:
    """Return for each key, (n,), whether a subset lists it, (n,) bool.

    A binary search for all keys at once, which reads only the needed parts of a mapped file.
    """
    numbers = np.ascontiguousarray(keys, "S16").view(">u8").reshape(-1, 2).astype(np.uint64)
    low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(subset), np.int64)
    while (unfinished := low < high).any():
        middle = np.where(unfinished, (low + high) // 2, 0)
        entries = subset[middle]
        is_less = (entries["f0"] < numbers[:, 0]) | ((entries["f0"] == numbers[:, 0]) & (entries["f1"] < numbers[:, 1]))
        low, high = np.where(unfinished & is_less, middle + 1, low), np.where(unfinished & ~is_less, middle, high)
    nearest = subset[np.minimum(low, len(subset) - 1)] if len(subset) else np.zeros(len(keys), UID_PAIR_DTYPE)
    listed: npt.NDArray[np.bool_] = (
        (low < len(subset)) & (nearest["f0"] == numbers[:, 0]) & (nearest["f1"] == numbers[:, 1])
    )
    return listed


def _count(path: str, stream: Any) -> int:
    """Return the number of uids in a file's header; the stream is then at the first uid."""
    start = stream.read(10)
    size = int.from_bytes(start[8:10], "little")
    header = stream.read(min(size, _MAX_HEADER_BYTES))
    match = _HEADER.fullmatch(header)
    if start[:8] != _NUMPY_MAGIC + b"\x01\x00" or match is None:
        raise InputError(f"{path}: expected a subset as DataComp writes it (.npy of dtype u8,u8, one dimension)")
    return int(match[1])


def _keys(pairs: UidPairs) -> UidKeys:
    """Return the keys of uids in a file's form."""
    numbers = np.empty((len(pairs), 2), ">u8")
    numbers[:, 0], numbers[:, 1] = pairs["f0"], pairs["f1"]
    keys: UidKeys = numbers.view("S16").ravel()
    return keys


def _check_order(path: str, start: int, last: Any, pairs: UidPairs) -> Any:
    """Check that pairs, the first of which is entry `start`, ascend after `last`; return the last pair."""
    high, low = pairs["f0"], pairs["f1"]
    ascends = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    wrong = np.flatnonzero(~ascends)
    if last is not None and len(pairs) and (int(high[0]), int(low[0])) <= last:
        entry = start
    elif len(wrong):
        entry = start + int(wrong[0]) + 1
    else:
        return (int(high[-1]), int(low[-1])) if len(pairs) else last
    raise InputError(f"{path}: expected sorted uids, each once; entry {entry} is not above the one before it")


_UID = re.compile(rb"[0-9a-f]{32}")


_NUMPY = b"\x93NUMPY"


_TEXT_BLOCK, _MAX_LINE_BYTES = 32 << 20, 4096
"""Bytes of a text file that are read at once, and most bytes of a line."""


def read_uids(path: str) -> tuple[UidKeys, int]:
    """Return the uids in a file, sorted and unique, and the number of repeated entries.

    The file is text with one uid a line, or a subset as DataComp's tools write it (`pipeline.storage.uid_files`).
    Raises InputError where it is neither.
    """
    try:
        with open_source(path) as stream:
            start = stream.read(len(_NUMPY))
            entries = read_subset(path) if start == _NUMPY else _read_text(path, stream, start)
    except io_errors() as error:
        raise InputError(f"{path}: cannot be read: {error_message(error)}") from None
    distinct = unique_keys(entries)
    return distinct, len(entries) - len(distinct)


def _read_text(path: str, stream: BinaryIO, start: bytes) -> UidKeys:
    """Return the uids of a text file, whose first bytes are `start`; it is read in blocks of whole lines."""
    parts, lines_before, remainder = [np.empty(0, "S16")], 0, start
    while block := stream.read(_TEXT_BLOCK):
        whole, newline, remainder = (remainder + block).rpartition(b"\n")
        if len(remainder) > _MAX_LINE_BYTES:
            raise InputError(f"{path}: expected a uid a line, found a line of more than {_MAX_LINE_BYTES} bytes")
        parts.append(_parse_lines(path, whole, lines_before))
        lines_before += whole.count(b"\n") + len(newline)
    parts.append(_parse_lines(path, remainder, lines_before))
    return np.concatenate(parts)


def _parse_lines(path: str, text: bytes, before: int) -> UidKeys:
    """Return the uids of whole lines, which `before` entries precede; raise InputError where one is not a uid."""
    lines = text.split()
    for index, line in enumerate(lines):
        if len(line) != UID_HEX_DIGITS or not _UID.fullmatch(line):
            shown = line[:40].decode("utf-8", "replace")
            raise InputError(f"{path}: entry {before + index + 1}: expected a uid of 32 hex digits, found {shown!r}")
    return np.frombuffer(binascii.unhexlify(b"".join(lines)), "S16")
