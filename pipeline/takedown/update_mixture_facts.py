"""Updates of the facts of mixtures and their exports after a takedown: counts by source, part and reason.

Whether a removed pair was available to a mixture is decided as the mixture decided it: by its filters, its parts and,
from the verdict, whether the pair was quarantined. For a mixture by a list of uids, only the pairs that it drew are
known to be listed.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.mixture import MixtureConfig
from pipeline.ledger.scan import matching_rows, scan_file
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.ledger.value_filter import ValueFilter
from pipeline.mixtures.parts import ColumnCondition, PartSpec, parts_of, signal_columns_of
from pipeline.outcomes import STORED, TAKEN_DOWN, VERDICT_MISMATCH
from pipeline.takedown.impact import TakedownImpact


@dataclass
class LostPairs:
    """The removed pairs that were available to a mixture, and those that it drew.

    `available` and `quarantined` are the (source, part) of pairs; `drawn` their (source, part, times).
    """

    available: list[tuple[str, str]] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    drawn: list[tuple[str, str, int]] = field(default_factory=list)
    any: bool = False
    """Whether anything that the mixture depends on is removed."""


def lost_pairs_of(ledger: Ledger, row: JobRow, impact: TakedownImpact) -> LostPairs:
    """Return the pairs that a mixture loses."""
    lost, inputs = LostPairs(), set(row.inputs)
    drawn = {pair["uid"]: pair for pair in impact.gone.get("mixtures", ()) if pair["job"] == row.job}
    lost.drawn = [(pair["source"], pair["part"], pair["times"]) for pair in drawn.values()]
    lost.any = any(removed["job"] in inputs for table in ("pairs", "fetches") for removed in impact.gone.get(table, ()))
    stored = [pair for pair in impact.gone.get("samples", ()) if pair["job"] in inputs]
    mixture = MixtureConfig(**{key: row.config[key] for key in MixtureConfig.model_fields if key in row.config})
    parts = parts_of(row.name, mixture, row.config["of"])
    keeps = _decisions_on_removed(ledger, row, impact)
    values = _signals_of_removed(ledger, row, impact, parts) if stored else {}
    for pair in stored:
        uid = pair["uid"]
        if pair["source"] not in row.config["of"] or (mixture.filter and not keeps.get((mixture.filter, uid))):
            continue
        part = next((part.name for part in parts if _part_takes(part, pair, keeps, values)), None)
        if part is None or (mixture.uids and uid not in drawn):
            continue
        quarantined = pair["verdict"] == VERDICT_MISMATCH and not mixture.mismatched
        (lost.quarantined if quarantined else lost.available).append((pair["source"], part))
    return lost


FilterDecisions = Mapping[tuple[str, str], bool]
"""Whether a filter keeps a pair, by filter and uid."""


def _decisions_on_removed(ledger: Ledger, row: JobRow, impact: TakedownImpact) -> FilterDecisions:
    names = {job: other.name for job in row.inputs if (other := ledger.finished(job)) and other.stage == "decide"}
    removed = impact.gone.get("decisions", ())
    return {
        (names[decision["job"]], decision["uid"]): decision["keep"] for decision in removed if decision["job"] in names
    }


def _signals_of_removed(
    ledger: Ledger, row: JobRow, impact: TakedownImpact, parts: Sequence[PartSpec]
) -> dict[tuple[str, str], Any]:
    """Return the signal columns that parts read, of the removed pairs, by signal and uid."""
    values: dict[tuple[str, str], Any] = {}
    uids = ValueFilter({pair["uid"] for pair in impact.gone.get("samples", ())})
    for signal, columns in signal_columns_of(parts).items():
        for path, hit in impact.files.get(signal_table(signal), {}).items():
            if hit.job in row.inputs:
                batches = scan_file(ledger, hit.job, path, ["uid", *columns])
                for _, signals in matching_rows(batches, lambda batch: uids.within(batch["uid"])):
                    values[signal, signals["uid"]] = signals
    return values


def _part_takes(
    part: PartSpec, pair: Mapping[str, Any], keeps: FilterDecisions, values: Mapping[tuple[str, str], Any]
) -> bool:
    """Return whether a part takes a pair; without a decision or signal value it does not."""
    uid = pair["uid"]
    if pair["source"] not in part.sources or (part.filter and not keeps.get((part.filter, uid))):
        return False
    if part.dropped_by and keeps.get((part.dropped_by, uid), True):
        return False
    return part.condition is None or _satisfies(part.condition, values.get((part.condition.signal, uid), {}))


def _satisfies(condition: ColumnCondition, row: Mapping[str, Any]) -> bool:
    value = row.get(condition.column)
    if value is None:
        return False
    if condition.values:
        return any(_equals_text(value, text) for text in condition.values)
    return not math.isnan(value) and condition.least <= value < condition.below


def _equals_text(value: Any, text: str) -> bool:
    """Compare a column's value with a text as Spark does: the text is cast to the value's type, boolean or number."""
    if isinstance(value, bool):
        return value == (text.strip().lower() in ("t", "true", "y", "yes", "1"))
    return bool(value == (text if isinstance(value, str) else float(text)))


def _subtract(counts: Mapping[str, int], removed: Mapping[str, int]) -> dict[str, int]:
    return {name: count - removed.get(name, 0) for name, count in counts.items()}


def updated_mixture_facts(row: JobRow, lost: LostPairs) -> dict[str, Any]:
    """Return the pair counts of a mixture's row in `jobs` without the removed pairs."""
    facts = row.facts
    times, by_part = Counter[str](), Counter[str]()
    for source, part, copies in lost.drawn:
        times[source] += copies
        by_part[part] += copies
    available = Counter(part for _, part in lost.available)
    return {
        "available": _subtract(facts["available"], Counter(source for source, _ in lost.available)),
        "quarantined": _subtract(facts["quarantined"], Counter(source for source, _ in lost.quarantined)),
        "by_source": _subtract(facts["by_source"], times),
        "parts": {
            name: part_counts
            | {"available": part_counts["available"] - available[name], "pairs": part_counts["pairs"] - by_part[name]}
            for name, part_counts in facts["parts"].items()
        },
    }


def updated_dataset_facts(about: Mapping[str, Any], lost: LostPairs, impact: TakedownImpact) -> Any:
    """Return the facts of an export's documents (`pipeline.export.dataset_facts.DatasetFacts`) without the removed
    pairs.
    """
    facts = deepcopy(dict(about))
    by_source, times = Counter(source for source, _, _ in lost.drawn), Counter[str]()
    for _, part, copies in lost.drawn:
        times[part] += copies
    distinct = Counter(part for _, part, _ in lost.drawn)
    for name, source in facts["sources"].items():
        source["pairs"] -= by_source[name]
    for part in facts["parts"]:
        part["pairs"] -= times[part["name"]]
        part["distinct"] -= distinct[part["name"]]
    for funnel in facts["funnel"]:
        _restate_funnel(funnel, facts["inputs"], lost, impact)
    return facts


def _restate_funnel(funnel: dict[str, Any], inputs: Mapping[str, Any], lost: LostPairs, impact: TakedownImpact) -> None:
    """Subtract the removed pairs from a source's funnel, a `SourceFunnel.plain`, in place."""
    source, ingests = funnel["source"], set(inputs["ingest"])

    def gone(table: str) -> list[dict[str, Any]]:
        return [row for row in impact.gone.get(table, ()) if row["source"] == source]

    published = sum(row["job"] in ingests for row in gone("pairs"))
    outcomes = _outcomes([row for row in gone("fetches") if row["job"] in ingests])
    stored = outcomes.pop(STORED, 0)
    for step in funnel["stages"]:
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
        remaining = Counter(step["dropped"])
        remaining.subtract(dropped)
        order = sorted(((reason, count) for reason, count in remaining.items() if count), key=lambda x: (-x[1], x[0]))
        step["dropped"] = dict(order)


def _mixture_losses(source: str, stored: int, lost: LostPairs) -> tuple[int, Counter[str]]:
    drawn, available, quarantined = (
        sum(pair[0] == source for pair in pairs) for pairs in (lost.drawn, lost.available, lost.quarantined)
    )
    dropped = Counter(filtered_out=stored - available - quarantined, quarantined=quarantined)
    dropped["not_sampled"] = available - drawn
    return drawn, dropped


def _outcomes(fetches: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Return the outcome counts of the removed published rows, as `pipeline.provenance.funnel.final_attempts` counts
    them.

    A row that is not a pair has its own outcome, any other the outcome of its last attempt.
    """
    counts, last_attempts = Counter[str](), dict[str, tuple[int, str]]()
    for row in fetches:
        if row["final"] and row["attempt"] == 0:
            counts[row["outcome"]] += 1
        elif row["final"]:
            last_attempts[row["uid"]] = max(last_attempts.get(row["uid"], (0, "")), (row["attempt"], row["outcome"]))
    counts.update(outcome for _, outcome in last_attempts.values())
    return counts
