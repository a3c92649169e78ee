"""Rules: which signal values keep a pair, and the stable name of the reason for dropping it.

A rule gives every stored pair one outcome. It depends on no other rule except one that it names in `among`, so removing
a part of an `all` never drops more pairs. NaN in a signal is read as null, "unknown"; each rule states how it treats
unknown values. `filters.rules.parser` parses rules of the experiment file, `filters.rules.sql` turns them into queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from filters.rules.predicates import SignalColumns, merge_columns, predicate_columns


def format_percent(fraction: float) -> str:
    """Return a fraction as a percentage: "30%", "28.5%"."""
    return f"{fraction * 100:.6g}%"


@dataclass(frozen=True)
class Rule:
    """A filter of the experiment file, or a part of one.

    `name` is the filter's name; a part that is written inline within another rule is named `<filter>.<kind>`.
    """

    name: str

    def own(self) -> SignalColumns:
        """Return the columns that the rule itself reads, without those of its parts."""
        return {}

    def numbers(self) -> list[tuple[str, str]]:
        """Return the (signal, column) pairs that must be numeric, without those of its parts."""
        return []

    def inner(self) -> "tuple[Rule, ...]":
        """Return the rules that it is composed of, in order."""
        return ()

    def own_filters(self) -> tuple[str, ...]:
        """Return the other filters whose decisions the rule itself reads."""
        return ()

    def own_files(self) -> tuple[str, ...]:
        """Return the paths of the files that the rule itself reads."""
        return ()

    def own_sources(self) -> tuple[str, ...]:
        """Return the sources that the rule itself names."""
        return ()

    def text(self) -> str:
        """Return a description of the rule for the report."""
        raise NotImplementedError

    def walk(self) -> "Iterator[Rule]":
        """Yield the rule and, recursively, its parts; each rule before its own parts."""
        yield self
        for part in self.inner():
            yield from part.walk()

    def signals(self) -> SignalColumns:
        """Return the columns of each signal that the rule and its parts read."""
        return merge_columns(rule.own() for rule in self.walk())

    def filters(self) -> list[str]:
        """Return the other filters of the experiment file whose decisions the rule and its parts read."""
        return list(dict.fromkeys(name for part in self.walk() for name in part.own_filters()))

    def files(self) -> list[str]:
        """Return the paths of the files that the rule and its parts read."""
        return list(dict.fromkeys(path for part in self.walk() for path in part.own_files()))

    def seeded(self) -> bool:
        """Return whether the rule or a part samples at random, with the experiment's seed."""
        return any(hasattr(rule, "seed") for rule in self.walk())

    def sources(self) -> list[str]:
        """Return the sources that the rule and its parts name."""
        return [source for part in self.walk() for source in part.own_sources()]


@dataclass(frozen=True)
class FilterReference(Rule):
    """The decision of another filter of the experiment file, referred to by its name."""

    def own_filters(self) -> tuple[str, ...]:
        """The filter's name."""
        return (self.name,)

    def text(self) -> str:
        """The filter's name."""
        return self.name


@dataclass(frozen=True)
class DropWhen(Rule):
    """Drops a pair for the first reason whose predicate is true; an unknown (null) predicate drops the pair, too."""

    reasons: Mapping[str, str]

    def own(self) -> SignalColumns:
        """The columns of all predicates."""
        return merge_columns(predicate_columns(text, self.name) for text in self.reasons.values())

    def text(self) -> str:
        """The predicates, as written."""
        return "; ".join(f"drop as {reason} when {text}" for reason, text in self.reasons.items())


COMPARISONS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}
"""The comparisons of a threshold and their operators; only `at_least` and `at_most` keep a value equal to it."""


@dataclass(frozen=True)
class Threshold(Rule):
    """Keeps pairs whose column satisfies the comparison with `value`, or with the source's own number in `per_source`.

    A float32 column is compared with the number as float32, so that a stored 0.7 is at least 0.7. A pair without a
    value is dropped as `no_score`.
    """

    by: tuple[str, str]
    comparison: str  # a key of COMPARISONS
    value: float
    per_source: Mapping[str, float]
    reason: str  # by default below_threshold, or above_threshold where small values are kept

    def own(self) -> SignalColumns:
        """The compared column."""
        return {self.by[0]: {self.by[1]}}

    def numbers(self) -> list[tuple[str, str]]:
        """The compared column."""
        return [self.by]

    def own_sources(self) -> tuple[str, ...]:
        """The sources with a threshold of their own."""
        return tuple(self.per_source)

    def text(self) -> str:
        """The comparison."""
        others = "".join(f", {self.value_text(value)} for {source}" for source, value in self.per_source.items())
        return f"keep where {'.'.join(self.by)} is {self.value_text(self.value)}{others}"

    def value_text(self, value: float) -> str:
        """Return a description of the comparison with a number."""
        return f"{self.comparison.replace('_', ' ')} {value:.9g}"


@dataclass(frozen=True)
class NotInEvaluation(Rule):
    """Drops pairs that are too near an evaluation image by any of three searches; a threshold of None disables one.

    `evaluation_copy`: within `pdq_distance` bits, where the evaluation image's PDQ quality is at least `min_quality`;
    `evaluation_lookalike`: a cosine of `cosine` or more; `evaluation_aligned`: a local alignment score (0 to 1) of
    `aligned` or more. Null means that a search found nothing, and drops nothing; a pair without a row of the signal is
    dropped as `not_compared`.
    """

    signal: str
    pdq_distance: int | None
    cosine: float | None
    aligned: float | None
    min_quality: int

    def own(self) -> SignalColumns:
        """The columns of the enabled searches."""
        columns = {"pdq_distance", "pdq_quality"} if self.pdq_distance is not None else set()
        columns |= {name for name in ("cosine", "aligned") if getattr(self, name) is not None}
        return {self.signal: columns}

    def text(self) -> str:
        """The thresholds."""
        conditions = []
        if self.pdq_distance is not None:
            conditions.append(f"within {self.pdq_distance} bits (PDQ)")
        if self.cosine is not None:
            conditions.append(f"at a cosine of {self.cosine} or more")
        if self.aligned is not None:
            conditions.append(f"at an alignment of {self.aligned} or more")
        return f"drop pairs that lie {' or '.join(conditions)} of an evaluation image"


@dataclass(frozen=True)
class NearReferenceRule(Rule):
    """Keeps pairs near a reference image (DataComp's image-based filter: Gadre et al. 2023, arXiv 2304.14108, 5.2).

    Other pairs are dropped as `not_near_reference`, and as `not_compared` where the signal has no value.
    """

    signal: str

    def own(self) -> SignalColumns:
        """The signal's flag."""
        return {self.signal: {"near_reference"}}

    def text(self) -> str:
        """The signal."""
        return f"keep pairs that {self.signal} finds near a reference image"


@dataclass(frozen=True)
class ConceptsRule(Rule):
    """Keeps captions that mention a concept of the signal's list (DataComp's text-based filter), or one of `any_of`.

    `any_of` are line numbers of the list, counted from 0. A caption without a concept, or without a value of the
    signal, is dropped as `no_concept`; one that mentions only concepts outside `any_of` as `other_concept`.
    """

    signal: str
    any_of: tuple[int, ...] = ()

    def own(self) -> SignalColumns:
        """The concepts found."""
        return {self.signal: {"concepts"} if self.any_of else {"concept_count"}}

    def text(self) -> str:
        """The signal and how many of its concepts are accepted."""
        which = f"one of {len(self.any_of)} concepts" if self.any_of else "a concept"
        return f"keep captions that mention {which} of {self.signal}"


@dataclass(frozen=True)
class RandomFraction(Rule):
    """Keeps a pair whose hash sample (`pipeline.core.sampling.uniform_hash` of seed and uid) is below `fraction`; other
    pairs are dropped as `not_drawn`.

    With the same seed, the sample of a smaller fraction is a subset of that of a larger one.
    """

    fraction: float
    seed: int

    def text(self) -> str:
        """The fraction and the seed."""
        return f"keep {format_percent(self.fraction)}, sampled with seed {self.seed}"


@dataclass(frozen=True)
class Subset(Rule):
    """Keeps the pairs whose uid is in a DataComp subset file (`pipeline.storage.uid_files`); other pairs are dropped as
    `not_in_subset`.
    """

    path: str

    def own_files(self) -> tuple[str, ...]:
        """The subset file."""
        return (self.path,)

    def text(self) -> str:
        """The subset file."""
        return f"keep the pairs listed in {self.path}"
