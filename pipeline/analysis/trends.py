"""What the trained models say of robustness, shift by shift: lines and bands, effective robustness, dilution.

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
"""The group of models that output mixing makes; no mixture is called so."""


@dataclass(frozen=True, eq=False)
class Answered:
    """A trained model and what it answered: by evaluation set, where it was right (images,), in one order for all.

    `size` is the number of training pairs. `logits` (images, classes), times the model's scale, and `labels` are kept
    of the sets for which outputs are mixed. A model that is only put beside the trainings is not `trained`: it has
    effective robustness, and no part in any mixture's line.
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
    """A mixture and the mixtures of one source each that it is made of, with its shares of them."""

    mixture: str
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Shift:
    """An evaluation set beside the reference; `same_images` where it is a change of the reference's own images."""

    name: str
    kind: str
    same_images: bool = False


def _measured(models: Sequence[Answered], name: str) -> Measured:
    return Measured.of_answers(np.stack([one.right[name] for one in models]))


def evidence_of(models: Sequence[Answered], reference: str, shift: Shift) -> Evidence:
    """Return what models answered on the reference and under a shift, in their order."""
    return Evidence(_measured(models, reference), _measured(models, shift.name), shift.same_images)


def ordered(models: Iterable[Answered]) -> list[Answered]:
    """Return models in an order of their own, on which draws depend, and the last digits of sums."""
    return sorted(models, key=lambda one: (one.mixture, one.size, one.seed))


def estimate(found: Interval) -> Estimate:
    """Return an interval as the report holds it."""
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def trend(models: Sequence[Answered], reference: str, shift: Shift, baseline: Collection[str] = ()) -> Trend:
    """Return all models on one shift: each one's effective robustness, and each mixture's line over its sizes.

    `baseline` names the mixtures on whose models the line of effective robustness is fitted; none are all trained ones.
    Where they make no line (fewer than three models, or none that differ), `baseline` is None and says why. A mixture
    has a line of its own where it was trained in at least two sizes and three models.
    """
    models = ordered(models)
    evidence = evidence_of(models, reference, shift)
    effective, why = _effective(evidence, models, baseline)
    accuracy = evidence.reference.accuracy, evidence.shift.accuracy
    told: list[TrendModel] = [
        {
            "model": one.name,
            "mixture": one.mixture,
            "size": one.size,
            "seed": one.seed,
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
        for number, one in enumerate(models)
    ]
    trained = [one for one in models if one.trained]
    groups, without = _groups(trained, evidence_of(trained, reference, shift))
    places = evidence.places(PROBIT)
    return {
        "set": shift.name,
        "kind": shift.kind,
        "axis": PROBIT.name,
        "moved": sum(one.moved for one in places),
        "baseline": None if effective is None else _baseline(effective),
        "why": why,
        "models": told,
        "groups": groups,
        "without": without,
    }


def _effective(
    evidence: Evidence, models: Sequence[Answered], baseline: Collection[str]
) -> tuple[Effective | None, str]:
    names = [one.name for one in models]
    base = [one.name for one in models if (one.mixture in baseline if baseline else one.trained)]
    try:
        return effective_robustness(evidence, names, base, PROBIT), ""
    except ValueError as error:
        return None, str(error)


def _baseline(found: Effective) -> Baseline:
    line = found.baseline
    fitted = list(found.fitted_on)
    return {"fitted_on": fitted, "slope": line.slope, "intercept": line.intercept, "r2": line.r2, "draws": found.draws}


def drawn(models: Sequence[Answered], evidence: Evidence) -> Trends:
    """Return the draws of models, each mixture a group, with the lines that they make."""
    names, sizes, seeds = zip(*((one.mixture, one.size, one.seed) for one in models), strict=True)
    return trend_lines(evidence, names, PROBIT, sizes=sizes, seeds=seeds)


def _ladder(models: Sequence[Answered], evidence: Evidence) -> Trends | None:
    """Return a line for each mixture over its sizes; None where no mixture was trained in two sizes."""
    rungs = {(one.mixture, one.size) for one in models}
    return drawn(models, evidence) if len(rungs) > len(_mixtures(models)) else None


def _mixtures(models: Sequence[Answered]) -> list[str]:
    return list(dict.fromkeys(one.mixture for one in models))


def _groups(models: Sequence[Answered], evidence: Evidence) -> tuple[list[TrendGroup], list[str]]:
    trends = _ladder(models, evidence)
    if trends is None:
        return [], _mixtures(models)
    found: list[TrendGroup] = []
    without = list(trends.without)
    for name in trends.lines:
        try:
            found.append(_group(trends, name))
        except ValueError:  # too few of its draws have a line for an interval
            without.append(name)
    return found, without


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
        {"reference": float(at), "line": float(middle), "low": float(least), "high": float(most)}
        for at, middle, least, most in zip(*columns, strict=True)
    ]


def ladder(models: Sequence[Answered], name: str) -> list[Ladder]:
    """Return the accuracy on a set by mixture and size: the mean over the seeds, the least and the greatest of them."""
    found: list[Ladder] = []
    for mixture in _mixtures(models):
        mine = [one for one in models if one.mixture == mixture]
        for size in sorted({one.size for one in mine}):
            values = [float(one.right[name].mean()) for one in mine if one.size == size]
            found.append(
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
    return found


def diluted(
    models: Sequence[Answered],
    reference: str,
    shift: Shift,
    recipe: Recipe,
    labels: Mapping[str, NDArray[np.integer[Any]]],
    chance: float,
) -> Dilution | None:
    """Return what became of a mixture's robustness among those of its sources; None where there are no lines to judge.

    Beside it stand the ensemble of the sources' models of the same size and seed, where their logits are there, and the
    forecast of the mixture's line by its sources' lines and shares. `chance` is that of guessing on the reference.
    """
    sources = list(recipe.shares)
    mine = ordered(one for one in models if one.mixture in (recipe.mixture, *sources))
    mixed = _ensembles(mine, sources, (reference, shift.name), labels)
    try:
        trends = _ladder(mine, evidence_of(mine, reference, shift))
        if trends is None:
            return None
        judged = dilution(trends, recipe.mixture, sources)
    except ValueError:
        return None
    return {
        "set": shift.name,
        "kind": shift.kind,
        "mixture": recipe.mixture,
        "sources": sources,
        "best": judged.best,
        "effective": estimate(judged.effective),
        "verdict": str(judged.verdict),
        "extrapolated": judged.extrapolated,
        "margin": None if judged.margin is None else estimate(judged.margin),
        "span": "" if judged.span is None else str(judged.span),
        "ensemble": _mixing([*mine, *mixed], reference, shift, recipe.mixture, sources) if mixed else None,
        "forecast": _forecast(trends, recipe, chance),
    }


def _mixing(
    models: Sequence[Answered], reference: str, shift: Shift, mixture: str, sources: Sequence[str]
) -> Mixed | None:
    try:
        trends = _ladder(models, evidence_of(models, reference, shift))
        if trends is None:
            return None
        found = compare_mixing(trends, mixture, ENSEMBLE, sources)
    except ValueError:
        return None
    outputs = found.outputs
    verdict = str(outputs.verdict)
    return {"effective": estimate(outputs.effective), "verdict": verdict, "gain": estimate(found.gain)}


def _forecast(trends: Trends, recipe: Recipe, chance: float) -> Forecast:
    try:
        made = forecast(trends, recipe.shares, chance)
        missed = how_far_off(made, trends, recipe.mixture)
    except ValueError as error:
        return {"why": str(error), "weights": {}, "miss": None, "within": None}
    weights = {name: estimate(one) for name, one in made.weights.items()}
    return {"why": "", "weights": weights, "miss": estimate(missed.shift), "within": missed.within}


def _ensembles(
    models: Sequence[Answered],
    sources: Sequence[str],
    sets: Sequence[str],
    labels: Mapping[str, NDArray[np.integer[Any]]],
) -> list[Answered]:
    """Return the ensembles of the sources' models, one for each size and seed that all sources were trained with."""
    at = {(one.mixture, one.size, one.seed): one for one in models}
    found = []
    for size, seed in sorted({(one.size, one.seed) for one in models}):
        parts = [at.get((name, size, seed)) for name in sources]
        if any(one is None or any(name not in one.logits for name in sets) for one in parts):
            continue
        mixed = {name: right(mix_outputs([one.logits[name] for one in parts if one]), labels[name]) for name in sets}
        found.append(Answered(f"{ENSEMBLE} {size}/{seed}", ENSEMBLE, size, seed, mixed))
    return found
