"""Rules that compare a pair with the other pairs: they rank, group or count them."""

from dataclasses import dataclass, field

from filters.rules.base import Rule, format_percent
from filters.rules.predicates import SignalColumns, merge_columns


@dataclass(frozen=True)
class CorpusRule(Rule):
    """A rule that ranks, groups or counts the pairs: all of them, or only those that `among` keeps.

    A pair that `among` drops is dropped for the reason of `among`.
    """

    among: Rule | None = field(default=None, kw_only=True)

    def inner(self) -> tuple[Rule, ...]:
        """The rule of `among`."""
        return (self.among,) if self.among else ()

    def among_text(self) -> str:
        """Return a description of which pairs are considered; empty where all are."""
        return f", among the pairs that this keeps: {self.among.text()}" if self.among else ""


@dataclass(frozen=True)
class StatisticsRule(CorpusRule):
    """A rule that needs a statistic over all pairs before it can decide on one (`filters.rules.statistics`)."""


@dataclass(frozen=True)
class TopFraction(StatisticsRule):
    """Keeps the `fraction` with the largest values, over all sources or within each; ties go to the smaller uid.

    Of n pairs with a value, ceil(fraction * n) are kept, with the fraction taken as the decimal that was written; a
    pair without a value is dropped as `no_score` and not counted. Values are compared as float64.
    """

    fraction: float
    by: tuple[str, str]
    per_source: bool = False

    def own(self) -> SignalColumns:
        """The ranked column."""
        return {self.by[0]: {self.by[1]}}

    def numbers(self) -> list[tuple[str, str]]:
        """The ranked column."""
        return [self.by]

    def text(self) -> str:
        """The fraction and the column."""
        scope = " of each source" if self.per_source else ""
        return f"keep the top {format_percent(self.fraction)}{scope} by {'.'.join(self.by)}{self.among_text()}"


@dataclass(frozen=True)
class Unique(CorpusRule):
    """Keeps one pair of each group: the one with the largest `prefer` (the smallest, if `smallest` is set), ties going
    to the smallest uid. A pair without a group is a group of its own; one without a `prefer` value comes last.
    """

    group: tuple[str, str]
    prefer: tuple[str, str] | None = None
    smallest: bool = False

    @property
    def reason(self) -> str:
        """`exact_duplicate` for a column `exact_group`."""
        return self.group[1].removesuffix("_group") + "_duplicate"

    def own(self) -> SignalColumns:
        """The group's and the preferred column."""
        return merge_columns({signal: {column}} for signal, column in filter(None, (self.group, self.prefer)))

    def numbers(self) -> list[tuple[str, str]]:
        """The preferred column."""
        return [self.prefer] if self.prefer else []

    def text(self) -> str:
        """The group and the preference."""
        which = "smallest" if self.smallest else "largest"
        prefer = f", preferring the {which} {'.'.join(self.prefer)}" if self.prefer else ""
        return f"keep one of each {'.'.join(self.group)}{prefer}{self.among_text()}"


@dataclass(frozen=True)
class Balanced(StatisticsRule):
    """Keeps a pair if, for any of its concepts, a random number is below min(1, t / number of pairs that mention it).

    MetaCLIP's balancing (Xu et al. 2023, arXiv 2309.16671, algorithm 1; `metaclip/balancing.py` of its repository). The
    random number is `pipeline.core.sampling.uniform_hash` of seed, uid and concept. Pairs are counted among all stored
    pairs, or among those that `among` keeps. A caption without a concept is dropped as `no_concept`, other pairs as
    `balanced_out`.
    """

    signal: str
    t: int
    seed: int

    def own(self) -> SignalColumns:
        """The concepts found."""
        return {self.signal: {"concepts"}}

    def text(self) -> str:
        """The signal, and the count up to which all pairs of a concept are kept."""
        sampling = f"sampled with seed {self.seed}{self.among_text()}"
        return f"keep about {self.t} of each concept of {self.signal} that has more, {sampling}"
