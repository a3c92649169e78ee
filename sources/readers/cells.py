"""Cells of published tables, read as plain JSON values, text, scores, hashes and face boxes."""

import json
import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipeline.records import Box

HEX_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "pdq": 64}
"""The image hashes that a row may contain, with their lengths in hex digits."""


MAX_UNREADABLE_CHARS = 80
"""Characters that are kept of a score that is not a number."""


_MAX_INTEGER = 2.0**63


class BadCell(ValueError):
    """A cell is invalid, and its row must not be used without it."""

    def __init__(self, expected: str, found: Any) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found if isinstance(found, str) else repr(found)


def plain_value(value: Any) -> Any:
    """Return a cell as a plain JSON value.

    In text that is not UTF-8, invalid bytes become U+FFFD; NaN and infinity become None, as JSON has neither; a decimal
    becomes a number; a time becomes ISO 8601 text.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Decimal):
        return plain_value(int(value) if value.is_finite() and value == value.to_integral_value() else float(value))
    if isinstance(value, Mapping):
        return {cell_text(plain_value(key)): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return value.isoformat() if isinstance(value, date | time) else str(value)


def cell_text(value: Any) -> str:
    """Return a plain cell as text, "" for None; raise BadCell for a list or a struct.

    Whole floats lose their ".0": pandas converts an integer column with nulls, such as ids, to floats.
    """
    if isinstance(value, list | dict):
        raise BadCell("text or a number in a cell", value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_INTEGER:
        return str(int(value))
    return "" if value is None else str(value)


def cell_number(value: Any) -> float | None:
    """Return a plain cell as a finite number, None for an empty cell, NaN or infinity; raise ValueError for others."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
        raise ValueError(f"expected a number, found {value!r}")  # only Python reads 1_000 as a number
    try:
        result = float(value)
    except OverflowError:  # an integer beyond the range of floats
        return None
    return result if math.isfinite(result) else None


def read_scores(cells: Mapping[str, Any], kinds: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """Return the scores among plain cells: float64 as numbers, others as text; empty ones are left out.

    A number that cannot be parsed is left out, too; its first 80 characters are kept under its name and "_unreadable".
    """
    scores: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = cells.get(name)
        try:
            score = cell_number(value) if pa.types.is_floating(kind) else cell_text(value)
        except ValueError:
            raw = value if isinstance(value, str) else json.dumps(value)
            scores[f"{name}_unreadable"] = raw[:MAX_UNREADABLE_CHARS]
            continue
        if score is not None and score != "":
            scores[name] = score
    return scores


def image_hashes(cells: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes among plain cells by their kind, as lower-case hex; empty cells are left out.

    Raises BadCell for an invalid hash: without it, a replaced image would pass for the published one.
    """
    hashes = {}
    for kind, digits in HEX_DIGITS.items():
        if not (value := cell_text(cells.get(kind)).strip().lower()):
            continue
        if len(value) != digits or set(value) - set("0123456789abcdef"):
            raise BadCell(f"{kind} as {digits} hex digits", value)
        hashes[kind] = value
    return hashes


def face_boxes(value: Any) -> tuple[Box, ...]:
    """Return boxes [left, top, right, bottom], fractions of width and height, clipped to 0..1; JSON text is read.

    Raises BadCell for an invalid box: a face that cannot be located cannot be blurred, so its image must not be used. A
    box that is entirely outside the image is left out.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise BadCell("face boxes as JSON", value) from None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadCell("a list of face boxes", value)
    clipped = [_box(item) for item in value]
    return tuple(box for box in clipped if box[0] < box[2] and box[1] < box[3])


def _box(value: Any) -> Box:
    numbers = [x for x in value if _finite(x)] if isinstance(value, list) and len(value) == 4 else []
    if len(numbers) != 4:
        raise BadCell("a face box of 4 finite numbers", value)
    left, top, right, bottom = numbers
    if not (left < right and top < bottom):
        raise BadCell("a face box [left, top, right, bottom]", value)
    left, top, right, bottom = (float(min(1, max(0, x))) for x in numbers)
    return left, top, right, bottom


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
