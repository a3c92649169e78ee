"""Pairs are cut out of a tar: what is left is the tar of the remaining pairs, and says where each now lies."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import StageFailed
from pipeline.shards.tar_format import END, ShardWriter

_BLOCK = 4 << 20
"""Bytes that are copied at once."""


Place = tuple[int, int]
"""A pair's offset and size in a tar, in bytes."""


@dataclass(frozen=True)
class Cut:
    """How a tar is cut: the stretches [start, end) that stay, where each kept pair now begins by where it began, and
    the bytes of the new tar.
    """

    runs: tuple[Place, ...]
    moved: Mapping[int, int]
    bytes: int


def cut(places: Sequence[Place], gone: Collection[int], size: int, name: str) -> Cut:
    """Return how a tar of `size` bytes is cut, whose pairs lie at `places` and of which those at the offsets `gone` go.

    Raises StageFailed where the places are not the whole tar, pair behind pair: something is in it that the ledger
    does not know.
    """
    runs: list[list[int]] = []
    moved: dict[int, int] = {}
    end = new = 0
    for offset, length in sorted(places):
        if offset != end or length <= 0:
            raise StageFailed(f"{name}: expected a pair at byte {end}, the ledger has the next at {offset}")
        end += length
        if offset in gone:
            continue
        moved[offset], new = new, new + length
        if runs and runs[-1][1] == offset:
            runs[-1][1] = end
        else:
            runs.append([offset, end])
    if end + len(END) != size:
        raise StageFailed(f"{name}: {size} bytes, the ledger's pairs make {end + len(END)}")
    return Cut(tuple((start, stop) for start, stop in runs), moved, new + len(END))


def copy(source: BinaryIO, target: BinaryIO, made: Cut, name: str) -> str:
    """Write the new tar; return its SHA-256, 64 hex digits. Raises StageFailed where the source ends too early."""
    writer = ShardWriter(target)
    for start, stop in made.runs:
        source.seek(start)
        while start < stop:
            block = source.read(min(_BLOCK, stop - start))
            if not block:
                raise StageFailed(f"{name}: ends at byte {start}, expected {stop}")
            writer.append(block)
            start += len(block)
    sha256 = writer.close()
    assert writer.bytes == made.bytes
    return sha256
