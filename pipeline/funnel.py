"""The funnel: every published row has one outcome at every stage, and the counts are checked, not drawn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger import JobRow, Ledger
from pipeline.web import STORED


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


def ingest_step(pairs: pa.Table, fetches: pa.Table) -> Step:
    """Return a source's ingest: rows that are no pair by their problem, the others by their final attempt's outcome."""
    problems = _counts(pairs.filter(pc.not_equal(pairs["problem"], "")), "problem")
    outcomes = _counts(fetches.filter(fetches["final"]), "outcome")
    dropped = Counter({key[0]: count for key, count in (problems + outcomes).items() if key[0] != STORED})
    return Step("ingest", pairs.num_rows, outcomes[(STORED,)], dropped)


def latest(jobs: Sequence[JobRow], stage: str) -> dict[str, JobRow]:
    """Return the newest finished job of each name in a stage."""
    return {job.name: job for job in jobs if job.stage == stage}


def funnel(ledger: Ledger, chosen: Mapping[str, Mapping[str, str]] | None = None) -> list[SourceFunnel]:
    """Return each source's funnel from the ledger's newest jobs, or from the `chosen` jobs by stage and name.

    A filter is a stage of every source. "mixture:<name>" is one of the sources it may draw on: what its filter kept
    comes in, what was not drawn is dropped as `not_sampled`.
    """
    if chosen is None:
        jobs = ledger.jobs()
        chosen = {
            stage: {name: row.job for name, row in latest(jobs, stage).items()}
            for stage in ("ingest", "decide", "blend")
        }
    decided = {
        name: ledger.read("decisions", ["source", "keep", "reason"], [job]) for name, job in chosen["decide"].items()
    }
    mixed = {name: ledger.read("mixtures", ["source"], [job]) for name, job in chosen["blend"].items()}
    result = []
    for source, job in sorted(chosen["ingest"].items()):
        pairs = ledger.read("pairs", ["problem"], [job])
        first = ingest_step(pairs, ledger.read("fetches", ["final", "outcome"], [job]))
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
                steps.append(_mixture_step(name, first.kept, available[source], taken))
        result.append(SourceFunnel(source, pairs.num_rows, tuple(steps)))
    return result


def _mixture_step(name: str, stored: int, available: int, taken: int) -> Step:
    dropped = {"filtered_out": stored - available, "not_sampled": available - taken}
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
