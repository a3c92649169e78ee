"""The linear probe: the minimum of its loss, in any order of images and classes, and the penalty that it chooses."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from pipeline.evaluation.linear_probe import PENALTIES, Probe, fit, fit_with_best_penalty

Array = npt.NDArray[Any]


def drawn(seed: int, n: int, classes: int = 3, d: int = 6, spread: float = 1.0) -> tuple[Array, Array]:
    """Return unit vectors around a direction of each class, and labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    vectors = np.eye(classes, d)[labels] + spread * random.normal(size=(n, d)) / math.sqrt(d)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels.astype(np.int32)


def loss(probe: Probe, vectors: Array, labels: Array) -> float:
    logits = vectors.astype(np.float64) @ probe.weights + probe.biases
    entropy = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return float(entropy.mean() + probe.penalty / 2 * (probe.weights**2).sum())


def keys(n: int) -> list[str]:
    return [f"k{number}" for number in range(n)]


@pytest.mark.parametrize("penalty", [1.0, 0.1, 0.001])
def test_two_points_have_the_weights_that_calculus_gives(penalty: float) -> None:
    found = fit(np.array([[1.0], [-1.0]]), np.array([0, 1]), 2, penalty)
    # by symmetry weights (w, -w): the slope of ln(1 + exp(-2w)) + penalty w² is zero
    weight = brentq(lambda w: -2 / (1 + math.exp(2 * w)) + 2 * penalty * w, 0, 50)
    assert found.weights == pytest.approx(np.array([[weight, -weight]]), rel=1e-3)
    assert found.biases == pytest.approx([0, 0], abs=1e-6)


def test_biases_alone_give_the_shares_of_the_classes() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    found = fit(np.zeros((6, 2)), labels, 3, 1.0)
    chances = np.exp(found.biases) / np.exp(found.biases).sum()
    assert chances == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=1e-3)
    assert found.weights == pytest.approx(np.zeros((2, 3)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 1e-2, 1e-4]))
def test_no_step_from_the_probe_lowers_its_loss(seed: int, penalty: float) -> None:
    vectors, labels = drawn(seed, 40)
    found = fit(vectors, labels, 3, penalty)
    least = loss(found, vectors, labels)
    random = np.random.default_rng(seed)
    for size in (1.0, 0.1, 0.01):
        weights = found.weights + size * random.normal(size=found.weights.shape)
        biases = found.biases + size * random.normal(size=found.biases.shape)
        assert loss(Probe(weights, biases, penalty), vectors, labels) > least - 1e-6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_images_and_of_classes_changes_nothing(seed: int) -> None:
    vectors, labels = drawn(seed, 30)
    random = np.random.default_rng(seed)
    images, order = random.permutation(30), random.permutation(3)
    before = fit(vectors, labels, 3, 0.01).logits(vectors)
    assert fit(vectors[images], labels[images], 3, 0.01).logits(vectors) == pytest.approx(before, abs=0.02)
    renamed = fit(vectors, np.argsort(order)[labels], 3, 0.01).logits(vectors)
    assert renamed == pytest.approx(before[:, order], abs=0.02)


def test_a_probe_is_the_same_each_time_and_right_on_images_that_it_has_not_seen() -> None:
    vectors, labels = drawn(1, 200, spread=0.8)
    test, wanted = drawn(2, 200, spread=0.8)
    first, again = (fit_with_best_penalty(vectors, labels, keys(200), 3) for _ in range(2))
    assert (first.weights == again.weights).all()
    assert (first.logits(test).argmax(axis=1) == wanted).mean() > 0.85
    assert first.logits(test).dtype == np.float32
    shuffled = np.random.default_rng(0).permutation(labels)
    assert (fit_with_best_penalty(vectors, shuffled, keys(200), 3).logits(test).argmax(axis=1) == wanted).mean() < 0.6


def test_the_penalty_is_great_where_labels_are_noise_and_small_where_they_are_fine() -> None:
    random = np.random.default_rng(5)
    vectors, labels = drawn(3, 300, classes=2, d=60, spread=8.0)
    noisy = fit_with_best_penalty(vectors, labels, keys(300), 2).penalty
    turns = 2 * np.pi * random.random(300)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    fine = fit_with_best_penalty(circle, (turns * 40 / (2 * np.pi)).astype(int), keys(300), 40).penalty
    assert fine < noisy
    assert {noisy, fine} <= set(PENALTIES)


@pytest.mark.parametrize(
    ("vectors", "labels", "penalty", "said"),
    [
        (np.zeros((0, 2)), [], 1.0, "at least one vector"),
        (np.zeros((2, 2)), [0], 1.0, "at least one vector"),
        (np.zeros((2, 2)), [0, 3], 1.0, "from 0 to 2, found 0 to 3"),
        (np.zeros((2, 2)), [-1, 0], 1.0, "found -1 to 0"),
        (np.array([[np.nan, 0.0]]), [0], 1.0, "finite vectors"),
        (np.zeros((1, 2)), [0], 0.0, "penalty above 0, found 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(vectors: Array, labels: list[int], penalty: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(vectors, np.array(labels, np.int32), 3, penalty)


def test_too_few_images_to_choose_a_penalty_by_are_refused() -> None:
    with pytest.raises(ValueError, match="to choose by, found 1 images"):
        fit_with_best_penalty(np.zeros((1, 2)), np.array([0]), ["a"], 2)
