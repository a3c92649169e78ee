"""A test of which entries of a column are among given values."""

from collections.abc import Collection
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class ValueFilter:
    """Values to search a column for: few by Arrow, which builds its hash table for each batch, many by Python."""

    FEW = 4096
    """Up to this many values more than the column has entries, Arrow is faster: building its table costs less."""

    def __init__(self, values: Collection[str]) -> None:
        self.values = frozenset(values)

    def __bool__(self) -> bool:
        return bool(self.values)

    @cached_property
    def _array(self) -> pa.Array:
        return pa.array(sorted(self.values), pa.string())

    def within(self, column: Any) -> pa.Array:
        """Return which entries of a string column are among the values, as booleans."""
        if len(self.values) <= self.FEW + len(column):
            return pc.is_in(column, self._array)
        return pa.array([value in self.values for value in column.to_pylist()], pa.bool_())
