"""What an export's papers say of it, gathered from the experiment and the ledger."""

from collections.abc import Mapping
from typing import Any

from jobs.workflow.experiment import signals_behind
from jobs.workflow.plan import Job, of_stage
from jobs.workflow.runner import Run
from pipeline.export.dataset_facts import About, AboutPart, AboutSignal, AboutSource
from pipeline.ledger.schemas import signal_table
from pipeline.mixtures.parts import columns_of, filters_of, parts_of
from pipeline.provenance.funnel import funnel
from sources.registry import source_format

Counts = Mapping[str, tuple[int, int]]
"""Of each part, its pairs with copies and without."""


def about(run: Run, job: Job, parts: Counts, pairs_of: Mapping[str, int], factors: dict[str, float]) -> About:
    """Return what is said of an export; `pairs_of` are the pairs of each source, without copies."""
    file, blend = run.experiment.file, of_stage(job, "blend")[0]
    given = file.mixtures[job.name]
    return {
        "title": file.title,
        "mixture": job.name,
        "job": job.id,
        "inputs": _inputs(run, job, blend),
        "sources": {name: _source(run, name, count) for name, count in sorted(pairs_of.items())},
        "parts": _parts(run, job.name, parts),
        "filters": [{"name": name, "rule": run.experiment.rules[name].text()} for name in _filters(run, job.name)],
        "signals": _signals(run, job.name),
        "funnel": _funnel(run, job, blend),
        "ingest": file.ingest.model_dump(
            mode="json", include={"robots_txt", "refuse", "tdm_reservation", "content_usage", "resize"}
        ),
        "mismatched": given.mismatched,
        "contact": file.export.contact,
        "factors": factors,
    }


def _inputs(run: Run, job: Job, blend: Job) -> dict[str, Any]:
    """Return the jobs that an export came from, and the versions of the tables that they wrote."""
    tables = {"pairs", "fetches", "samples", "mixtures", *(["decisions"] if of_stage(blend, "decide") else [])}
    tables |= {signal_table(one["name"]) for one in _signals(run, job.name)}
    return {
        "blend": blend.id,
        "decide": {one.name: one.id for one in of_stage(blend, "decide")},
        "ingest": [one.id for one in of_stage(job, "ingest")],
        "tables": {name: run.ledger.version(name) for name in sorted(tables)},
    }


def _source(run: Run, name: str, pairs: int) -> AboutSource:
    given = run.experiment.file.sources[name]
    return {
        "format": given.format,
        "licence": given.licence,
        "terms": given.terms,
        "snapshot": given.snapshot,
        "citation": given.citation or source_format(given.format, given.options).citation,
        "pairs": pairs,
    }


def _parts(run: Run, mixture: str, counts: Counts) -> list[AboutPart]:
    given = run.experiment.file.mixtures[mixture]
    named = parts_of(mixture, given, run.experiment.mixture_sources(mixture))
    return [
        {"name": one.name, "share": one.share, "pairs": counts[one.name][0], "distinct": counts[one.name][1]}
        for one in named
        if one.name in counts
    ]


def _filters(run: Run, mixture: str) -> list[str]:
    """Return the filters that a mixture stands on, each behind those that it is made of."""
    found: list[str] = []

    def visit(name: str) -> None:
        if name not in found:
            for other in run.experiment.rules[name].filters():
                visit(other)
            found.append(name)

    for name in filters_of(run.experiment.file.mixtures[mixture]):
        visit(name)
    return found


def _signals(run: Run, mixture: str) -> list[AboutSignal]:
    given = run.experiment.file.mixtures[mixture]
    named = {signal for name in filters_of(given) for signal in signals_behind(run.experiment, name)}
    named.update(columns_of(parts_of(mixture, given, run.experiment.mixture_sources(mixture))))
    found: list[AboutSignal] = []
    for name in sorted(named):
        spec = run.experiment.signals[name]
        model = str(spec.settings.get("model", ""))
        if model and (told := run.experiment.file.models[model]).name:
            model = f"{told.name} {told.pretrained}"
        found.append({"name": name, "kind": spec.kind, "model": model})
    return found


def _funnel(run: Run, job: Job, blend: Job) -> list[dict[str, Any]]:
    """Return the funnel of the mixture's sources, through its filters to the mixture."""
    chosen = {
        "ingest": {one.name: one.id for one in of_stage(job, "ingest")},
        "decide": {one.name: one.id for one in of_stage(blend, "decide")},
        "blend": {blend.name: blend.id},
    }
    return [one.plain() for one in funnel(run.ledger, chosen)]
