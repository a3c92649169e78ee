"""The structure of the report's JSON, from which the page is rendered.

Any list may be empty: a report can be written after every stage, and then says which results are missing.
Accuracies are fractions between 0 and 1, times are seconds, sizes are bytes, everything else is a count.
`pipeline.analysis.results` defines the parts on robustness, error analysis and contamination.
"""

from typing import TypedDict

from pipeline.analysis.results import (
    Calibration,
    ClassDrops,
    Contamination,
    DilutionResult,
    FilterEffect,
    Mistakes,
    RankingRow,
    Robustness,
    SizeAccuracy,
    TrainingCost,
    Trend,
    TuningResult,
)

#: One stage of one source's funnel: `stage` is "ingest" or "filter:<name>", `dropped` counts pairs by reason.
FunnelStage = TypedDict("FunnelStage", {"stage": str, "in": int, "kept": int, "dropped": dict[str, int]})


class SourceFunnelData(TypedDict):
    """The input, kept and dropped counts of one source's published rows, stage by stage."""

    source: str
    published: int
    stages: list[FunnelStage]


class FilterRule(TypedDict):
    """One filter as written in the experiment file, and its counts over all sources."""

    name: str
    rule: str
    kept: int
    dropped: int


class SimilarImage(TypedDict):
    """The image that a pair resembles: `what` names it, `thumbnail` is a JPEG data URL, None where ingest would refuse
    the image.
    """

    what: str
    thumbnail: str | None


class Example(TypedDict):
    """One example pair. `thumbnail` is a JPEG data URL; `scores` are its signals by name."""

    uid: str
    source: str
    caption: str
    kept: bool
    reason: str
    scores: dict[str, float | str | None]
    thumbnail: str
    resembles: SimilarImage | None


class TrainingSummary(TypedDict):
    """The training of one mixture: `seconds` of wall-clock time, `samples_seen` including repeats."""

    id: str
    samples_seen: int
    seconds: float
    checkpoint_sha256: str
    model: str
    outcome: str


class MixtureSummary(TypedDict):
    """One mixture: `pairs` includes repeats, `distinct` does not; the values of `by_source` sum to `pairs`."""

    name: str
    pairs: int
    distinct: int
    by_source: dict[str, int]
    export_digest: str
    training: TrainingSummary | None


class EvaluationSetSummary(TypedDict):
    """One evaluation set; `chance` is the accuracy of guessing (fraction)."""

    name: str
    images: int
    classes: int
    chance: float


class AccuracyResult(TypedDict):
    """Zero-shot accuracy of one mixture on one set, with its 95 % Clopper-Pearson interval (fractions)."""

    mixture: str
    set: str
    n: int
    correct: int
    top1: float
    low: float
    high: float


class EvaluationResults(TypedDict):
    """All accuracies; `reference` names the evaluation set that the others are shifts of."""

    reference: str
    sets: list[EvaluationSetSummary]
    results: list[AccuracyResult]


class SelfCheck(TypedDict):
    """One comparison with the planted ground truth."""

    what: str
    found: str
    expected: str
    ok: bool


class JobRecord(TypedDict):
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
    """The published files of one source and their licence."""

    source: str
    files: list[SourceFile]
    licence: str


class EvaluationDigest(TypedDict):
    """The digest of one evaluation set."""

    name: str
    sha256: str


class Provenance(TypedDict):
    """What the numbers were computed from: jobs, package versions, file digests, Delta table versions."""

    jobs: list[JobRecord]
    versions: dict[str, str]
    sources: list[SourceOrigin]
    evaluation_sets: list[EvaluationDigest]
    tables: dict[str, int]


class ReportData(TypedDict):
    """Everything the page shows. `made_at` is ISO 8601; `answer` is the summary, a few computed sentences."""

    experiment: str
    title: str
    made_at: str
    question: str
    answer: list[str]
    funnel: list[SourceFunnelData]
    filters: list[FilterRule]
    examples: list[Example]
    mixtures: list[MixtureSummary]
    evaluation: EvaluationResults
    robustness: list[Robustness]
    standings: list[RankingRow]
    filtered: list[FilterEffect]
    trends: list[Trend]
    ladder: list[SizeAccuracy]
    dilution: list[DilutionResult]
    contamination: list[Contamination]
    tuning: list[TuningResult]
    cost: list[TrainingCost]
    calibration: list[Calibration]
    classes: list[ClassDrops]
    mistakes: list[Mistakes]
    self_check: list[SelfCheck]
    provenance: Provenance
