"""Rules made of others."""

from dataclasses import dataclass

from filters.rules.base import Rule


def _listed(parts: tuple[Rule, ...]) -> str:
    return ", ".join(part.text() if part.own_filters() == (part.name,) else f"({part.text()})" for part in parts)


@dataclass(frozen=True)
class AllOf(Rule):
    """Keeps what all of its parts keep; the reason is that of the first that drops."""

    parts: tuple[Rule, ...]

    def inner(self) -> tuple[Rule, ...]:
        """Its parts."""
        return self.parts

    def text(self) -> str:
        """Its parts, in order."""
        return f"keep what all of these keep: {_listed(self.parts)}"


@dataclass(frozen=True)
class AnyOf(Rule):
    """Keeps what any of its parts keeps; the reason is the first part's."""

    parts: tuple[Rule, ...]

    def inner(self) -> tuple[Rule, ...]:
        """Its parts."""
        return self.parts

    def text(self) -> str:
        """Its parts, in order."""
        return f"keep what any of these keeps: {_listed(self.parts)}"


@dataclass(frozen=True)
class Not(Rule):
    """Keeps what its part drops, whatever the reason; the rest is dropped as `<part>_keeps`."""

    part: Rule

    @property
    def reason(self) -> str:
        """`basic_keeps` for a filter `basic`; of a part that is written out, its kind stands for its name."""
        return self.part.name.rpartition(".")[2] + "_keeps"

    def inner(self) -> tuple[Rule, ...]:
        """Its part."""
        return (self.part,)

    def text(self) -> str:
        """Its part."""
        return f"keep what this drops: {self.part.text()}"


@dataclass(frozen=True)
class Preset(Rule):
    """A published recipe by its name: the rule that it expands to, whose reasons are its own."""

    preset: str
    source: str
    rule: Rule

    def inner(self) -> tuple[Rule, ...]:
        """What it expands to."""
        return (self.rule,)

    def text(self) -> str:
        """The preset, its source and what it expands to."""
        return f"{self.preset} ({self.source}): {self.rule.text()}"
