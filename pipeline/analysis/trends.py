"""Robustness of the trained models by shift: lines and bands, effective robustness, dilution.

Arrays in, the report's plain data out (`pipeline.analysis.results`). The estimators are those of
`pipeline.robustness`, on probit axes, with 1,000 draws.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.results import (
    BandPoint,
    Baseline,
    Dilution,
    Estimate,
    Forecast,
    Ladder,
    Mixed,
    Trend,
    TrendGroup,
    TrendModel,
)
from pipeline.robustness.axes import PROBIT
from pipeline.robustness.dilution import compare_mixing, dilution
from pipeline.robustness.effective import Effective, effective_robustness
from pipeline.robustness.ensembling import mix_outputs, right
from pipeline.robustness.forecast import forecast, how_far_off
from pipeline.robustness.intervals import Interval
from pipeline.robustness.lines import DrawnLine
from pipeline.robustness.paired_accuracy import Evidence, Measured
from pipeline.robustness.trends import Trends, trend_lines

Answers = NDArray[np.bool_]


BAND_POINTS = 25


ENSEMBLE = "the ensemble of its sources"
"""The group of the models that output mixing makes; no mixture can have this name."""


@dataclass(frozen=True, eq=False)
class Answered:
    """A model and its correct predictions: `right` has a mask (images,) by evaluation set, in one order for all models.

    `size` is the number of training pairs. `logits` (images, classes), multiplied by the model's scale, are kept for
    the sets on which outputs are mixed. An external model, which the experiment only evaluates, is not `trained`: it
    has an effective robustness, but is not part of any mixture's line.
    """

    name: str
    mixture: str
    size: int
    seed: int
    right: Mapping[str, Answers]
    logits: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    trained: bool = True


@dataclass(frozen=True)
class Recipe:
    """A mixture and its shares of the single-source mixtures that it is composed of."""

    mixture: str
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Shift:
    """An evaluation set other than the reference; `same_images` where its images are corrupted reference images."""

    name: str
    kind: str
    same_images: bool = False


def _measured(models: Sequence[Answered], name: str) -> Measured:
    return Measured.of_answers(np.stack([model.right[name] for model in models]))


def evidence_of(models: Sequence[Answered], reference: str, shift: Shift) -> Evidence:
    """Return the models' correct predictions on the reference and under a shift, in the order of `models`."""
    return Evidence(_measured(models, reference), _measured(models, shift.name), shift.same_images)


def ordered(models: Iterable[Answered]) -> list[Answered]:
    """Return models in a fixed order, because draws and the last digits of sums depend on the order."""
    return sorted(models, key=lambda model: (model.mixture, model.size, model.seed))


def estimate(found: Interval) -> Estimate:
    """Return an interval in the form of the report."""
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def trend(models: Sequence[Answered], reference: str, shift: Shift, baseline: Collection[str] = ()) -> Trend:
    """Return all models on one shift: each model's effective robustness, and each mixture's line over its sizes.

    `baseline` names the mixtures on whose models the line of effective robustness is fitted; an empty one means all
    trained models. Where they determine no line (fewer than three models, or no differences), the result's `baseline`
    is None and `why` is the reason. A mixture has a line of its own where it was trained in at least two sizes and
    three models.
    """
    models = ordered(models)
    evidence = evidence_of(models, reference, shift)
    effective, why = _effective(evidence, models, baseline)
    accuracy = evidence.reference.accuracy, evidence.shift.accuracy
    model_rows: list[TrendModel] = [
        {
            "model": model.name,
            "mixture": model.mixture,
            "size": model.size,
            "seed": model.seed,
            "reference": float(accuracy[0][number]),
            "shift": float(accuracy[1][number]),
            "effective": None
            if effective is None
            else {
                "estimate": float(effective.values[number]),
                "low": float(effective.low[number]),
                "high": float(effective.high[number]),
            },
        }
        for number, model in enumerate(models)
    ]
    trained = [model for model in models if model.trained]
    groups, without = _groups(trained, evidence_of(trained, reference, shift))
    places = evidence.places(PROBIT)
    return {
        "set": shift.name,
        "kind": shift.kind,
        "axis": PROBIT.name,
        "moved": sum(placed.moved for placed in places),
        "baseline": None if effective is None else _baseline(effective),
        "why": why,
        "models": model_rows,
        "groups": groups,
        "without": without,
    }


def _effective(
    evidence: Evidence, models: Sequence[Answered], baseline: Collection[str]
) -> tuple[Effective | None, str]:
    names = [model.name for model in models]
    baseline_names = [model.name for model in models if (model.mixture in baseline if baseline else model.trained)]
    try:
        return effective_robustness(evidence, names, baseline_names, PROBIT), ""
    except ValueError as error:
        return None, str(error)


def _baseline(effective: Effective) -> Baseline:
    line = effective.baseline
    return {
        "fitted_on": list(effective.fitted_on),
        "slope": line.slope,
        "intercept": line.intercept,
        "r2": line.r2,
        "draws": effective.draws,
    }


def drawn(models: Sequence[Answered], evidence: Evidence) -> Trends:
    """Return the bootstrap draws of the models, with a line for each mixture."""
    names, sizes, seeds = zip(*((model.mixture, model.size, model.seed) for model in models), strict=True)
    return trend_lines(evidence, names, PROBIT, sizes=sizes, seeds=seeds)


def _size_trends(models: Sequence[Answered], evidence: Evidence) -> Trends | None:
    """Return a line for each mixture over its sizes; None where no mixture was trained in two sizes."""
    mixture_sizes = {(model.mixture, model.size) for model in models}
    return drawn(models, evidence) if len(mixture_sizes) > len(_mixtures(models)) else None


def _mixtures(models: Sequence[Answered]) -> list[str]:
    return list(dict.fromkeys(model.mixture for model in models))


def _groups(models: Sequence[Answered], evidence: Evidence) -> tuple[list[TrendGroup], list[str]]:
    trends = _size_trends(models, evidence)
    if trends is None:
        return [], _mixtures(models)
    groups: list[TrendGroup] = []
    without = list(trends.without)
    for name in trends.lines:
        try:
            groups.append(_group(trends, name))
        except ValueError:  # too few of its draws have a line for an interval
            without.append(name)
    return groups, without


def _group(trends: Trends, name: str) -> TrendGroup:
    line = trends.of(name)
    return {
        "mixture": name,
        "models": int(trends.members(name).sum()),
        "slope": estimate(line.slope_interval()),
        "intercept": estimate(line.intercept_interval()),
        "band": _band(line, *trends.range(name)),
    }


def _band(line: DrawnLine, low: float, high: float) -> list[BandPoint]:
    x = np.linspace(low, high, BAND_POINTS)
    ends = line.band(x)
    columns = (PROBIT.inverse(x), line.predict(x), *ends)
    return [
        {"reference": float(reference), "line": float(line_value), "low": float(band_low), "high": float(band_high)}
        for reference, line_value, band_low, band_high in zip(*columns, strict=True)
    ]


def ladder(models: Sequence[Answered], name: str) -> list[Ladder]:
    """Return the accuracy on a set by mixture and size: mean, minimum and maximum over the seeds."""
    rows: list[Ladder] = []
    for mixture in _mixtures(models):
        of_mixture = [model for model in models if model.mixture == mixture]
        for size in sorted({model.size for model in of_mixture}):
            values = [float(model.right[name].mean()) for model in of_mixture if model.size == size]
            rows.append(
                {
                    "set": name,
                    "mixture": mixture,
                    "size": size,
                    "seeds": len(values),
                    "mean": sum(values) / len(values),
                    "least": min(values),
                    "most": max(values),
                }
            )
    return rows


def diluted(
    models: Sequence[Answered],
    reference: str,
    shift: Shift,
    recipe: Recipe,
    labels: Mapping[str, NDArray[np.integer[Any]]],
    chance: float,
) -> Dilution | None:
    """Return a mixture's robustness compared with its sources; None where there are no lines to compare.

    The result includes the ensemble of the sources' models of the same size and seed, where their logits are available,
    and the forecast of the mixture's line from its sources' lines and shares. `chance` is the accuracy of guessing on
    the reference.
    """
    sources = list(recipe.shares)
    compared = ordered(model for model in models if model.mixture in (recipe.mixture, *sources))
    ensembles = _ensembles(compared, sources, (reference, shift.name), labels)
    try:
        trends = _size_trends(compared, evidence_of(compared, reference, shift))
        if trends is None:
            return None
        result = dilution(trends, recipe.mixture, sources)
    except ValueError:
        return None
    return {
        "set": shift.name,
        "kind": shift.kind,
        "mixture": recipe.mixture,
        "sources": sources,
        "best": result.best,
        "effective": estimate(result.effective),
        "verdict": str(result.verdict),
        "extrapolated": result.extrapolated,
        "margin": None if result.margin is None else estimate(result.margin),
        "span": "" if result.span is None else str(result.span),
        "ensemble": _output_mixing([*compared, *ensembles], reference, shift, recipe.mixture, sources)
        if ensembles
        else None,
        "forecast": _forecast(trends, recipe, chance),
    }


def _output_mixing(
    models: Sequence[Answered], reference: str, shift: Shift, mixture: str, sources: Sequence[str]
) -> Mixed | None:
    try:
        trends = _size_trends(models, evidence_of(models, reference, shift))
        if trends is None:
            return None
        comparison = compare_mixing(trends, mixture, ENSEMBLE, sources)
    except ValueError:
        return None
    outputs = comparison.outputs
    verdict = str(outputs.verdict)
    return {"effective": estimate(outputs.effective), "verdict": verdict, "gain": estimate(comparison.gain)}


def _forecast(trends: Trends, recipe: Recipe, chance: float) -> Forecast:
    try:
        prediction = forecast(trends, recipe.shares, chance)
        miss = how_far_off(prediction, trends, recipe.mixture)
    except ValueError as error:
        return {"why": str(error), "weights": {}, "miss": None, "within": None}
    weights = {name: estimate(weight) for name, weight in prediction.weights.items()}
    return {"why": "", "weights": weights, "miss": estimate(miss.shift), "within": miss.within}


def _ensembles(
    models: Sequence[Answered],
    sources: Sequence[str],
    sets: Sequence[str],
    labels: Mapping[str, NDArray[np.integer[Any]]],
) -> list[Answered]:
    """Return the ensembles of the sources' models, one for each size and seed that all sources were trained with."""
    by_cell = {(model.mixture, model.size, model.seed): model for model in models}
    ensembles = []
    for size, seed in sorted({(model.size, model.seed) for model in models}):
        members = [by_cell.get((name, size, seed)) for name in sources]
        if any(model is None or any(name not in model.logits for name in sets) for model in members):
            continue
        correct = {
            name: right(mix_outputs([model.logits[name] for model in members if model]), labels[name]) for name in sets
        }
        ensembles.append(Answered(f"{ENSEMBLE} {size}/{seed}", ENSEMBLE, size, seed, correct))
    return ensembles
