"""Recall both ways: by hand, against plain loops, and what must not change it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.evaluation.retrieval
from pipeline.evaluation.retrieval import recall_at_depths

Array = npt.NDArray[Any]


def units(random: np.random.Generator, n: int, d: int = 4) -> Array:
    rows = random.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn(seed: int, n: int, more: int) -> tuple[Array, Array, Array]:
    """Return images, texts near them, and the image of each text; some images have several."""
    random = np.random.default_rng(seed)
    images = units(random, n)
    image_of = np.concatenate([np.arange(n), random.integers(0, n, more)])
    texts = images[image_of] + 0.7 * units(random, n + more)
    return images, texts / np.linalg.norm(texts, axis=1, keepdims=True), image_of


def in_loops(images: Array, texts: Array, image_of: Array) -> dict[str, float]:
    found = {}
    cosines = texts @ images.T
    for depth in (1, 5, 10):
        hits = [image_of[j] in np.argsort(-cosines[j])[:depth] for j in range(len(texts))]
        found[f"text_to_image_{depth}"] = sum(hits) / len(texts)
        hits = [i in image_of[np.argsort(-cosines[:, i])[:depth]] for i in range(len(images))]
        found[f"image_to_text_{depth}"] = sum(hits) / len(images)
    return found


def test_recall_of_two_images_and_three_texts_by_hand() -> None:
    images = np.array([[1.0, 0], [0, 1]])
    texts = np.array([[1.0, 0], [0.8, 0.6], [0.6, 0.8]])
    # text 1 is of image 1 but nearer to 0; image 1's own text 2 is the nearest of all to it
    found = recall_at_depths(images, texts, np.array([0, 1, 1]))
    assert found["text_to_image_1"] == pytest.approx(2 / 3)
    assert found["image_to_text_1"] == 1
    assert found["text_to_image_5"] == 1
    swapped = recall_at_depths(images, texts, np.array([1, 1, 0]))
    assert swapped["text_to_image_1"] == 0
    assert swapped["image_to_text_1"] == 0
    assert swapped["image_to_text_5"] == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 30))
def test_recall_is_as_its_definition_reads_in_any_order_and_any_blocks(seed: int, n: int, more: int) -> None:
    images, texts, image_of = drawn(seed, n, more)
    found = recall_at_depths(images, texts, image_of)
    assert found == pytest.approx(in_loops(images, texts, image_of))
    random = np.random.default_rng(seed)
    order, places = random.permutation(len(texts)), random.permutation(n)
    assert recall_at_depths(images[places], texts[order], np.argsort(places)[image_of[order]]) == pytest.approx(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.evaluation.retrieval, "BLOCK_ROWS", 7)
        assert recall_at_depths(images, texts, image_of) == pytest.approx(found)
    assert found["text_to_image_1"] <= found["text_to_image_5"] <= found["text_to_image_10"]


def test_a_perfect_model_finds_all_and_one_that_tells_nothing_apart_finds_nothing() -> None:
    images = np.eye(20)
    assert set(recall_at_depths(images, images, np.arange(20)).values()) == {1.0}
    for dull in (np.zeros((20, 3)), np.ones((20, 3)) / np.sqrt(3)):
        assert set(recall_at_depths(dull, dull, np.arange(20)).values()) == {0.0}


def test_images_of_the_same_caption_are_told_apart_by_none() -> None:
    images, texts = np.eye(3), np.eye(3)[[0, 0, 2]]
    found = recall_at_depths(images, texts, np.arange(3))
    assert found["image_to_text_1"] == pytest.approx(1 / 3)
    assert found["text_to_image_1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("images", "texts", "image_of", "said"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2)), [], "expected images"),
        (np.eye(2), np.eye(2), [0], "an image of each text"),
        (np.eye(2), np.eye(2), [0, 0], "at least one text of each of 2 images"),
        (np.eye(2), np.eye(2), [0, 2], "at least one text"),
        (np.eye(2) * np.nan, np.eye(2), [0, 1], "finite"),
    ],
)
def test_what_has_no_recall_is_refused(images: Array, texts: Array, image_of: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recall_at_depths(images, texts, np.array(image_of, np.int64))
