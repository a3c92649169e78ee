"""JSON that others wrote, read as plain values: no NaN and no infinity, which JSON does not know, is in them."""

import json
import math
from typing import Any

NO_JSON = (ValueError, RecursionError)
"""What `plain_json` raises for bytes that are no JSON."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def plain_json(content: bytes) -> Any:
    """Return what a JSON document holds; bytes that are not UTF-8 become U+FFFD, and NaN, Infinity and 1e999 None.

    Raises one of `NO_JSON`.
    """
    text = content.decode("utf-8-sig", "replace")
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def within(value: Any, *names: str) -> Any:
    """Return what lies under these names in objects within objects, None where one is missing or is no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
