"""Rules that are composed of other rules."""

from dataclasses import dataclass

from filters.rules.base import Rule


def _part_texts(parts: tuple[Rule, ...]) -> str:
    return ", ".join(part.text() if part.own_filters() == (part.name,) else f"({part.text()})" for part in parts)


@dataclass(frozen=True)
class AllOf(Rule):
    """Keeps pairs that all of its parts keep; the reason is that of the first part that drops the pair."""

    parts: tuple[Rule, ...]

    def inner(self) -> tuple[Rule, ...]:
        """Its parts."""
        return self.parts

    def text(self) -> str:
        """Its parts, in order."""
        return f"keep pairs that all of these keep: {_part_texts(self.parts)}"


@dataclass(frozen=True)
class AnyOf(Rule):
    """Keeps pairs that any of its parts keeps; the reason is the first part's."""

    parts: tuple[Rule, ...]

    def inner(self) -> tuple[Rule, ...]:
        """Its parts."""
        return self.parts

    def text(self) -> str:
        """Its parts, in order."""
        return f"keep pairs that any of these keeps: {_part_texts(self.parts)}"


@dataclass(frozen=True)
class Not(Rule):
    """Keeps pairs that its part drops, for any reason; other pairs are dropped as `<part>_keeps`."""

    part: Rule

    @property
    def reason(self) -> str:
        """`basic_keeps` for a filter `basic`; for an inline part, its kind takes the place of its name."""
        return self.part.name.rpartition(".")[2] + "_keeps"

    def inner(self) -> tuple[Rule, ...]:
        """Its part."""
        return (self.part,)

    def text(self) -> str:
        """Its part."""
        return f"keep pairs that this drops: {self.part.text()}"


@dataclass(frozen=True)
class PresetRule(Rule):
    """A published preset by its name: the rule that it expands to, and whose reasons it uses."""

    preset: str
    source: str
    rule: Rule

    def inner(self) -> tuple[Rule, ...]:
        """The rule that it expands to."""
        return (self.rule,)

    def text(self) -> str:
        """The preset, its source and the rule that it expands to."""
        return f"{self.preset} ({self.source}): {self.rule.text()}"
