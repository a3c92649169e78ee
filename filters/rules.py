"""Rules: what of the signals makes a pair be kept, and the stable name of the reason why not.

Each rule decides about every stored pair by itself; `all` gives the reason of its first part that drops the pair.
So what one rule says does not depend on another, and leaving one out never drops more.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import InputError, unknown

KEEP = ""
"""The reason of a kept pair."""

_COLUMN = re.compile(r"\b([a-z][a-z0-9_]*_v\d+)\.([A-Za-z_][A-Za-z0-9_]*)\b")
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])")
_STRANGE = re.compile(r"[^A-Za-z0-9_ \t\r\n.,()\[\]<>=!+*/%&|^~-]|--|/\*")
_REASON = re.compile(r"[a-z][a-z0-9_]*")
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
        "isnan",
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


class Rule(Protocol):
    """A parsed filter of the experiment file."""

    @property
    def name(self) -> str:
        """Its name in the experiment file."""
        ...

    def signals(self) -> dict[str, set[str]]:
        """Return the columns it reads of each signal."""
        ...

    def filters(self) -> list[str]:
        """Return the other filters it is made of."""
        ...

    def text(self) -> str:
        """Return the rule in words, for the report."""
        ...


def predicate_columns(text: str, where: str) -> dict[str, set[str]]:
    """Return the signal columns in a Spark SQL predicate; raise InputError at anything but columns and plain functions.

    An experiment file may come from others, and Spark SQL can call into the JVM (`reflect`), so names and functions
    are allowed by list.
    """
    bare = _STRING.sub("''", text)
    for function in _CALL.findall(bare):
        if function.lower() not in _FUNCTIONS | _WORDS:
            raise InputError(f"{where}: {unknown('function', function, _FUNCTIONS)}")
    found: dict[str, set[str]] = {}
    for signal, column in _COLUMN.findall(bare):
        found.setdefault(signal, set()).add(column)
    rest = _CALL.sub(" (", _NUMBER.sub(" ", _COLUMN.sub(" ", bare)))
    for word in re.findall(r"[A-Za-z_]\w*", rest):
        if word.lower() not in _WORDS:
            raise InputError(f"{where}: found '{word}', expected signal columns such as caption_v1.words")
    # an open string or parenthesis would reach beyond this predicate in the query that holds it
    if _STRANGE.search(_STRING.sub(" ", text)) or not _balanced(rest) or not found:
        raise InputError(f"{where}: expected a predicate over signal columns, found {text!r}")
    return found


def _balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return depth == 0


def _merged(parts: list[dict[str, set[str]]]) -> dict[str, set[str]]:
    result: dict[str, set[str]] = {}
    for part in parts:
        for signal, columns in part.items():
            result[signal] = result.get(signal, set()) | columns
    return result


def _column(text: Any, where: str) -> tuple[str, str]:
    match = _COLUMN.fullmatch(str(text))
    if not match:
        raise InputError(f"{where}: expected a signal's column such as clip_v1.similarity, found {text!r}")
    return match[1], match[2]


@dataclass(frozen=True)
class DropWhen:
    """Drops a pair for the first reason whose predicate holds; one that is unknown (null) drops it too."""

    name: str
    reasons: Mapping[str, str]

    def signals(self) -> dict[str, set[str]]:
        """Return the columns of all predicates."""
        return _merged([predicate_columns(text, self.name) for text in self.reasons.values()])

    def filters(self) -> list[str]:
        """None."""
        return []

    def text(self) -> str:
        """The predicates, as written."""
        return "; ".join(f"drop as {reason} when {text}" for reason, text in self.reasons.items())


@dataclass(frozen=True)
class TopFraction:
    """Keeps the `fraction` with the largest values, over all sources or within each; ties go to the smaller uid.

    Of n pairs with a value, ceil(fraction * n) are kept; a pair without one is dropped as `no_score`.
    """

    name: str
    fraction: float
    by: tuple[str, str]
    per_source: bool

    def signals(self) -> dict[str, set[str]]:
        """The ranked column."""
        return {self.by[0]: {self.by[1]}}

    def filters(self) -> list[str]:
        """None."""
        return []

    def text(self) -> str:
        """The fraction and the column."""
        scope = " of each source" if self.per_source else ""
        return f"keep the top {self.fraction:.0%}{scope} by {'.'.join(self.by)}"


@dataclass(frozen=True)
class Unique:
    """Keeps one pair of each group: the one with the largest `prefer`, then with the smallest uid."""

    name: str
    group: tuple[str, str]
    prefer: tuple[str, str] | None

    @property
    def reason(self) -> str:
        """`exact_duplicate` for a column `exact_group`."""
        return self.group[1].removesuffix("_group") + "_duplicate"

    def signals(self) -> dict[str, set[str]]:
        """The group's and the preferred column."""
        return _merged([{signal: {column}} for signal, column in filter(None, (self.group, self.prefer))])

    def filters(self) -> list[str]:
        """None."""
        return []

    def text(self) -> str:
        """The group and the preference."""
        prefer = f", preferring the largest {'.'.join(self.prefer)}" if self.prefer else ""
        return f"keep one of each {'.'.join(self.group)}{prefer}"


@dataclass(frozen=True)
class NotInEvaluation:
    """Drops what is too near an evaluation image: within `pdq_distance` bits, or with a cosine of `cosine` or more.

    A PDQ match counts only where the evaluation image's PDQ quality is at least `min_quality`.
    """

    name: str
    signal: str
    pdq_distance: int
    cosine: float
    min_quality: int

    def signals(self) -> dict[str, set[str]]:
        """The columns of the nearest-image signal."""
        return {self.signal: {"pdq_distance", "pdq_quality", "cosine"}}

    def filters(self) -> list[str]:
        """None."""
        return []

    def text(self) -> str:
        """Both thresholds."""
        return (
            f"drop what lies within {self.pdq_distance} bits (PDQ) or at a cosine of {self.cosine} or more "
            f"of an evaluation image"
        )


@dataclass(frozen=True)
class AllOf:
    """Keeps what all of its filters keep; the reason is that of the first that drops."""

    name: str
    parts: tuple[str, ...]

    def signals(self) -> dict[str, set[str]]:
        """None of its own."""
        return {}

    def filters(self) -> list[str]:
        """Its parts."""
        return list(self.parts)

    def text(self) -> str:
        """Its parts, in order."""
        return "keep what all of these keep: " + ", ".join(self.parts)


_KINDS: dict[str, tuple[str, ...]] = {
    "drop_when": ("drop_when",),
    "top_fraction": ("top_fraction", "by", "per_source"),
    "unique_by": ("unique_by", "prefer"),
    "not_in_evaluation": ("not_in_evaluation", "pdq_distance", "cosine", "min_quality"),
    "all": ("all",),
}


def parse_rule(name: str, given: Mapping[str, Any]) -> Rule:
    """Return the rule that a filter of the experiment file describes; raise InputError naming the key."""
    where = f"filters.{name}"
    kinds = [key for key in _KINDS if key in given]
    if len(kinds) != 1:
        raise InputError(f"{where}: expected exactly one of {', '.join(_KINDS)}, found {', '.join(given) or 'nothing'}")
    kind = kinds[0]
    for key in given:
        if key not in _KINDS[kind]:
            raise InputError(f"{where}.{key}: {unknown('key', key, _KINDS[kind])}")
    value = given[kind]
    if kind == "drop_when":
        if not isinstance(value, dict) or not value:
            raise InputError(f"{where}.drop_when: expected reason: predicate, found {value!r}")
        for reason, text in value.items():
            if not _REASON.fullmatch(str(reason)):
                raise InputError(f"{where}.drop_when: expected a reason such as caption_too_short, found {reason!r}")
            predicate_columns(str(text), f"{where}.drop_when.{reason}")
        return DropWhen(name, {str(reason): str(text) for reason, text in value.items()})
    if kind == "top_fraction":
        by = _column(given.get("by"), f"{where}.by")
        per_source = given.get("per_source", False)
        if not isinstance(per_source, bool):
            raise InputError(f"{where}.per_source: expected true or false, found {per_source!r}")
        return TopFraction(name, _number(value, f"{where}.top_fraction", 0, 1), by, per_source)
    if kind == "unique_by":
        prefer = _column(given["prefer"], f"{where}.prefer") if "prefer" in given else None
        return Unique(name, _column(value, f"{where}.unique_by"), prefer)
    if kind == "not_in_evaluation":
        return NotInEvaluation(
            name,
            str(value),
            _whole(given.get("pdq_distance", 31), f"{where}.pdq_distance", 0, 256),
            _number(given.get("cosine", 1.0), f"{where}.cosine", -1, 2),
            _whole(given.get("min_quality", 50), f"{where}.min_quality", 0, 100),
        )
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}.all: expected a list of filters, found {value!r}")
    return AllOf(name, tuple(map(str, value)))


def _number(value: Any, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{where}: expected a number from {low} to {high}, found {value!r}")
    return float(value)


def _whole(value: Any, where: str, low: int, high: int) -> int:
    number = _number(value, where, low, high)
    if not number.is_integer():
        raise InputError(f"{where}: expected a whole number from {low} to {high}, found {value!r}")
    return int(number)
