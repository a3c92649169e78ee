"""Rules: what of the signals makes a pair be kept, and the stable name of the reason why not.

A rule gives every stored pair one outcome. It never depends on another rule, but for one that it names in `among`, so
leaving a part out of an `all` never drops more. NaN in a signal is read as null, "unknown": each rule says what it
makes of that. `filters.rules.parser` reads rules from the experiment file, `filters.rules.sql` turns them into queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from filters.rules.predicates import Columns, merged, predicate_columns


def percent(fraction: float) -> str:
    """Return a fraction in percent: "30%", "28.5%"."""
    return f"{fraction * 100:.6g}%"


@dataclass(frozen=True)
class Rule:
    """A filter of the experiment file, or a part of one.

    `name` is the filter's; that of a part which is written out within another is `<filter>.<kind>`.
    """

    name: str

    def own(self) -> Columns:
        """Return the columns that it reads itself, without those of its parts."""
        return {}

    def numbers(self) -> list[tuple[str, str]]:
        """Return the (signal, column) of what must be a number for it, without those of its parts."""
        return []

    def inner(self) -> "tuple[Rule, ...]":
        """Return the rules that it is made of, in order."""
        return ()

    def own_filters(self) -> tuple[str, ...]:
        """Return the other filters whose decisions it reads itself."""
        return ()

    def own_files(self) -> tuple[str, ...]:
        """Return the paths of the files that it reads itself."""
        return ()

    def own_sources(self) -> tuple[str, ...]:
        """Return the sources that it names itself."""
        return ()

    def text(self) -> str:
        """Return the rule in words, for the report."""
        raise NotImplementedError

    def walk(self) -> "Iterator[Rule]":
        """Yield the rule and all that it is made of, each before its parts."""
        yield self
        for part in self.inner():
            yield from part.walk()

    def signals(self) -> Columns:
        """Return the columns that it and its parts read of each signal."""
        return merged(one.own() for one in self.walk())

    def filters(self) -> list[str]:
        """Return the other filters of the experiment file whose decisions it reads."""
        return list(dict.fromkeys(name for part in self.walk() for name in part.own_filters()))

    def files(self) -> list[str]:
        """Return the paths of the files that it reads."""
        return list(dict.fromkeys(path for part in self.walk() for path in part.own_files()))

    def seeded(self) -> bool:
        """Tell whether it draws, with the experiment's seed."""
        return any(hasattr(one, "seed") for one in self.walk())

    def sources(self) -> list[str]:
        """Return the sources that it names."""
        return [source for part in self.walk() for source in part.own_sources()]


@dataclass(frozen=True)
class Decided(Rule):
    """What another filter of the experiment file says, by its name."""

    def own_filters(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def text(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True)
class DropWhen(Rule):
    """Drops a pair for the first reason whose predicate holds; one that is unknown (null) drops it too."""

    reasons: Mapping[str, str]

    def own(self) -> Columns:
        """The columns of all predicates."""
        return merged(predicate_columns(text, self.name) for text in self.reasons.values())

    def text(self) -> str:
        """The predicates, as written."""
        return "; ".join(f"drop as {reason} when {text}" for reason, text in self.reasons.items())


COMPARISONS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}
"""How a threshold compares, and the operator; a value equal to it is kept by `at_least` and `at_most` alone."""


@dataclass(frozen=True)
class Threshold(Rule):
    """Keeps what compares with `value`, or with the number that `per_source` gives for the pair's source.

    A float32 column is compared with the number as float32, so that a stored 0.7 is at least 0.7. A pair without a
    value is dropped as `no_score`.
    """

    by: tuple[str, str]
    comparison: str  # a key of COMPARISONS
    value: float
    per_source: Mapping[str, float]
    reason: str  # by default below_threshold, or above_threshold where small values are kept

    def own(self) -> Columns:
        """The compared column."""
        return {self.by[0]: {self.by[1]}}

    def numbers(self) -> list[tuple[str, str]]:
        """The compared column."""
        return [self.by]

    def own_sources(self) -> tuple[str, ...]:
        """The sources that have a number of their own."""
        return tuple(self.per_source)

    def text(self) -> str:
        """The comparison."""
        others = "".join(f", {self.value_text(value)} for {source}" for source, value in self.per_source.items())
        return f"keep where {'.'.join(self.by)} is {self.value_text(self.value)}{others}"

    def value_text(self, value: float) -> str:
        """Return the comparison with a number in words."""
        return f"{self.comparison.replace('_', ' ')} {value:.9g}"


@dataclass(frozen=True)
class NotInEvaluation(Rule):
    """Drops what is too near an evaluation image by any of three searches; None leaves one out.

    `evaluation_copy`: within `pdq_distance` bits, where the evaluation image's PDQ quality is at least `min_quality`;
    `evaluation_lookalike`: a cosine of `cosine` or more; `evaluation_aligned`: a local alignment score (0 to 1) of
    `aligned` or more. Null says that a search found nothing, and drops nothing; a pair of which the signal has no row
    is dropped as `not_compared`.
    """

    signal: str
    pdq_distance: int | None
    cosine: float | None
    aligned: float | None
    min_quality: int

    def own(self) -> Columns:
        """The columns of the searches that are asked for."""
        columns = {"pdq_distance", "pdq_quality"} if self.pdq_distance is not None else set()
        columns |= {name for name in ("cosine", "aligned") if getattr(self, name) is not None}
        return {self.signal: columns}

    def text(self) -> str:
        """The thresholds."""
        near = []
        if self.pdq_distance is not None:
            near.append(f"within {self.pdq_distance} bits (PDQ)")
        if self.cosine is not None:
            near.append(f"at a cosine of {self.cosine} or more")
        if self.aligned is not None:
            near.append(f"at an alignment of {self.aligned} or more")
        return f"drop what lies {' or '.join(near)} of an evaluation image"


@dataclass(frozen=True)
class NearReference(Rule):
    """Keeps what is near a reference image (DataComp's image-based filter: Gadre et al. 2023, arXiv 2304.14108, 5.2).

    The rest is dropped as `not_near_reference`, and as `not_compared` where the signal says nothing.
    """

    signal: str

    def own(self) -> Columns:
        """The signal's verdict."""
        return {self.signal: {"near_reference"}}

    def text(self) -> str:
        """The signal."""
        return f"keep what {self.signal} finds near a reference image"


@dataclass(frozen=True)
class Concepts(Rule):
    """Keeps what mentions a concept of the signal's list (DataComp's text-based filter), or one of `any_of`.

    `any_of` are lines of the list, counted from 0. A caption without a concept, or of which the signal says nothing, is
    dropped as `no_concept`; one with others than those of `any_of` as `other_concept`.
    """

    signal: str
    any_of: tuple[int, ...] = ()

    def own(self) -> Columns:
        """The concepts found."""
        return {self.signal: {"concepts"} if self.any_of else {"concept_count"}}

    def text(self) -> str:
        """The signal and how many of its concepts count."""
        which = f"one of {len(self.any_of)} concepts" if self.any_of else "a concept"
        return f"keep what mentions {which} of {self.signal}"


@dataclass(frozen=True)
class RandomFraction(Rule):
    """Keeps a pair whose draw (`pipeline.core.sampling.draw` of seed and uid) is below `fraction`; the rest is
    `not_drawn`.

    A smaller fraction of the same seed is a part of a larger.
    """

    fraction: float
    seed: int

    def text(self) -> str:
        """The fraction and the seed."""
        return f"keep {percent(self.fraction)}, drawn with seed {self.seed}"


@dataclass(frozen=True)
class Subset(Rule):
    """Keeps the pairs whose uid is in a DataComp subset file (`pipeline.storage.uid_files`); the rest is
    `not_in_subset`.
    """

    path: str

    def own_files(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    def text(self) -> str:
        """The file."""
        return f"keep what is listed in {self.path}"
