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
    DilutionResult,
    EnsembleResult,
    Estimate,
    ForecastResult,
    SizeAccuracy,
    Trend,
    TrendGroup,
    TrendModel,
)
from pipeline.robustness.axes import PROBIT
from pipeline.robustness.dilution import compare_with_ensemble, compare_with_sources
from pipeline.robustness.effective import EffectiveRobustness, effective_robustness
from pipeline.robustness.ensembling import correct_predictions, ensemble_outputs
from pipeline.robustness.forecast import forecast_error, forecast_line
from pipeline.robustness.intervals import Interval
from pipeline.robustness.lines import BootstrapLine
from pipeline.robustness.paired_accuracy import PairedAccuracies, SetAccuracies
from pipeline.robustness.trends import TrendLines, trend_lines

CorrectMask = NDArray[np.bool_]


BAND_POINTS = 25


ENSEMBLE_GROUP = "the ensemble of its sources"
"""The group of the models that output mixing makes; no mixture can have this name."""


@dataclass(frozen=True, eq=False)
class ModelAnswers:
    """A model and its correct predictions: `right` has a mask (images,) by evaluation set, in one order for all models.

    `size` is the number of training pairs. `logits` (images, classes), multiplied by the model's scale, are kept for
    the sets on which outputs are mixed. An external model, which the experiment only evaluates, is not `trained`: it
    has an effective robustness, but is not part of any mixture's line.
    """

    name: str
    mixture: str
    size: int
    seed: int
    right: Mapping[str, CorrectMask]
    logits: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    trained: bool = True


@dataclass(frozen=True)
class MixtureShares:
    """A mixture and its shares of the single-source mixtures that it is composed of."""

    mixture: str
    shares: Mapping[str, float]


@dataclass(frozen=True)
class ShiftedSet:
    """An evaluation set other than the reference; `same_images` where its images are corrupted reference images."""

    name: str
    kind: str
    same_images: bool = False


def _measured(models: Sequence[ModelAnswers], name: str) -> SetAccuracies:
    return SetAccuracies.from_correct(np.stack([model.right[name] for model in models]))


def paired_accuracies(models: Sequence[ModelAnswers], reference: str, shift: ShiftedSet) -> PairedAccuracies:
    """Return the models' correct predictions on the reference and under a shift, in the order of `models`."""
    return PairedAccuracies(_measured(models, reference), _measured(models, shift.name), shift.same_images)


def sort_models(models: Iterable[ModelAnswers]) -> list[ModelAnswers]:
    """Return models in a fixed order, because draws and the last digits of sums depend on the order."""
    return sorted(models, key=lambda model: (model.mixture, model.size, model.seed))


def as_estimate(found: Interval) -> Estimate:
    """Return an interval in the form of the report."""
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def analyse_shift(
    models: Sequence[ModelAnswers], reference: str, shift: ShiftedSet, baseline: Collection[str] = ()
) -> Trend:
    """Return all models on one shift: each model's effective robustness, and each mixture's line over its sizes.

    `baseline` names the mixtures on whose models the line of effective robustness is fitted; an empty one means all
    trained models. Where they determine no line (fewer than three models, or no differences), the result's `baseline`
    is None and `why` is the reason. A mixture has a line of its own where it was trained in at least two sizes and
    three models.
    """
    models = sort_models(models)
    evidence = paired_accuracies(models, reference, shift)
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
    groups, without = _groups(trained, paired_accuracies(trained, reference, shift))
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
    evidence: PairedAccuracies, models: Sequence[ModelAnswers], baseline: Collection[str]
) -> tuple[EffectiveRobustness | None, str]:
    names = [model.name for model in models]
    baseline_names = [model.name for model in models if (model.mixture in baseline if baseline else model.trained)]
    try:
        return effective_robustness(evidence, names, baseline_names, PROBIT), ""
    except ValueError as error:
        return None, str(error)


def _baseline(effective: EffectiveRobustness) -> Baseline:
    line = effective.baseline
    return {
        "fitted_on": list(effective.fitted_on),
        "slope": line.slope,
        "intercept": line.intercept,
        "r2": line.r2,
        "draws": effective.draws,
    }


def bootstrap_trends(models: Sequence[ModelAnswers], evidence: PairedAccuracies) -> TrendLines:
    """Return the bootstrap draws of the models, with a line for each mixture."""
    names, sizes, seeds = zip(*((model.mixture, model.size, model.seed) for model in models), strict=True)
    return trend_lines(evidence, names, PROBIT, sizes=sizes, seeds=seeds)


def _size_trends(models: Sequence[ModelAnswers], evidence: PairedAccuracies) -> TrendLines | None:
    """Return a line for each mixture over its sizes; None where no mixture was trained in two sizes."""
    mixture_sizes = {(model.mixture, model.size) for model in models}
    return bootstrap_trends(models, evidence) if len(mixture_sizes) > len(_mixtures(models)) else None


def _mixtures(models: Sequence[ModelAnswers]) -> list[str]:
    return list(dict.fromkeys(model.mixture for model in models))


def _groups(models: Sequence[ModelAnswers], evidence: PairedAccuracies) -> tuple[list[TrendGroup], list[str]]:
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


def _group(trends: TrendLines, name: str) -> TrendGroup:
    line = trends.of(name)
    return {
        "mixture": name,
        "models": int(trends.members(name).sum()),
        "slope": as_estimate(line.slope_interval()),
        "intercept": as_estimate(line.intercept_interval()),
        "band": _band(line, *trends.range(name)),
    }


def _band(line: BootstrapLine, low: float, high: float) -> list[BandPoint]:
    x = np.linspace(low, high, BAND_POINTS)
    ends = line.band(x)
    columns = (PROBIT.inverse(x), line.predict(x), *ends)
    return [
        {"reference": float(reference), "line": float(line_value), "low": float(band_low), "high": float(band_high)}
        for reference, line_value, band_low, band_high in zip(*columns, strict=True)
    ]


def accuracy_by_size(models: Sequence[ModelAnswers], name: str) -> list[SizeAccuracy]:
    """Return the accuracy on a set by mixture and size: mean, minimum and maximum over the seeds."""
    rows: list[SizeAccuracy] = []
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


def analyse_dilution(
    models: Sequence[ModelAnswers],
    reference: str,
    shift: ShiftedSet,
    recipe: MixtureShares,
    labels: Mapping[str, NDArray[np.integer[Any]]],
    chance: float,
) -> DilutionResult | None:
    """Return a mixture's robustness compared with its sources; None where there are no lines to compare.

    The result includes the ensemble of the sources' models of the same size and seed, where their logits are available,
    and the forecast of the mixture's line from its sources' lines and shares. `chance` is the accuracy of guessing on
    the reference.
    """
    sources = list(recipe.shares)
    compared = sort_models(model for model in models if model.mixture in (recipe.mixture, *sources))
    ensembles = _ensembles(compared, sources, (reference, shift.name), labels)
    try:
        trends = _size_trends(compared, paired_accuracies(compared, reference, shift))
        if trends is None:
            return None
        result = compare_with_sources(trends, recipe.mixture, sources)
    except ValueError:
        return None
    return {
        "set": shift.name,
        "kind": shift.kind,
        "mixture": recipe.mixture,
        "sources": sources,
        "best": result.best,
        "effective": as_estimate(result.effective),
        "verdict": str(result.verdict),
        "extrapolated": result.extrapolated,
        "margin": None if result.margin is None else as_estimate(result.margin),
        "span": "" if result.span is None else str(result.span),
        "ensemble": _output_mixing([*compared, *ensembles], reference, shift, recipe.mixture, sources)
        if ensembles
        else None,
        "forecast": _forecast(trends, recipe, chance),
    }


def _output_mixing(
    models: Sequence[ModelAnswers], reference: str, shift: ShiftedSet, mixture: str, sources: Sequence[str]
) -> EnsembleResult | None:
    try:
        trends = _size_trends(models, paired_accuracies(models, reference, shift))
        if trends is None:
            return None
        comparison = compare_with_ensemble(trends, mixture, ENSEMBLE_GROUP, sources)
    except ValueError:
        return None
    outputs = comparison.outputs
    verdict = str(outputs.verdict)
    return {"effective": as_estimate(outputs.effective), "verdict": verdict, "gain": as_estimate(comparison.gain)}


def _forecast(trends: TrendLines, recipe: MixtureShares, chance: float) -> ForecastResult:
    try:
        prediction = forecast_line(trends, recipe.shares, chance)
        miss = forecast_error(prediction, trends, recipe.mixture)
    except ValueError as error:
        return {"why": str(error), "weights": {}, "miss": None, "within": None}
    weights = {name: as_estimate(weight) for name, weight in prediction.weights.items()}
    return {"why": "", "weights": weights, "miss": as_estimate(miss.shift), "within": miss.within}


def _ensembles(
    models: Sequence[ModelAnswers],
    sources: Sequence[str],
    sets: Sequence[str],
    labels: Mapping[str, NDArray[np.integer[Any]]],
) -> list[ModelAnswers]:
    """Return the ensembles of the sources' models, one for each size and seed that all sources were trained with."""
    by_cell = {(model.mixture, model.size, model.seed): model for model in models}
    ensembles = []
    for size, seed in sorted({(model.size, model.seed) for model in models}):
        members = [by_cell.get((name, size, seed)) for name in sources]
        if any(model is None or any(name not in model.logits for name in sets) for model in members):
            continue
        correct = {
            name: correct_predictions(
                ensemble_outputs([model.logits[name] for model in members if model]), labels[name]
            )
            for name in sets
        }
        ensembles.append(ModelAnswers(f"{ENSEMBLE_GROUP} {size}/{seed}", ENSEMBLE_GROUP, size, seed, correct))
    return ensembles
