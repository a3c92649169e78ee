"""The stages: how each is run, and the roots of the code that computes its rows (`pipeline.core.code_version`).

The one module that names modules of higher layers, as a table of entry points: stages are imported when they run;
their code is read, never imported, when a job's id is computed. The search for code ends at `STOPS`: modules that only
say when, where and for whom work is done, and the registries, whose entries `jobs.workflow.plan` adds as roots of the
jobs that use them. `jobs/code.lock` lists the modules that each root reaches; a test compares.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filters.signals.registry import KINDS
from pipeline.core import code_version
from sources.registry import FORMATS, source_entry

if TYPE_CHECKING:
    from filters.rules.base import Rule


ENTRIES: dict[str, str] = {
    "ingest": "jobs.ingest.stage:execute",
    "score": "jobs.score.stage:execute",
    "decide": "jobs.decide:execute",
    "blend": "jobs.blend:execute",
    "export": "jobs.export.stage:execute",
    "tune": "jobs.train.tune:execute",
    "train": "jobs.train.stage:execute",
    "evaluate": "jobs.evaluate.stage:execute",
    "report": "jobs.report.stage:execute",
}
"""What runs each stage's jobs, in the order of the pipeline."""


STAGES = tuple(ENTRIES)


INDEX = "jobs.score.evaluation_index:score"
"""What builds the index of an evaluation set."""


ROOTS: dict[str, tuple[str, ...]] = {
    "ingest": ("jobs.ingest.stage:Fetching", "jobs.ingest.stage:lane_rules", "jobs.ingest.read_sources:write_pairs"),
    "retry": ("jobs.ingest.stage:Fetching", "jobs.ingest.stage:lane_rules", "jobs.ingest.stage:retried_shards"),
    "shard signal": ("jobs.score.stage:score_shard",),
    "index": (INDEX,),
    "decide": ("jobs.decide:decisions",),
    "blend": ("jobs.blend:chosen_pairs",),
    "export": (
        "jobs.export.stage:copy_tar",
        "jobs.export.stage:tars",
        "pipeline.export.manifest:manifest",
        "pipeline.export.manifest:sizes",
    ),
    "train": (
        "jobs.train.launch:recipe_of",
        "pipeline.training.recipe:arguments",
        "pipeline.training.recipe:weights",
        "pipeline.training.entry_point:main",
        "pipeline.training.launcher:environment",
        "pipeline.models.checkpoint:save_as_folder",
        "pipeline.training.tuning:with_values",
    ),
    "tune": (
        "pipeline.training.tuning:Search",
        "pipeline.training.tuning:held_out_loss",
        "pipeline.training.tuning:split",
    ),
    "zero_shot": ("jobs.evaluate.stage:zero_shot",),
    "probe": ("jobs.evaluate.embedding_tasks:probed",),
    "retrieval": ("jobs.evaluate.embedding_tasks:retrieved",),
    "report": ("jobs.report.stage:collect", "pipeline.report.page:render"),
    "takedown": ("pipeline.takedown.takedown:take_down", "pipeline.takedown.takedown:finish_all"),
}
"""The roots of each kind of job; those of signals over the whole corpus are in `CORPUS`."""


CORPUS: dict[str, str] = {
    "clusters": "jobs.score.clusters:score",
    "duplicates": "jobs.score.duplicates:score",
    "heads": "jobs.score.clip_heads:score",
    "nearest": "jobs.score.evaluation_overlap:score",
    "placeholders": "jobs.score.sql_signals:score_placeholders",
    "published": "jobs.score.sql_signals:score_published",
    "reference": "jobs.score.near_reference:score",
    "repeats": "jobs.score.sql_signals:score_repeats",
    "semantic": "jobs.score.semantic_dedup:score",
}
"""What computes each kind of signal that looks at the whole corpus."""


STOPS = frozenset(
    [
        "filters.rules.parser",
        "filters.rules.presets",
        "filters.signals.registry",
        "jobs.spark.frames",
        "jobs.spark.java",
        "jobs.spark.session",
        "jobs.spark.staging",
        "jobs.spark.tasks",
        "jobs.spark.worker_daemon",
        "jobs.workflow",
        "pipeline.config",
        "pipeline.core.code_version",
        "pipeline.core.hardware",
        "pipeline.core.processes",
        "pipeline.errors",
        "pipeline.evaluation.corruptions:KINDS",
        "pipeline.fetch.attempt_timer",
        "pipeline.fetch.byte_budget",
        "pipeline.fetch.rate_limit",
        "pipeline.ledger.data_files",
        "pipeline.ledger.schemas",
        "pipeline.ledger.tables",
        "pipeline.ledger.work_units",
        "pipeline.operations",
        "pipeline.storage.object_store",
        "pipeline.storage.store",
        "pipeline.storage.store_lock",
        "pipeline.storage.task_lease",
        "sources.registry",
    ]
)

PRELOADED: dict[str, tuple[str, ...]] = {
    "ingest": ("jobs.ingest.stage", "img2dataset.resizer"),
    "score": ("jobs.score.stage",),
    "decide": ("jobs.decide",),
    "blend": ("jobs.blend",),
    "export": ("jobs.export.stage",),
}
"""Modules that a stage's tasks import for every experiment; what else those of `score` need depends on its signals."""


LOCK = Path(__file__).with_name("code.lock")
"""The modules that the code of each kind of job reaches, as last reviewed."""


def target(entry: str) -> Any:
    """Return what an entry `module:name` names, imported."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def run_stage(stage: str) -> Callable[..., None]:
    """Return the function that runs a stage's jobs."""
    execute: Callable[..., None] = target(ENTRIES[stage])
    return execute


def code(kinds: str | Sequence[str], more: Iterable[str] = ()) -> str:
    """Return the digest of the code of a kind of job, or of several together, and of `more` roots."""
    names = [kinds] if isinstance(kinds, str) else kinds
    return code_version.code_digest([*(root for kind in names for root in ROOTS[kind]), *more], STOPS)


def signal_roots(kind: str) -> list[str]:
    """Return the roots of the code of a kind of signal."""
    entry = KINDS[kind]
    return [entry.target, *([CORPUS[kind]] if entry.scope == "corpus" else ROOTS["shard signal"])]


def rule_roots(rule: "Rule") -> list[str]:
    """Return the roots of a filter's code: of its query, and of every rule that it is made of."""
    kinds = {type(part) for part in rule.walk()}
    return [*ROOTS["decide"], *(f"{kind.__module__}:{kind.__qualname__}" for kind in kinds)]


def roots() -> dict[str, list[str]]:
    """Return the roots of every kind of job: of each stage, signal, source format and synthetic shift."""
    roots_by_kind = {kind: list(entries) for kind, entries in ROOTS.items() if kind != "shard signal"}
    roots_by_kind |= {f"signal {kind}": signal_roots(kind) for kind in KINDS}
    from pipeline.evaluation import corruptions as shifts

    roots_by_kind |= {f"source {name}": [source_entry(name)] for name in FORMATS}
    return roots_by_kind | {f"corruption {kind}": [shifts.Shift(kind, 1).entry] for kind in shifts.KINDS}


def digests() -> dict[str, str]:
    """Return the digest of the code of every kind of job."""
    return {name: code_version.code_digest(entries, STOPS) for name, entries in roots().items()}


def reached() -> dict[str, list[str]]:
    """Return the modules that the code of every kind of job reaches, as `LOCK` has them."""
    return {name: code_version.reached_modules(entries, STOPS) for name, entries in sorted(roots().items())}


if __name__ == "__main__":
    LOCK.write_text(json.dumps(reached(), indent=1) + "\n", "utf-8")
