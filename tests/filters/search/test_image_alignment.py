"""The local alignment check: what it takes for one picture, what for two, and that nothing upsets it."""

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from filters.search.image_alignment import (
    SAME_PICTURE_SCORE,
    THUMBNAIL_SHAPE,
    ImageArray,
    alignment_scores,
    best_alignment_scores,
    edge_layouts,
    index_views,
    query_views,
    thumbnail,
)
from pipeline.images.pdq import SAME_PICTURE_BITS, hamming, pdq_fingerprint
from sources.world.alterations import ALTERATIONS
from sources.world.pictures import Picture, draw_picture
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES

EACH = 4


COUNT = EACH * len(STYLES)
"""Drawn pictures in `album`, as many of each style."""


picked = st.integers(0, COUNT - 1)


share = st.floats(0, 1)


noise = arrays.arrays(np.uint8, (*THUMBNAIL_SHAPE,))


sometimes = settings(max_examples=40, deadline=None)


seldom = settings(max_examples=12, deadline=None)


@cache
def album() -> list[ImageArray]:
    """Return pictures of every style, of which no two are one."""
    return [
        draw_picture(Picture((501, number, index), CLASSES[(number + 3 * index) % len(CLASSES)], style))
        for number, style in enumerate(STYLES)
        for index in range(EACH)
    ]


@cache
def thumbnails() -> ImageArray:
    return np.stack([thumbnail(image) for image in album()])


def score(query: ImageArray, number: int) -> float:
    """Return how well a changed picture aligns with the one of that number."""
    views = [thumbnail(view) for view in (query, *query_views(query))]
    return float(best_alignment_scores(views, thumbnails()[number : number + 1])[0])


def test_a_picture_is_itself_and_its_mirror_image() -> None:
    for number in range(COUNT):
        assert score(album()[number], number) > 0.9, number
        assert score(album()[number][:, ::-1], number) > 0.9, number


@sometimes
@given(picked, share, share, share, share)
def test_a_cut_leaves_the_picture(number: int, down: float, across: float, top: float, left: float) -> None:
    image = album()[number]
    height, width = image.shape[:2]
    rows, columns = round(height * (1 - down / 10)), round(width * (1 - across / 10))
    first, side = round((height - rows) * top), round((width - columns) * left)
    assert score(image[first : first + rows, side : side + columns], number) >= SAME_PICTURE_SCORE


@sometimes
@given(picked, share, share, st.integers(0, 255))
@example(20, 1.0, 1.0, 0)
def test_a_frame_leaves_the_picture(number: int, down: float, across: float, grey: int) -> None:
    image = album()[number]
    high, wide = (
        round(length * (0.02 + 0.08 * part)) for length, part in zip(image.shape, (down, across), strict=False)
    )
    framed = cv2.copyMakeBorder(image, high, high, wide, wide, cv2.BORDER_CONSTANT, value=(grey,) * 3)
    assert score(framed, number) >= SAME_PICTURE_SCORE


@sometimes
@given(picked, st.floats(0.7, 1.4), st.floats(-25, 25), st.floats(0.7, 1.4))
def test_light_contrast_and_colour_do_not_count(number: int, gain: float, shift: float, red: float) -> None:
    changed = album()[number].astype(np.float32) * gain + shift
    changed[:, :, 0] *= red
    assume(np.mean((changed < 0) | (changed > 255)) < 0.05)  # what is clipped is lost
    assert score(np.clip(changed, 0, 255).astype(np.uint8), number) >= SAME_PICTURE_SCORE


@pytest.mark.parametrize("name", sorted(set(ALTERATIONS) - {"cropped_20"}))
def test_altered_copies_are_the_picture(name: str) -> None:
    rng = np.random.default_rng(7)
    found = [score(ALTERATIONS[name](image, rng), number) for number, image in enumerate(album())]
    assert np.mean(np.array(found) >= SAME_PICTURE_SCORE) >= 0.95


def test_the_less_is_left_the_less_it_is_the_picture() -> None:
    image = album()[0]
    height = len(image)
    covered = []
    for part in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        changed = image.copy()
        changed[: round(height * part)] = image.mean((0, 1))
        covered.append(score(changed, 0))
    assert covered == sorted(covered, reverse=True)
    assert covered[1] >= SAME_PICTURE_SCORE > covered[3]
    assert covered[-1] == 0


def test_other_pictures_are_other_pictures() -> None:
    scores = np.stack([alignment_scores(query, thumbnails()) for query in thumbnails()])
    assert (scores.argmax(1) == np.arange(COUNT)).all()
    assert scores[~np.eye(COUNT, dtype=bool)].max() < SAME_PICTURE_SCORE


@sometimes
@given(st.integers(0, 255), noise, picked)
def test_a_flat_image_matches_nothing(grey: int, other: ImageArray, number: int) -> None:
    flat = np.full(THUMBNAIL_SHAPE, grey, np.uint8)
    assert not alignment_scores(flat, np.stack([thumbnails()[number], flat, other])).any()
    assert not alignment_scores(other, flat[None]).any()
    assert not edge_layouts(flat[None]).any()


@sometimes
@given(noise, noise)
def test_any_pixels_have_a_score_from_0_to_1(one: ImageArray, other: ImageArray) -> None:
    scores = alignment_scores(one, np.stack([one, other, other[::-1], one.T])).tolist()
    assert [0 <= found <= 1 for found in scores] == [True] * 4


@seldom
@given(st.lists(picked, max_size=6), picked)
def test_a_score_depends_on_the_query_and_its_candidate_alone(others: list[int], number: int) -> None:
    query = thumbnail(album()[number][3:])
    together = alignment_scores(query, thumbnails()[[*others, number]])
    apart = [float(alignment_scores(query, thumbnails()[place : place + 1])[0]) for place in (*others, number)]
    assert together.tolist() == apart
    assert together.dtype == np.float32
    assert alignment_scores(query, thumbnails()[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (2, 3, 3), (3000, 2, 3)])
def test_tiny_images_have_thumbnails_and_views(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    small = thumbnail(image)
    assert (small.shape, small.dtype) == (THUMBNAIL_SHAPE, np.uint8)
    assert np.isfinite(alignment_scores(small, thumbnails()[:2])).all()
    assert np.isfinite(edge_layouts(small[None])).all()
    assert all(min(view.shape[:2]) >= 1 for view in [*query_views(image), *index_views(image)])


@seldom
@given(picked, st.integers(1, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 255))
def test_what_is_within_a_frame_is_found_again(number: int, top: int, down: int, side: int, grey: int) -> None:
    image = cv2.resize(album()[number], (128, 128))
    assume(not query_views(image))  # its own flat margins would go, too
    framed = cv2.copyMakeBorder(image, top, down, side, side, cv2.BORDER_CONSTANT, value=(grey,) * 3)
    (inner,) = query_views(framed)
    assert (inner.shape[0] <= 128) & (inner.shape[1] <= 128)
    assert hamming(pdq_fingerprint(inner)[0], pdq_fingerprint(image)[0]) <= SAME_PICTURE_BITS


def test_an_index_holds_a_picture_and_its_mirror_image() -> None:
    image = album()[1]
    first, second = index_views(image)
    assert first is image
    assert (second == image[:, ::-1]).all()


def test_layouts_are_unit_vectors_or_nothing() -> None:
    found = edge_layouts(thumbnails())
    assert (found.shape, found.dtype) == ((COUNT, 128), np.float32)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(COUNT), abs=1e-5)
    assert not edge_layouts(np.full((1, *THUMBNAIL_SHAPE), 77, np.uint8)).any()
    assert edge_layouts(thumbnails()[:0]).shape == (0, 128)
    assert (edge_layouts(thumbnails()[3:5]) == found[3:5]).all()


@sometimes
@given(picked, share, share)
def test_the_most_alike_layout_is_that_of_the_picture_that_was_cut(number: int, top: float, left: float) -> None:
    image = album()[number]
    down, across = (round(0.1 * length) for length in image.shape[:2])
    first, side = round(top * down), round(left * across)
    cut = image[first : first + image.shape[0] - down, side : side + image.shape[1] - across]
    assert int((edge_layouts(thumbnails()) @ edge_layouts(thumbnail(cut)[None])[0]).argmax()) == number
