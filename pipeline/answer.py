"""The report's first sentences: what the numbers say, with their intervals, and what they do not say."""

from collections import Counter

from pipeline.report.shape import Evaluation, Result
from pipeline.report.shape_robustness import Dilution, Robustness

NAMED = 6
"""Models at chance that are named; more are counted."""


def _percent(one: Result) -> str:
    return f"{one['top1']:.1%} [{one['low']:.1%}, {one['high']:.1%}]"


def _apart(one: Result, other: Result) -> bool:
    """Whether the 95 % intervals of two accuracies do not meet."""
    return one["low"] > other["high"] or other["low"] > one["high"]


def answer(evaluation: Evaluation, robustness: list[Robustness], dilution: list[Dilution]) -> list[str]:
    """Return the sentences; a lead that is within the intervals is called undecided, and so is a mixture's verdict."""
    by_set: dict[str, list[Result]] = {}
    for one in evaluation["results"]:
        by_set.setdefault(one["set"], []).append(one)
    if not by_set:
        return ["No model has been evaluated yet."]
    sentences = [_leader(evaluation["reference"], by_set[evaluation["reference"]], "the reference set")]
    leaders = {}
    for name in by_set:
        if name != evaluation["reference"]:
            leaders[name] = max(by_set[name], key=lambda one: one["top1"])["mixture"]
            sentences.append(_leader(name, by_set[name], "the shift"))
    if len(set(leaders.values())) > 1:
        sentences.append("No mixture leads on every shift.")
    elif leaders:
        sentences.append(f"{next(iter(leaders.values()))} leads on every shift.")
    sentences.extend(_at_chance(evaluation))
    return [*sentences, *_most_robust(robustness), *_diluted(dilution)]


def _leader(name: str, results: list[Result], what: str) -> str:
    ranked = sorted(results, key=lambda one: -one["top1"])
    first = f"On {what} {name}, {ranked[0]['mixture']} is the most accurate: {_percent(ranked[0])}"
    if len(ranked) == 1:
        return first + "."
    verdict = "" if _apart(ranked[0], ranked[1]) else "; the intervals meet, so the order of these two is undecided"
    return f"{first}, before {ranked[1]['mixture']} with {_percent(ranked[1])}{verdict}."


def _at_chance(evaluation: Evaluation) -> list[str]:
    chance = {one["name"]: one["chance"] for one in evaluation["sets"]}
    low = [one for one in evaluation["results"] if one["low"] <= chance[one["set"]]]
    if not low:
        return ["Every model is above chance on every set by more than its 95 % interval."]
    if len(low) <= NAMED:
        names = ", ".join(f"{one['mixture']} on {one['set']}" for one in low)
    else:  # a grid's models are too many to name
        models = Counter(one["set"] for one in evaluation["results"])
        counts = Counter(one["set"] for one in low)
        names = ", ".join(f"{counts[name]} of {models[name]} models on {name}" for name in chance if counts[name])
    return [f"Not above chance by more than the 95 % interval: {names}."]


def _most_robust(robustness: list[Robustness]) -> list[str]:
    """Name the mixture with the largest mean effective robustness over all shifts."""
    totals: dict[str, list[float]] = {}
    for shift in robustness:
        for point in shift["points"]:
            if point["effective"] is not None:
                totals.setdefault(point["mixture"], []).append(point["effective"])
    if not totals:
        return []
    means = {name: sum(values) / len(values) for name, values in totals.items()}
    best = max(means, key=lambda name: means[name])
    return [
        f"Measured from the line through all {len(means)} models, {best} has the largest mean effective robustness: "
        f"{100 * means[best]:+.1f} points over {len(totals[best])} shifts (a few models, so a weak line)."
    ]


def _diluted(dilution: list[Dilution]) -> list[str]:
    """Say of each mixture on how many shifts it keeps less, or more, than the best of its sources."""
    sentences = []
    for name in dict.fromkeys(one["mixture"] for one in dilution):
        mine = [one for one in dilution if one["mixture"] == name]
        on = {verdict: [one["set"] for one in mine if one["verdict"] == verdict] for verdict in ("diluted", "better")}
        less = f"less robust than its best source on {', '.join(on['diluted']) or 'none'}"
        more = f"more on {', '.join(on['better']) or 'none'}"
        left = len(mine) - sum(map(len, on.values()))
        sentences.append(f"The mixture {name} is {less} of {len(mine)} shifts, {more}; undecided on {left}.")
    return sentences
