"""Rules as Spark SQL over a view of signals: each returns a column `reason`, "" for a kept pair."""

from filters.rules import KEEP, DropWhen, NotInEvaluation, Rule, TopFraction, Unique


def _reason(cases: list[tuple[str, str]]) -> str:
    whens = " ".join(f"when {condition} then '{reason}'" for condition, reason in cases)
    return f"case {whens} else '{KEEP}' end"


def _sql_name(reason: str) -> str:
    return "".join(char if char.isalnum() or char in "_-" else "_" for char in reason)


def reason_sql(rule: Rule, view: str) -> str:
    """Return the query of (uid, source, reason) that a rule asks of `view`.

    The view has uid, source and, for each signal that the rule reads, a struct column of the signal's name, null
    where the signal says nothing about the pair. Composite rules have no query; `composed_sql` is theirs.
    """
    if isinstance(rule, DropWhen):
        cases = [(f"coalesce(({text}), true)", _sql_name(reason)) for reason, text in rule.reasons.items()]
        return f"select uid, source, {_reason(cases)} as reason from {view}"
    if isinstance(rule, TopFraction):
        return _top_fraction(rule, view)
    if isinstance(rule, Unique):
        group, prefer = ".".join(rule.group), f"nanvl({'.'.join(rule.prefer)}, null)" if rule.prefer else "0"
        # a pair without a group is alone in it
        place = f"row_number() over (partition by coalesce({group}, uid) order by {prefer} desc nulls last, uid)"
        return (
            f"select uid, source, {_reason([('place > 1', rule.reason)])} as reason "
            f"from (select uid, source, {place} as place from {view})"
        )
    if isinstance(rule, NotInEvaluation):
        near = f"{rule.signal}.pdq_distance <= {rule.pdq_distance} and {rule.signal}.pdq_quality >= {rule.min_quality}"
        cases = [
            (f"{rule.signal} is null", "not_compared"),
            (near, "evaluation_copy"),
            (f"{rule.signal}.cosine >= {rule.cosine!r}", "evaluation_lookalike"),
        ]
        return f"select uid, source, {_reason(cases)} as reason from {view}"
    raise TypeError(f"no query for {type(rule).__name__}")


def _top_fraction(rule: TopFraction, view: str) -> str:
    value = ".".join(rule.by)
    known = f"({value} is not null and not isnan({value}))"
    scope = "partition by source" if rule.per_source else ""
    inner = (
        f"select uid, source, {known} as known, "
        f"row_number() over ({scope} order by if({known}, {value}, null) desc nulls last, uid) as place, "
        f"count_if({known}) over ({scope}) as of_all from {view}"
    )
    below = f"place > ceil({rule.fraction!r} * of_all)"
    return (
        f"select uid, source, {_reason([('not known', 'no_score'), (below, 'below_top_fraction')])} as reason "
        f"from ({inner})"
    )


def composed_sql(view: str, parts: tuple[str, ...]) -> str:
    """Return the query of (uid, source, reason) over decided parts: the reason of the first part that drops.

    `view` holds rows of (uid, source, filter, reason) of exactly these parts.
    """
    order = " ".join(f"when '{part}' then {number}" for number, part in enumerate(parts))
    first = f"min_by(reason, case filter {order} end) filter (where reason <> '{KEEP}')"
    return f"select uid, any_value(source) as source, coalesce({first}, '{KEEP}') as reason from {view} group by uid"
