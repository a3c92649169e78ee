"""Evaluation sets are read without trust, and zero-shot predictions depend on the images and texts alone."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import InputError
from pipeline.evaluation.datasets import EvaluationSet, open_set
from pipeline.evaluation.zero_shot import class_vectors, predict
from pipeline.models.image_embedding import open_image
from sources.world.evaluation import TEMPLATES, add_member, evaluation_pictures, write_evaluation_set
from sources.world.pictures import render_file
from sources.world.shapes import CLASSES

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "white": (250, 250, 250)}


PROMPTS = ("a photo of a {c}.", "the {c}.", "{c}, {c}!")


class ColourModel:
    """Embeds an image of a colour where it embeds texts that name it; a text's other words move its vector a little."""

    def embed_images(self, images: Sequence[Image.Image], batch_size: int) -> npt.NDArray[np.float32]:
        colours = np.array(list(COLOURS.values()))
        pixels = np.array([image.resize((1, 1)).getpixel((0, 0)) for image in images])
        return np.eye(4, dtype=np.float32)[np.abs(pixels[:, None] - colours).sum(axis=2).argmin(axis=1)]

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        assert all("{c}" not in text for text in texts)
        vectors = np.array([[float(name in text) for name in COLOURS] for text in texts])
        vectors += np.array([[len(text) % 5, len(text) % 3, 0, 0] for text in texts]) * 0.02
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class NoiseModel:
    """Embeds an image and a text anywhere, but each always at the same place."""

    def embed_images(self, images: Sequence[Image.Image], batch_size: int) -> npt.NDArray[np.float32]:
        return self._vectors([image.tobytes() for image in images])

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        return self._vectors([text.encode() for text in texts])

    def _vectors(self, parts: Sequence[bytes]) -> npt.NDArray[np.float32]:
        rows = [np.random.default_rng(list(part[:400])).normal(size=6) for part in parts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def colour_file(name: str, form: str = "PNG", side: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[name]).save(stream, form)
    return stream.getvalue()


def colour_set(folder: Path, count: int = 9) -> EvaluationSet:
    names = list(COLOURS)
    images = [(f"k{n:03d}", "png", colour_file(names[n % 4]), n % 4) for n in range(count)]
    write_evaluation_set(folder, names, PROMPTS, images)
    return open_set("colours", folder)


def with_members(folder: Path, members: Sequence[tuple[str, bytes]]) -> EvaluationSet:
    """Return the set of colours with a tar of these members."""
    found = colour_set(folder, 1)
    with tarfile.open(found.tars[0], "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            add_member(tar, name, content)
    return found


def refused(found: EvaluationSet) -> str:
    with pytest.raises(InputError) as caught:
        list(found.images())
    message = str(caught.value)
    assert str(found.tars[0]) in message
    assert "\n" not in message
    return message


def test_a_set_of_the_drawn_world_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    sets = evaluation_pictures(3, 3)
    assert sets.keys() == TEMPLATES.keys()
    for style, pictures in sets.items():
        images = [(key, picture.form, render_file(picture)[0], n) for n, (key, picture) in enumerate(pictures)]
        write_evaluation_set(tmp_path / style, CLASSES, TEMPLATES[style], images)
        found = open_set(style, tmp_path / style)
        assert found.classes == tuple(CLASSES)
        assert found.templates == TEMPLATES[style]
        assert found.chance == pytest.approx(1 / len(CLASSES))
        assert [(image.key, image.label, image.data) for image in found.images()] == [
            (key, label, data) for key, _, data, label in images
        ]


def test_prompts_put_the_class_into_every_template(tmp_path: Path) -> None:
    assert colour_set(tmp_path / "set").prompts("owl") == ["a photo of a owl.", "the owl.", "owl, owl!"]


def test_several_tars_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    colour_set(folder, 1)
    (folder / "test" / "nshards.txt").write_text("11\n")
    for number in range(11):
        with tarfile.open(folder / "test" / f"{number}.tar", "w") as tar:
            add_member(tar, f"n{number}.cls", b" 2\n")
            add_member(tar, f"n{number}.jpg", b"image")
    found = [(image.key, image.label) for image in open_set("many", folder).images()]
    assert found == [(f"n{number}", 2) for number in range(11)]


@pytest.mark.parametrize(
    "name", ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/0.tar"]
)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    colour_set(tmp_path / "set")
    (tmp_path / "set" / name).unlink()
    with pytest.raises(InputError, match=r"^evaluation\.sets\.mine: .*" + Path(name).name) as caught:
        open_set("mine", tmp_path / "set")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classnames.txt", b"\n \n"),
        ("classnames.txt", b"caf\xe9\n"),
        ("zeroshot_classification_templates.txt", b"a photo of a {c}.\na photo.\n"),
        ("zeroshot_classification_templates.txt", b"\xff\xfe"),
        ("test/nshards.txt", b"0"),
        ("test/nshards.txt", b"-1"),
        ("test/nshards.txt", b"two"),
        ("test/nshards.txt", "²".encode()),
        ("test/nshards.txt", b"2"),
        ("test/nshards.txt", b"9" * 12),
        ("test/nshards.txt", b"9" * 5000),
    ],
)
def test_a_file_that_is_wrong_is_named_in_one_short_line(tmp_path: Path, name: str, content: bytes) -> None:
    colour_set(tmp_path / "set")
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_set("mine", tmp_path / "set")
    assert str(caught.value).startswith("evaluation.sets.mine: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("label", [b"", b"4", b"-1", b"red", b"1.0", b"\xff", b"0 1", b"9" * 5000])
def test_a_label_that_is_no_class_is_refused_with_its_key(tmp_path: Path, label: bytes) -> None:
    found = with_members(tmp_path / "set", [("k0.png", colour_file("red")), ("k0.cls", label)])
    assert "k0: expected an image and a .cls below 4" in refused(found)
    assert len(refused(found)) < 500


@pytest.mark.parametrize(
    "members",
    [
        [("k0.png", b"x")],
        [("k0.cls", b"1")],
        [("k0.png", b"x"), ("k0.cls", b"1"), ("k1.cls", b"1")],
        [("k0.png", b"x"), ("k0.cls", b"1"), ("k0.json", b"{}")],
        [("k0.pyd", b"x"), ("k0.cls", b"1")],
        [("in/k0.png", b"x"), ("in/k0.cls", b"1")],
        [("../k0.png", b"x"), ("../k0.cls", b"1")],
    ],
)
def test_members_that_the_layout_does_not_know_are_refused(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    assert refused(with_members(tmp_path / "set", members))


def test_a_tar_cut_anywhere_is_refused_or_read_up_to_the_cut(tmp_path: Path) -> None:
    found = colour_set(tmp_path / "set", 4)
    whole, expected = found.tars[0].read_bytes(), list(found.images())
    refusals = 0
    for cut in range(1, 4 * 2048, 97):
        found.tars[0].write_bytes(whole[:cut])
        images = []
        try:
            images.extend(found.images())
        except InputError:
            refusals += 1
        assert images == expected[: len(images)]
        assert len(images) <= cut // 2048 + 1
    assert refusals > 20
    found.tars[0].write_bytes(whole[: 3 * 512 + 100])
    refused(found)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), change=st.integers(1, 255))
def test_the_digest_changes_with_any_byte_of_the_tar(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("digest") / "set"
    found = colour_set(folder, 2)
    before, content = found.digest(), bytearray(found.tars[0].read_bytes())
    assert open_set("other name", folder).digest() == before
    content[place % len(content)] ^= change
    found.tars[0].write_bytes(content)
    assert found.digest() != before


@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt"])
def test_the_digest_changes_with_any_line(tmp_path: Path, name: str) -> None:
    before = colour_set(tmp_path / "set").digest()
    path = tmp_path / "set" / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[::-1]))
    assert open_set("colours", tmp_path / "set").digest() != before


def test_class_vectors_are_units_and_the_mean_of_the_prompts(tmp_path: Path) -> None:
    found, model = colour_set(tmp_path / "set"), NoiseModel()
    vectors = class_vectors(model, found, batch_size=5)
    assert vectors.shape == (4, 6)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    mean = model.embed_texts(found.prompts("blue"), 9).mean(axis=0)
    assert vectors[2] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_a_model_that_embeds_images_at_their_class_is_always_right(tmp_path: Path) -> None:
    found = colour_set(tmp_path / "set", 11)
    predictions = predict(ColourModel(), found)
    assert predictions.correct == 11
    assert predictions.keys == [f"k{n:03d}" for n in range(11)]
    assert predictions.labels.tolist() == predictions.predicted.tolist() == [n % 4 for n in range(11)]
    assert predictions.logits.shape == (11, 4)


def test_a_wrong_label_is_a_wrong_prediction(tmp_path: Path) -> None:
    images = [("a", "png", colour_file("red"), 0), ("b", "png", colour_file("red"), 2)]
    write_evaluation_set(tmp_path / "set", list(COLOURS), PROMPTS, images)
    assert predict(ColourModel(), open_set("wrong", tmp_path / "set")).correct == 1


def test_predictions_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    found = colour_set(tmp_path / "set", 10)
    one = predict(NoiseModel(), found, batch_size=10)
    assert len(set(one.predicted.tolist())) > 1
    for size in (1, 3, 5, 128):
        other = predict(NoiseModel(), found, batch_size=size)
        assert other.keys == one.keys
        assert other.logits == pytest.approx(one.logits, abs=1e-6)


def test_the_first_of_equal_classes_is_predicted(tmp_path: Path) -> None:
    write_evaluation_set(tmp_path / "set", ["red", "red"], PROMPTS, [("a", "png", colour_file("red"), 1)])
    assert predict(ColourModel(), open_set("twins", tmp_path / "set")).predicted.tolist() == [0]


def test_a_set_without_images_and_an_image_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        predict(ColourModel(), with_members(tmp_path / "empty", []))
    broken = with_members(tmp_path / "broken", [("k7.png", b"no image"), ("k7.cls", b"1")])
    with pytest.raises(InputError, match=r"colours: k7: not an image"):
        predict(ColourModel(), broken)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 10**6))
def test_a_damaged_image_is_an_image_or_is_refused(form: str, place: int, change: int, cut: int) -> None:
    content = bytearray(colour_file("blue", form, 40))
    content[place % len(content)] ^= change
    said = ""
    try:
        assert open_image(bytes(content[: cut % len(content) + 1]), "here").mode == "RGB"
    except InputError as error:
        said = str(error)
    assert not said or said.startswith("here: not an image")
