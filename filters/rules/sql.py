"""Rules as Spark SQL over a view of pairs: a column `reason`, "" for a kept pair.

The view has uid and source; for each signal that the rule reads a struct column of the signal's name, null where the
signal says nothing about the pair; for each filter that it reads a struct column `decided(filter)` with its reason; and
for each subset file a boolean column `listed(path)`. What a rule must know of all pairs first, `measured`, is found by
`filters.rules.statistics`.
"""

import hashlib
from collections.abc import Mapping
from functools import singledispatch

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
from filters.rules.corpus import Among, Balanced, TopFraction, Unique
from filters.rules.sql_expressions import KEEP, choice, compared, double, quoted, unknown_value
from filters.rules.statistics import Cut, Measured
from pipeline.core.sampling import draw_sql

Cases = list[tuple[str, str]]
"""(condition, reason) as SQL expressions: the first condition that holds drops the pair, and null does not hold."""


def decided(name: str) -> str:
    """Return the view's column of what the filter `name` says; no signal can have its name."""
    return f"decided:{name}"


def listed(path: str) -> str:
    """Return the view's column of whether a subset file lists the pair."""
    return f"listed:{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def reason_sql(rule: Rule, view: str, measured: Measured) -> str:
    """Return the query of (uid, source, reason) that a rule asks of `view`; `measured` is what was measured for it."""
    return f"select uid, source, {reason_column(rule, measured)} as reason from {pool(rule, view, measured)}"


def pool(rule: Rule, view: str, measured: Measured) -> str:
    """Return the view, or a query of it with a column for what each `among` in the rule says.

    A column of its own, as a window function may stand neither in a condition nor in another window.
    """
    for one in reversed(list(rule.walk())):
        if isinstance(one, Among) and one.among:
            view = f"(select *, {reason_column(one.among, measured)} as {_among(one)} from {view})"
    return view


def considered(rule: Among) -> str:
    """Return the condition, in its `pool`, of the pairs that a rule ranks, counts or groups."""
    return f"{_among(rule)} = '{KEEP}'" if rule.among else "true"


def _among(rule: Among) -> str:
    return f"`among:{rule.name}`"


def _not_among(rule: Among) -> Cases:
    return [(f"{_among(rule)} <> '{KEEP}'", _among(rule))] if rule.among else []


def reason_column(rule: Rule, measured: Measured) -> str:
    """Return the expression of a rule's reason."""
    whens = " ".join(f"when {condition} then {reason}" for condition, reason in cases(rule, measured))
    return f"case {whens} else '{KEEP}' end"


@singledispatch
def cases(rule: Rule, measured: Measured) -> Cases:
    """Return what drops a pair, in order."""
    raise TypeError(f"no query for {type(rule).__name__}")


@cases.register
def _(rule: Decided, measured: Measured) -> Cases:
    reason = f"coalesce(`{decided(rule.name)}`.reason, 'not_decided')"
    return [(f"{reason} <> '{KEEP}'", reason)]


@cases.register
def _(rule: DropWhen, measured: Measured) -> Cases:
    return [(f"coalesce(({text}), true)", f"'{reason}'") for reason, text in rule.reasons.items()]


@cases.register
def _(rule: TopFraction, measured: Measured) -> Cases:
    value = ".".join(rule.by)
    cuts = {source: _above(value, cut) for source, cut in measured[rule.name].items()}
    above = choice("source", cuts, "false") if rule.per_source else cuts.get("", "false")
    return [*_not_among(rule), (unknown_value(value), "'no_score'"), (f"not {above}", "'below_top_fraction'")]


def _above(value: str, cut: Cut) -> str:
    """Return whether a value stands above the cut, or at it with a uid that is small enough."""
    if cut.value is None:
        return "false"
    number, at = double(cut.value), f" and uid <= {quoted(cut.uid)}" if cut.uid is not None else ""
    return f"(cast({value} as double) > {number} or (cast({value} as double) = {number}{at}))"


@cases.register
def _(rule: Threshold, measured: Measured) -> Cases:
    value, operator = ".".join(rule.by), COMPARISONS[rule.comparison]
    others = {source: compared(value, operator, number) for source, number in rule.per_source.items()}
    kept = choice("source", others, compared(value, operator, rule.value))
    return [(unknown_value(value), "'no_score'"), (f"not ({kept})", f"'{rule.reason}'")]


@cases.register
def _(rule: Unique, measured: Measured) -> Cases:
    group = ".".join(rule.group)
    among = f"{_among(rule)} <> '{KEEP}', " if rule.among else ""
    way = "asc" if rule.smallest else "desc"
    prefer = f"nanvl({'.'.join(rule.prefer)}, null) {way} nulls last, " if rule.prefer else ""
    alone = f"partition by {group}, if({group} is null, uid, '')"
    place = f"row_number() over ({alone} order by {among}{prefer}uid)"
    return [*_not_among(rule), (f"{place} > 1", f"'{rule.reason}'")]


@cases.register
def _(rule: NotInEvaluation, measured: Measured) -> Cases:
    signal = rule.signal
    drops = [(f"{signal} is null", "'not_compared'")]
    if rule.pdq_distance is not None:
        near = f"{signal}.pdq_distance <= {rule.pdq_distance} and {signal}.pdq_quality >= {rule.min_quality}"
        drops.append((f"coalesce({near}, false)", "'evaluation_copy'"))
    for column, least, reason in (
        ("cosine", rule.cosine, "evaluation_lookalike"),
        ("aligned", rule.aligned, "evaluation_aligned"),
    ):
        if least is not None:
            value = f"{signal}.{column}"
            drops.append((f"not ({unknown_value(value)}) and {compared(value, '>=', least)}", f"'{reason}'"))
    return drops


@cases.register
def _(rule: NearReference, measured: Measured) -> Cases:
    near = f"{rule.signal}.near_reference"
    return [(f"{near} is null", "'not_compared'"), (f"not {near}", "'not_near_reference'")]


@cases.register
def _(rule: Concepts, measured: Measured) -> Cases:
    if not rule.any_of:
        return [(f"coalesce({rule.signal}.concept_count, 0) < 1", "'no_concept'")]
    wanted = f"exists({rule.signal}.concepts, one -> one in ({', '.join(map(str, rule.any_of))}))"
    return [
        (_no_concept(rule.signal), "'no_concept'"),
        (f"not coalesce({wanted}, false)", "'other_concept'"),
    ]


@cases.register
def _(rule: Balanced, measured: Measured) -> Cases:
    counts: Mapping[int, int] = measured[rule.name]
    # by place, so that a look-up costs the same for any number of concepts; 1 for one of which all are kept
    chances = [rule.t / counts[one] if one in counts else 1 for one in range(max(counts, default=0) + 1)]
    table = f"cast(split('{','.join(map(repr, chances))}', ',') as array<double>)"
    concepts = f"transform({rule.signal}.concepts, one -> struct(one, coalesce(get({table}, one), 1D) as chance))"
    kept = f"exists({concepts}, it -> it.chance >= 1 or {draw_sql(rule.seed, 'uid', 'it.one')} < it.chance)"
    return [
        *_not_among(rule),
        (_no_concept(rule.signal), "'no_concept'"),
        (f"not coalesce({kept}, false)", "'balanced_out'"),
    ]


@cases.register
def _(rule: RandomFraction, measured: Measured) -> Cases:
    # "fraction" keeps the draw apart from the order in which mixtures draw, which is a hash of seed and uid
    return [(f"{draw_sql(rule.seed, 'uid', quoted('fraction'))} >= {double(rule.fraction)}", "'not_drawn'")]


@cases.register
def _(rule: Subset, measured: Measured) -> Cases:
    return [(f"not coalesce(`{listed(rule.path)}`, false)", "'not_in_subset'")]


@cases.register
def _(rule: AllOf, measured: Measured) -> Cases:
    return [case for part in rule.parts for case in cases(part, measured)]


@cases.register
def _(rule: AnyOf, measured: Measured) -> Cases:
    reasons = [reason_column(part, measured) for part in rule.parts]
    return [(" and ".join(f"{reason} <> '{KEEP}'" for reason in reasons), reasons[0])]


@cases.register
def _(rule: Not, measured: Measured) -> Cases:
    return [(f"{reason_column(rule.part, measured)} = '{KEEP}'", f"'{rule.reason}'")]


@cases.register
def _(rule: Preset, measured: Measured) -> Cases:
    return cases(rule.rule, measured)


def _no_concept(signal: str) -> str:
    return f"coalesce(size({signal}.concepts), 0) < 1"
