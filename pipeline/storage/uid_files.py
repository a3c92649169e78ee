"""Subset files as DataComp's tools write and read them: a `.npy` of uids as two 64-bit numbers each, sorted, each once.

The form is `np.array([(int(uid[:16], 16), int(uid[16:32], 16)), ...], "u8,u8")`, sorted (mlfoundations/datacomp
baselines/apply_filter.py writes it, resharder.py reads it). The header is compared with the one that numpy writes and
not evaluated, so nothing in a file is ever run. In memory uids are keys, 16 bytes each, whose order is the same.
"""

import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.core.uid_arrays import HEX, Keys, unique
from pipeline.errors import InputError
from pipeline.storage.object_store import failures, opened, told

Pairs = npt.NDArray[np.void]
"""Uids, (n,) of PAIR, as a file holds them."""


PAIR = np.dtype([("f0", "<u8"), ("f1", "<u8")])


_MAGIC = b"\x93NUMPY"


_HEADER = re.compile(
    rb"\{'descr': \[\('f0', '<u8'\), \('f1', '<u8'\)\], "
    rb"'fortran_order': (?:False|True), 'shape': \((\d{1,15}),\), \} *\n"
)


_LONGEST = 4096
"""Bytes that a header may have; numpy writes 118 or so."""


_BLOCK = 1 << 20
"""Uids that are read and checked at once."""


def write_subset(stream: BinaryIO, keys: Keys) -> int:
    """Write uids in any order, repeated or not, as a subset; return how many it lists. 32 bytes of memory for each."""
    pairs = np.empty(len(keys), PAIR)
    numbers = np.ascontiguousarray(keys, "S16").view(">u8").reshape(-1, 2)
    order = np.lexsort((numbers[:, 1], numbers[:, 0]))
    pairs["f0"], pairs["f1"] = numbers[order, 0], numbers[order, 1]
    once = pairs[np.append(True, pairs[1:] != pairs[:-1])] if len(pairs) else pairs
    np.lib.format.write_array(stream, once, allow_pickle=False)
    return len(once)


def read_subset(path: str) -> Keys:
    """Return the uids of a subset, of this machine or a URL; raise InputError where the file is not one."""
    return np.concatenate([np.empty(0, "S16"), *map(_keys, _blocks(path))])


def check_subset(path: str) -> None:
    """Raise InputError where `read_subset` would; hold no more than a block of it in memory."""
    for _ in _blocks(path):
        pass


def _blocks(path: str) -> Iterator[Pairs]:
    found, last = 0, None
    try:
        with opened(path) as stream:
            count = _count(path, stream)
            while found < count and len(data := stream.read(PAIR.itemsize * min(_BLOCK, count - found))):
                pairs = np.frombuffer(data, PAIR)
                last = _ordered(path, found, last, pairs)
                found += len(pairs)
                yield pairs
            if found < count or stream.read(1):
                raise InputError(f"{path}: expected {count} uids as its header says, found {found} and what follows")
    except failures(ValueError) as error:
        raise InputError(f"{path}: cannot be read: {told(error)}") from None


def open_subset(path: Path) -> Pairs:
    """Map a subset of this machine into memory, checked as `read_subset` does."""
    try:
        with path.open("rb") as stream:
            count, offset = _count(str(path), stream), stream.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {told(error)}") from None
    if (found := path.stat().st_size - offset) != count * PAIR.itemsize:
        raise InputError(f"{path}: expected {count} uids as its header says, found {found} bytes of them")
    if not count:
        return np.empty(0, PAIR)
    mapped: Pairs = np.memmap(path, PAIR, "r", offset, (count,))
    last = None
    for start in range(0, count, _BLOCK):
        last = _ordered(str(path), start, last, mapped[start : start + _BLOCK])
    return mapped


def contains(subset: Pairs, keys: Keys) -> npt.NDArray[np.bool_]:
    """Tell for each key whether a subset lists it: a binary search of all at once, which reads no more of a mapped file
    than it must.
    """
    numbers = np.ascontiguousarray(keys, "S16").view(">u8").reshape(-1, 2).astype(np.uint64)
    low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(subset), np.int64)
    while (open_ := low < high).any():
        middle = np.where(open_, (low + high) // 2, 0)
        at = subset[middle]
        less = (at["f0"] < numbers[:, 0]) | ((at["f0"] == numbers[:, 0]) & (at["f1"] < numbers[:, 1]))
        low, high = np.where(open_ & less, middle + 1, low), np.where(open_ & ~less, middle, high)
    found = subset[np.minimum(low, len(subset) - 1)] if len(subset) else np.zeros(len(keys), PAIR)
    same: npt.NDArray[np.bool_] = (low < len(subset)) & (found["f0"] == numbers[:, 0]) & (found["f1"] == numbers[:, 1])
    return same


def _count(path: str, stream: Any) -> int:
    """Return how many uids a file's header announces, the stream behind it."""
    start = stream.read(10)
    size = int.from_bytes(start[8:10], "little")
    header = stream.read(min(size, _LONGEST))
    match = _HEADER.fullmatch(header)
    if start[:8] != _MAGIC + b"\x01\x00" or match is None:
        raise InputError(f"{path}: expected a subset as DataComp writes it (.npy of dtype u8,u8, one dimension)")
    return int(match[1])


def _keys(pairs: Pairs) -> Keys:
    numbers = np.empty((len(pairs), 2), ">u8")
    numbers[:, 0], numbers[:, 1] = pairs["f0"], pairs["f1"]
    keys: Keys = numbers.view("S16").ravel()
    return keys


def _ordered(path: str, start: int, last: Any, pairs: Pairs) -> Any:
    """Check that pairs from place `start` rise, `last` before them; return the last."""
    high, low = pairs["f0"], pairs["f1"]
    rises = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] > low[:-1]))
    wrong = np.flatnonzero(~rises)
    if last is not None and len(pairs) and (int(high[0]), int(low[0])) <= last:
        place = start
    elif len(wrong):
        place = start + int(wrong[0]) + 1
    else:
        return (int(high[-1]), int(low[-1])) if len(pairs) else last
    raise InputError(f"{path}: expected sorted uids, each once; entry {place} is not above the one before it")


_UID = re.compile(rb"[0-9a-f]{32}")


_NUMPY = b"\x93NUMPY"


_TEXT_BLOCK, _LONGEST_LINE = 32 << 20, 4096
"""Bytes of a text file that are read at once, and that a line may have."""


def read_uids(path: str) -> tuple[Keys, int]:
    """Return the uids in a file, sorted, each once, and how many entries repeat an earlier one.

    The file is text with one uid a line, or a subset as DataComp's tools write it (`pipeline.storage.uid_files`).
    Raises InputError where it is neither.
    """
    try:
        with opened(path) as stream:
            start = stream.read(len(_NUMPY))
            found = read_subset(path) if start == _NUMPY else _of_text(path, stream, start)
    except failures() as error:
        raise InputError(f"{path}: cannot be read: {told(error)}") from None
    once = unique(found)
    return once, len(found) - len(once)


def _of_text(path: str, stream: BinaryIO, start: bytes) -> Keys:
    """Return the uids of a text file, whose first bytes are `start`; it is read in blocks of whole lines."""
    parts, number, rest = [np.empty(0, "S16")], 0, start
    while block := stream.read(_TEXT_BLOCK):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise InputError(f"{path}: expected a uid a line, found a line of more than {_LONGEST_LINE} bytes")
        parts.append(_lines(path, whole, number))
        number += whole.count(b"\n") + len(newline)
    parts.append(_lines(path, rest, number))
    return np.concatenate(parts)


def _lines(path: str, text: bytes, number: int) -> Keys:
    lines = text.split()
    for place, line in enumerate(lines):
        if len(line) != HEX or not _UID.fullmatch(line):
            shown = line[:40].decode("utf-8", "replace")
            raise InputError(f"{path}: entry {number + place + 1}: expected a uid of 32 hex digits, found {shown!r}")
    return np.frombuffer(binascii.unhexlify(b"".join(lines)), "S16")
