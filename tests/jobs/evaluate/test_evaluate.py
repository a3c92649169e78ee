"""The job that evaluates: small real CLIP models on small sets, and what the ledger then holds."""

import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from jobs.evaluate.stage import execute
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.errors import InputError, StageFailed
from pipeline.evaluation.corruptions import CORRUPTION_KINDS
from pipeline.evaluation.datasets import open_captions, open_set
from pipeline.evaluation.linear_probe import PENALTIES, fit_with_best_penalty
from pipeline.evaluation.metrics import METRICS, all_metrics
from pipeline.evaluation.predictions import decode_logits
from pipeline.evaluation.retrieval import recall_at_depths
from pipeline.evaluation.zero_shot import embed_set, predict
from pipeline.models.clip import load_clip
from pipeline.models.image_embedding import open_image
from sources.world.evaluation import add_member, write_evaluation_set
from tests.support.clip_models import Weights, saved, texture
from tests.support.scored_store import opened, write_experiment

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
    models = {"tiny": {"folder": saved(folder / "tiny", seed=5).removeprefix("local-dir:")}}
    filters = {"all": {"drop_when": {"short": "caption_v1.words < 1"}}}
    run = opened(write_experiment(folder, filters, evaluation=evaluation, models=models))
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
    jobs = run.plan.targets("evaluate")
    assert jobs
    for job in jobs:
        kept = decode_logits(run.ledger.read("predictions", jobs=[job.id]))
        row = rows_of(run)[job.config["set"]]
        assert {name: row[name] for name in METRICS} == all_metrics(kept.judged())
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
    training = job.needs[0].short
    model = load_clip(f"local-dir:{run.store.path(f'trainings/{training}/model')}")
    expected = predict(model, open_set("photo", Path(run.experiment.file.evaluation.sets["photo"])))
    table = run.ledger.read("predictions", jobs=[job.id])
    assert table["key"].to_pylist() == expected.keys
    assert table["predicted"].to_pylist() == expected.predicted.tolist()
    kept = decode_logits(table)
    assert kept.first[:, None] + kept.offsets == pytest.approx(expected.logits, abs=1e-4)
    assert set(table["training"].to_pylist()) == {training}
    assert set(table["mixture"].to_pylist()) == {"everything"}


def test_the_reference_is_also_measured_among_the_classes_of_a_set_that_has_fewer(run: Run) -> None:
    rows = rows_of(run)
    assert set(rows) == {"photo", "sketch", "other", "photo@sketch"}  # `other` has a class of its own
    row = rows["photo@sketch"]
    kept = decode_logits(run.ledger.read("predictions", jobs=[run.plan.targets("evaluate")[0].id]))
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
    kept = decode_logits(run.ledger.read("predictions", jobs=[run.plan.targets("evaluate")[-1].id]))
    assert all_metrics(kept.judged())["ece"] == rows[names[-1]]["ece"]


def test_a_synthetic_shift_is_part_of_the_plan_and_leaves_the_other_jobs(tmp_path: Path, run: Run) -> None:
    path, section = run.experiment.path, "{of: [photo], severities: [2]}"
    more = opened(path, [f"evaluation.synthetic={section}"]).plan.targets("evaluate")
    before = run.plan.targets("evaluate")
    assert [job.id for job in more[: len(before)]] == [job.id for job in before]
    assert [job.name for job in more[len(before) :]] == [f"everything/0/photo+{kind}_2" for kind in CORRUPTION_KINDS]
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


def split(folder: Path, train_seed: int = 200, classes: Sequence[str] = CLASSES) -> dict[str, str]:
    return {"train": image_set(folder / "train", classes, train_seed), "test": image_set(folder / "test", seed=300)}


def captioned(folder: Path, captions: Sequence[str], name: str = "0.tar") -> str:
    """Write images, each with captions a line; return the folder."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1\n")
    with tarfile.open(folder / "test" / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, text in enumerate(captions):
            add_member(tar, f"c{number}.png", image_file(400 + number))
            add_member(tar, f"c{number}.txt", text.encode())
    return str(folder)


def test_a_probe_is_fitted_on_one_split_and_measured_on_the_other(tmp_path: Path) -> None:
    run = evaluating(tmp_path, probe={"photo": split(tmp_path / "probe")})
    job = evaluate(run)[-1]
    row = rows_of(run)["probe:photo"]
    assert (row["task"], row["kind"], row["scale"], row["n"], row["chance"]) == ("probe", "natural", 1, IMAGES, 0.25)
    table = run.ledger.read("predictions", jobs=[job.id])
    assert {name: row[name] for name in METRICS} == all_metrics(decode_logits(table).judged())
    model = load_clip(f"local-dir:{run.store.path(job.local['model'].removeprefix('store:'))}")
    train, test = (open_set("x", tmp_path / "probe" / name) for name in ("train", "test"))
    keys, vectors = embed_set(train, model)
    labels = np.array([image.label for image in train.images()])
    logits = fit_with_best_penalty(vectors, labels, keys, 4).logits(embed_set(test, model)[1])
    assert table["predicted"].to_pylist() == logits.argmax(axis=1).tolist()
    [facts] = [one.facts for one in run.ledger.jobs() if one.job == job.id]
    assert facts["penalty"] in PENALTIES


def test_a_probe_is_never_fitted_on_an_image_that_it_is_tested_on(tmp_path: Path) -> None:
    run = evaluating(tmp_path, probe={"photo": split(tmp_path / "probe", 300 - IMAGES + 1)})
    with pytest.raises(InputError, match=r"evaluation.probe.photo: k00 of the test split is k11 of .*, found 1"):
        evaluate(run)
    assert "probe:photo" not in rows_of(run)


def test_captions_and_images_find_each_other_as_the_embeddings_say(tmp_path: Path) -> None:
    texts = ["a cat\nthe cat\n", "a dog", "an owl in a tree\n\n", "fish"]
    run = evaluating(tmp_path, retrieval={"captions": captioned(tmp_path / "captions", texts)})
    job = evaluate(run)[-1]
    [row] = run.ledger.read("retrievals").to_pylist()
    model = load_clip(f"local-dir:{run.store.path(job.local['model'].removeprefix('store:'))}")
    images = model.embed_images([open_image(image_file(400 + number), "") for number in range(4)], 4)
    captions = model.embed_texts(["a cat", "the cat", "a dog", "an owl in a tree", "fish"], 8)
    found = recall_at_depths(images, captions, np.array([0, 0, 1, 2, 3]))
    assert {name: row[name] for name in found} == found
    assert (row["evaluation_set"], row["images"], row["texts"]) == ("retrieval:captions", 4, 5)
    assert (row["training"], row["mixture"]) == (job.needs[0].short, "everything")
    assert row["image_to_text_10"] == 1


@pytest.mark.parametrize("text", ["", " \n", "\udcff"])
def test_an_image_without_a_caption_is_refused(tmp_path: Path, text: str) -> None:
    folder = captioned(tmp_path, ["a cat"])
    with tarfile.open(tmp_path / "test" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        add_member(tar, "c7.png", image_file(1))
        add_member(tar, "c7.txt", text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        InputError, match=r"captioned images mine: .*0\.tar: c7.*(not UTF-8|found an image and 0 captions)"
    ):
        list(open_captions("mine", Path(folder)).images())


def dull(weights: Weights) -> None:
    """Make every embedding zero."""
    weights["visual.proj"][:] = 0
    weights["text_projection"][:] = 0


def scaleless(weights: Weights) -> None:
    """Make the logit scale no number."""
    weights["logit_scale"].fill_(float("nan"))


def test_a_model_that_tells_nothing_apart_guesses_the_first_class_and_is_not_sure(tmp_path: Path) -> None:
    run = evaluating(tmp_path)
    folder = Path(run.store.path(f"trainings/{run.plan.grid()[0].short}/model"))
    shutil.rmtree(folder)
    saved(folder, change=dull)
    evaluate(run)
    row = rows_of(run)["photo"]
    assert (row["correct"], row["top5"], row["mean_per_class"]) == (IMAGES / 4, 1, 0.25)
    assert (row["nll"], row["brier"], row["ece"], row["aurc"]) == pytest.approx((np.log(4), 0.75, 0, 0.75))


def test_a_model_without_a_logit_scale_is_refused(tmp_path: Path) -> None:
    run = evaluating(tmp_path)
    folder = Path(run.store.path(f"trainings/{run.plan.grid()[0].short}/model"))
    shutil.rmtree(folder)
    saved(folder, change=scaleless)
    with pytest.raises(StageFailed, match="everything/0/photo: expected a model with a logit scale above 0, found nan"):
        evaluate(run)


def test_models_are_evaluated_beside_the_trainings(tmp_path: Path) -> None:
    run = evaluating(tmp_path, models=["tiny"], retrieval={"some": captioned(tmp_path / "captions", ["a", "b"])})
    grid = run.plan.targets("evaluate")
    assert {job.local["model"] for job in grid if job.needs == ()} == {f"local-dir:{tmp_path}/tiny"}
    evaluate(run)
    rows = run.ledger.read("evaluations").to_pylist()
    mine = {row["evaluation_set"]: row for row in rows if row["training"] == "tiny"}
    others = {row["evaluation_set"]: row for row in rows if row["training"] != "tiny"}
    assert set(mine) == set(others) == {"photo", "sketch", "other", "photo@sketch"}
    assert {row["mixture"] for row in mine.values()} == {""}
    assert any(mine[name]["nll"] != others[name]["nll"] for name in ("photo", "sketch"))
    assert {row["training"] for row in run.ledger.read("retrievals").to_pylist()} == {"tiny", run.plan.grid()[0].short}
    direct = predict(load_clip(f"local-dir:{tmp_path}/tiny"), open_set("photo", tmp_path / "photo"))
    assert mine["photo"]["correct"] == direct.correct


def test_a_model_that_the_experiment_trains_is_evaluated_behind_its_training(run: Run) -> None:
    trained = "models.own={trained: {mixture: everything, samples_seen: 128}}"
    plan = opened(run.experiment.path, [trained, "evaluation.models=[own]"]).plan
    jobs, training = plan.evaluate_model("own"), plan.train("everything", 0, 128)
    assert plan.targets("evaluate")[-len(jobs) :] == jobs
    assert {job.needs for job in jobs} == {(training,)}
    assert {job.local["model"] for job in jobs} == {f"store:trainings/{training.short}/model"}
    assert training in plan.until("evaluate")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("models=[tinny]", "evaluation.models: unknown model 'tinny' (did you mean 'tiny'?)"),
        ("models=[tiny, tiny]", "evaluation: models: expected each once, found tiny 2 times"),
        ("probe={x: {train: nowhere, test: nowhere}}", "evaluation.probe.x.train: nowhere/classnames.txt"),
        ("probe={x: {train: TMP/photo, test: TMP/sketch}}", "evaluation.probe.x: expected the same classnames.txt in"),
        ("probe={x: {train: TMP/photo}}", "evaluation.probe.x.test: "),
        ("retrieval={x: nowhere}", "evaluation.retrieval.x: nowhere/test/nshards.txt"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_runs(run: Run, setting: str, said: str) -> None:
    path = run.experiment.path
    with pytest.raises(InputError) as caught:
        opened(path, [f"evaluation.{setting.replace('TMP', str(path.parent))}"])
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)
