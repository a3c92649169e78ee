"""Parses rules of the experiment file: one key gives the kind; an error about an unknown key lists the valid ones.

Where a rule is composed of others, each part is the name of a filter or a rule that is written inline.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from filters.rules import presets
from filters.rules.base import (
    COMPARISONS,
    ConceptsRule,
    DropWhen,
    FilterReference,
    NearReferenceRule,
    NotInEvaluation,
    RandomFraction,
    Rule,
    Subset,
    Threshold,
)
from filters.rules.composite import AllOf, AnyOf, Not, PresetRule
from filters.rules.corpus import Balanced, TopFraction, Unique
from filters.rules.predicates import parse_signal_column, predicate_columns
from pipeline.errors import InputError, unknown_message

_REASON = re.compile(r"[a-z][a-z0-9_]*")


_SIGNAL = re.compile(r"[a-z][a-z0-9_]*_v\d+")


MAX_THRESHOLD = 1e300
"""The largest absolute value of a threshold."""


@dataclass(frozen=True)
class RuleContext:
    """The parts of an experiment that a filter depends on: its seed, and its signals by name."""

    seed: int = 0
    signals: presets.PresetSignals = field(default_factory=dict)


def _number(value: Any, where: str, low: float = -MAX_THRESHOLD, high: float = MAX_THRESHOLD) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        bounds = "" if high == MAX_THRESHOLD else f" from {low} to {high}"
        raise InputError(f"{where}: expected a number{bounds}, found {value!r}")
    return float(value)


def _integer(value: Any, where: str, low: int, high: int) -> int:
    number = _number(value, where, low, high)
    if not number.is_integer():
        raise InputError(f"{where}: expected a whole number from {low} to {high}, found {value!r}")
    return int(number)


def _reason(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _REASON.fullmatch(value):
        raise InputError(f"{where}: expected a reason such as caption_too_short, found {value!r}")
    return value


@dataclass(frozen=True)
class _RuleConfig:
    """A rule as written in the file: its name, its place in the file, its keys, and the experiment's setting."""

    name: str
    where: str
    keys: Mapping[str, Any]
    setting: RuleContext

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        return _number(self.keys.get(key, default), f"{self.where}.{key}", low, high)

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        return _integer(self.keys.get(key, default), f"{self.where}.{key}", low, high)

    def column(self, key: str) -> tuple[str, str]:
        return parse_signal_column(self.keys.get(key), f"{self.where}.{key}")

    def signal(self, key: str) -> str:
        if not isinstance(value := self.keys[key], str) or not _SIGNAL.fullmatch(value):
            raise InputError(f"{self.where}.{key}: expected a signal such as clip_v1, found {value!r}")
        return value

    def flag(self, key: str) -> bool:
        if not isinstance(value := self.keys.get(key, False), bool):
            raise InputError(f"{self.where}.{key}: expected true or false, found {value!r}")
        return value

    def part(self, key: str, value: Any, taken: Sequence[str] = ()) -> Rule:
        """Return the filter that is named, or the inline rule under a name that is not in `taken`."""
        if isinstance(value, str):
            return FilterReference(value)
        if not isinstance(value, dict):
            raise InputError(f"{self.where}.{key}: expected a filter's name or a rule, found {value!r}")
        kind = next((kind for kind in _KINDS if kind in value), "rule")
        name, number = f"{self.name}.{kind}", 2
        while name in taken:
            name, number = f"{self.name}.{kind}_{number}", number + 1
        return _parse(_RuleConfig(name, f"{self.where}.{key}", value, self.setting))

    def parts(self, key: str) -> tuple[Rule, ...]:
        value = self.keys[key]
        if not isinstance(value, list) or not value:
            raise InputError(f"{self.where}.{key}: expected a list of filters, found {value!r}")
        rules: list[Rule] = []
        for number, part in enumerate(value):
            rules.append(self.part(f"{key}.{number}", part, [rule.name for rule in rules]))
        return tuple(rules)

    def among(self) -> Rule | None:
        return self.part("among", self.keys["among"]) if "among" in self.keys else None


def parse_rule(name: str, config: Mapping[str, Any], setting: RuleContext | None = None) -> Rule:
    """Return the rule that a filter of the experiment file describes; raise InputError that names the faulty key."""
    return _parse(_RuleConfig(name, f"filters.{name}", config, setting or RuleContext()))


def _parse(config: _RuleConfig) -> Rule:
    kinds = [key for key in _KINDS if key in config.keys]
    if len(kinds) != 1:
        found = ", ".join(map(str, config.keys)) or "nothing"
        raise InputError(f"{config.where}: expected exactly one of {', '.join(_KINDS)}, found {found}")
    parser, options = _KINDS[kinds[0]]
    known = [kinds[0], *options]
    for key in config.keys:
        if key not in known:
            raise InputError(f"{config.where}.{key}: {unknown_message('key', str(key), known)}")
    return parser(config)


def _drop_when(config: _RuleConfig) -> Rule:
    value, where = config.keys["drop_when"], f"{config.where}.drop_when"
    if not isinstance(value, dict) or not value:
        raise InputError(f"{where}: expected reason: predicate, found {value!r}")
    reasons = {_reason(reason, where): str(text) for reason, text in value.items()}
    for reason, text in reasons.items():
        predicate_columns(text, f"{where}.{reason}")
    return DropWhen(config.name, reasons)


def _top_fraction(config: _RuleConfig) -> Rule:
    fraction, by = config.number("top_fraction", 0, 1), config.column("by")
    return TopFraction(config.name, fraction, by, config.flag("per_source"), among=config.among())


def _threshold(config: _RuleConfig) -> Rule:
    value, where = config.keys["threshold"], f"{config.where}.threshold"
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected by and one of {', '.join(COMPARISONS)}, found {value!r}")
    for key in value:
        if key not in (known := [*COMPARISONS, "by", "per_source", "reason"]):
            raise InputError(f"{where}.{key}: {unknown_message('key', str(key), known)}")
    comparisons = [key for key in COMPARISONS if key in value]
    if len(comparisons) != 1:
        choices = ", ".join(COMPARISONS)
        raise InputError(f"{where}: expected exactly one of {choices}, found {', '.join(comparisons) or 'none'}")
    sources = value.get("per_source", {})
    if not isinstance(sources, dict):
        raise InputError(f"{where}.per_source: expected source: number, found {sources!r}")
    source_values = {str(source): _number(number, f"{where}.per_source.{source}") for source, number in sources.items()}
    number = _number(value[comparisons[0]], f"{where}.{comparisons[0]}")
    default = "below_threshold" if comparisons[0] in ("at_least", "above") else "above_threshold"
    reason = _reason(value.get("reason", default), f"{where}.reason")
    return Threshold(
        config.name, parse_signal_column(value.get("by"), f"{where}.by"), comparisons[0], number, source_values, reason
    )


def _unique_by(config: _RuleConfig) -> Rule:
    if "prefer" in config.keys and "prefer_smallest" in config.keys:
        raise InputError(f"{config.where}: expected prefer or prefer_smallest, found both")
    smallest = "prefer_smallest" in config.keys
    key = "prefer_smallest" if smallest else "prefer"
    prefer = config.column(key) if key in config.keys else None
    return Unique(config.name, config.column("unique_by"), prefer, smallest, among=config.among())


def _not_in_evaluation(config: _RuleConfig) -> Rule:
    distance = None if _is_null(config, "pdq_distance") else config.whole("pdq_distance", 0, 256, 31)
    cosine = None if _is_null(config, "cosine") else config.number("cosine", -1, 2, 1.0)
    aligned = config.number("aligned", 0, 1) if config.keys.get("aligned") is not None else None
    if distance is cosine is aligned is None:
        raise InputError(f"{config.where}: expected one of pdq_distance, cosine, aligned, found none that is not null")
    quality = config.whole("min_quality", 0, 100, 50)
    return NotInEvaluation(config.name, config.signal("not_in_evaluation"), distance, cosine, aligned, quality)


def _is_null(config: _RuleConfig, key: str) -> bool:
    return key in config.keys and config.keys[key] is None


def _near_reference(config: _RuleConfig) -> Rule:
    return NearReferenceRule(config.name, config.signal("near_reference"))


def _concepts(config: _RuleConfig) -> Rule:
    where, any_of = f"{config.where}.any_of", config.keys.get("any_of", [])
    if not isinstance(any_of, list) or ("any_of" in config.keys and not any_of):
        raise InputError(f"{where}: expected a list of lines of the concept file, from 0, found {any_of!r}")
    lines = {_integer(line, f"{where}.{place}", 0, 2**31 - 1) for place, line in enumerate(any_of)}
    return ConceptsRule(config.name, config.signal("concepts"), tuple(sorted(lines)))


def _balanced(config: _RuleConfig) -> Rule:
    t = config.whole("t", 1, 2**53)
    return Balanced(config.name, config.signal("balanced"), t, config.setting.seed, among=config.among())


def _subset(config: _RuleConfig) -> Rule:
    if not isinstance(path := config.keys["subset"], str) or not path:
        raise InputError(f"{config.where}.subset: expected the path of a .npy file, found {path!r}")
    return Subset(config.name, path)


def _random_fraction(config: _RuleConfig) -> Rule:
    return RandomFraction(config.name, config.number("random_fraction", 0, 1), config.setting.seed)


def _all(config: _RuleConfig) -> Rule:
    return AllOf(config.name, config.parts("all"))


def _any(config: _RuleConfig) -> Rule:
    return AnyOf(config.name, config.parts("any"))


def _not(config: _RuleConfig) -> Rule:
    return Not(config.name, config.part("not", config.keys["not"]))


def _preset(config: _RuleConfig) -> Rule:
    name, signals = config.keys["preset"], config.keys.get("signals", {})
    if not isinstance(signals, dict):
        raise InputError(f"{config.where}.signals: expected role: signal, found {signals!r}")
    preset = presets.find_preset(name, config.where)
    rule = preset.expanded(signals, config.setting.signals, config.where)
    return PresetRule(
        config.name, str(name), preset.source, _parse(_RuleConfig(config.name, config.where, rule, config.setting))
    )


_KINDS: dict[str, tuple[Callable[[_RuleConfig], Rule], tuple[str, ...]]] = {
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
