"""The facts for an export's documents, collected from the experiment and the ledger."""

from collections.abc import Mapping
from typing import Any

from jobs.workflow.experiment import signals_of_filter
from jobs.workflow.plan import Job, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.export.dataset_facts import DatasetFacts, PartFacts, SignalFacts, SourceFacts
from pipeline.ledger.schemas import signal_table
from pipeline.mixtures.parts import filters_of, parts_of, signal_columns_of
from pipeline.provenance.funnel import source_funnels
from sources.registry import source_format

PartCounts = Mapping[str, tuple[int, int]]
"""The number of pairs with and without copies, by part."""


def collect_dataset_facts(
    run: Run, job: Job, parts: PartCounts, pairs_of: Mapping[str, int], factors: dict[str, float]
) -> DatasetFacts:
    """Return the facts of an export; `pairs_of` has the number of pairs of each source, without copies."""
    file, blend = run.experiment.file, needs_of_stage(job, "blend")[0]
    mixture = file.mixtures[job.name]
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
        "mismatched": mixture.mismatched,
        "contact": file.export.contact,
        "factors": factors,
    }


def _inputs(run: Run, job: Job, blend: Job) -> dict[str, Any]:
    """Return the jobs that an export is derived from, and the versions of the tables that they wrote."""
    tables = {"pairs", "fetches", "samples", "mixtures", *(["decisions"] if needs_of_stage(blend, "decide") else [])}
    tables |= {signal_table(signal["name"]) for signal in _signals(run, job.name)}
    return {
        "blend": blend.id,
        "decide": {decide_job.name: decide_job.id for decide_job in needs_of_stage(blend, "decide")},
        "ingest": [ingest.id for ingest in needs_of_stage(job, "ingest")],
        "tables": {name: run.ledger.version(name) for name in sorted(tables)},
    }


def _source(run: Run, name: str, pairs: int) -> SourceFacts:
    source = run.experiment.file.sources[name]
    return {
        "format": source.format,
        "licence": source.licence,
        "terms": source.terms,
        "snapshot": source.snapshot,
        "citation": source.citation or source_format(source.format, source.options).citation,
        "pairs": pairs,
    }


def _parts(run: Run, mixture: str, counts: PartCounts) -> list[PartFacts]:
    mixture_config = run.experiment.file.mixtures[mixture]
    parts = parts_of(mixture, mixture_config, run.experiment.mixture_sources(mixture))
    return [
        {"name": part.name, "share": part.share, "pairs": counts[part.name][0], "distinct": counts[part.name][1]}
        for part in parts
        if part.name in counts
    ]


def _filters(run: Run, mixture: str) -> list[str]:
    """Return the filters that a mixture depends on, each after the filters that it is made of."""
    filters: list[str] = []

    def visit(name: str) -> None:
        if name not in filters:
            for other in run.experiment.rules[name].filters():
                visit(other)
            filters.append(name)

    for name in filters_of(run.experiment.file.mixtures[mixture]):
        visit(name)
    return filters


def _signals(run: Run, mixture: str) -> list[SignalFacts]:
    mixture_config = run.experiment.file.mixtures[mixture]
    names = {signal for name in filters_of(mixture_config) for signal in signals_of_filter(run.experiment, name)}
    names.update(signal_columns_of(parts_of(mixture, mixture_config, run.experiment.mixture_sources(mixture))))
    signals: list[SignalFacts] = []
    for name in sorted(names):
        spec = run.experiment.signals[name]
        model = str(spec.settings.get("model", ""))
        if model and (model_config := run.experiment.file.models[model]).name:
            model = f"{model_config.name} {model_config.pretrained}"
        signals.append({"name": name, "kind": spec.kind, "model": model})
    return signals


def _funnel(run: Run, job: Job, blend: Job) -> list[dict[str, Any]]:
    """Return the funnels of the mixture's sources, through its filters to the mixture."""
    chosen = {
        "ingest": {ingest.name: ingest.id for ingest in needs_of_stage(job, "ingest")},
        "decide": {decide_job.name: decide_job.id for decide_job in needs_of_stage(blend, "decide")},
        "blend": {blend.name: blend.id},
    }
    return [source_funnel.plain() for source_funnel in source_funnels(run.ledger, chosen)]
