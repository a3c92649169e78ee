"""Rules as Spark SQL over a view of pairs: a column `reason`, "" for a kept pair.

The view has uid and source; for each signal that the rule reads, a struct column of the signal's name, null where the
signal has no row for the pair; for each filter that it reads, a struct column `decided(filter)` with its reason; and
for each subset file a boolean column `listed(path)`. Statistics over all pairs that a rule needs first, `measured`, are
computed by `filters.rules.statistics`.
"""

import hashlib
from collections.abc import Mapping
from functools import singledispatch

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
from filters.rules.corpus import Balanced, CorpusRule, TopFraction, Unique
from filters.rules.sql_expressions import KEEP, case_expression, comparison, double_literal, is_unknown, string_literal
from filters.rules.statistics import FractionCut, Statistics
from pipeline.core.sampling import uniform_hash_sql

Cases = list[tuple[str, str]]
"""(condition, reason) as SQL expressions: the first condition that is true drops the pair; null is not true."""


def decision_column(name: str) -> str:
    """Return the view's column with the decision of the filter `name`; no signal can have that column's name."""
    return f"decided:{name}"


def subset_column(path: str) -> str:
    """Return the view's column that says whether a subset file lists the pair."""
    return f"listed:{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def reason_sql(rule: Rule, view: str, measured: Statistics) -> str:
    """Return the query of (uid, source, reason) of a rule over `view`; `measured` are the rule's statistics."""
    pairs = view_with_among_columns(rule, view, measured)
    return f"select uid, source, {reason_column(rule, measured)} as reason from {pairs}"


def view_with_among_columns(rule: Rule, view: str, measured: Statistics) -> str:
    """Return the view, or a query of it with a column for the reason of each `among` in the rule.

    It needs a column, as a window function is allowed neither in a condition nor in another window.
    """
    for part in reversed(list(rule.walk())):
        if isinstance(part, CorpusRule) and part.among:
            view = f"(select *, {reason_column(part.among, measured)} as {_among_column(part)} from {view})"
    return view


def among_condition(rule: CorpusRule) -> str:
    """Return the condition, over the rule's `pool`, for the pairs that the rule ranks, counts or groups."""
    return f"{_among_column(rule)} = '{KEEP}'" if rule.among else "true"


def _among_column(rule: CorpusRule) -> str:
    return f"`among:{rule.name}`"


def _among_cases(rule: CorpusRule) -> Cases:
    return [(f"{_among_column(rule)} <> '{KEEP}'", _among_column(rule))] if rule.among else []


def reason_column(rule: Rule, measured: Statistics) -> str:
    """Return the SQL expression of a rule's reason."""
    whens = " ".join(f"when {condition} then {reason}" for condition, reason in drop_cases(rule, measured))
    return f"case {whens} else '{KEEP}' end"


@singledispatch
def drop_cases(rule: Rule, measured: Statistics) -> Cases:
    """Return the cases that drop a pair, in order."""
    raise TypeError(f"no query for {type(rule).__name__}")


@drop_cases.register
def _(rule: FilterReference, measured: Statistics) -> Cases:
    reason = f"coalesce(`{decision_column(rule.name)}`.reason, 'not_decided')"
    return [(f"{reason} <> '{KEEP}'", reason)]


@drop_cases.register
def _(rule: DropWhen, measured: Statistics) -> Cases:
    return [(f"coalesce(({text}), true)", f"'{reason}'") for reason, text in rule.reasons.items()]


@drop_cases.register
def _(rule: TopFraction, measured: Statistics) -> Cases:
    value = ".".join(rule.by)
    cuts = {source: _above_cut(value, cut) for source, cut in measured[rule.name].items()}
    above = case_expression("source", cuts, "false") if rule.per_source else cuts.get("", "false")
    return [*_among_cases(rule), (is_unknown(value), "'no_score'"), (f"not {above}", "'below_top_fraction'")]


def _above_cut(value: str, cut: FractionCut) -> str:
    """Return the condition that a value is above the cut, or equal to it with a uid that is small enough."""
    if cut.value is None:
        return "false"
    number, tie = double_literal(cut.value), f" and uid <= {string_literal(cut.uid)}" if cut.uid is not None else ""
    return f"(cast({value} as double) > {number} or (cast({value} as double) = {number}{tie}))"


@drop_cases.register
def _(rule: Threshold, measured: Statistics) -> Cases:
    value, operator = ".".join(rule.by), COMPARISONS[rule.comparison]
    per_source = {source: comparison(value, operator, number) for source, number in rule.per_source.items()}
    kept = case_expression("source", per_source, comparison(value, operator, rule.value))
    return [(is_unknown(value), "'no_score'"), (f"not ({kept})", f"'{rule.reason}'")]


@drop_cases.register
def _(rule: Unique, measured: Statistics) -> Cases:
    group = ".".join(rule.group)
    among = f"{_among_column(rule)} <> '{KEEP}', " if rule.among else ""
    direction = "asc" if rule.smallest else "desc"
    prefer = f"nanvl({'.'.join(rule.prefer)}, null) {direction} nulls last, " if rule.prefer else ""
    partition = f"partition by {group}, if({group} is null, uid, '')"
    rank = f"row_number() over ({partition} order by {among}{prefer}uid)"
    return [*_among_cases(rule), (f"{rank} > 1", f"'{rule.reason}'")]


@drop_cases.register
def _(rule: NotInEvaluation, measured: Statistics) -> Cases:
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
            drops.append((f"not ({is_unknown(value)}) and {comparison(value, '>=', least)}", f"'{reason}'"))
    return drops


@drop_cases.register
def _(rule: NearReferenceRule, measured: Statistics) -> Cases:
    near = f"{rule.signal}.near_reference"
    return [(f"{near} is null", "'not_compared'"), (f"not {near}", "'not_near_reference'")]


@drop_cases.register
def _(rule: ConceptsRule, measured: Statistics) -> Cases:
    if not rule.any_of:
        return [(f"coalesce({rule.signal}.concept_count, 0) < 1", "'no_concept'")]
    mentioned = f"exists({rule.signal}.concepts, one -> one in ({', '.join(map(str, rule.any_of))}))"
    return [
        (_no_concept(rule.signal), "'no_concept'"),
        (f"not coalesce({mentioned}, false)", "'other_concept'"),
    ]


@drop_cases.register
def _(rule: Balanced, measured: Statistics) -> Cases:
    counts: Mapping[int, int] = measured[rule.name]
    # an array by concept, so that a look-up costs the same for any number of concepts; 1 where all pairs are kept
    chances = [rule.t / counts[concept] if concept in counts else 1 for concept in range(max(counts, default=0) + 1)]
    table = f"cast(split('{','.join(map(repr, chances))}', ',') as array<double>)"
    concepts = f"transform({rule.signal}.concepts, one -> struct(one, coalesce(get({table}, one), 1D) as chance))"
    kept = f"exists({concepts}, it -> it.chance >= 1 or {uniform_hash_sql(rule.seed, 'uid', 'it.one')} < it.chance)"
    return [
        *_among_cases(rule),
        (_no_concept(rule.signal), "'no_concept'"),
        (f"not coalesce({kept}, false)", "'balanced_out'"),
    ]


@drop_cases.register
def _(rule: RandomFraction, measured: Statistics) -> Cases:
    # "fraction" makes the sample independent of the order in which mixtures sample, which is a hash of seed and uid
    return [
        (
            f"{uniform_hash_sql(rule.seed, 'uid', string_literal('fraction'))} >= {double_literal(rule.fraction)}",
            "'not_drawn'",
        )
    ]


@drop_cases.register
def _(rule: Subset, measured: Statistics) -> Cases:
    return [(f"not coalesce(`{subset_column(rule.path)}`, false)", "'not_in_subset'")]


@drop_cases.register
def _(rule: AllOf, measured: Statistics) -> Cases:
    return [case for part in rule.parts for case in drop_cases(part, measured)]


@drop_cases.register
def _(rule: AnyOf, measured: Statistics) -> Cases:
    reasons = [reason_column(part, measured) for part in rule.parts]
    return [(" and ".join(f"{reason} <> '{KEEP}'" for reason in reasons), reasons[0])]


@drop_cases.register
def _(rule: Not, measured: Statistics) -> Cases:
    return [(f"{reason_column(rule.part, measured)} = '{KEEP}'", f"'{rule.reason}'")]


@drop_cases.register
def _(rule: PresetRule, measured: Statistics) -> Cases:
    return drop_cases(rule.rule, measured)


def _no_concept(signal: str) -> str:
    return f"coalesce(size({signal}.concepts), 0) < 1"
