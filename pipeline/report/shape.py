"""The report's numbers, as they lie in the JSON beside the page.

Any list may be empty: a report can be written after every stage, and then says what is not there yet.
Accuracies are fractions between 0 and 1, times are seconds, sizes are bytes, everything else is a count.
"""

from __future__ import annotations

from typing import TypedDict

#: One stage of one source's funnel: `stage` is "ingest" or "filter:<name>", `dropped` counts pairs by reason.
Stage = TypedDict("Stage", {"stage": str, "in": int, "kept": int, "dropped": dict[str, int]})


class SourceFunnel(TypedDict):
    """What became of one source's published rows, stage after stage."""

    source: str
    published: int
    stages: list[Stage]


class FilterRule(TypedDict):
    """One filter as the experiment wrote it, and what it did over all sources."""

    name: str
    rule: str
    kept: int
    dropped: int


class Resemblance(TypedDict):
    """The picture a pair was found to resemble: `what` says which, `thumbnail` is a JPEG data URL."""

    what: str
    thumbnail: str


class Example(TypedDict):
    """One pair to look at. `thumbnail` is a JPEG data URL; `scores` are its signals by name."""

    uid: str
    source: str
    caption: str
    kept: bool
    reason: str
    scores: dict[str, float | str | None]
    thumbnail: str
    resembles: Resemblance | None


class Training(TypedDict):
    """The training of one mixture: `seconds` of wall clock, `samples_seen` with repeats."""

    id: str
    samples_seen: int
    seconds: float
    checkpoint_sha256: str
    model: str
    outcome: str


class Mixture(TypedDict):
    """One mixture: `pairs` counts repeats, `distinct` does not; `by_source` sums to `pairs`."""

    name: str
    pairs: int
    distinct: int
    by_source: dict[str, int]
    export_digest: str
    training: Training | None


class EvaluationSet(TypedDict):
    """One evaluation set; `chance` is the accuracy of guessing (fraction)."""

    name: str
    images: int
    classes: int
    chance: float


class Result(TypedDict):
    """Zero-shot accuracy of one mixture on one set, with its 95 % Clopper-Pearson interval (fractions)."""

    mixture: str
    set: str
    n: int
    correct: int
    top1: float
    low: float
    high: float


class Evaluation(TypedDict):
    """All accuracies; `reference` names the set the others are shifts of."""

    reference: str
    sets: list[EvaluationSet]
    results: list[Result]


class RobustnessPoint(TypedDict):
    """One mixture's accuracy on the reference and a shift, and its effective robustness (fractions)."""

    mixture: str
    reference: float
    shift: float
    effective: float | None


class Robustness(TypedDict):
    """One shift: the line fitted through its points after the probit transform of both accuracies."""

    set: str
    slope: float | None
    intercept: float | None
    r2: float | None
    points: list[RobustnessPoint]


class Estimate(TypedDict):
    """A number with its 95 % bootstrap interval."""

    estimate: float
    low: float
    high: float


class TrendModel(TypedDict):
    """One trained model on the reference and a shift (fractions); `size` counts training pairs.

    `effective` is its effective robustness from the baseline's line, None where there is no line.
    """

    model: str
    mixture: str
    size: int
    seed: int
    reference: float
    shift: float
    effective: Estimate | None


class Baseline(TypedDict):
    """The line that effective robustness is measured from, on probit axes, and the models that it was fitted on."""

    fitted_on: list[str]
    slope: float
    intercept: float
    r2: float
    draws: int


class BandPoint(TypedDict):
    """A mixture's line and the ends of its 95 % band at one accuracy on the reference (fractions)."""

    reference: float
    line: float
    low: float
    high: float


class TrendGroup(TypedDict):
    """One mixture's line over its ladder of sizes; slope and intercept are of probit axes."""

    mixture: str
    models: int
    slope: Estimate
    intercept: Estimate
    band: list[BandPoint]


class Trend(TypedDict):
    """All models on one shift, natural or synthetic. `without` names mixtures that have no line of their own; `why`
    says why there is no baseline. `moved` counts accuracies of 0 or 1 that were moved inside by half an image.
    """

    set: str
    kind: str
    axis: str
    moved: int
    baseline: Baseline | None
    why: str
    models: list[TrendModel]
    groups: list[TrendGroup]
    without: list[str]


class Ladder(TypedDict):
    """Accuracy on a set of a mixture in one size: the mean over its seeds, the least and the greatest (fractions)."""

    set: str
    mixture: str
    size: int
    seeds: int
    mean: float
    least: float
    most: float


class Mixed(TypedDict):
    """Output mixing: the ensemble of the sources' models, from the same line as the mixture; `gain` is how far it lies
    above the mixture (fractions).
    """

    effective: Estimate
    verdict: str
    gain: Estimate


class Forecast(TypedDict):
    """The mixture's line as its sources' lines and shares foretell it: `weights` by source, and by how much the
    mixture's models missed it (fraction). `within` says whether the noise of images and seeds alone explains the miss;
    `why` says why there is no forecast.
    """

    why: str
    weights: dict[str, Estimate]
    miss: Estimate | None
    within: bool | None


class Dilution(TypedDict):
    """What became of a mixture's robustness on one shift, as `pipeline.robustness.dilution` says it.

    `sources` are mixtures of one source each, `best` the one of them whose line is the mixture's measure; `effective`
    is the mixture's mean distance from that line (fraction).
    """

    set: str
    kind: str
    mixture: str
    sources: list[str]
    best: str
    effective: Estimate
    verdict: str
    extrapolated: int
    margin: Estimate | None
    span: str
    ensemble: Mixed | None
    forecast: Forecast


class Contamination(TypedDict):
    """What a mixture and an evaluation set have in common, by the thresholds of the filter against it.

    Of the mixture's `pairs`, `copies` resemble one of the set's `images`, of which `copied_images` are resembled.
    `accuracy` is that of the mixture's models (the mean over its seeds), and without those images (None: there are no
    others).
    """

    mixture: str
    set: str
    pairs: int
    copies: int
    images: int
    copied_images: int
    accuracy: float
    accuracy_without: float | None


class Cost(TypedDict):
    """What the trainings of a mixture cost: how many there were, their samples, and wall seconds, each on its own."""

    mixture: str
    trainings: int
    samples: int
    seconds: float


class SelfCheck(TypedDict):
    """One comparison with the planted truth."""

    what: str
    found: str
    expected: str
    ok: bool


class Job(TypedDict):
    """One job: its id (64 hex digits), wall-clock seconds and the rows it appended to each table."""

    stage: str
    job: str
    seconds: float
    rows: dict[str, int]
    finished: str


class SourceFile(TypedDict):
    """One published metadata file; `bytes` is its size."""

    file: str
    sha256: str
    bytes: int


class SourceOrigin(TypedDict):
    """Where one source came from and under which licence."""

    source: str
    files: list[SourceFile]
    licence: str


class EvaluationDigest(TypedDict):
    """The digest of one evaluation set."""

    name: str
    sha256: str


class Provenance(TypedDict):
    """What the numbers rest on: jobs, package versions, file digests, Delta table versions."""

    jobs: list[Job]
    versions: dict[str, str]
    sources: list[SourceOrigin]
    evaluation_sets: list[EvaluationDigest]
    tables: dict[str, int]


class Report(TypedDict):
    """Everything the page shows. `made_at` is ISO 8601; `answer` holds a few computed sentences."""

    experiment: str
    title: str
    made_at: str
    question: str
    answer: list[str]
    funnel: list[SourceFunnel]
    filters: list[FilterRule]
    examples: list[Example]
    mixtures: list[Mixture]
    evaluation: Evaluation
    robustness: list[Robustness]
    trends: list[Trend]
    ladder: list[Ladder]
    dilution: list[Dilution]
    contamination: list[Contamination]
    cost: list[Cost]
    self_check: list[SelfCheck]
    provenance: Provenance
