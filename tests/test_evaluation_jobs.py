"""The job that evaluates: small real CLIP models on small sets, and what the ledger then holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jobs.evaluate import execute
from jobs.plan import Job, of_stage
from jobs.run import Run
from pipeline.evaluation_sets import open_set
from pipeline.metrics import METRICS, measures
from pipeline.models import load
from pipeline.predictions import read_kept
from pipeline.zeroshot import predict
from sources.world.evaluation import write_evaluation_set
from tests.clip_models import saved, texture
from tests.small_store import opened, write_experiment

CLASSES = ("cat", "dog", "owl", "fish")
IMAGES = 12


def image_file(seed: int) -> bytes:
    return cv2.imencode(".png", texture(seed, 40, 36))[1].tobytes()


def image_set(folder: Path, classes: Sequence[str] = CLASSES, seed: int = 0) -> str:
    """Write a set of textures; return its folder."""
    images = [(f"k{n:02d}", "png", image_file(seed + n), n % len(classes)) for n in range(IMAGES)]
    write_evaluation_set(folder, classes, ("a photo of a {c}.", "the {c}."), images)
    return str(folder)


def evaluating(folder: Path, **section: Any) -> Run:
    """Return a run whose one training is done: an untrained model, in its place in the store."""
    sets = {
        "photo": image_set(folder / "photo"),
        "sketch": image_set(folder / "sketch", ("owl", "cat"), 50),
        "other": image_set(folder / "other", ("owl", "horse"), 90),
    }
    evaluation = {"reference": "photo", "sets": sets, **section}
    run = opened(
        write_experiment(folder, {"all": {"drop_when": {"short": "caption_v1.words < 1"}}}, evaluation=evaluation)
    )
    saved(Path(run.store.path(f"trainings/{run.plan.grid()[0].short}/model")))
    return run


def evaluate(run: Run) -> list[Job]:
    jobs = run.plan.targets("evaluate")
    execute(run, jobs)
    return jobs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = evaluating(tmp_path_factory.mktemp("evaluating"))
    evaluate(run)
    return run


def rows_of(run: Run) -> dict[str, dict[str, Any]]:
    rows = run.ledger.read("evaluations").to_pylist()
    found = {row["evaluation_set"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_metrics_written_are_those_of_the_predictions_written(run: Run) -> None:
    for job in run.plan.targets("evaluate"):
        kept = read_kept(run.ledger.read("predictions", jobs=[job.id]))
        row = rows_of(run)[job.config["set"]]
        assert {name: row[name] for name in METRICS} == measures(kept.judged())
        assert row["scale"] == kept.scale == pytest.approx(1 / 0.07)
        assert row["correct"] == kept.judged().right.sum() == row["top1"] * row["n"]
        assert row["low"] <= row["top1"] <= row["high"]
        assert (row["kind"], row["images_of"], row["corruption"], row["severity"]) == (
            "natural",
            job.config["set"],
            "",
            0,
        )


def test_the_predictions_written_are_those_of_the_model(run: Run) -> None:
    job = run.plan.targets("evaluate")[0]
    training = of_stage(job, "train")[0].short
    model = load(f"local-dir:{run.store.path(f'trainings/{training}/model')}")
    expected = predict(model, open_set("photo", Path(run.experiment.file.evaluation.sets["photo"])))
    table = run.ledger.read("predictions", jobs=[job.id])
    assert table["key"].to_pylist() == expected.keys
    assert table["predicted"].to_pylist() == expected.predicted.tolist()
    kept = read_kept(table)
    assert kept.first[:, None] + kept.offsets == pytest.approx(expected.logits, abs=1e-4)
    assert set(table["training"].to_pylist()) == {training}
    assert set(table["mixture"].to_pylist()) == {"everything"}


def test_the_reference_is_also_measured_among_the_classes_of_a_set_that_has_fewer(run: Run) -> None:
    rows = rows_of(run)
    assert set(rows) == {"photo", "sketch", "other", "photo@sketch"}  # `other` has a class of its own
    row = rows["photo@sketch"]
    kept = read_kept(run.ledger.read("predictions", jobs=[run.plan.targets("evaluate")[0].id]))
    some = kept.among(np.array([0, 2]))
    assert (row["n"], row["correct"]) == (some.n, some.correct) == (6, some.correct)
    assert (row["chance"], row["classes_of"], row["images_of"], row["nll"]) == (0.5, "sketch", "photo", None)
    assert rows["photo"]["correct"] <= IMAGES
    assert rows["photo"]["classes_of"] == ""
