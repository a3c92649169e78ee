"""The report's first sentences: what the numbers say, with their intervals, and what they do not say."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from pipeline.analysis.results import Dilution, Estimate, Filtered, Standing
from pipeline.report.schema import Evaluation

NAMED = 6
"""Models at chance that are named; more are counted."""


def answer(
    evaluation: Evaluation,
    standings: Sequence[Standing],
    filtered: Iterable[Filtered],
    dilution: Sequence[Dilution],
    baseline: Collection[str] = (),
) -> list[str]:
    """Return the sentences: who leads, who is more robust than `baseline`'s line, what filters and mixing did.

    What an interval does not decide is called undecided. Of mixtures in several sizes the largest ones are compared.
    """
    if not evaluation["results"] or not standings:
        return ["No model has been evaluated yet."]
    named = {one["name"] for one in evaluation["sets"]}
    by_set: dict[str, list[Standing]] = {}
    for one in standings:
        if one["set"] in named:
            by_set.setdefault(one["set"], []).append(one)
    return [
        *(_leader(rows) for rows in by_set.values()),
        *_leaders([rows for name, rows in by_set.items() if name != evaluation["reference"]]),
        *_seeds(standings),
        *_at_chance(evaluation),
        *_robust(standings, baseline),
        *_filters(filtered, evaluation["reference"]),
        *_diluted(dilution),
    ]


def _within(one: Estimate) -> str:
    return f"[{one['low']:.1%}, {one['high']:.1%}]"


def _points(one: Estimate) -> str:
    return f"{100 * one['estimate']:+.1f} points [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"


def _side(one: Estimate) -> int:
    """Return which side of 0 the whole interval lies on: -1, 1, or 0 where it holds 0."""
    return -1 if one["high"] < 0 else int(one["low"] > 0)


def _decided(rows: Sequence[Standing]) -> bool:
    """Whether the first of a set is ahead of the second by more than the interval of their difference."""
    return len(rows) > 1 and rows[1]["behind"] is not None and _side(rows[1]["behind"]) > 0


def _leader(rows: Sequence[Standing]) -> str:
    first = rows[0]
    what = "the reference set" if first["kind"] == "reference" else "the shift"
    seeds = f" ({first['size']:,} pairs, the mean of {first['seeds']} seeds)" if first["seeds"] > 1 else ""
    said = f"On {what} {first['set']}, {first['mixture']} is the most accurate{seeds}: "
    said += f"{first['accuracy']['estimate']:.1%} {_within(first['accuracy'])}"
    if len(rows) == 1 or rows[1]["behind"] is None:
        return said + "."
    verdict = "" if _decided(rows) else "; the interval holds 0, so the order of these two is undecided"
    return f"{said}, ahead of {rows[1]['mixture']} by {_points(rows[1]['behind'])}{verdict}."


def _leaders(shifts: Sequence[Sequence[Standing]]) -> list[str]:
    first = {rows[0]["mixture"] for rows in shifts}
    if len(first) == 1:
        return [f"{first.pop()} is first on every shift."]
    sure: dict[str, list[str]] = {}
    for rows in shifts:
        if _decided(rows):
            sure.setdefault(rows[0]["mixture"], []).append(rows[0]["set"])
    if len(sure) > 1:
        said = "; ".join(f"{name} leads on {', '.join(sets)}" for name, sets in sure.items())
        return [f"No mixture leads on every shift: by more than the interval, {said}."]
    return ["No mixture is first on every shift, but the intervals do not rule one out."] if first else []


def _seeds(standings: Iterable[Standing]) -> list[str]:
    if any(one["seeds"] > 1 for one in standings):
        return []
    return ["Each mixture was trained once: these intervals leave out what another seed would change."]


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


def _robust(standings: Iterable[Standing], baseline: Collection[str]) -> list[str]:
    """Say of each mixture on which shifts it lies above or below the baseline's line, and on how many neither."""
    by_mixture: dict[str, list[tuple[str, int]]] = {}
    for one in standings:
        if one["effective"] is not None and one["mixture"] not in baseline:
            by_mixture.setdefault(one["mixture"], []).append((one["set"], _side(one["effective"])))
    if not by_mixture:
        return []
    said, undecided = list[str](), list[str]()
    for name, sides in sorted(by_mixture.items()):
        above, below = (", ".join(where for where, side in sides if side == wanted) for wanted in (1, -1))
        if not above and not below:
            undecided.append(name)
            continue
        left = sum(side == 0 for _, side in sides)
        parts = [f"more robust on {above}" if above else "", f"less robust on {below}" if below else ""]
        said.append(f"{name} is {' and '.join(filter(None, parts))}" + (f", undecided on {left}" if left else ""))
    if undecided:
        said.append(f"{', '.join(undecided)}: undecided on every shift")
    line = f"the line of {', '.join(sorted(baseline))}" if baseline else "the line through all models"
    return [f"Measured from {line}: {'; '.join(said)}."]


def _filters(filtered: Iterable[Filtered], reference: str) -> list[str]:
    """Say what each filter did to the accuracies and the line of the mixture that it was put on."""
    by_pair: dict[tuple[str, str], list[Filtered]] = {}
    for one in filtered:
        by_pair.setdefault((one["mixture"], one["plain"]), []).append(one)
    sentences = []
    for (mixture, plain), rows in by_pair.items():
        gains = Counter(_side(one["accuracy"]) for one in rows)
        said = f"The filter of {mixture} changes {plain}'s accuracy by {_points(rows[0]['reference'])} on {reference}; "
        said += f"beyond its interval it raises it on {gains[1] or 'none'} of {len(rows)} shifts"
        said += f" and lowers it on {gains[-1] or 'none'}"
        moved = [(one["set"], _side(one["moved"])) for one in rows if one["moved"] is not None]
        if moved:
            off = ", ".join(f"{name} ({'above' if side > 0 else 'below'})" for name, side in moved if side)
            said += f"; off {plain}'s line it moves on {off or 'none'}"
        sentences.append(said + ".")
    return sentences


def _diluted(dilution: Sequence[Dilution]) -> list[str]:
    """Say of each mixture on how many shifts it keeps less, or more, than the best of its sources."""
    sentences = []
    for name in dict.fromkeys(one["mixture"] for one in dilution):
        mine = [one for one in dilution if one["mixture"] == name]
        on = {verdict: [one["set"] for one in mine if one["verdict"] == verdict] for verdict in ("diluted", "better")}
        less = f"less robust than its best source on {', '.join(on['diluted']) or 'none'}"
        more = f"more on {', '.join(on['better']) or 'none'}"
        left = len(mine) - sum(map(len, on.values()))
        beyond = max(one["extrapolated"] for one in mine)
        far = f" Up to {beyond} of its models lie beyond the range of that source's models." if beyond else ""
        sentences.append(f"The mixture {name} is {less} of {len(mine)} shifts, {more}; undecided on {left}.{far}")
    return sentences
