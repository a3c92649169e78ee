"""The parts of a mixture in order, each with its share; a pair belongs to the first part that takes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.mixture import MixtureConfig, MixturePartConfig
from pipeline.errors import InputError


@dataclass(frozen=True)
class ColumnCondition:
    """A condition on a signal's column: one of `values`, or a number in the half-open range [least, below)."""

    signal: str
    column: str
    values: tuple[str, ...] = ()
    least: float = -math.inf
    below: float = math.inf


@dataclass(frozen=True)
class PartSpec:
    """A part: its name, its share (None where it gives all its pairs), and which pairs it takes."""

    name: str
    share: float | None
    sources: tuple[str, ...]
    filter: str = ""
    dropped_by: str = ""
    condition: ColumnCondition | None = None


def _parse_condition(
    where: str, by: str, values: Sequence[str] = (), least: float | None = None, below: float | None = None
) -> ColumnCondition | None:
    has_range = least is not None or below is not None
    if bool(by) != (bool(values) or has_range) or (values and has_range):
        raise InputError(f"{where}: expected by with values, or by with least, below or both")
    if not by:
        return None
    signal, dot, column = by.partition(".")
    if not (signal and dot and column):
        raise InputError(f"{where}.by: expected a signal's column such as clip_v1.similarity, found {by!r}")
    condition = ColumnCondition(
        signal, column, tuple(values), -math.inf if least is None else least, math.inf if below is None else below
    )
    if condition.least >= condition.below:
        raise InputError(f"{where}: expected least smaller than below, found {least} and {below}")
    return condition


def _part_name(part: MixturePartConfig, number: int) -> str:
    """Return a part's name, or else one made from its keys; a part without keys is named by its number."""
    range_text = f"{'' if part.least is None else f'{part.least} <= '}{part.by}"
    range_text += "" if part.below is None else f" < {part.below}"
    phrases = [
        " or ".join(part.sources),
        part.filter,
        part.dropped_by and f"dropped by {part.dropped_by}",
        f"{part.by} {' or '.join(part.values)}" if part.values else range_text,
    ]
    return part.name or ", ".join(filter(None, phrases)) or f"part {number + 1}"


def _explicit_parts(where: str, mixture: MixtureConfig, sources: Sequence[str]) -> list[PartSpec]:
    if mixture.shares or mixture.by or mixture.buckets:
        raise InputError(f"{where}: expected parts or shares, found both")
    if len({part.share is None for part in mixture.parts}) > 1:
        raise InputError(f"{where}.parts: expected a share for each part or for none")
    parts = []
    for number, part in enumerate(mixture.parts):
        key = f"{where}.parts.{number}"
        condition = _parse_condition(key, part.by, part.values, part.least, part.below)
        part_sources = part.sources or tuple(sources)
        parts.append(
            PartSpec(_part_name(part, number), part.share, part_sources, part.filter, part.dropped_by, condition)
        )
    return parts


def _parts_by_column(where: str, mixture: MixtureConfig, sources: Sequence[str]) -> list[PartSpec]:
    """Return the parts of a mixture whose shares are by a signal's column."""
    all_sources = tuple(sources)
    if isinstance(mixture.shares, dict):
        return [
            PartSpec(value, share, all_sources, condition=_parse_condition(where, mixture.by, (value,)))
            for value, share in mixture.shares.items()
        ]
    edges = mixture.buckets
    if list(edges) != sorted(set(edges)) or len(mixture.shares) != len(edges) + 1:
        raise InputError(
            f"{where}.buckets: expected increasing numbers, and one share more than there are numbers, "
            f"found {list(edges)} and {list(mixture.shares)}"
        )
    parts = []
    for share, least, below in zip(mixture.shares, (None, *edges), (*edges, None), strict=True):
        name = _part_name(MixturePartConfig(by=mixture.by, least=least, below=below), 0)
        parts.append(
            PartSpec(name, share, all_sources, condition=_parse_condition(where, mixture.by, (), least, below))
        )
    return parts


def parts_of(name: str, mixture: MixtureConfig, sources: Sequence[str]) -> list[PartSpec]:
    """Return the parts of mixture `name` over `sources`, in the order in which they apply.

    Raises InputError where the keys contradict each other. Without shares and parts, each source is a part.
    """
    where = f"mixtures.{name}"
    if mixture.missing and not mixture.uids:
        raise InputError(f"{where}.missing: expected with uids only")
    if mixture.parts:
        parts = _explicit_parts(where, mixture, sources)
    elif mixture.by or mixture.buckets or isinstance(mixture.shares, tuple):
        if not mixture.by or not mixture.shares or bool(mixture.buckets) == isinstance(mixture.shares, dict):
            raise InputError(f"{where}: expected by with shares by value, or by with buckets and a list of shares")
        parts = _parts_by_column(where, mixture, sources)
    else:
        shares = mixture.shares
        parts = [PartSpec(source, shares.get(source), (source,)) for source in sources]
    if repeated := {part.name for part in parts if sum(part.name == other.name for other in parts) > 1}:
        raise InputError(f"{where}.parts: found two parts named {min(repeated)!r}, expected different names")
    return parts


def filters_of(mixture: MixtureConfig) -> list[str]:
    """Return the filters that a mixture names, each once, its own first."""
    filters = [mixture.filter, *(name for part in mixture.parts for name in (part.filter, part.dropped_by))]
    return list(dict.fromkeys(filter(None, filters)))


def signal_columns_of(parts: Sequence[PartSpec]) -> dict[str, list[str]]:
    """Return the signals that parts read, with the columns of each."""
    columns: dict[str, list[str]] = {}
    for part in parts:
        if part.condition and part.condition.column not in columns.setdefault(part.condition.signal, []):
            columns[part.condition.signal].append(part.condition.column)
    return columns
