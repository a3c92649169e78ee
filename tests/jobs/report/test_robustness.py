"""The findings of a grid out of the ledger: a store with planted predictions of two sources and their mixture."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm

from jobs.report.robustness import RobustnessResults, filtered_mixtures, mixture_shares
from jobs.report.robustness import analyse_grid as findings_of
from jobs.report.robustness import read_grid as answers_of
from jobs.workflow.runner import Run
from pipeline.errors import InputError, StageFailed
from pipeline.evaluation.predictions import encode_logits
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.mixtures.names import base_name
from tests.support.ingest_experiments import evaluation_set
from tests.support.scored_store import opened, write_experiment

FILTERS = {"short": {"drop_when": {"too_short": "caption_v1.words < 1"}}}


MIXTURES = {
    "only_laion": {"sources": ["laion"]},
    "only_yfcc": {"sources": ["yfcc"]},
    "half": {"shares": {"laion": 1, "yfcc": 1}},
    "filtered": {"filter": "short"},
}


SIZES, SEEDS, IMAGES, CLASSES = (400, 100, 200), (0, 1, 2), 500, 4


HEIGHTS = {"only_laion": -0.3, "only_yfcc": 0.3, "half": 0.0, "filtered": 0.0}


def asked_of(folder: Path) -> dict[str, Any]:
    """Return the section `evaluation`: two sets, a synthetic shift and a probe."""
    sets = {name: evaluation_set(folder / name) for name in ("photo", "sketch")}
    probe = {"photo": {"train": sets["sketch"], "test": sets["photo"]}}
    synthetic = {"of": ["photo"], "kinds": ["fog"], "severities": [3]}
    return {"reference": "photo", "sets": sets, "synthetic": synthetic, "probe": probe}


def experiment(
    folder: Path, beside: Sequence[str] = (), trained: Sequence[str] = tuple(MIXTURES), **changes: Any
) -> Run:
    training = {
        "model": str(Path("experiments/models/resnet_64px").resolve()),
        "mixtures": list(trained),
        "samples_seen": 64,
        "sizes": list(SIZES),
        "seeds": list(SEEDS),
    }
    evaluation = {**asked_of(folder), "models": list(beside)}
    given = {"mixtures": MIXTURES, "training": training, "evaluation": evaluation, **changes}
    return opened(write_experiment(folder, given.pop("filters", FILTERS), **given))


def findings(run: Run) -> RobustnessResults:
    """Return what a finished grid says."""
    return findings_of(run, answers_of(run))


def answered(run: Run, one_image_less: str = "") -> Run:
    """Finish the grid's blends and evaluations: accuracy grows with the size, along a line of each mixture's own."""
    started = datetime.now(UTC)
    for name in run.experiment.trained_mixtures():
        size, sources = int(name.partition("@")[2]), run.experiment.mixture_sources(name)
        drawn = {source: size // len(sources) for source in sources}
        run.finish([(run.plan.blend(name), [], {"by_source": drawn})], started)
    asked = [(one.name, one.local["mixture"], run.plan.evaluate(one)) for one in run.plan.grid()]
    asked += [(f"model:{name}", "", run.plan.evaluate_model(name)) for name in run.experiment.file.evaluation.models]
    for model, mixture, jobs in asked:
        place = np.log2(int(mixture.partition("@")[2] or 400) / 200) * 0.4 + 0.7
        for job in (one for one in jobs if "set" in one.config):
            rng = np.random.default_rng([*model.encode(), *job.name.encode()])
            height = HEIGHTS.get(base_name(mixture), 0.9) - 0.2 if job.config["set"] == "sketch" else 0.0
            images = IMAGES - (job.name == one_image_less)
            labels = np.arange(images, dtype=np.int32) % CLASSES
            logits = rng.uniform(0, 0.1, (images, CLASSES)).astype(np.float32)
            won = rng.random(images) < norm.cdf(place + height)
            logits[np.arange(images), np.where(won, labels, (labels + 1) % CLASSES)] = 0.5
            name = job.name.removeprefix(f"{model}/")
            about = {"training": model, "mixture": mixture, "evaluation_set": name}
            order = rng.permutation(images)  # tables have no order
            rows = {
                **{key: [value] * images for key, value in about.items()},
                "key": [f"{number:05d}" for number in order],
                **encode_logits(logits[order], labels[order], 10.0).columns(),
            }
            table = pa.Table.from_pydict(rows, TABLES["predictions"])
            run.finish([(job, [write_rows(run.store, job.id, "predictions", table)], {})], started)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return answered(experiment(tmp_path_factory.mktemp("findings")))


def test_a_mixture_stands_beside_the_sources_that_it_is_made_of(run: Run) -> None:
    """Not so the filtered one: its sources were not trained on behind that filter."""
    [recipe] = mixture_shares(run)
    assert (recipe.mixture, recipe.shares) == ("half", {"only_laion": 0.5, "only_yfcc": 0.5})


def test_a_filtered_mixture_stands_beside_the_one_that_it_is_but_for_its_filter(tmp_path: Path) -> None:
    """Where none of them is unfiltered, beside the first."""
    added = {
        "laion_short": {"sources": ["laion"], "filter": "short"},
        "yfcc_short": {"sources": ["yfcc"], "filter": "short"},
        "yfcc_long": {"sources": ["yfcc"], "filter": "long"},
    }
    names = ["laion_short", "only_laion", "yfcc_short", "yfcc_long", "half", "filtered"]
    filters = FILTERS | {"long": {"drop_when": {"too_short": "caption_v1.words < 2"}}}
    run = experiment(tmp_path, trained=names, filters=filters, mixtures=MIXTURES | added)
    assert list(filtered_mixtures(run)) == [("laion_short", "only_laion"), ("yfcc_long", "yfcc_short")]


def test_the_findings_are_those_that_were_planted(run: Run) -> None:
    found = findings(run)
    assert [one["mixture"] for one in found["standings"] if one["set"] == "sketch"][::3] == ["only_yfcc", "only_laion"]
    assert {(one["set"], one["kind"]) for one in found["standings"]} == {
        ("photo", "reference"),
        ("sketch", "natural"),
        ("photo+fog_3", "synthetic"),
    }
    assert found["filtered"] == []
    trend, fog = found["trends"]
    assert (trend["set"], trend["kind"], len(trend["models"])) == ("sketch", "natural", 36)
    assert (fog["set"], fog["kind"]) == ("photo+fog_3", "synthetic")
    assert {one["mixture"] for one in trend["groups"]} == set(MIXTURES)
    assert sorted({one["size"] for one in trend["models"]}) == sorted(SIZES)
    judged, undecided = found["dilution"]
    assert (undecided["set"], undecided["verdict"]) == ("photo+fog_3", "undecided")
    assert (judged["mixture"], judged["best"], judged["verdict"], judged["span"]) == (
        "half",
        "only_yfcc",
        "diluted",
        "inside",
    )
    assert judged["forecast"]["within"]
    assert judged["ensemble"] is not None
    accuracies = [row["mean"] for row in found["ladder"] if row["set"] == "photo" and row["mixture"] == "half"]
    assert accuracies == sorted(accuracies)
    assert len(found["ladder"]) == 3 * len(MIXTURES) * len(SIZES)


def test_a_model_beside_the_trainings_is_measured_from_their_line_and_changes_nothing_of_it(
    run: Run, tmp_path: Path
) -> None:
    models = {"public": {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}}
    more = experiment(tmp_path, ("public",), models=models)
    found, alone = findings(answered(more)), findings(run)
    for told, other in zip(found["trends"], alone["trends"], strict=True):
        [beside] = [one for one in told["models"] if one["mixture"] == "model:public"]
        assert beside["size"] == 0
        assert told["groups"] == other["groups"]
        assert told["baseline"] == other["baseline"]
        assert [one for one in told["models"] if one is not beside] == other["models"]
    sketch = next(one for one in found["trends"][0]["models"] if one["mixture"] == "model:public")
    assert sketch["effective"] is not None
    assert sketch["effective"]["low"] > 0.02, "it was planted above all lines"
    assert found["dilution"] == alone["dilution"]
    assert found["ladder"] == alone["ladder"]


def test_models_that_were_asked_about_other_images_are_refused(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    odd = run.plan.evaluate(run.plan.grid()[5])[0].name
    with pytest.raises(StageFailed, match=f"{odd}: expected predictions of the images that "):
        findings(answered(run, odd))


def test_the_baseline_is_of_mixtures_that_are_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.baseline: unknown trained mixture 'haf' \(did you mean 'half'\?\)"):
        experiment(tmp_path, report={"filter": "short", "examples": 0, "baseline": ["haf"]})
