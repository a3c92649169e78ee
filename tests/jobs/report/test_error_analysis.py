"""The closer look out of the ledger: a store with planted predictions, and evaluation sets with planted images."""

import base64
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.evaluate.rows import evaluation_columns, evaluation_rows
from jobs.report.error_analysis import analyse_errors, representative_trainings
from jobs.workflow.runner import Run
from pipeline.core.sampling import rank_key
from pipeline.errors import StageFailed
from pipeline.evaluation.metrics import all_metrics, image_results
from pipeline.evaluation.zero_shot import Predictions
from pipeline.ledger.data_files import write_rows
from pipeline.mixtures.names import base_name
from tests.support.images import chunk, encoded, two_colours
from tests.support.ingest_experiments import write_tar
from tests.support.scored_store import opened, write_experiment

MIXTURES = {"only_laion": {"sources": ["laion"]}, "only_yfcc": {"sources": ["yfcc"]}}


CLASSES = {"photo": ("cat", "dog", "bird", "fish"), "sketch": ("dog", "cat", "cow"), "painted": ("bird", "cat")}


IMAGES, SCALE = 60, 10.0


KEYS = [f"{number:05d}" for number in range(IMAGES)]


BOMB = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\x00\x00\x9c\x40\x00\x00\x9c\x40\x08\x02\x00\x00\x00") + chunk(b"IDAT", b"")
)
"""The head of a PNG of 40,000 x 40,000 pixels."""


WRONG = {"only_laion": KEYS[3:6], "only_yfcc": KEYS[2:]}
"""What the two models answer wrongly on the shift."""


def write_set(folder: Path, name: str, images: Mapping[str, bytes]) -> str:
    """Write a set whose images are of the classes in turn, over two tars; return the folder."""
    classes = CLASSES[name]
    for number, keys in enumerate((KEYS[:20], KEYS[20:])):
        members = {}
        for key in (one for one in keys if one in images):
            members |= {f"{key}.jpg": images[key], f"{key}.cls": str(int(key) % len(classes)).encode()}
        write_tar(folder / "test" / f"{number}.tar", members)
    (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\n")
    (folder / "test" / "nshards.txt").write_text("2\n")
    return str(folder)


def experiment(folder: Path, bad: bytes = BOMB) -> Run:
    """Return an experiment; the image KEYS[4] of its shift is `bad`."""
    images = dict.fromkeys(KEYS, encoded(two_colours((300, 180))))
    sets = {
        "sketch": write_set(folder / "sketch", "sketch", images | {KEYS[4]: bad}),
        "photo": write_set(folder / "photo", "photo", images),
        "painted": write_set(folder / "painted", "painted", images),
    }
    model = str(Path("experiments/models/resnet_64px").resolve())
    training = {"model": model, "mixtures": list(MIXTURES), "samples_seen": 64, "sizes": [200, 400], "seeds": [1, 0]}
    synthetic = {"of": ["photo"], "kinds": ["fog"], "severities": [3]}
    evaluation = {"reference": "photo", "sets": sets, "synthetic": synthetic}
    filters = {"short": {"drop_when": {"too_short": "caption_v1.words < 1"}}}
    return opened(write_experiment(folder, filters, mixtures=MIXTURES, training=training, evaluation=evaluation))


def planted(model: str, name: str) -> tuple[Any, Any]:
    """Return a model's logits and the labels of a set in the order of the keys.

    All but the models to be shown are wrong about everything.
    """
    wrong = {"photo": KEYS[:6], "sketch": WRONG.get(base_name(model)), "painted": []}[name]
    classes = len(CLASSES[name])
    rng = np.random.default_rng([*model.encode(), *name.encode()])
    labels = np.arange(IMAGES, dtype=np.int32) % classes
    logits = rng.uniform(0, 0.1, (IMAGES, classes)).astype(np.float32)
    amiss = np.isin(KEYS, wrong) if model.endswith("@400/1") else np.ones(IMAGES, bool)
    logits[np.arange(IMAGES), np.where(amiss, (labels + 1) % classes, labels)] = rng.uniform(0.12, 0.5, IMAGES)
    return logits, labels


def answered(run: Run) -> Run:
    """Finish the grid's evaluations."""
    started, made = datetime.now(UTC), []
    for training in run.plan.grid():
        for job in run.plan.evaluate(training):
            name = job.config["set"]
            order = np.random.default_rng(len(made)).permutation(IMAGES)  # tables have no order
            logits, labels = planted("fog" if "corruption" in job.config else training.name, name)
            found = Predictions([KEYS[at] for at in order], labels[order], logits[order])
            tables = evaluation_rows(found, SCALE, evaluation_columns(job), 0.25, job.config.get("subsets", {}))
            made.append((job, [write_rows(run.store, job.id, table, rows) for table, rows in tables.items()], {}))
    run.finish(made, started)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return answered(experiment(tmp_path_factory.mktemp("closeup")))


def test_one_model_of_each_mixture_is_shown_of_its_largest_size_and_first_seed(run: Run) -> None:
    assert [job.name for job in representative_trainings(run)] == ["only_laion@400/1", "only_yfcc@400/1"]
    assert {job.id for job in representative_trainings(run)} <= {job.id for job in run.plan.grid()}


def test_the_calibration_is_that_of_the_predictions_and_its_scores_the_table_s(run: Run) -> None:
    found = analyse_errors(run)["calibration"]
    assert [(one["set"], one["mixture"]) for one in found] == [
        (name, mixture) for name in ("photo", "sketch", "painted") for mixture in MIXTURES
    ]
    for one in found:
        assert one["model"] == f"{one['mixture']}@400/1"
        logits, labels = planted(one["model"], one["set"])
        scores = all_metrics(image_results(logits, labels, SCALE))
        for name in ("ece", "nll", "brier"):
            assert one[name] == pytest.approx(scores[name], rel=1e-2)  # type: ignore[literal-required]
        gaps = [part["share"] * abs(part["accuracy"] - part["confidence"]) for part in one["bins"] if part["images"]]  # type: ignore[operator]
        assert sum(gaps) == pytest.approx(one["ece"], abs=1e-9)
        assert sum(part["images"] for part in one["bins"]) == one["images"] == IMAGES


def test_classes_of_the_shift_are_those_of_the_same_name(run: Run) -> None:
    drops, painted = analyse_errors(run)["classes"]
    assert (painted["set"], painted["classes"], painted["left_out"]) == ("painted", ["bird", "cat"], [])
    assert painted["mixtures"][0]["reference"] == pytest.approx([14 / 15, 13 / 15])
    assert (drops["set"], drops["classes"], drops["left_out"]) == ("sketch", ["dog", "cat"], ["cow"])
    assert (drops["reference_images"], drops["shift_images"]) == ([15, 15], [20, 20])
    laion, yfcc = drops["mixtures"]
    assert laion["reference"] == pytest.approx([13 / 15, 13 / 15])  # 1 and 5, 0 and 4 of the first six are wrong
    assert laion["shift"] == pytest.approx([19 / 20, 19 / 20])
    assert yfcc["shift"] == pytest.approx([1 / 20, 1 / 20])


def test_mistakes_are_shown_as_small_jpegs_and_what_ingest_would_refuse_is_refused(run: Run) -> None:
    laion, yfcc, *others = analyse_errors(run)["mistakes"]
    assert [(one["set"], one["wrong"], one["examples"]) for one in others] == [("painted", 0, [])] * 2
    assert [(one["set"], one["images"], one["wrong"]) for one in (laion, yfcc)] == [
        ("sketch", IMAGES, 3),
        ("sketch", IMAGES, 58),
    ]
    assert [one["key"] for one in laion["examples"]] == sorted(WRONG["only_laion"], key=lambda key: rank_key(0, key))
    assert [one["key"] for one in yfcc["examples"]] == sorted(KEYS[2:], key=lambda key: rank_key(0, key))[:4]
    by_key = {one["key"]: one for one in laion["examples"]}
    assert (by_key[KEYS[3]]["label"], by_key[KEYS[3]]["predicted"]) == ("dog", "cat")
    assert (by_key[KEYS[5]]["label"], by_key[KEYS[5]]["predicted"]) == ("cow", "dog")
    bad = by_key[KEYS[4]]
    assert bad["thumbnail"] is None
    assert bad["refused"].startswith("too_many_pixels: ")
    good = by_key[KEYS[3]]
    assert good["refused"] == ""
    assert good["thumbnail"] is not None
    head, _, data = good["thumbnail"].partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == ("JPEG", (112, 67))


def test_the_ledger_and_the_images_are_read_once_for_each_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    read = run.ledger.read

    def counted(table: str, columns: list[str], jobs: list[str]) -> object:
        asked.append((table, len(jobs)))
        return read(table, columns, jobs)

    monkeypatch.setattr(run.ledger, "read", counted)
    analyse_errors(run)
    assert sorted(asked) == [("evaluations", 6), *[("predictions", 2)] * 3]


def test_an_evaluated_image_that_is_gone_is_named(run: Run) -> None:
    path = Path(run.experiment.file.evaluation.sets["sketch"])
    images = dict.fromkeys((key for key in KEYS if key != KEYS[3]), encoded(two_colours()))
    write_set(path, "sketch", images)
    with pytest.raises(
        StageFailed, match=f"evaluation set sketch: expected the image '{KEYS[3]}', which was evaluated"
    ):
        analyse_errors(run)
