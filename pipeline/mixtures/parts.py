"""What a mixture is made of: its parts in order, each with its share; a pair is in the first part that takes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.mixture import Mixture, Part
from pipeline.errors import InputError


@dataclass(frozen=True)
class Condition:
    """A signal's column, and the values that it must have one of, or the half-open range that its number lies in."""

    signal: str
    column: str
    values: tuple[str, ...] = ()
    least: float = -math.inf
    below: float = math.inf


@dataclass(frozen=True)
class Taken:
    """A part: its name, its share (None where it gives what it has), and which pairs it takes."""

    name: str
    share: float | None
    sources: tuple[str, ...]
    filter: str = ""
    dropped_by: str = ""
    condition: Condition | None = None


def _condition(
    where: str, by: str, values: Sequence[str] = (), least: float | None = None, below: float | None = None
) -> Condition | None:
    numbers = least is not None or below is not None
    if bool(by) != (bool(values) or numbers) or (values and numbers):
        raise InputError(f"{where}: expected by with values, or by with least or below or both")
    if not by:
        return None
    signal, dot, column = by.partition(".")
    if not (signal and dot and column):
        raise InputError(f"{where}.by: expected a signal's column such as clip_v1.similarity, found {by!r}")
    found = Condition(
        signal, column, tuple(values), -math.inf if least is None else least, math.inf if below is None else below
    )
    if found.least >= found.below:
        raise InputError(f"{where}: expected least to lie under below, found {least} and {below}")
    return found


def _named(part: Part, number: int) -> str:
    """Return a part's name, or one made of what it says; its number where it says nothing."""
    numbers = f"{'' if part.least is None else f'{part.least} <= '}{part.by}"
    numbers += "" if part.below is None else f" < {part.below}"
    said = [
        " or ".join(part.sources),
        part.filter,
        part.dropped_by and f"dropped by {part.dropped_by}",
        f"{part.by} {' or '.join(part.values)}" if part.values else numbers,
    ]
    return part.name or ", ".join(filter(None, said)) or f"part {number + 1}"


def _listed(where: str, mixture: Mixture, sources: Sequence[str]) -> list[Taken]:
    if mixture.shares or mixture.by or mixture.buckets:
        raise InputError(f"{where}: expected parts or shares, found both")
    if len({part.share is None for part in mixture.parts}) > 1:
        raise InputError(f"{where}.parts: expected a share for each part or for none")
    found = []
    for number, part in enumerate(mixture.parts):
        here = f"{where}.parts.{number}"
        condition = _condition(here, part.by, part.values, part.least, part.below)
        of = part.sources or tuple(sources)
        found.append(Taken(_named(part, number), part.share, of, part.filter, part.dropped_by, condition))
    return found


def _cut(where: str, mixture: Mixture, sources: Sequence[str]) -> list[Taken]:
    """Return the parts of a mixture whose shares go by a signal's column."""
    of = tuple(sources)
    if isinstance(mixture.shares, dict):
        return [
            Taken(value, share, of, condition=_condition(where, mixture.by, (value,)))
            for value, share in mixture.shares.items()
        ]
    edges = mixture.buckets
    if list(edges) != sorted(set(edges)) or len(mixture.shares) != len(edges) + 1:
        raise InputError(
            f"{where}.buckets: expected numbers that rise, and shares for one range more than there are numbers, "
            f"found {list(edges)} and {list(mixture.shares)}"
        )
    found = []
    for share, least, below in zip(mixture.shares, (None, *edges), (*edges, None), strict=True):
        name = _named(Part(by=mixture.by, least=least, below=below), 0)
        found.append(Taken(name, share, of, condition=_condition(where, mixture.by, (), least, below)))
    return found


def parts_of(name: str, mixture: Mixture, sources: Sequence[str]) -> list[Taken]:
    """Return the parts of mixture `name` over `sources`, in the order in which they are asked.

    Raises InputError where the keys do not go together. Without shares and parts, each source is one.
    """
    where = f"mixtures.{name}"
    if mixture.missing and not mixture.uids:
        raise InputError(f"{where}.missing: expected with uids only")
    if mixture.parts:
        found = _listed(where, mixture, sources)
    elif mixture.by or mixture.buckets or isinstance(mixture.shares, tuple):
        if not mixture.by or not mixture.shares or bool(mixture.buckets) == isinstance(mixture.shares, dict):
            raise InputError(f"{where}: expected by with shares by value, or by with buckets and a list of shares")
        found = _cut(where, mixture, sources)
    else:
        shares = mixture.shares
        found = [Taken(source, shares.get(source), (source,)) for source in sources]
    if twice := {one.name for one in found if sum(one.name == other.name for other in found) > 1}:
        raise InputError(f"{where}.parts: found two of the name {min(twice)!r}, expected names that differ")
    return found


def filters_of(mixture: Mixture) -> list[str]:
    """Return the filters that a mixture names, its own first, each once."""
    named = [mixture.filter, *(name for part in mixture.parts for name in (part.filter, part.dropped_by))]
    return list(dict.fromkeys(filter(None, named)))


def columns_of(parts: Sequence[Taken]) -> dict[str, list[str]]:
    """Return the signals that parts read, and which columns of each."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if part.condition and part.condition.column not in found.setdefault(part.condition.signal, []):
            found[part.condition.signal].append(part.condition.column)
    return found
