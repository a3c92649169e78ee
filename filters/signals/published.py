"""What the sources publish about a pair: its licence, and numbers and labels."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError

_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class PublishedSignal:
    """Settings: `numbers` and `texts`, the published columns to include, under their own names; `licence` always is.

    A number is a float64, as published: LAION's similarity, for example, is outside [-1, 1] in some rows. A value that
    a source does not publish, or that is not a number, is null.
    """

    numbers: Sequence[str] = ()
    texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        for key, names in (("numbers", self.numbers), ("texts", self.texts)):
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise InputError(f"{key}: expected a list of column names, found {names!r}")
            for name in names:
                if not _COLUMN.fullmatch(name) or name.lower() in ("uid", "source", "licence", "job"):
                    raise InputError(
                        f"{key}: expected a name of letters, digits and _, and not licence, found {name!r}"
                    )

    @property
    def columns(self) -> pa.Schema:
        """The signal's columns."""
        fields = [("licence", pa.string()), *((name, pa.float64()) for name in self.numbers)]
        return pa.schema([*fields, *((name, pa.string()) for name in self.texts)])

    def compute(self, rows: pa.Table) -> pa.Table:
        """Return uid, source and the columns from rows of `pairs` (uid, source, licence, published)."""
        published = [json.loads(text) for text in rows["published"].to_pylist()]
        columns: dict[str, Any] = {name: rows[name] for name in ("uid", "source", "licence")}
        columns |= {
            name: pa.array([_number(values, name) for values in published], pa.float64()) for name in self.numbers
        }
        columns |= {name: pa.array([_text(values, name) for values in published], pa.string()) for name in self.texts}
        return pa.table(columns)


def _number(published: Mapping[str, Any], name: str) -> float | None:
    value = published.get(name)
    try:
        number = None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _text(published: Mapping[str, Any], name: str) -> str | None:
    value = published.get(name)
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
