"""Rules from the experiment file: one key says the kind, and unknown keys are refused with the choices.

Where a rule is made of others, each is the name of a filter or a rule that is written out in its place.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from filters.rules import presets
from filters.rules.base import (
    COMPARISONS,
    Concepts,
    Decided,
    DropWhen,
    NearReference,
    NotInEvaluation,
    RandomFraction,
    Rule,
    Subset,
    Threshold,
)
from filters.rules.composite import AllOf, AnyOf, Not, Preset
from filters.rules.corpus import Balanced, TopFraction, Unique
from filters.rules.predicates import predicate_columns, signal_column
from pipeline.errors import InputError, unknown

_REASON = re.compile(r"[a-z][a-z0-9_]*")


_SIGNAL = re.compile(r"[a-z][a-z0-9_]*_v\d+")


LARGEST = 1e300
"""What a threshold may be, above and below 0."""


@dataclass(frozen=True)
class Setting:
    """What of an experiment a filter's meaning follows from: its seed, and its signals by name."""

    seed: int = 0
    signals: presets.Signals = field(default_factory=dict)


def _number(value: Any, where: str, low: float = -LARGEST, high: float = LARGEST) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        bounds = "" if high == LARGEST else f" from {low} to {high}"
        raise InputError(f"{where}: expected a number{bounds}, found {value!r}")
    return float(value)


def _whole(value: Any, where: str, low: int, high: int) -> int:
    number = _number(value, where, low, high)
    if not number.is_integer():
        raise InputError(f"{where}: expected a whole number from {low} to {high}, found {value!r}")
    return int(number)


def _reason(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _REASON.fullmatch(value):
        raise InputError(f"{where}: expected a reason such as caption_too_short, found {value!r}")
    return value


@dataclass(frozen=True)
class _Given:
    """A rule as it is written: its name, its place in the file, its keys, and the experiment's setting."""

    name: str
    where: str
    keys: Mapping[str, Any]
    setting: Setting

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        return _number(self.keys.get(key, default), f"{self.where}.{key}", low, high)

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        return _whole(self.keys.get(key, default), f"{self.where}.{key}", low, high)

    def column(self, key: str) -> tuple[str, str]:
        return signal_column(self.keys.get(key), f"{self.where}.{key}")

    def signal(self, key: str) -> str:
        if not isinstance(value := self.keys[key], str) or not _SIGNAL.fullmatch(value):
            raise InputError(f"{self.where}.{key}: expected a signal such as clip_v1, found {value!r}")
        return value

    def flag(self, key: str) -> bool:
        if not isinstance(value := self.keys.get(key, False), bool):
            raise InputError(f"{self.where}.{key}: expected true or false, found {value!r}")
        return value

    def part(self, key: str, value: Any, taken: Sequence[str] = ()) -> Rule:
        """Return the filter that is named, or the rule that is written out, under a name that is not `taken`."""
        if isinstance(value, str):
            return Decided(value)
        if not isinstance(value, dict):
            raise InputError(f"{self.where}.{key}: expected a filter's name or a rule, found {value!r}")
        kind = next((kind for kind in _KINDS if kind in value), "rule")
        name, number = f"{self.name}.{kind}", 2
        while name in taken:
            name, number = f"{self.name}.{kind}_{number}", number + 1
        return _parse(_Given(name, f"{self.where}.{key}", value, self.setting))

    def parts(self, key: str) -> tuple[Rule, ...]:
        value = self.keys[key]
        if not isinstance(value, list) or not value:
            raise InputError(f"{self.where}.{key}: expected a list of filters, found {value!r}")
        found: list[Rule] = []
        for number, one in enumerate(value):
            found.append(self.part(f"{key}.{number}", one, [part.name for part in found]))
        return tuple(found)

    def among(self) -> Rule | None:
        return self.part("among", self.keys["among"]) if "among" in self.keys else None


def parse_rule(name: str, given: Mapping[str, Any], setting: Setting | None = None) -> Rule:
    """Return the rule that a filter of the experiment file describes; raise InputError naming the key."""
    return _parse(_Given(name, f"filters.{name}", given, setting or Setting()))


def _parse(given: _Given) -> Rule:
    kinds = [key for key in _KINDS if key in given.keys]
    if len(kinds) != 1:
        found = ", ".join(map(str, given.keys)) or "nothing"
        raise InputError(f"{given.where}: expected exactly one of {', '.join(_KINDS)}, found {found}")
    parser, others = _KINDS[kinds[0]]
    known = [kinds[0], *others]
    for key in given.keys:
        if key not in known:
            raise InputError(f"{given.where}.{key}: {unknown('key', str(key), known)}")
    return parser(given)


def _drop_when(given: _Given) -> Rule:
    value, where = given.keys["drop_when"], f"{given.where}.drop_when"
    if not isinstance(value, dict) or not value:
        raise InputError(f"{where}: expected reason: predicate, found {value!r}")
    reasons = {_reason(reason, where): str(text) for reason, text in value.items()}
    for reason, text in reasons.items():
        predicate_columns(text, f"{where}.{reason}")
    return DropWhen(given.name, reasons)


def _top_fraction(given: _Given) -> Rule:
    fraction, by = given.number("top_fraction", 0, 1), given.column("by")
    return TopFraction(given.name, fraction, by, given.flag("per_source"), among=given.among())


def _threshold(given: _Given) -> Rule:
    value, where = given.keys["threshold"], f"{given.where}.threshold"
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected by and one of {', '.join(COMPARISONS)}, found {value!r}")
    for key in value:
        if key not in (known := [*COMPARISONS, "by", "per_source", "reason"]):
            raise InputError(f"{where}.{key}: {unknown('key', str(key), known)}")
    found = [key for key in COMPARISONS if key in value]
    if len(found) != 1:
        choices = ", ".join(COMPARISONS)
        raise InputError(f"{where}: expected exactly one of {choices}, found {', '.join(found) or 'none'}")
    sources = value.get("per_source", {})
    if not isinstance(sources, dict):
        raise InputError(f"{where}.per_source: expected source: number, found {sources!r}")
    others = {str(source): _number(number, f"{where}.per_source.{source}") for source, number in sources.items()}
    number = _number(value[found[0]], f"{where}.{found[0]}")
    default = "below_threshold" if found[0] in ("at_least", "above") else "above_threshold"
    reason = _reason(value.get("reason", default), f"{where}.reason")
    return Threshold(given.name, signal_column(value.get("by"), f"{where}.by"), found[0], number, others, reason)


def _unique_by(given: _Given) -> Rule:
    if "prefer" in given.keys and "prefer_smallest" in given.keys:
        raise InputError(f"{given.where}: expected prefer or prefer_smallest, found both")
    smallest = "prefer_smallest" in given.keys
    key = "prefer_smallest" if smallest else "prefer"
    prefer = given.column(key) if key in given.keys else None
    return Unique(given.name, given.column("unique_by"), prefer, smallest, among=given.among())


def _not_in_evaluation(given: _Given) -> Rule:
    distance = None if _off(given, "pdq_distance") else given.whole("pdq_distance", 0, 256, 31)
    cosine = None if _off(given, "cosine") else given.number("cosine", -1, 2, 1.0)
    aligned = given.number("aligned", 0, 1) if given.keys.get("aligned") is not None else None
    if distance is cosine is aligned is None:
        raise InputError(f"{given.where}: expected one of pdq_distance, cosine, aligned, found none that is not null")
    quality = given.whole("min_quality", 0, 100, 50)
    return NotInEvaluation(given.name, given.signal("not_in_evaluation"), distance, cosine, aligned, quality)


def _off(given: _Given, key: str) -> bool:
    return key in given.keys and given.keys[key] is None


def _near_reference(given: _Given) -> Rule:
    return NearReference(given.name, given.signal("near_reference"))


def _concepts(given: _Given) -> Rule:
    where, wanted = f"{given.where}.any_of", given.keys.get("any_of", [])
    if not isinstance(wanted, list) or ("any_of" in given.keys and not wanted):
        raise InputError(f"{where}: expected a list of lines of the concept file, from 0, found {wanted!r}")
    lines = {_whole(one, f"{where}.{place}", 0, 2**31 - 1) for place, one in enumerate(wanted)}
    return Concepts(given.name, given.signal("concepts"), tuple(sorted(lines)))


def _balanced(given: _Given) -> Rule:
    t = given.whole("t", 1, 2**53)
    return Balanced(given.name, given.signal("balanced"), t, given.setting.seed, among=given.among())


def _subset(given: _Given) -> Rule:
    if not isinstance(path := given.keys["subset"], str) or not path:
        raise InputError(f"{given.where}.subset: expected the path of a .npy file, found {path!r}")
    return Subset(given.name, path)


def _random_fraction(given: _Given) -> Rule:
    return RandomFraction(given.name, given.number("random_fraction", 0, 1), given.setting.seed)


def _all(given: _Given) -> Rule:
    return AllOf(given.name, given.parts("all"))


def _any(given: _Given) -> Rule:
    return AnyOf(given.name, given.parts("any"))


def _not(given: _Given) -> Rule:
    return Not(given.name, given.part("not", given.keys["not"]))


def _preset(given: _Given) -> Rule:
    name, signals = given.keys["preset"], given.keys.get("signals", {})
    if not isinstance(signals, dict):
        raise InputError(f"{given.where}.signals: expected role: signal, found {signals!r}")
    found = presets.preset(name, given.where)
    rule = found.expanded(signals, given.setting.signals, given.where)
    return Preset(given.name, str(name), found.source, _parse(_Given(given.name, given.where, rule, given.setting)))


_KINDS: dict[str, tuple[Callable[[_Given], Rule], tuple[str, ...]]] = {
    "drop_when": (_drop_when, ()),
    "top_fraction": (_top_fraction, ("by", "per_source", "among")),
    "threshold": (_threshold, ()),
    "unique_by": (_unique_by, ("prefer", "prefer_smallest", "among")),
    "not_in_evaluation": (_not_in_evaluation, ("pdq_distance", "cosine", "aligned", "min_quality")),
    "near_reference": (_near_reference, ()),
    "concepts": (_concepts, ("any_of",)),
    "balanced": (_balanced, ("t", "among")),
    "subset": (_subset, ()),
    "random_fraction": (_random_fraction, ()),
    "all": (_all, ()),
    "any": (_any, ()),
    "not": (_not, ()),
    "preset": (_preset, ("signals",)),
}
