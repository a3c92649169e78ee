"""Predicates of the experiment file: columns of signals and plain functions, and nothing else of Spark SQL.

An experiment file may come from others, and Spark SQL can call into the JVM (`reflect`), so names and functions are
checked against an allowlist. `isnan` is not on it: a predicate sees NaN as null.
"""

import re
from collections.abc import Iterable
from typing import Any

from pipeline.errors import InputError, unknown_message

SignalColumns = dict[str, set[str]]
"""The columns of each signal that a rule reads."""


_COLUMN = re.compile(r"\b([a-z][a-z0-9_]*_v\d+)\.([A-Za-z_][A-Za-z0-9_]*)\b")


_STRING = re.compile(r"'(?:[^'\\]|\\.)*'", re.DOTALL)


_NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])")


_FORBIDDEN = re.compile(r"[^A-Za-z0-9_ \t\r\n.,()\[\]<>=!+*/%&|^~-]|--|/\*")


_CALL = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*)\s*\(")


_WORDS = frozenset(
    [
        "and",
        "or",
        "not",
        "in",
        "is",
        "null",
        "between",
        "like",
        "rlike",
        "true",
        "false",
        "case",
        "when",
        "then",
        "else",
        "end",
        "div",
    ]
)


_FUNCTIONS = frozenset(
    [
        "abs",
        "array_contains",
        "ceil",
        "coalesce",
        "contains",
        "endswith",
        "exp",
        "floor",
        "greatest",
        "if",
        "isnotnull",
        "isnull",
        "least",
        "length",
        "ln",
        "log2",
        "lower",
        "nvl",
        "pow",
        "round",
        "sign",
        "size",
        "sqrt",
        "startswith",
        "substr",
        "trim",
        "upper",
    ]
)


def predicate_columns(text: str, where: str) -> SignalColumns:
    """Return the signal columns in a Spark SQL predicate; raise InputError for anything but columns and functions."""
    without_strings = _STRING.sub("''", text)
    for function in _CALL.findall(without_strings):
        if function.lower() not in _FUNCTIONS | _WORDS:
            raise InputError(f"{where}: {unknown_message('function', function, _FUNCTIONS)}")
    columns: SignalColumns = {}
    for signal, column in _COLUMN.findall(without_strings):
        columns.setdefault(signal, set()).add(column)
    remainder = _CALL.sub(" (", _NUMBER.sub(" ", _COLUMN.sub(" ", without_strings)))
    for word in re.findall(r"[A-Za-z_]\w*", remainder):
        if word.lower() not in _WORDS:
            raise InputError(f"{where}: found '{word}', expected signal columns such as caption_v1.words")
    # an unclosed string or parenthesis would reach beyond this predicate in the query that contains it
    if _FORBIDDEN.search(_STRING.sub(" ", text)) or not _balanced(remainder) or not columns:
        raise InputError(f"{where}: expected a predicate over signal columns, found {text!r}")
    return columns


def _balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return depth == 0


def merge_columns(parts: Iterable[SignalColumns]) -> SignalColumns:
    """Return the union of the columns of all `parts`."""
    result: SignalColumns = {}
    for part in parts:
        for signal, columns in part.items():
            result[signal] = result.get(signal, set()) | columns
    return result


def parse_signal_column(text: Any, where: str) -> tuple[str, str]:
    """Return (signal, column) of "signal.column"; raise InputError for anything else."""
    match = _COLUMN.fullmatch(str(text))
    if not match:
        raise InputError(f"{where}: expected a signal's column such as clip_v1.similarity, found {text!r}")
    return match[1], match[2]
