"""What a signal is: a named, versioned family of numbers about a pair, computed batch by batch without Spark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import StageFailed
from pipeline.images.normalize import decode_rgb
from pipeline.shards.tar_format import StoredPair

ColumnValues = Mapping[str, Any]
"""Column name to a list or array with one entry for each pair."""


@dataclass(frozen=True)
class PairBatch:
    """Consecutive pairs of one shard. `samples` are their rows of the table `samples`."""

    pairs: Sequence[StoredPair]
    samples: Sequence[Mapping[str, Any]]

    @cached_property
    def images(self) -> list[npt.NDArray[np.uint8]]:
        """The stored images as RGB, (height, width, 3) uint8, decoded once for all signals.

        Raises StageFailed at one that does not decode, which names its pair.
        """
        return [_decode(pair) for pair in self.pairs]

    def captions(self, form: Callable[[str], str]) -> list[str]:
        """Return the captions in a form, computed once for all signals that ask for the same one.

        The signal names the form, so that how captions are normalised is in the ids of those signals alone.
        """
        if form not in self._captions:
            self._captions[form] = [form(pair.caption) for pair in self.pairs]
        return self._captions[form]

    @cached_property
    def _captions(self) -> dict[Callable[[str], str], list[str]]:
        return {}


def _decode(pair: StoredPair) -> npt.NDArray[np.uint8]:
    """Return a pair's image; it was decoded when it was stored, so a failure means that the shard is damaged."""
    image = decode_rgb(pair.jpg)
    if image is None:
        raise StageFailed(
            f"pair {pair.uid}, at byte {pair.offset} of its shard: expected the JPEG that was stored, found "
            f"{len(pair.jpg)} bytes that do not decode: the shard is damaged, as `cuvee verify` will say"
        )
    return image


class ShardSignal(Protocol):
    """A signal that is computed where the shard is read. Picklable and small: models are loaded in the task."""

    columns: ClassVar[pa.Schema]

    def compute(self, batch: PairBatch) -> ColumnValues:
        """Return a value of each column for each pair of the batch, null where there is none."""
        ...


def embeddings_to_binary(vectors: npt.NDArray[np.floating[Any]]) -> pa.Array:
    """Return an (n, d) array as n binaries of d little-endian float16."""
    return pa.array([row.tobytes() for row in np.ascontiguousarray(vectors, dtype="<f2")], pa.binary())


def binary_to_embeddings(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """Return what `embeddings_to_binary` wrote as (n, d) float32; no entry may be null."""
    values = column.to_pylist()
    if not values:
        return np.zeros((0, 0), np.float32)
    return np.frombuffer(b"".join(values), "<f2").reshape(len(values), -1).astype(np.float32)
