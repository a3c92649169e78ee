"""The funnel: every published row has exactly one outcome at every stage, and the counts are checked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger.job_graph import current_jobs, ingests_by_source
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import STORED, TAKEN_DOWN, TRANSIENT


@dataclass(frozen=True)
class FunnelStep:
    """One stage of one source: input, kept, and dropped counts by reason."""

    stage: str
    came: int
    kept: int
    dropped: Mapping[str, int]

    @property
    def adds_up(self) -> bool:
        """Whether input = kept + dropped."""
        return self.came == self.kept + sum(self.dropped.values())

    def plain(self) -> dict[str, Any]:
        """Return the step as plain data, reasons by decreasing count."""
        order = sorted(self.dropped.items(), key=lambda entry: (-entry[1], entry[0]))
        return {"stage": self.stage, "in": self.came, "kept": self.kept, "dropped": dict(order)}


@dataclass(frozen=True)
class SourceFunnel:
    """A source's published rows and stages; the input of each filter and mixture is what ingest kept."""

    source: str
    published: int
    steps: tuple[FunnelStep, ...]

    def plain(self) -> dict[str, Any]:
        """Return the funnel as plain data."""
        return {"source": self.source, "published": self.published, "stages": [step.plain() for step in self.steps]}


def _counts(rows: pa.Table, *keys: str) -> Counter[tuple[Any, ...]]:
    if not rows.num_rows:
        return Counter()
    grouped = rows.group_by(list(keys)).aggregate([([], "count_all")])
    return Counter({tuple(row[key] for key in keys): row["count_all"] for row in grouped.to_pylist()})


def final_attempts(fetches: Sequence[pa.Table]) -> pa.Table:
    """Return the final attempts, one per published row, from the `fetches` of an ingest and of its retries, in order.

    The outcome of a retry replaces the failed attempt; a row that is not a pair keeps its problem.
    """
    result = fetches[0].filter(fetches[0]["final"])
    for retry in fetches[1:]:
        retried = pc.and_(pc.is_in(result["uid"], retry["uid"].combine_chunks()), pc.greater(result["attempt"], 0))
        result = pa.concat_tables([result.filter(pc.invert(retried)), retry.filter(retry["final"])])
    return result


def transient_failures(ledger: Ledger, jobs: Sequence[str]) -> dict[str, int]:
    """Return the uids with a transient failure and their attempts; `jobs` are the base job, then its retries."""
    columns = ["uid", "attempt", "final", "outcome"]
    final = final_attempts([ledger.read("fetches", columns, [job]) for job in jobs])
    failed = final.filter(pc.is_in(final["outcome"], pa.array(sorted(TRANSIENT))))
    return dict(zip(failed["uid"].to_pylist(), failed["attempt"].to_pylist(), strict=True))


def ingest_step(published: int, final: pa.Table, taken_down: int = 0) -> FunnelStep:
    """Return a source's ingest step from the final attempts: one per published row, including rows with problems.

    `taken_down` is the number of rows that takedowns removed; nothing else is left of these.
    """
    outcomes = _counts(final, "outcome")
    outcomes[(TAKEN_DOWN,)] += taken_down
    dropped = Counter({key[0]: count for key, count in outcomes.items() if key[0] != STORED and count})
    return FunnelStep("ingest", published, outcomes[(STORED,)], dropped)


def source_funnels(ledger: Ledger, chosen: Mapping[str, Mapping[str, str]] | None = None) -> list[SourceFunnel]:
    """Return each source's funnel from the ledger's newest jobs, or from the `chosen` jobs by stage and name.

    A filter is a stage of every source. "mixture:<name>" is a stage of the sources that the mixture may draw from. Of
    the stored pairs it drops as `filtered_out` what its filter or parts do not take, as `quarantined` the images that
    differ from the hash that their source publishes, and as `not_sampled` the available pairs that were not drawn.
    """
    if chosen is None:
        chosen = current_jobs(ledger.jobs())
    decisions = {
        name: ledger.read("decisions", ["source", "keep", "reason"], [job]) for name, job in chosen["decide"].items()
    }
    mixtures = {name: ledger.read("mixtures", ["source"], [job]) for name, job in chosen["blend"].items()}
    result = []
    for source, jobs in ingests_by_source(chosen["ingest"]).items():
        taken_down = sum(row.facts.get(TAKEN_DOWN, 0) for job in jobs if (row := ledger.finished(job)))
        published = ledger.read("pairs", ["problem"], jobs).num_rows + taken_down
        columns = ["uid", "attempt", "final", "outcome"]
        ingest = ingest_step(
            published, final_attempts([ledger.read("fetches", columns, [job]) for job in jobs]), taken_down
        )
        steps = [ingest]
        for name, rows in decisions.items():
            source_rows = rows.filter(pc.equal(rows["source"], source))
            kept = pc.sum(source_rows["keep"]).as_py() or 0
            reasons = _counts(source_rows.filter(pc.invert(source_rows["keep"])), "reason")
            steps.append(
                FunnelStep(f"filter:{name}", ingest.kept, kept, {key[0]: count for key, count in reasons.items()})
            )
        for name, rows in mixtures.items():
            row = ledger.finished(chosen["blend"][name])
            available = row.facts["available"] if row else {}
            if source in available:
                drawn = rows.filter(pc.equal(rows["source"], source)).num_rows
                quarantined = row.facts.get("quarantined", {}).get(source, 0) if row else 0
                steps.append(_mixture_step(name, ingest.kept, available[source], drawn, quarantined))
        result.append(SourceFunnel(source, published, tuple(steps)))
    return result


def _mixture_step(name: str, stored: int, available: int, drawn: int, quarantined: int) -> FunnelStep:
    dropped = {
        "filtered_out": stored - quarantined - available,
        "quarantined": quarantined,
        "not_sampled": available - drawn,
    }
    return FunnelStep(f"mixture:{name}", stored, drawn, {reason: count for reason, count in dropped.items() if count})


def inconsistencies(funnels: Sequence[SourceFunnel]) -> list[str]:
    """Return a line for each stage whose counts do not add up."""
    lines = []
    for source_funnel in funnels:
        for step in source_funnel.steps:
            if not step.adds_up:
                lines.append(f"{source_funnel.source}: {step.stage}: {step.came} in, {step.plain()}")
        if source_funnel.steps and source_funnel.steps[0].came != source_funnel.published:
            lines.append(
                f"{source_funnel.source}: {source_funnel.published} published, {source_funnel.steps[0].came} in ingest"
            )
    return lines


def format_funnels(funnels: Sequence[SourceFunnel]) -> str:
    """Return the funnels as a table for a terminal."""
    lines = []
    for source_funnel in funnels:
        lines.append(f"{source_funnel.source}: {source_funnel.published} published rows")
        for step in source_funnel.steps:
            mark = "" if step.adds_up else "   DOES NOT ADD UP"
            lines.append(f"  {step.stage:<28} {step.came:>8} in {step.kept:>8} kept{mark}")
            for reason, count in step.plain()["dropped"].items():
                lines.append(f"      {reason:<36} {count:>8}")
    return "\n".join(lines)
