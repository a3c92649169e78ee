"""Removal of pairs from a tar: the result is the tar of the remaining pairs, with their new offsets."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import StageFailed
from pipeline.shards.tar_format import TAR_END, ShardWriter

_BLOCK = 4 << 20
"""Bytes copied at once."""


PairRange = tuple[int, int]
"""A pair's offset and size in a tar, in bytes."""


@dataclass(frozen=True)
class TarCut:
    """How a tar is cut: the byte ranges [start, end) that remain, the new offset of each kept pair by its old one, and
    the size of the new tar in bytes.
    """

    runs: tuple[PairRange, ...]
    moved: Mapping[int, int]
    bytes: int


def plan_cut(places: Sequence[PairRange], gone: Collection[int], size: int, name: str) -> TarCut:
    """Return the cut of a tar of `size` bytes whose pairs lie at `places`, without those at the offsets `gone`.

    Raises StageFailed where the places do not cover the whole tar without gaps: it then holds something that the
    ledger does not know.
    """
    runs: list[list[int]] = []
    moved: dict[int, int] = {}
    end = new_offset = 0
    for offset, length in sorted(places):
        if offset != end or length <= 0:
            raise StageFailed(f"{name}: expected a pair at byte {end}, found the next one in the ledger at {offset}")
        end += length
        if offset in gone:
            continue
        moved[offset], new_offset = new_offset, new_offset + length
        if runs and runs[-1][1] == offset:
            runs[-1][1] = end
        else:
            runs.append([offset, end])
    if end + len(TAR_END) != size:
        raise StageFailed(f"{name}: found {size} bytes, expected {end + len(TAR_END)} for the ledger's pairs")
    return TarCut(tuple((start, stop) for start, stop in runs), moved, new_offset + len(TAR_END))


def write_cut(source: BinaryIO, target: BinaryIO, made: TarCut, name: str) -> str:
    """Write the new tar; return its SHA-256, 64 hex digits. Raises StageFailed where the source ends too early."""
    writer = ShardWriter(target)
    for start, stop in made.runs:
        source.seek(start)
        while start < stop:
            block = source.read(min(_BLOCK, stop - start))
            if not block:
                raise StageFailed(f"{name}: found its end at byte {start}, expected byte {stop}")
            writer.append(block)
            start += len(block)
    sha256 = writer.close()
    assert writer.bytes == made.bytes
    return sha256
