"""Findings: the grid's predictions out of the ledger, as the trends, ladders and dilutions of the report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.analysis.ranking import compare
from pipeline.analysis.results import Dilution, Filtered, Ladder, Standing, Trend
from pipeline.analysis.trends import Answered, Recipe, Shift, diluted, ladder, trend
from pipeline.config.mixture import Mixture
from pipeline.errors import StageFailed
from pipeline.evaluation.predictions import read_kept
from pipeline.mixtures.names import sized, unsized

PLAIN = ["training", "key", "label", "predicted"]


KEPT = [*PLAIN, "evaluation_set", "logits", "classes", "first", "rest", "rest_squares", "scale"]


class Findings(TypedDict):
    """What the report says of robustness beyond its first tables."""

    trends: list[Trend]
    ladder: list[Ladder]
    dilution: list[Dilution]
    standings: list[Standing]
    filtered: list[Filtered]


@dataclass(frozen=True)
class Asked:
    """An evaluation set or a change of one, with the jobs that evaluated models on it: the grid's, in its order, and
    then those of the models beside it.
    """

    shift: Shift
    jobs: tuple[Job, ...]


@dataclass(frozen=True, eq=False)
class Grid:
    """What the finished grid answered: `trained` are its models, `beside` those that are put beside them.

    `keys` and `labels` (images,) of each set are in the order of the answers.
    """

    shifts: list[Shift]
    trained: list[Answered]
    beside: list[Answered]
    keys: dict[str, pa.ChunkedArray]
    labels: dict[str, NDArray[np.integer[Any]]]


def findings(run: Run, grid: Grid) -> Findings:
    """Return what the finished grid says."""
    reference, baseline = run.experiment.file.evaluation.reference, run.experiment.file.report.baseline
    recipes = list(recipes_of(run))
    chance = run.experiment.evaluation_sets()[reference].chance
    judged = (
        diluted(grid.trained, reference, shift, one, grid.labels, chance) for shift in grid.shifts for one in recipes
    )
    itself = Shift(reference, "reference", same_images=True)
    filters = list(filters_of(run))
    compared = [(one, *compare(grid.trained, reference, one, baseline, filters)) for one in (itself, *grid.shifts)]
    return {
        "trends": [trend([*grid.trained, *grid.beside], reference, shift, baseline) for shift in grid.shifts],
        "ladder": [row for name in grid.labels for row in ladder(grid.trained, name)],
        "dilution": [one for one in judged if one is not None],
        "standings": [row for _, rows, _ in compared for row in rows],
        "filtered": [row for shift, _, rows in compared if shift is not itself for row in rows],
    }


def answered(run: Run) -> Grid:
    """Return what all models answered, out of `predictions`; raise StageFailed where two had other images to answer.

    Logits are read where outputs are to be mixed.
    """
    grid, with_logits = run.plan.grid(), any(True for _ in recipes_of(run))
    asked = {one.shift.name: one for one in _asked(run, grid)}
    keys: dict[str, pa.ChunkedArray] = {}
    labels: dict[str, NDArray[np.integer[Any]]] = {}
    rights: dict[str, list[NDArray[np.bool_]]] = {}
    logits: dict[str, list[NDArray[np.float32] | None]] = {}
    for name, one in asked.items():
        keys[name], labels[name], rights[name], logits[name] = _answers(run, one, with_logits)
    trained = [
        Answered(
            name=training.name,
            mixture=unsized(training.local["mixture"]),
            size=_size(run, training.local["mixture"]),
            seed=training.config["seed"],
            right={name: rights[name][number] for name in asked},
            logits={name: values for name in asked if (values := logits[name][number]) is not None},
        )
        for number, training in enumerate(grid)
    ]
    beside = [
        Answered(label, label, 0, 0, {name: rights[name][number] for name in asked}, trained=False)
        for number, label in enumerate(map(beside_label, run.experiment.file.evaluation.models), len(grid))
    ]
    reference = run.experiment.file.evaluation.reference
    return Grid([one.shift for name, one in asked.items() if name != reference], trained, beside, keys, labels)


def _asked(run: Run, grid: Sequence[Job]) -> Iterator[Asked]:
    reference = run.experiment.file.evaluation.reference
    beside = (run.plan.evaluate_model(name) for name in run.experiment.file.evaluation.models)
    for jobs in zip(*(run.plan.evaluate(training) for training in grid), *beside, strict=True):
        name, config = jobs[0].name.removeprefix(f"{grid[0].name}/"), jobs[0].config
        if "set" not in config:
            continue  # probes and retrieval are other tasks, not shifts of this one
        changed = "corruption" in config
        same = changed and config["set"] == reference
        yield Asked(Shift(name, "synthetic" if changed else "natural", same), jobs)


def beside_label(name: str) -> str:
    """Return what a model beside the trainings is called among mixtures, of which none can be called so."""
    return f"model:{name}"


def _answers(
    run: Run, asked: Asked, with_logits: bool
) -> tuple[pa.ChunkedArray, NDArray[np.integer[Any]], list[NDArray[np.bool_]], list[NDArray[np.float32] | None]]:
    """Return a set's keys in their order, its labels, and for each model where it was right and its logits
    (images, classes), None where not all of them are kept.
    """
    rows = run.ledger.read("predictions", KEPT if with_logits else PLAIN, [job.id for job in asked.jobs])
    rights, logits, first = list[NDArray[np.bool_]](), list[NDArray[np.float32] | None](), None
    for job in asked.jobs:
        mine = rows.filter(pc.equal(rows["job"], job.id)).sort_by("key")
        first = mine if first is None else first
        if not mine["key"].equals(first["key"]):
            raise StageFailed(f"{job.name}: expected predictions of the images that {asked.jobs[0].name} has")
        rights.append(pc.equal(mine["predicted"], mine["label"]).to_numpy())
        logits.append(_logits(mine) if with_logits else None)
    assert first is not None, "a grid has models"
    return first["key"], first["label"].to_numpy(), rights, logits


def _logits(rows: pa.Table) -> NDArray[np.float32] | None:
    kept = read_kept(rows)
    if kept.classes is not None:
        return None
    found: NDArray[np.float32] = np.float32(kept.scale) * (kept.first[:, None] + kept.offsets.astype(np.float32))
    return found


def _size(run: Run, mixture: str) -> int:
    """Return how many pairs a mixture was drawn with, copies counted."""
    row = run.ledger.finished(run.plan.blend(mixture).id)
    return sum(row.facts["by_source"].values()) if row else 0


def recipes_of(run: Run) -> Iterator[Recipe]:
    """Yield the trained mixtures of two or more sources, each of which was also trained on alone, by the same filter.

    The shares are those that were drawn, in the largest size.
    """
    file = run.experiment.file
    alone = {}
    for name in file.training.mixtures:
        sources = run.experiment.mixture_sources(name)
        if len(sources) == 1 and _plain(file.mixtures[name]):
            alone[sources[0], file.mixtures[name].filter] = name
    largest = max(file.training.sizes, default=None)
    for name in file.training.mixtures:
        given, sources = file.mixtures[name], run.experiment.mixture_sources(name)
        parts = [alone.get((source, given.filter), "") for source in sources]
        row = run.ledger.finished(run.plan.blend(sized(name, largest) if largest else name).id)
        if len(sources) > 1 and all(parts) and _plain(given) and row:
            drawn = row.facts["by_source"]
            whole = sum(drawn.values())
            shares = {part: drawn.get(source, 0) / whole for part, source in zip(parts, sources, strict=True)}
            yield Recipe(name, shares)


def filters_of(run: Run) -> Iterator[tuple[str, str]]:
    """Yield each trained mixture with the one that it is but for its filter: of such, the first without any, if any."""
    file = run.experiment.file
    alike: dict[str, list[str]] = {}
    for name in file.training.mixtures:
        alike.setdefault(file.mixtures[name].model_dump_json(exclude={"filter"}), []).append(name)
    for names in alike.values():
        plain = min(names, key=lambda name: bool(file.mixtures[name].filter))
        yield from ((name, plain) for name in names if name != plain)


def _plain(mixture: Mixture) -> bool:
    """Tell whether a mixture is all that its filter keeps of its sources, in shares by source or as it comes."""
    return not (mixture.by or mixture.parts or mixture.uids)
