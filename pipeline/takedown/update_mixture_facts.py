"""What a mixture and its export say of their pairs, put right after a takedown: counts by source, part and reason.

Whether a pair that goes was one to draw from is asked as the mixture did it: of its filters, its parts and, by its
verdict, whether it was quarantined. Of a mixture by a list of uids, only the pairs that it drew are known to be listed.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.mixture import Mixture
from pipeline.ledger.scan import matching, scan_file
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.ledger.value_filter import Keys
from pipeline.mixtures.parts import Condition, Taken, columns_of, parts_of
from pipeline.outcomes import MISMATCH, STORED, TAKEN_DOWN
from pipeline.takedown.impact import Survey


@dataclass
class LostShares:
    """Of the pairs that go, those that a mixture could draw from and those that it drew.

    `available` and `quarantined` are (source, part) of pairs; `drawn` (source, part, times).
    """

    available: list[tuple[str, str]] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    drawn: list[tuple[str, str, int]] = field(default_factory=list)
    any: bool = False
    """Whether anything that the mixture stands on goes."""


def lost_of(ledger: Ledger, row: JobRow, found: Survey) -> LostShares:
    """Return what a mixture loses."""
    lost, inputs = LostShares(), set(row.inputs)
    mine = {one["uid"]: one for one in found.gone.get("mixtures", ()) if one["job"] == row.job}
    lost.drawn = [(one["source"], one["part"], one["times"]) for one in mine.values()]
    lost.any = any(one["job"] in inputs for table in ("pairs", "fetches") for one in found.gone.get(table, ()))
    stored = [one for one in found.gone.get("samples", ()) if one["job"] in inputs]
    given = Mixture(**{key: row.config[key] for key in Mixture.model_fields if key in row.config})
    parts = parts_of(row.name, given, row.config["of"])
    keeps = _keeps(ledger, row, found)
    values = _values(ledger, row, found, parts) if stored else {}
    for one in stored:
        uid = one["uid"]
        if one["source"] not in row.config["of"] or (given.filter and not keeps.get((given.filter, uid))):
            continue
        part = next((part.name for part in parts if _takes(part, one, keeps, values)), None)
        if part is None or (given.uids and uid not in mine):
            continue
        wrong = one["verdict"] == MISMATCH and not given.mismatched
        (lost.quarantined if wrong else lost.available).append((one["source"], part))
    return lost


Keeps = Mapping[tuple[str, str], bool]
"""By filter and uid, whether the filter keeps the pair."""


def _keeps(ledger: Ledger, row: JobRow, found: Survey) -> Keeps:
    names = {job: other.name for job in row.inputs if (other := ledger.finished(job)) and other.stage == "decide"}
    gone = found.gone.get("decisions", ())
    return {(names[one["job"]], one["uid"]): one["keep"] for one in gone if one["job"] in names}


def _values(ledger: Ledger, row: JobRow, found: Survey, parts: Sequence[Taken]) -> dict[tuple[str, str], Any]:
    """Return by signal and uid the columns, of the pairs that go, that parts ask for."""
    read: dict[tuple[str, str], Any] = {}
    uids = Keys({one["uid"] for one in found.gone.get("samples", ())})
    for signal, columns in columns_of(parts).items():
        for path, hit in found.files.get(signal_table(signal), {}).items():
            if hit.job in row.inputs:
                rows = scan_file(ledger, hit.job, path, ["uid", *columns])
                for _, one in matching(rows, lambda batch: uids.within(batch["uid"])):
                    read[signal, one["uid"]] = one
    return read


def _takes(part: Taken, one: Mapping[str, Any], keeps: Keeps, values: Mapping[tuple[str, str], Any]) -> bool:
    """Tell whether a part takes a pair; where nothing is said of it, it does not."""
    uid = one["uid"]
    if one["source"] not in part.sources or (part.filter and not keeps.get((part.filter, uid))):
        return False
    if part.dropped_by and keeps.get((part.dropped_by, uid), True):
        return False
    return part.condition is None or _meets(part.condition, values.get((part.condition.signal, uid), {}))


def _meets(condition: Condition, row: Mapping[str, Any]) -> bool:
    value = row.get(condition.column)
    if value is None:
        return False
    if condition.values:
        return any(_equal(value, text) for text in condition.values)
    return not math.isnan(value) and condition.least <= value < condition.below


def _equal(value: Any, text: str) -> bool:
    """Compare a column's value with a text as Spark does: the text as a boolean or a number where the value is one."""
    if isinstance(value, bool):
        return value == (text.strip().lower() in ("t", "true", "y", "yes", "1"))
    return bool(value == (text if isinstance(value, str) else float(text)))


def _less(counts: Mapping[str, int], gone: Mapping[str, int]) -> dict[str, int]:
    return {name: count - gone.get(name, 0) for name, count in counts.items()}


def restated_mixture(row: JobRow, lost: LostShares) -> dict[str, Any]:
    """Return what a mixture's row says of its pairs once they are gone."""
    facts = row.facts
    times, by_part = Counter[str](), Counter[str]()
    for source, part, much in lost.drawn:
        times[source] += much
        by_part[part] += much
    available = Counter(part for _, part in lost.available)
    return {
        "available": _less(facts["available"], Counter(source for source, _ in lost.available)),
        "quarantined": _less(facts["quarantined"], Counter(source for source, _ in lost.quarantined)),
        "by_source": _less(facts["by_source"], times),
        "parts": {
            name: told | {"available": told["available"] - available[name], "pairs": told["pairs"] - by_part[name]}
            for name, told in facts["parts"].items()
        },
    }


def restated_about(about: Mapping[str, Any], lost: LostShares, found: Survey) -> Any:
    """Return what an export's papers are made of (`pipeline.export.dataset_facts.About`) once the pairs are gone."""
    told = deepcopy(dict(about))
    by_source, times = Counter(source for source, _, _ in lost.drawn), Counter[str]()
    for _, part, much in lost.drawn:
        times[part] += much
    distinct = Counter(part for _, part, _ in lost.drawn)
    for name, source in told["sources"].items():
        source["pairs"] -= by_source[name]
    for part in told["parts"]:
        part["pairs"] -= times[part["name"]]
        part["distinct"] -= distinct[part["name"]]
    for one in told["funnel"]:
        _restate_funnel(one, told["inputs"], lost, found)
    return told


def _restate_funnel(one: dict[str, Any], inputs: Mapping[str, Any], lost: LostShares, found: Survey) -> None:
    """Take what is gone out of a source's funnel, as `SourceFunnel.plain` tells it."""
    source, ingests = one["source"], set(inputs["ingest"])

    def gone(table: str) -> list[dict[str, Any]]:
        return [row for row in found.gone.get(table, ()) if row["source"] == source]

    published = sum(row["job"] in ingests for row in gone("pairs"))
    outcomes = _outcomes([row for row in gone("fetches") if row["job"] in ingests])
    stored = outcomes.pop(STORED, 0)
    for step in one["stages"]:
        kind, _, name = step["stage"].partition(":")
        if kind == "ingest":
            kept, dropped = stored, outcomes
            dropped.subtract({TAKEN_DOWN: published})
        elif kind == "filter":
            rows = [row for row in gone("decisions") if row["job"] == inputs["decide"].get(name)]
            kept, dropped = sum(row["keep"] for row in rows), Counter(row["reason"] for row in rows if not row["keep"])
            step["in"] -= stored
        else:
            kept, dropped = _mixture_losses(source, stored, lost)
            step["in"] -= stored
        step["kept"] -= kept
        left = Counter(step["dropped"])
        left.subtract(dropped)
        order = sorted(((reason, count) for reason, count in left.items() if count), key=lambda x: (-x[1], x[0]))
        step["dropped"] = dict(order)


def _mixture_losses(source: str, stored: int, lost: LostShares) -> tuple[int, Counter[str]]:
    drawn, available, quarantined = (
        sum(one[0] == source for one in part) for part in (lost.drawn, lost.available, lost.quarantined)
    )
    dropped = Counter(filtered_out=stored - available - quarantined, quarantined=quarantined)
    dropped["not_sampled"] = available - drawn
    return drawn, dropped


def _outcomes(fetches: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Return the outcomes of published rows that go, as `pipeline.provenance.funnel.settled` counts them: a row that is
    no pair has its own, and the others that of their last attempt.
    """
    found, last = Counter[str](), dict[str, tuple[int, str]]()
    for row in fetches:
        if row["final"] and row["attempt"] == 0:
            found[row["outcome"]] += 1
        elif row["final"]:
            last[row["uid"]] = max(last.get(row["uid"], (0, "")), (row["attempt"], row["outcome"]))
    found.update(outcome for _, outcome in last.values())
    return found
