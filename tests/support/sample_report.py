"""A report with plausible, made-up numbers: six sources, five mixtures, five evaluation sets."""

import base64
import hashlib
import io
import itertools
import random
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw
from scipy.stats import beta

from pipeline.analysis.ranking import rank_mixtures
from pipeline.analysis.results import (
    Contamination,
    Estimate,
    FilterEffect,
    RankingRow,
    Robustness,
    RobustnessPoint,
    TuningResult,
)
from pipeline.analysis.trends import (
    MixtureShares,
    ModelAnswers,
    ShiftedSet,
    accuracy_by_size,
    analyse_dilution,
    analyse_shift,
)
from pipeline.report.schema import (
    AccuracyResult,
    EvaluationResults,
    Example,
    FilterRule,
    FunnelStage,
    MixtureSummary,
    Provenance,
    ReportData,
    SelfCheck,
    SimilarImage,
    SourceFunnelData,
)
from tests.support.sample_errors import sample_closeup

SOURCES = ("yfcc", "laion", "cc12m", "wit", "redcaps", "shutterstock")


MIXTURES = ("yfcc", "laion", "yfcc-laion-half", "six-unfiltered", "six-filtered")


SHIFTS = ("clipart", "sketch", "painted", "lowlight")


SETS = ("photo", *SHIFTS)


SECTIONS = (
    "answer",
    "funnel",
    "pairs",
    "mixtures",
    "accuracy",
    "robustness",
    "dilution",
    "contamination",
    "calibration",
    "classes",
    "mistakes",
    "self-check",
    "provenance",
)
"""The parts of the page, by their ids."""


_RULES = {
    "text": "words >= 3 and not boilerplate",
    "clip": "the top 70 % of each source by clip_small_v1 similarity",
    "main": "text and clip and unique and not a copy of an evaluation image",
}


_NORMAL = NormalDist()


_CAPTIONS = (
    "A small red bicycle leaning on a brick wall, morning light",
    "IMG_20190412_113052.jpg",
    "boat, lake, summer, holiday, 2014, nikon d90, no filter",
    "Ein blauer Vogel auf einem Zaun",
    "Vintage Ceramic Teapot with Lid — Hand Painted, Free Shipping, 20% OFF",
    "my cat does this every single morning and I cannot explain it",
    "Cartoon tree icon, vector illustration on white background",
)


def sample_report() -> ReportData:
    """The same report at every call."""
    rng = random.Random(7)
    funnel = [_source(name, rng) for name in SOURCES]
    return {
        "experiment": "demo",
        "title": "Six sources, filtered and mixed",
        "made_at": "2026-11-24T09:41:00+00:00",
        "question": "Which web sources, filtered how and mixed in what shares, keep a model accurate?",
        "answer": [
            "The filtered mixture of all six sources is the most accurate on the reference and all shifts.",
            "Mixing yfcc and laion half and half gives a model between the two, not above them.",
            "Filtering dropped over half of the stored pairs, and raised accuracy on sketch by 5.3 points.",
        ],
        "funnel": funnel,
        "filters": [_filter(name, rule, funnel) for name, rule in _RULES.items()],
        "examples": _examples(rng),
        "mixtures": [_mixture(name) for name in MIXTURES],
        "evaluation": _evaluation(rng),
        "robustness": _robustness(),
        "standings": _standings(),
        "filtered": [_filtered(name) for name in SHIFTS],
        "trends": [],
        "ladder": [],
        "dilution": [],
        "contamination": [_contamination(*both) for both in itertools.product(MIXTURES, SETS)],
        "tuning": [_tuned(name, number) for number, name in enumerate(MIXTURES)],
        "cost": [{"mixture": name, "trainings": 1, "samples": 57600, "seconds": 62.4 + len(name)} for name in MIXTURES],
        **sample_closeup(MIXTURES, SETS, thumbnail),
        "self_check": _self_check(),
        "provenance": _provenance(),
    }


def empty_report() -> ReportData:
    """A report before anything has run."""
    return {
        "experiment": "empty",
        "title": "Nothing yet",
        "made_at": "2026-11-24T09:41:00+00:00",
        "question": "What is there before anything has run?",
        "answer": [],
        "funnel": [],
        "filters": [],
        "examples": [],
        "mixtures": [],
        "evaluation": {"reference": "photo", "sets": [], "results": []},
        "robustness": [],
        "standings": [],
        "filtered": [],
        "trends": [],
        "ladder": [],
        "dilution": [],
        "contamination": [],
        "tuning": [],
        "cost": [],
        "calibration": [],
        "classes": [],
        "mistakes": [],
        "self_check": [],
        "provenance": {"jobs": [], "versions": {}, "sources": [], "evaluation_sets": [], "tables": {}},
    }


def grid(seed: int = 0, sizes: Sequence[int] = (500, 1000, 2000, 4000), images: int = 600) -> list[ModelAnswers]:
    """Return made-up models: two sources on lines of their own under each shift, and their mixture between them."""
    rng = np.random.default_rng(seed)
    heights = {"yfcc": 0.35, "laion": -0.35, "yfcc-laion-half": 0.0}
    found = []
    for mixture, height in heights.items():
        for (step, size), training in itertools.product(enumerate(sizes), range(3)):
            reference = -0.4 + 0.35 * step + 0.05 * rng.normal()
            places = {"photo": reference, "clipart": 0.9 * reference + height - 0.2, "sketch": 0.7 * reference - 0.5}
            right = {name: rng.random(images) < _NORMAL.cdf(place) for name, place in places.items()}
            found.append(ModelAnswers(f"{mixture}@{size}/{training}", mixture, size, training, right))
    return found


def grid_report() -> ReportData:
    """The sample with a grid of sizes and seeds instead of single models, as the page shows it."""
    models, recipe = grid(), MixtureShares("yfcc-laion-half", {"yfcc": 0.5, "laion": 0.5})
    shifts = [ShiftedSet("clipart", "natural"), ShiftedSet("sketch", "natural")]
    judged = [analyse_dilution(models, "photo", shift, recipe, {}, 0.1) for shift in shifts]
    itself, filters = ShiftedSet("photo", "reference", True), [("yfcc-laion-half", "laion")]
    compared = [rank_mixtures(models, "photo", shift, (), filters) for shift in (itself, *shifts)]
    return (
        sample_report()
        | {  # type: ignore[return-value]
            "trends": [analyse_shift(models, "photo", shift) for shift in shifts],
            "ladder": [row for name in ("photo", "clipart", "sketch") for row in accuracy_by_size(models, name)],
            "dilution": [one for one in judged if one],
            "standings": [row for rows, _ in compared for row in rows],
            "filtered": [row for _, rows in compared[1:] for row in rows],
            **sample_closeup(("yfcc", "laion", "yfcc-laion-half"), ("photo", "clipart", "sketch"), thumbnail),
        }
    )


def thumbnail(seed: int) -> str:
    """A 112 x 112 JPEG data URL: one shape on a textured ground."""
    rng = random.Random(seed)
    ground, ink = ([rng.randrange(60, 230) for _ in range(3)] for _ in range(2))
    picture = Image.new("RGB", (112, rng.choice((84, 112, 140))), tuple(ground))
    pen = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y = rng.randrange(112), rng.randrange(140)
        pen.ellipse((x, y, x + 14, y + 9), fill=tuple(max(0, part - rng.randrange(30)) for part in ground))
    box = (24, 20, 88, 78)
    shapes = (
        pen.ellipse,
        pen.rectangle,
        lambda box, fill: pen.regular_polygon((56, 50, 34), rng.choice((3, 5, 6)), fill=fill),
    )
    rng.choice(shapes)(box, fill=tuple(ink))
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stored.getvalue()).decode()


def digest(text: str) -> str:
    """64 hex digits that stand for `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def _split(total: int, reasons: dict[str, float]) -> dict[str, int]:
    return {reason: round(total * share) for reason, share in reasons.items()}


def _stage(name: str, came_in: int, reasons: dict[str, float]) -> FunnelStage:
    dropped = _split(came_in, reasons)
    return {"stage": name, "in": came_in, "kept": came_in - sum(dropped.values()), "dropped": dropped}


def _source(name: str, rng: random.Random) -> SourceFunnelData:
    published = rng.choice((1500, 1600, 1800, 2000, 2400))
    leak = rng.uniform(0.6, 1.6)
    lost = {
        "http_404": 0.05,
        "not_an_image": 0.015,
        "truncated": 0.012,
        "noai_header": 0.02,
        "too_large": 0.004,
        "http_500": 0.003,
    }
    text = {"caption_too_short": 0.07, "boilerplate": 0.04}
    clip = {"below_top_fraction": 0.3}
    main = text | {
        "below_top_fraction": 0.25,
        "exact_duplicate": 0.03,
        "near_duplicate": 0.04,
        "near_evaluation_image": 0.012,
    }
    ingest = _stage("ingest", published, {reason: share * leak for reason, share in lost.items()})
    rules = (
        ("text", text),
        ("clip", clip),
        ("main", main | {"near_duplicate": 0.04 * leak, "exact_duplicate": 0.03 * leak}),
    )
    return {
        "source": name,
        "published": published,
        "stages": [ingest, *(_stage(f"filter:{rule}", ingest["kept"], reasons) for rule, reasons in rules)],
    }


def _filter(name: str, rule: str, funnel: list[SourceFunnelData]) -> FilterRule:
    stages = [stage for source in funnel for stage in source["stages"] if stage["stage"] == f"filter:{name}"]
    kept, came_in = (sum(stage[key] for stage in stages) for key in ("kept", "in"))
    return {"name": name, "rule": rule, "kept": kept, "dropped": came_in - kept}


def _examples(rng: random.Random) -> list[Example]:
    reasons = (
        *(("kept", None),) * 10,
        ("exact_duplicate", "yfcc 0b5d2a91"),
        ("near_evaluation_image", "photo test image 217"),
        ("near_duplicate", "laion 77aa01c2"),
        ("below_top_fraction", None),
        ("below_top_fraction", None),
        ("caption_too_short", None),
        ("boilerplate", None),
    )
    found: list[Example] = []
    for number, (reason, what) in enumerate(reasons):
        resembles: SimilarImage | None = {"what": what, "thumbnail": thumbnail(number)} if what else None
        similarity = rng.uniform(0.22, 0.36) if reason == "kept" else rng.uniform(0.02, 0.21)
        found.append(
            {
                "uid": digest(f"pair {number}")[:32],
                "source": SOURCES[number % 6],
                "caption": _CAPTIONS[number % len(_CAPTIONS)],
                "kept": reason == "kept",
                "reason": reason,
                "scores": {
                    "clip_small_v1": similarity,
                    "words": rng.randrange(2, 14),
                    "language": "en",
                    "nearest_eval": None,
                },
                "thumbnail": thumbnail(number),
                "resembles": resembles,
            }
        )
    return found


def _mixture(name: str) -> MixtureSummary:
    six = {source: 500 + 40 * place for place, source in enumerate(SOURCES)}
    shares = {
        "yfcc": {"yfcc": 3600},
        "laion": {"laion": 3600},
        "yfcc-laion-half": {"yfcc": 1800, "laion": 1800},
        "six-unfiltered": six,
    }.get(name, {source: count + 10 for source, count in six.items()})
    pairs = sum(shares.values())
    return {
        "name": name,
        "pairs": pairs,
        "distinct": round(pairs * 0.47),
        "by_source": shares,
        "export_digest": digest(f"export {name}"),
        "training": {
            "id": digest(f"training {name}")[:16],
            "samples_seen": 57600,
            "seconds": 62.4 + len(name),
            "checkpoint_sha256": digest(f"checkpoint {name}"),
            "model": "cuvee-rn-64",
            "outcome": "finished",
        },
    }


def _tuned(mixture: str, number: int) -> TuningResult:
    values = {"lr": 0.00123 * (number + 1), "flags.beta2": 0.98}
    written = 3.4567 if number else None
    return {
        "mixture": mixture,
        "trials": 12,
        "diverged": 1 - min(number, 1),
        "values": values,
        "loss": 3.21,
        "written": written,
    }


def _contamination(mixture: str, name: str) -> Contamination:
    copied = 0 if mixture == "six-filtered" else 11
    return {
        "mixture": mixture,
        "set": name,
        "pairs": 3600,
        "copies": 2 * copied,
        "images": 600,
        "copied_images": copied,
        "accuracy": _accuracy(mixture, name),
        "accuracy_without": _accuracy(mixture, name) - 0.0005 * copied,
    }


def _accuracy(mixture: str, name: str) -> float:
    """A line in probit space for each shift, and a little of its own for each mixture."""
    reference = _NORMAL.inv_cdf((0.552, 0.488, 0.531, 0.604, 0.681)[MIXTURES.index(mixture)])
    if name == "photo":
        return _NORMAL.cdf(reference)
    place = SHIFTS.index(name)
    own = (0.05, -0.09, 0.02, -0.05, 0.07)[(MIXTURES.index(mixture) + place) % 5]
    return _NORMAL.cdf((0.9, 0.75, 1.05, 0.95)[place] * reference - (0.35, 0.75, 0.3, 0.5)[place] + own)


def _result(mixture: str, name: str, rng: random.Random) -> AccuracyResult:
    n = 600
    correct = round(n * _accuracy(mixture, name)) + rng.randrange(-3, 4)
    low, high = beta.ppf(0.025, correct, n - correct + 1), beta.ppf(0.975, correct + 1, n - correct)
    return {
        "mixture": mixture,
        "set": name,
        "n": n,
        "correct": correct,
        "top1": correct / n,
        "low": float(low),
        "high": float(high),
    }


def _evaluation(rng: random.Random) -> EvaluationResults:
    return {
        "reference": "photo",
        "sets": [{"name": name, "images": 600, "classes": 12, "chance": 1 / 12} for name in SETS],
        "results": [_result(mixture, name, rng) for mixture in MIXTURES for name in SETS],
    }


def _robustness() -> list[Robustness]:
    lines = ((0.9, -0.35, 0.91), (0.75, -0.75, 0.72), (1.05, -0.3, 0.88), None)
    return [_shift(name, line) for name, line in zip(SHIFTS, lines, strict=True)]


def _shift(name: str, line: tuple[float, float, float] | None) -> Robustness:
    slope, intercept, r2 = line or (None, None, None)
    points: list[RobustnessPoint] = []
    for mixture in MIXTURES:
        reference, shift = _accuracy(mixture, "photo"), _accuracy(mixture, name)
        predicted = _NORMAL.cdf(line[0] * _NORMAL.inv_cdf(reference) + line[1]) if line else None
        effective = None if predicted is None else shift - predicted
        points.append({"mixture": mixture, "reference": reference, "shift": shift, "effective": effective})
    return {"set": name, "slope": slope, "intercept": intercept, "r2": r2, "points": points}


def _around(value: float, half: float = 0.03) -> Estimate:
    return {"estimate": value, "low": value - half, "high": value + half}


def _standings() -> list[RankingRow]:
    found: list[RankingRow] = []
    effective = {(shift["set"], one["mixture"]): one["effective"] for shift in _robustness() for one in shift["points"]}
    for name in SETS:
        ranked = sorted(MIXTURES, key=lambda mixture: -_accuracy(mixture, name))
        for mixture in ranked:
            value, from_line = _accuracy(mixture, name), effective.get((name, mixture))
            found.append(
                {
                    "set": name,
                    "kind": "reference" if name == "photo" else "natural",
                    "mixture": mixture,
                    "size": 1200,
                    "seeds": 1,
                    "accuracy": _around(value),
                    "behind": _around(_accuracy(ranked[0], name) - value) if mixture != ranked[0] else None,
                    "effective": None if from_line is None else _around(from_line),
                }
            )
    return found


def _filtered(name: str) -> FilterEffect:
    mixture, plain = MIXTURES[4], MIXTURES[3]
    return {
        "set": name,
        "kind": "natural",
        "mixture": mixture,
        "plain": plain,
        "reference": _around(_accuracy(mixture, "photo") - _accuracy(plain, "photo")),
        "accuracy": _around(_accuracy(mixture, name) - _accuracy(plain, name)),
        "moved": None,
        "extrapolated": 0,
    }


def _self_check() -> list[SelfCheck]:
    return [
        {
            "what": "Planted exact duplicates dropped as such",
            "found": "213 of 213",
            "expected": "all",
            "ok": True,
        },
        {
            "what": "Planted copies of evaluation images dropped",
            "found": "97.4 %",
            "expected": "at least 95 %",
            "ok": True,
        },
        {
            "what": "Clean pairs dropped by decontamination",
            "found": "0.6 %",
            "expected": "at most 2 %",
            "ok": True,
        },
        {
            "what": "Wrong captions against right ones by CLIP similarity",
            "found": "AUC 0.83",
            "expected": "above 0.7",
            "ok": True,
        },
        {"what": "Dead links recorded as http_404", "found": "611 of 611", "expected": "all", "ok": True},
    ]


def _provenance() -> Provenance:
    stages = ("ingest", "score", "decide", "blend", "export", "train", "evaluate")
    return {
        "jobs": [
            {
                "stage": stage,
                "job": digest(stage),
                "seconds": 9.7 * (place + 1) ** 2.1,
                "rows": {f"{stage}_rows": 1200 * (place + 1), "jobs": 1},
                "finished": f"2026-11-24T09:{20 + 3 * place}:00+00:00",
            }
            for place, stage in enumerate(stages)
        ],
        "versions": {
            "pyspark": "4.3.0",
            "open_clip_torch": "3.3.0",
            "torch": "2.11.0",
            "pdqhash": "0.2.8",
            "cuvee": "0.1.0",
        },
        "sources": [
            {
                "source": source,
                "files": [
                    {
                        "file": f"{source}-{part}.tsv.gz",
                        "sha256": digest(f"{source} {part}"),
                        "bytes": 184_213 + 977 * part,
                    }
                    for part in range(2 if source == "redcaps" else 1)
                ],
                "licence": "generated, CC0",
            }
            for source in SOURCES
        ],
        "evaluation_sets": [{"name": name, "sha256": digest(name)} for name in SETS],
        "tables": {
            "pairs": 6,
            "fetches": 6,
            "samples": 6,
            "decisions": 3,
            "mixtures": 5,
            "evaluations": 1,
            "jobs": 31,
        },
    }
