"""The funnel: every published row has one outcome at every stage, and the counts are checked, not drawn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger.job_graph import by_source, current
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import STORED, TAKEN_DOWN, TRANSIENT


@dataclass(frozen=True)
class Step:
    """One stage of one source: what came in, what was kept, and the rest by reason."""

    stage: str
    came: int
    kept: int
    dropped: Mapping[str, int]

    @property
    def adds_up(self) -> bool:
        """Whether in = kept + dropped."""
        return self.came == self.kept + sum(self.dropped.values())

    def plain(self) -> dict[str, Any]:
        """Return the step as plain data, reasons by falling count."""
        order = sorted(self.dropped.items(), key=lambda one: (-one[1], one[0]))
        return {"stage": self.stage, "in": self.came, "kept": self.kept, "dropped": dict(order)}


@dataclass(frozen=True)
class SourceFunnel:
    """A source's published rows and the stages they went through; filters and mixtures each start from ingest's."""

    source: str
    published: int
    steps: tuple[Step, ...]

    def plain(self) -> dict[str, Any]:
        """Return the funnel as plain data."""
        return {"source": self.source, "published": self.published, "stages": [step.plain() for step in self.steps]}


def _counts(rows: pa.Table, *keys: str) -> Counter[tuple[Any, ...]]:
    if not rows.num_rows:
        return Counter()
    grouped = rows.group_by(list(keys)).aggregate([([], "count_all")])
    return Counter({tuple(row[key] for key in keys): row["count_all"] for row in grouped.to_pylist()})


def settled(fetches: Sequence[pa.Table]) -> pa.Table:
    """Return the final attempts, one for each published row, of an ingest's `fetches` and of its retries', in order.

    What a retry came to stands in the place of the attempt that failed; a row that is no pair keeps its problem.
    """
    result = fetches[0].filter(fetches[0]["final"])
    for later in fetches[1:]:
        again = pc.and_(pc.is_in(result["uid"], later["uid"].combine_chunks()), pc.greater(result["attempt"], 0))
        result = pa.concat_tables([result.filter(pc.invert(again)), later.filter(later["final"])])
    return result


def failed_for_now(ledger: Ledger, jobs: Sequence[str]) -> dict[str, int]:
    """Return the uids whose outcome may change, with the number of attempts made: base job first, then its retries."""
    columns = ["uid", "attempt", "final", "outcome"]
    final = settled([ledger.read("fetches", columns, [job]) for job in jobs])
    failed = final.filter(pc.is_in(final["outcome"], pa.array(sorted(TRANSIENT))))
    return dict(zip(failed["uid"].to_pylist(), failed["attempt"].to_pylist(), strict=True))


def ingest_step(published: int, final: pa.Table, taken_down: int = 0) -> Step:
    """Return a source's ingest from the final attempts: one for each published row, the problems of some among them.

    Of `taken_down` rows, that takedowns removed, nothing is left but their number.
    """
    outcomes = _counts(final, "outcome")
    outcomes[(TAKEN_DOWN,)] += taken_down
    dropped = Counter({key[0]: count for key, count in outcomes.items() if key[0] != STORED and count})
    return Step("ingest", published, outcomes[(STORED,)], dropped)


def funnel(ledger: Ledger, chosen: Mapping[str, Mapping[str, str]] | None = None) -> list[SourceFunnel]:
    """Return each source's funnel from the ledger's newest jobs, or from the `chosen` jobs by stage and name.

    A filter is a stage of every source. "mixture:<name>" is one of the sources it may draw on: what its filter kept
    comes in, what was not drawn is dropped as `not_sampled`, and as `quarantined` what its filter kept but is not the
    image that its source says it is.
    """
    if chosen is None:
        chosen = current(ledger.jobs())
    decided = {
        name: ledger.read("decisions", ["source", "keep", "reason"], [job]) for name, job in chosen["decide"].items()
    }
    mixed = {name: ledger.read("mixtures", ["source"], [job]) for name, job in chosen["blend"].items()}
    result = []
    for source, jobs in by_source(chosen["ingest"]).items():
        gone = sum(row.facts.get(TAKEN_DOWN, 0) for job in jobs if (row := ledger.finished(job)))
        published = ledger.read("pairs", ["problem"], jobs).num_rows + gone
        columns = ["uid", "attempt", "final", "outcome"]
        first = ingest_step(published, settled([ledger.read("fetches", columns, [job]) for job in jobs]), gone)
        steps = [first]
        for name, rows in decided.items():
            mine = rows.filter(pc.equal(rows["source"], source))
            kept = pc.sum(mine["keep"]).as_py() or 0
            reasons = _counts(mine.filter(pc.invert(mine["keep"])), "reason")
            steps.append(Step(f"filter:{name}", first.kept, kept, {key[0]: count for key, count in reasons.items()}))
        for name, rows in mixed.items():
            row = ledger.finished(chosen["blend"][name])
            available = row.facts["available"] if row else {}
            if source in available:
                taken = rows.filter(pc.equal(rows["source"], source)).num_rows
                quarantined = row.facts.get("quarantined", {}).get(source, 0) if row else 0
                steps.append(_mixture_step(name, first.kept, available[source], taken, quarantined))
        result.append(SourceFunnel(source, published, tuple(steps)))
    return result


def _mixture_step(name: str, stored: int, available: int, taken: int, quarantined: int) -> Step:
    dropped = {
        "filtered_out": stored - quarantined - available,
        "quarantined": quarantined,
        "not_sampled": available - taken,
    }
    return Step(f"mixture:{name}", stored, taken, {reason: count for reason, count in dropped.items() if count})


def faults(funnels: Sequence[SourceFunnel]) -> list[str]:
    """Return a line for each stage whose counts do not add up."""
    lines = []
    for one in funnels:
        for step in one.steps:
            if not step.adds_up:
                lines.append(f"{one.source}: {step.stage}: {step.came} came in, {step.plain()}")
        if one.steps and one.steps[0].came != one.published:
            lines.append(f"{one.source}: {one.published} published, {one.steps[0].came} in ingest")
    return lines


def as_text(funnels: Sequence[SourceFunnel]) -> str:
    """Return the funnels as a table for a terminal."""
    lines = []
    for one in funnels:
        lines.append(f"{one.source}: {one.published} published rows")
        for step in one.steps:
            mark = "" if step.adds_up else "   DOES NOT ADD UP"
            lines.append(f"  {step.stage:<28} {step.came:>8} in {step.kept:>8} kept{mark}")
            for reason, count in step.plain()["dropped"].items():
                lines.append(f"      {reason:<36} {count:>8}")
    return "\n".join(lines)
