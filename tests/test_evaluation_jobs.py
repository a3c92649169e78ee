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
from pipeline.errors import InputError
from pipeline.evaluation_sets import open_set
from pipeline.metrics import METRICS, measures
from pipeline.models import load
from pipeline.predictions import read_kept
from pipeline.shifts import KINDS
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


def test_a_synthetic_shift_is_an_evaluation_of_its_own(tmp_path: Path) -> None:
    section = {"of": ["sketch"], "kinds": ["fog", "gaussian_noise"], "severities": [5, 1]}
    run = evaluating(tmp_path, synthetic=section)
    evaluate(run)
    rows = rows_of(run)
    names = [f"sketch+{kind}_{severity}" for kind in ("fog", "gaussian_noise") for severity in (5, 1)]
    assert set(rows) == {"photo", "sketch", "other", "photo@sketch", *names}
    for name in names:
        kind, _, severity = name.removeprefix("sketch+").rpartition("_")
        found = [rows[name][key] for key in ("kind", "images_of", "corruption", "severity", "n", "chance")]
        assert found == ["synthetic", "sketch", kind, int(severity), IMAGES, 0.5]
    tables = {one["evaluation_set"]: one for one in run.ledger.read("predictions").to_pylist() if one["key"] == "k03"}
    assert (
        len({tables[name]["logits"] + bytes(str(tables[name]["first"]), "ascii") for name in (*names, "sketch")}) == 5
    )
    kept = read_kept(run.ledger.read("predictions", jobs=[run.plan.targets("evaluate")[-1].id]))
    assert measures(kept.judged())["ece"] == rows[names[-1]]["ece"]


def test_a_synthetic_shift_is_part_of_the_plan_and_leaves_the_other_jobs(tmp_path: Path, run: Run) -> None:
    path, section = run.experiment.path, "{of: [photo], severities: [2]}"
    more = opened(path, [f"evaluation.synthetic={section}"]).plan.targets("evaluate")
    before = run.plan.targets("evaluate")
    assert [job.id for job in more[: len(before)]] == [job.id for job in before]
    assert [job.name for job in more[len(before) :]] == [f"everything/0/photo+{kind}_2" for kind in KINDS]
    assert len({job.id for job in more}) == len(more)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "{of: [photo], kinds: [fogg]}",
            "evaluation.synthetic.kinds.0: unknown kind of shift 'fogg' (did you mean 'fog'?)",
        ),
        ("{of: [phot]}", "evaluation: synthetic.of: unknown evaluation set 'phot' (did you mean 'photo'?)"),
        ("{of: [photo, photo]}", "evaluation.synthetic: of: expected each once, found photo 2 times"),
        ("{of: [photo], kinds: [fog, fog]}", "kinds: expected each once, found fog 2 times"),
        ("{of: [photo], severities: [6]}", "evaluation.synthetic.severities.0: "),
        ("{of: [photo], severities: []}", "evaluation.synthetic.severities: "),
        ("{of: []}", "evaluation.synthetic.of: "),
        ("{kinds: [fog]}", "evaluation.synthetic.of: "),
    ],
)
def test_a_synthetic_shift_that_cannot_be_is_refused_in_one_line(run: Run, section: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(run.experiment.path, [f"evaluation.synthetic={section}"])
    assert str(caught.value).startswith(f"{run.experiment.path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
