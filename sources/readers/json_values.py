"""JSON of others, read as plain values without NaN and infinity, which are not valid JSON."""

import json
import math
from typing import Any

JSON_ERRORS = (ValueError, RecursionError)
"""The exceptions that `plain_json` raises for bytes that are not JSON."""


def _finite_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def plain_json(content: bytes) -> Any:
    """Return the value of a JSON document; bytes that are not UTF-8 become U+FFFD, and NaN, Infinity and 1e999 None.

    Raises one of `JSON_ERRORS`.
    """
    text = content.decode("utf-8-sig", "replace")
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite_float)


def nested_value(value: Any, *names: str) -> Any:
    """Return the value under these names in nested objects, None where one is missing or not an object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
