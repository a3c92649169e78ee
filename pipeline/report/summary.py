"""The summary at the top of the report: the results as sentences, with their intervals and what they leave open."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from pipeline.analysis.results import DilutionResult, Estimate, FilterEffect, RankingRow
from pipeline.report.schema import EvaluationResults

MAX_NAMED_MODELS = 6
"""Up to this many models at chance are named; more are only counted."""


def summary_sentences(
    evaluation: EvaluationResults,
    standings: Sequence[RankingRow],
    filtered: Iterable[FilterEffect],
    dilution: Sequence[DilutionResult],
    baseline: Collection[str] = (),
) -> list[str]:
    """Return the sentences: which mixture leads, which lie above `baseline`'s line, effects of filters and mixing.

    A comparison whose interval includes 0 is called undecided. Mixtures in several sizes are compared in the largest.
    """
    if not evaluation["results"] or not standings:
        return ["No model has been evaluated yet."]
    known_sets = {evaluated["name"] for evaluated in evaluation["sets"]}
    by_set: dict[str, list[RankingRow]] = {}
    for row in standings:
        if row["set"] in known_sets:
            by_set.setdefault(row["set"], []).append(row)
    return [
        *(_leader(rows) for rows in by_set.values()),
        *_leaders([rows for name, rows in by_set.items() if name != evaluation["reference"]]),
        *_seed_caveat(standings),
        *_at_chance(evaluation),
        *_robustness(standings, baseline),
        *_filter_effects(filtered, evaluation["reference"]),
        *_dilution(dilution),
    ]


def _interval(estimate: Estimate) -> str:
    return f"[{estimate['low']:.1%}, {estimate['high']:.1%}]"


def _points(difference: Estimate) -> str:
    low, high = difference["low"], difference["high"]
    return f"{100 * difference['estimate']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _sign(estimate: Estimate) -> int:
    """Return the sign of the whole interval: -1, 1, or 0 where it includes 0."""
    return -1 if estimate["high"] < 0 else int(estimate["low"] > 0)


def _decided(rows: Sequence[RankingRow]) -> bool:
    """Tell whether the first mixture is ahead of the second by more than the interval of their difference."""
    return len(rows) > 1 and rows[1]["behind"] is not None and _sign(rows[1]["behind"]) > 0


def _leader(rows: Sequence[RankingRow]) -> str:
    first = rows[0]
    role = "the reference set" if first["kind"] == "reference" else "the shift"
    seeds = f" ({first['size']:,} pairs, the mean of {first['seeds']} seeds)" if first["seeds"] > 1 else ""
    sentence = f"On {role} {first['set']}, {first['mixture']} is the most accurate{seeds}: "
    sentence += f"{first['accuracy']['estimate']:.1%} {_interval(first['accuracy'])}"
    if len(rows) == 1 or rows[1]["behind"] is None:
        return sentence + "."
    verdict = "" if _decided(rows) else "; the interval includes 0, so the order of these two is undecided"
    return f"{sentence}, ahead of {rows[1]['mixture']} by {_points(rows[1]['behind'])}{verdict}."


def _leaders(shifts: Sequence[Sequence[RankingRow]]) -> list[str]:
    first = {rows[0]["mixture"] for rows in shifts}
    if len(first) == 1:
        return [f"{first.pop()} is first on every shift."]
    decided: dict[str, list[str]] = {}
    for rows in shifts:
        if _decided(rows):
            decided.setdefault(rows[0]["mixture"], []).append(rows[0]["set"])
    if len(decided) > 1:
        leaders = "; ".join(f"{name} leads on {', '.join(sets)}" for name, sets in decided.items())
        return [f"No mixture leads on every shift: by more than the interval, {leaders}."]
    return ["No mixture is first on every shift, but the intervals do not exclude that one is."] if first else []


def _seed_caveat(standings: Iterable[RankingRow]) -> list[str]:
    if any(row["seeds"] > 1 for row in standings):
        return []
    return ["Each mixture was trained once: these intervals do not include the variation between seeds."]


def _at_chance(evaluation: EvaluationResults) -> list[str]:
    chance = {evaluated["name"]: evaluated["chance"] for evaluated in evaluation["sets"]}
    at_chance = [result for result in evaluation["results"] if result["low"] <= chance[result["set"]]]
    if not at_chance:
        return ["Every model is above chance on every evaluation set: its 95 % interval lies above chance."]
    if len(at_chance) <= MAX_NAMED_MODELS:
        names = ", ".join(f"{result['mixture']} on {result['set']}" for result in at_chance)
    else:  # a grid has too many models to name each
        models = Counter(result["set"] for result in evaluation["results"])
        counts = Counter(result["set"] for result in at_chance)
        names = ", ".join(f"{counts[name]} of {models[name]} models on {name}" for name in chance if counts[name])
    return [f"Not above chance, as the 95 % interval reaches down to it: {names}."]


def _robustness(standings: Iterable[RankingRow], baseline: Collection[str]) -> list[str]:
    """State for each mixture on which shifts it lies above or below the baseline's line, and on how many neither."""
    by_mixture: dict[str, list[tuple[str, int]]] = {}
    for row in standings:
        if row["effective"] is not None and row["mixture"] not in baseline:
            by_mixture.setdefault(row["mixture"], []).append((row["set"], _sign(row["effective"])))
    if not by_mixture:
        return []
    verdicts, undecided = list[str](), list[str]()
    for name, sides in sorted(by_mixture.items()):
        above, below = (", ".join(set_name for set_name, side in sides if side == expected) for expected in (1, -1))
        if not above and not below:
            undecided.append(name)
            continue
        n_undecided = sum(side == 0 for _, side in sides)
        parts = [f"more robust on {above}" if above else "", f"less robust on {below}" if below else ""]
        verdicts.append(
            f"{name} is {' and '.join(filter(None, parts))}" + (f", undecided on {n_undecided}" if n_undecided else "")
        )
    if undecided:
        verdicts.append(f"{', '.join(undecided)}: undecided on every shift")
    line = f"the line of {', '.join(sorted(baseline))}" if baseline else "the line through all models"
    return [f"Relative to {line}: {'; '.join(verdicts)}."]


def _filter_effects(filtered: Iterable[FilterEffect], reference: str) -> list[str]:
    """State the effect of each filter on accuracy, and relative to the line of the unfiltered mixture."""
    by_pair: dict[tuple[str, str], list[FilterEffect]] = {}
    for row in filtered:
        by_pair.setdefault((row["mixture"], row["plain"]), []).append(row)
    sentences = []
    for (mixture, plain), rows in by_pair.items():
        gains = Counter(_sign(row["accuracy"]) for row in rows)
        sentence = (
            f"The filter of {mixture} changes {plain}'s accuracy by {_points(rows[0]['reference'])} on {reference}; "
        )
        sentence += f"by more than the interval, accuracy rises on {gains[1] or 'none'} of {len(rows)} shifts"
        sentence += f" and falls on {gains[-1] or 'none'}"
        moved = [(row["set"], _sign(row["moved"])) for row in rows if row["moved"] is not None]
        if moved:
            shifted = ", ".join(f"{name} ({'above' if side > 0 else 'below'})" for name, side in moved if side)
            sentence += f"; the filtered models lie off {plain}'s line on {shifted or 'none'}"
        sentences.append(sentence + ".")
    return sentences


def _dilution(dilution: Sequence[DilutionResult]) -> list[str]:
    """State on which shifts each mixture is less, or more, robust than the best of its sources."""
    sentences = []
    for name in dict.fromkeys(row["mixture"] for row in dilution):
        rows = [row for row in dilution if row["mixture"] == name]
        shifts = {
            verdict: [row["set"] for row in rows if row["verdict"] == verdict] for verdict in ("diluted", "better")
        }
        less = f"less robust than its best source on {', '.join(shifts['diluted']) or 'none'}"
        more = f"more robust on {', '.join(shifts['better']) or 'none'}"
        n_undecided = len(rows) - sum(map(len, shifts.values()))
        extrapolated = max(row["extrapolated"] for row in rows)
        caveat = (
            f" Up to {extrapolated} of its models lie outside the accuracy range of that source's models."
            if extrapolated
            else ""
        )
        sentences.append(
            f"Of {len(rows)} shifts, the mixture {name} is {less}, {more}; undecided on {n_undecided}.{caveat}"
        )
    return sentences
