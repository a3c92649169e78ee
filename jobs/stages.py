"""The stages: how each is run, and the roots of the code that computes its rows (`pipeline.code_version`).

The one place that names what lies above it, as a table of entry points does: stages are imported when they run, and
their code is read, never imported, when a job's id is computed. `STOPS` are where that reading ends: what only says
when, where and for whom work is done, and the registries, whose entries `jobs.plan` adds as roots of the jobs that use
them. `jobs/code.lock` lists what each root reaches; a test compares.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filters.registry import KINDS
from pipeline import code_version
from sources.registry import FORMATS, source_entry

if TYPE_CHECKING:
    from filters.rules import Rule

ENTRIES: dict[str, str] = {
    "ingest": "jobs.ingest:execute",
    "score": "jobs.score:execute",
    "decide": "jobs.decide:execute",
    "blend": "jobs.blend:execute",
    "export": "jobs.export:execute",
    "tune": "jobs.tune:execute",
    "train": "jobs.train:execute",
    "evaluate": "jobs.evaluate:execute",
    "report": "jobs.report:execute",
}
"""What runs each stage's jobs, in the order of the road."""
STAGES = tuple(ENTRIES)

INDEX = "jobs.corpus.index:score"
"""What builds the index of an evaluation set."""

ROOTS: dict[str, tuple[str, ...]] = {
    "ingest": ("jobs.ingest:Fetching", "jobs.ingest:lane_rules", "jobs.published:write_pairs"),
    "retry": ("jobs.ingest:Fetching", "jobs.ingest:lane_rules", "jobs.ingest:retried_shards"),
    "shard signal": ("jobs.score:score_shard",),
    "index": (INDEX,),
    "decide": ("jobs.decide:decisions",),
    "blend": ("jobs.blend:chosen_pairs",),
    "export": ("jobs.export:copy_tar", "jobs.export:tars", "pipeline.exports:manifest", "pipeline.exports:sizes"),
    "train": (
        "jobs.launch:recipe_of",
        "pipeline.recipes:arguments",
        "pipeline.recipes:weights",
        "pipeline.train_entry:main",
        "pipeline.training:environment",
        "pipeline.model_folder:save_as_folder",
        "pipeline.tuning:with_values",
    ),
    "tune": ("pipeline.tuning:Search", "pipeline.tuning:held_out_loss", "pipeline.tuning:split"),
    "zero_shot": ("jobs.evaluate:zero_shot",),
    "probe": ("jobs.frozen:probed",),
    "retrieval": ("jobs.frozen:retrieved",),
    "report": ("jobs.report:collect", "pipeline.report.page:render"),
    "takedown": ("pipeline.takedown:take_down", "pipeline.takedown:finish_all"),
}
"""The roots of each kind of job; those of signals over the whole corpus are in `CORPUS`."""

CORPUS: dict[str, str] = {
    "clusters": "jobs.corpus.clusters:score",
    "duplicates": "jobs.corpus.duplicates:score",
    "heads": "jobs.corpus.heads:score",
    "nearest": "jobs.corpus.nearest:score",
    "placeholders": "jobs.corpus.placeholders:score",
    "published": "jobs.corpus.published:score",
    "reference": "jobs.corpus.reference:score",
    "repeats": "jobs.corpus.repeats:score",
    "semantic": "jobs.corpus.semantic:score",
}
"""What computes each kind of signal that looks at the whole corpus."""

STOPS = frozenset(
    [
        "filters.parsing",
        "filters.presets",
        "filters.registry",
        "jobs.corpus.staged",
        "jobs.experiment",
        "jobs.plan",
        "jobs.reading",
        "jobs.run",
        "jobs.spark",
        "jobs.stages",
        "jobs.web",
        "pipeline.clock",
        "pipeline.code_version",
        "pipeline.config",
        "pipeline.config_file",
        "pipeline.costs",
        "pipeline.datafiles",
        "pipeline.errors",
        "pipeline.evaluation_section",
        "pipeline.hardware",
        "pipeline.leases",
        "pipeline.ledger",
        "pipeline.lineage",
        "pipeline.monitoring",
        "pipeline.parent",
        "pipeline.politeness:Budget",
        "pipeline.politeness:Claim",
        "pipeline.politeness:Host",
        "pipeline.politeness:HostLimit",
        "pipeline.politeness:HostLimits",
        "pipeline.politeness:Turn",
        "pipeline.progress",
        "pipeline.remote",
        "pipeline.schemas",
        "pipeline.section",
        "pipeline.shifts:KINDS",
        "pipeline.slurm_section",
        "pipeline.store",
        "pipeline.store_lock",
        "pipeline.tuning_section",
        "pipeline.units",
        "sources.registry",
    ]
)


PRELOADED: dict[str, tuple[str, ...]] = {
    "ingest": ("jobs.ingest", "img2dataset.resizer"),
    "score": ("jobs.score",),
    "decide": ("jobs.decide",),
    "blend": ("jobs.blend",),
    "export": ("jobs.export",),
}
"""What a stage's tasks import, whatever the experiment; what more those of a score need depends on its signals."""


LOCK = Path(__file__).with_name("code.lock")
"""The modules that the code of each kind of job reaches, as they were when that was last looked at."""


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
    named = [kinds] if isinstance(kinds, str) else kinds
    return code_version.code_digest([*(root for kind in named for root in ROOTS[kind]), *more], STOPS)


def signal_roots(kind: str) -> list[str]:
    """Return the roots of the code of a kind of signal."""
    known = KINDS[kind]
    return [known.target, *([CORPUS[kind]] if known.scope == "corpus" else ROOTS["shard signal"])]


def rule_roots(rule: "Rule") -> list[str]:
    """Return the roots of a filter's code: of its query, and of every rule that it is made of."""
    kinds = {type(part) for part in rule.walk()}
    return [*ROOTS["decide"], *(f"{kind.__module__}:{kind.__qualname__}" for kind in kinds)]


def roots() -> dict[str, list[str]]:
    """Return the roots of every kind of job: of each stage, signal, source format and synthetic shift."""
    named = {kind: list(entries) for kind, entries in ROOTS.items() if kind != "shard signal"}
    named |= {f"signal {kind}": signal_roots(kind) for kind in KINDS}
    from pipeline import shifts  # OpenCV and Pillow, which no command waits for

    named |= {f"source {name}": [source_entry(name)] for name in FORMATS}
    return named | {f"corruption {kind}": [shifts.Shift(kind, 1).entry] for kind in shifts.KINDS}


def digests() -> dict[str, str]:
    """Return the digest of the code of every kind of job."""
    return {name: code_version.code_digest(entries, STOPS) for name, entries in roots().items()}


def reached() -> dict[str, list[str]]:
    """Return the modules that the code of every kind of job reaches, as `LOCK` has them."""
    return {name: code_version.reached_modules(entries, STOPS) for name, entries in sorted(roots().items())}


if __name__ == "__main__":
    LOCK.write_text(json.dumps(reached(), indent=1) + "\n", "utf-8")
