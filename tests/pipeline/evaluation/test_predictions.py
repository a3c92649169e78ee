"""What is kept of logits gives the metrics again, from the table alone, whatever the number of classes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.evaluation.predictions
from pipeline.evaluation.metrics import SubsetAccuracy, accuracy_among, all_metrics, image_results
from pipeline.evaluation.predictions import (
    MAX_WHOLE_CLASSES,
    SMALLEST_OFFSET,
    STORED_CLASSES,
    StoredLogits,
    decode_logits,
    encode_logits,
)
from pipeline.ledger.schemas import TABLES

SCALE = 100.0
"""What OpenAI's models have learned, and the most that open_clip lets a model learn."""


def cosines(seed: int, n: int, classes: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return logits as a CLIP model gives them, close to each other, and labels, half of them the greatest."""
    random = np.random.default_rng(seed)
    logits = (0.2 + 0.03 * random.normal(size=(n, classes))).astype(np.float32)
    labels = np.where(random.random(n) < 0.5, logits.argmax(axis=1), random.integers(0, classes, n))
    return logits, labels.astype(np.int32)


def written(held: StoredLogits, training: str = "t", evaluation: str = "e") -> pa.Table:
    n = len(held.labels)
    names = {"training": [training] * n, "mixture": ["m"] * n, "evaluation_set": [evaluation] * n}
    keys = {"key": [str(number) for number in range(n)]}
    return pa.Table.from_pydict(names | keys | held.columns(), TABLES["predictions"])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([1, 2, 7, MAX_WHOLE_CLASSES, MAX_WHOLE_CLASSES + 1, 400])
)
def test_metrics_from_the_table_are_those_of_the_logits(seed: int, n: int, classes: int) -> None:
    logits, labels = cosines(seed, n, classes)
    held = encode_logits(logits, labels, SCALE)
    again = decode_logits(written(held))
    assert all_metrics(again.judged()) == all_metrics(held.judged())
    plain = image_results(logits, labels, SCALE)
    assert (again.judged().predicted == plain.predicted).all()
    assert (again.judged().right == plain.right).all()
    assert again.judged().confidence == pytest.approx(plain.confidence, rel=0.01)
    assert again.judged().log_likelihood == pytest.approx(plain.log_likelihood, abs=0.01)
    assert again.first == pytest.approx(logits.max(axis=1), abs=0)
    assert again.scale == SCALE
    assert again.offsets.shape[1] == (classes if classes <= MAX_WHOLE_CLASSES else STORED_CLASSES)
    assert (again.classes is None) == (classes <= MAX_WHOLE_CLASSES)


def test_the_logits_come_back_in_the_order_of_the_classes() -> None:
    logits, labels = cosines(1, 20, 12)
    again = decode_logits(written(encode_logits(logits, labels, SCALE)))
    assert again.offsets.astype(np.float32) + again.first[:, None] == pytest.approx(logits, abs=1e-4)


def test_images_of_many_classes_are_kept_alike_in_any_blocks() -> None:
    logits, labels = cosines(2, 30, 300)
    whole = written(encode_logits(logits, labels, SCALE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.evaluation.predictions, "BLOCK_IMAGES", 7)
        assert written(encode_logits(logits, labels, SCALE)).equals(whole)


def test_a_cosine_as_float16_would_lose_the_order_that_is_kept() -> None:
    logits = np.array([[0.30001, 0.30002, 0.1], [0.25, np.nextafter(np.float32(0.25), np.float32(1)), 0]], np.float32)
    assert logits.astype(np.float16).argmax(axis=1).tolist() == [0, 0]
    labels = np.array([1, 1], np.int32)
    held = encode_logits(logits, labels, SCALE)
    assert decode_logits(written(held)).judged().right.all()
    assert held.offsets[1, 0] == -SMALLEST_OFFSET


def test_logits_that_are_no_cosines_are_kept_too() -> None:
    held = encode_logits(np.array([[9e4, -9e4, 8.9e4]], np.float32), np.array([2], np.int32), 0.001)
    assert np.isfinite(held.offsets.astype(np.float32)).all()
    assert held.judged().log_likelihood == pytest.approx(-1.3133, abs=0.001)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 250))
def test_accuracy_among_some_classes_is_within_what_was_kept(seed: int, some: int) -> None:
    logits, labels = cosines(seed, 60, 250)
    logits = np.round(logits * 4096) / 4096  # whose differences float16 holds as they are
    subset = np.random.default_rng(seed).permutation(250)[:some]
    subset[0] = labels[0]
    exact, kept = accuracy_among(logits, labels, subset), encode_logits(logits, labels, SCALE).among(subset)
    assert kept.n == exact.n
    assert kept.correct <= exact.correct <= kept.correct + kept.undetermined
    assert some < 100 or kept == exact
    small, numbers = logits[:, :200], labels % 200
    assert encode_logits(small, numbers, SCALE).among(np.array([numbers[0]])).undetermined == 0


def test_all_is_undetermined_where_only_the_labels_own_logit_was_kept() -> None:
    logits = np.linspace(1, 0, 300, dtype=np.float32)[None]
    found = encode_logits(logits, np.array([299], np.int32), SCALE).among(np.array([298, 299]))
    assert found == SubsetAccuracy(1, 0, 1)


def test_rows_of_two_models_or_sets_are_refused() -> None:
    logits, labels = cosines(0, 3, 4)
    held = encode_logits(logits, labels, SCALE)
    for other in (
        written(held, training="u"),
        written(held, evaluation="f"),
        written(encode_logits(logits, labels, 2.0)),
    ):
        with pytest.raises(ValueError, match="one model on one evaluation set"):
            decode_logits(pa.concat_tables([written(held), other]))
    with pytest.raises(ValueError, match="the same number of logits for each image"):
        decode_logits(pa.concat_tables([written(held), written(encode_logits(logits[:, :3], labels % 3, SCALE))]))


@pytest.mark.parametrize("change", [{"logits": np.array([[np.nan, 1]], np.float32)}, {"scale": 0.0}, {"label": 2}])
def test_what_cannot_be_judged_is_not_kept(change: dict[str, Any]) -> None:
    given = {"logits": np.zeros((1, 2), np.float32), "label": 1, "scale": 1.0} | change
    with pytest.raises(ValueError, match="expected"):
        encode_logits(given["logits"], np.array([given["label"]], np.int32), given["scale"])
