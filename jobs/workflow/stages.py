"""The stages: how each is run, and the roots of the code that computes its rows (`pipeline.core.code_version`).

The one module that names modules of higher layers, as a table of entry points: stages are imported when they run; their
code is read, never imported, when a job's id is computed. The search for code ends at `CODE_STOPS`: modules that only
say when, where and for whom work is done, and the registries, whose entries `jobs.workflow.plan` adds as roots of the
jobs that use them. `jobs/code.lock` lists the modules that each root reaches; a test compares.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filters.signals.registry import SIGNAL_KINDS
from pipeline.core import code_version
from sources.registry import FORMATS, source_entry

if TYPE_CHECKING:
    from filters.rules.base import Rule


STAGE_ENTRY_POINTS: dict[str, str] = {
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


STAGES = tuple(STAGE_ENTRY_POINTS)


INDEX_ENTRY_POINT = "jobs.score.evaluation_index:score"
"""What builds the index of an evaluation set."""


CODE_ROOTS: dict[str, tuple[str, ...]] = {
    "ingest": (
        "jobs.ingest.stage:FetchWork",
        "jobs.ingest.stage:fetch_rules",
        "jobs.ingest.read_sources:read_parts",
        "jobs.ingest.read_sources:write_pairs",
    ),
    "retry": ("jobs.ingest.stage:FetchWork", "jobs.ingest.stage:fetch_rules", "jobs.ingest.stage:retry_shards"),
    "shard signal": ("jobs.score.stage:score_shard",),
    "index": (INDEX_ENTRY_POINT,),
    "decide": ("jobs.decide:decision_rows",),
    "blend": ("jobs.blend:mixture_rows",),
    "export": (
        "jobs.export.stage:copy_tar",
        "jobs.export.stage:layout_pieces",
        "pipeline.export.manifest:manifest",
        "pipeline.export.manifest:sizes_json",
    ),
    "train": (
        "jobs.train.launch:recipe_of",
        "pipeline.training.recipe:open_clip_arguments",
        "pipeline.training.recipe:sampling_arguments",
        "pipeline.training.entry_point:main",
        "pipeline.training.launcher:training_environment",
        "pipeline.models.checkpoint:save_as_folder",
        "pipeline.training.tuning:with_values",
    ),
    "tune": (
        "pipeline.training.tuning:HyperparameterSearch",
        "pipeline.training.tuning:held_out_loss",
        "pipeline.training.tuning:split_held_out",
    ),
    "zero_shot": ("jobs.evaluate.stage:zero_shot_rows",),
    "probe": ("jobs.evaluate.embedding_tasks:probe_rows",),
    "retrieval": ("jobs.evaluate.embedding_tasks:retrieval_rows",),
    "report": ("jobs.report.stage:collect_report", "pipeline.report.page:render_page"),
    "takedown": ("pipeline.takedown.takedown:take_down", "pipeline.takedown.takedown:finish_all"),
}
"""The roots of each kind of job; those of signals over the whole corpus are in `CORPUS_ENTRY_POINTS`."""


CORPUS_ENTRY_POINTS: dict[str, str] = {
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


CODE_STOPS = frozenset(
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
        "pipeline.evaluation.corruptions:CORRUPTION_KINDS",
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

PRELOADED_MODULES: dict[str, tuple[str, ...]] = {
    "ingest": ("jobs.ingest.stage", "img2dataset.resizer"),
    "score": ("jobs.score.stage",),
    "decide": ("jobs.decide",),
    "blend": ("jobs.blend",),
    "export": ("jobs.export.stage",),
}
"""Modules that a stage's tasks import for every experiment; what else those of `score` need depends on its signals."""


CODE_LOCK_PATH = Path(__file__).with_name("code.lock")
"""The modules that the code of each kind of job reaches, as last reviewed."""


def load_entry_point(entry: str) -> Any:
    """Return what an entry `module:name` names, imported."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def stage_function(stage: str) -> Callable[..., None]:
    """Return the function that runs a stage's jobs."""
    execute: Callable[..., None] = load_entry_point(STAGE_ENTRY_POINTS[stage])
    return execute


def code_of(kinds: str | Sequence[str], more: Iterable[str] = ()) -> str:
    """Return the digest of the code of a kind of job, or of several together, and of `more` roots."""
    names = [kinds] if isinstance(kinds, str) else kinds
    return code_version.code_digest([*(root for kind in names for root in CODE_ROOTS[kind]), *more], CODE_STOPS)


def signal_roots(kind: str) -> list[str]:
    """Return the roots of the code of a kind of signal."""
    entry = SIGNAL_KINDS[kind]
    return [entry.target, *([CORPUS_ENTRY_POINTS[kind]] if entry.scope == "corpus" else CODE_ROOTS["shard signal"])]


def rule_roots(rule: "Rule") -> list[str]:
    """Return the roots of a filter's code: of its query, and of every rule that it is made of."""
    kinds = {type(part) for part in rule.walk()}
    return [*CODE_ROOTS["decide"], *(f"{kind.__module__}:{kind.__qualname__}" for kind in kinds)]


def all_roots() -> dict[str, list[str]]:
    """Return the roots of every kind of job: of each stage, signal, source format and synthetic shift."""
    roots_by_kind = {kind: list(entries) for kind, entries in CODE_ROOTS.items() if kind != "shard signal"}
    roots_by_kind |= {f"signal {kind}": signal_roots(kind) for kind in SIGNAL_KINDS}
    from pipeline.evaluation import corruptions as shifts

    roots_by_kind |= {f"source {name}": [source_entry(name)] for name in FORMATS}
    return roots_by_kind | {
        f"corruption {kind}": [shifts.Corruption(kind, 1).entry] for kind in shifts.CORRUPTION_KINDS
    }


def digests() -> dict[str, str]:
    """Return the digest of the code of every kind of job."""
    return {name: code_version.code_digest(entries, CODE_STOPS) for name, entries in all_roots().items()}


def reached_modules_by_kind() -> dict[str, list[str]]:
    """Return the modules that the code of every kind of job reaches, as `CODE_LOCK_PATH` has them."""
    return {name: code_version.reached_modules(entries, CODE_STOPS) for name, entries in sorted(all_roots().items())}


if __name__ == "__main__":
    CODE_LOCK_PATH.write_text(json.dumps(reached_modules_by_kind(), indent=1) + "\n", "utf-8")
