"""The grid's predictions from the ledger, analysed as the report's trends, accuracies by size, ranking and dilution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.analysis.ranking import rank_mixtures
from pipeline.analysis.results import DilutionResult, FilterEffect, RankingRow, SizeAccuracy, Trend
from pipeline.analysis.trends import (
    MixtureShares,
    ModelAnswers,
    ShiftedSet,
    accuracy_by_size,
    analyse_dilution,
    analyse_shift,
)
from pipeline.config.mixture import MixtureConfig
from pipeline.errors import StageFailed
from pipeline.evaluation.predictions import decode_logits
from pipeline.mixtures.names import base_name, sized_name

PREDICTION_COLUMNS = ["training", "key", "label", "predicted"]


LOGIT_COLUMNS = [*PREDICTION_COLUMNS, "evaluation_set", "logits", "classes", "first", "rest", "rest_squares", "scale"]


class RobustnessResults(TypedDict):
    """The report's results on robustness, other than the accuracies and the fitted lines."""

    trends: list[Trend]
    ladder: list[SizeAccuracy]
    dilution: list[DilutionResult]
    standings: list[RankingRow]
    filtered: list[FilterEffect]


@dataclass(frozen=True)
class EvaluatedSet:
    """An evaluation set, original or corrupted, with the jobs that evaluated models on it: those of the grid in its
    order, then those of the external models.
    """

    shift: ShiftedSet
    jobs: tuple[Job, ...]


@dataclass(frozen=True, eq=False)
class GridPredictions:
    """The correct predictions of the finished grid: `trained` are its models, `beside` the external ones.

    `keys` and `labels` (images,) of each set are in the order of the models' masks and logits.
    """

    shifts: list[ShiftedSet]
    trained: list[ModelAnswers]
    beside: list[ModelAnswers]
    keys: dict[str, pa.ChunkedArray]
    labels: dict[str, NDArray[np.integer[Any]]]


def analyse_grid(run: Run, grid: GridPredictions) -> RobustnessResults:
    """Return the results of the finished grid."""
    reference, baseline = run.experiment.file.evaluation.reference, run.experiment.file.report.baseline
    recipes = list(mixture_shares(run))
    chance = run.experiment.evaluation_sets()[reference].chance
    dilutions = (
        analyse_dilution(grid.trained, reference, shift, recipe, grid.labels, chance)
        for shift in grid.shifts
        for recipe in recipes
    )
    reference_shift = ShiftedSet(reference, "reference", same_images=True)
    filters = list(filtered_mixtures(run))
    compared = [
        (shift, *rank_mixtures(grid.trained, reference, shift, baseline, filters))
        for shift in (reference_shift, *grid.shifts)
    ]
    return {
        "trends": [analyse_shift([*grid.trained, *grid.beside], reference, shift, baseline) for shift in grid.shifts],
        "ladder": [row for name in grid.labels for row in accuracy_by_size(grid.trained, name)],
        "dilution": [dilution for dilution in dilutions if dilution is not None],
        "standings": [row for _, rows, _ in compared for row in rows],
        "filtered": [row for shift, _, rows in compared if shift is not reference_shift for row in rows],
    }


def read_grid(run: Run) -> GridPredictions:
    """Return all models' correct predictions, from `predictions`; raise StageFailed where their images differ.

    Logits are read only where outputs are to be mixed.
    """
    grid, with_logits = run.plan.grid(), any(True for _ in mixture_shares(run))
    evaluated = {evaluated_set.shift.name: evaluated_set for evaluated_set in _evaluated_sets(run, grid)}
    keys: dict[str, pa.ChunkedArray] = {}
    labels: dict[str, NDArray[np.integer[Any]]] = {}
    masks: dict[str, list[NDArray[np.bool_]]] = {}
    logits: dict[str, list[NDArray[np.float32] | None]] = {}
    for name, evaluated_set in evaluated.items():
        keys[name], labels[name], masks[name], logits[name] = _read_predictions(run, evaluated_set, with_logits)
    trained = [
        ModelAnswers(
            name=training.name,
            mixture=base_name(training.local["mixture"]),
            size=_size(run, training.local["mixture"]),
            seed=training.config["seed"],
            right={name: masks[name][number] for name in evaluated},
            logits={name: values for name in evaluated if (values := logits[name][number]) is not None},
        )
        for number, training in enumerate(grid)
    ]
    beside = [
        ModelAnswers(label, label, 0, 0, {name: masks[name][number] for name in evaluated}, trained=False)
        for number, label in enumerate(map(external_label, run.experiment.file.evaluation.models), len(grid))
    ]
    reference = run.experiment.file.evaluation.reference
    return GridPredictions(
        [item.shift for name, item in evaluated.items() if name != reference], trained, beside, keys, labels
    )


def _evaluated_sets(run: Run, grid: Sequence[Job]) -> Iterator[EvaluatedSet]:
    reference = run.experiment.file.evaluation.reference
    external = (run.plan.evaluate_model(name) for name in run.experiment.file.evaluation.models)
    for jobs in zip(*(run.plan.evaluate(training) for training in grid), *external, strict=True):
        name, config = jobs[0].name.removeprefix(f"{grid[0].name}/"), jobs[0].config
        if "set" not in config:
            continue  # probes and retrieval are other tasks, not shifts of classification
        corrupted = "corruption" in config
        same_images = corrupted and config["set"] == reference
        yield EvaluatedSet(ShiftedSet(name, "synthetic" if corrupted else "natural", same_images), jobs)


def external_label(name: str) -> str:
    """Return the label of an external model among the mixtures, none of which can have such a name."""
    return f"model:{name}"


def _read_predictions(
    run: Run, evaluated: EvaluatedSet, with_logits: bool
) -> tuple[pa.ChunkedArray, NDArray[np.integer[Any]], list[NDArray[np.bool_]], list[NDArray[np.float32] | None]]:
    """Return a set's sorted keys and its labels, and for each model the mask of correct predictions and the logits
    (images, classes), None where the logits of not all classes are kept.
    """
    rows = run.ledger.read(
        "predictions", LOGIT_COLUMNS if with_logits else PREDICTION_COLUMNS, [job.id for job in evaluated.jobs]
    )
    masks, logits, first = list[NDArray[np.bool_]](), list[NDArray[np.float32] | None](), None
    for job in evaluated.jobs:
        job_rows = rows.filter(pc.equal(rows["job"], job.id)).sort_by("key")
        first = job_rows if first is None else first
        if not job_rows["key"].equals(first["key"]):
            raise StageFailed(
                f"{job.name}: expected predictions of the images that {evaluated.jobs[0].name} has, found others"
            )
        masks.append(pc.equal(job_rows["predicted"], job_rows["label"]).to_numpy())
        logits.append(_logits(job_rows) if with_logits else None)
    assert first is not None, "a grid has models"
    return first["key"], first["label"].to_numpy(), masks, logits


def _logits(rows: pa.Table) -> NDArray[np.float32] | None:
    kept = decode_logits(rows)
    if kept.classes is not None:
        return None
    logits: NDArray[np.float32] = np.float32(kept.scale) * (kept.first[:, None] + kept.offsets.astype(np.float32))
    return logits


def _size(run: Run, mixture: str) -> int:
    """Return the number of pairs of a mixture, including repeats."""
    row = run.ledger.finished(run.plan.blend(mixture).id)
    return sum(row.facts["by_source"].values()) if row else 0


def mixture_shares(run: Run) -> Iterator[MixtureShares]:
    """Yield the trained mixtures of two or more sources, each of which was also trained on alone with the same filter.

    The shares are those of the blended pairs in the largest size.
    """
    file = run.experiment.file
    single_source = {}
    for name in file.training.mixtures:
        sources = run.experiment.mixture_sources(name)
        if len(sources) == 1 and _is_plain(file.mixtures[name]):
            single_source[sources[0], file.mixtures[name].filter] = name
    largest = max(file.training.sizes, default=None)
    for name in file.training.mixtures:
        mixture, sources = file.mixtures[name], run.experiment.mixture_sources(name)
        components = [single_source.get((source, mixture.filter), "") for source in sources]
        row = run.ledger.finished(run.plan.blend(sized_name(name, largest) if largest else name).id)
        if len(sources) > 1 and all(components) and _is_plain(mixture) and row:
            by_source = row.facts["by_source"]
            total = sum(by_source.values())
            shares = {
                component: by_source.get(source, 0) / total
                for component, source in zip(components, sources, strict=True)
            }
            yield MixtureShares(name, shares)


def filtered_mixtures(run: Run) -> Iterator[tuple[str, str]]:
    """Yield each trained mixture with the one that differs only in its filter: an unfiltered one, or else the first."""
    file = run.experiment.file
    by_definition: dict[str, list[str]] = {}
    for name in file.training.mixtures:
        by_definition.setdefault(file.mixtures[name].model_dump_json(exclude={"filter"}), []).append(name)
    for names in by_definition.values():
        plain = min(names, key=lambda name: bool(file.mixtures[name].filter))
        yield from ((name, plain) for name in names if name != plain)


def _is_plain(mixture: MixtureConfig) -> bool:
    """Tell whether a mixture takes all that its filter keeps of its sources, in shares by source or unweighted."""
    return not (mixture.by or mixture.parts or mixture.uids)
