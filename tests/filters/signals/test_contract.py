"""Signals about one pair: what they say of images that are known, by pixels, fingerprints and embeddings."""

import hashlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from filters.signals.base import PairBatch, binary_to_embeddings, embeddings_to_binary
from filters.signals.clip import ClipSignal
from filters.signals.fingerprints import PdqSignal
from filters.signals.image import ImageSignal, channel_spread, colourfulness, entropy, sharpness
from pipeline.errors import InputError
from pipeline.images.pdq import PDQ_BYTES, pdq_fingerprint
from pipeline.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE, save_as_folder
from pipeline.models.clip import load_clip
from pipeline.shards.tar_format import StoredPair
from sources.world.pictures import Picture, draw_picture, encode
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES
from tests.support.road_experiment import ROOT

Pixels = npt.NDArray[np.uint8]


CONFIG = ROOT / "experiments" / "models" / "resnet_64px" / CONFIG_FILE


def grey_of(image: Pixels) -> Pixels:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def picture(number: int) -> Pixels:
    return draw_picture(Picture((5, number), CLASSES[number % len(CLASSES)], list(STYLES)[number % len(STYLES)]))


def batch_of(
    images: list[Pixels], captions: list[str] | None = None, original: tuple[int, int] = (640, 480)
) -> PairBatch:
    texts = captions or [f"a picture of number {number}" for number in range(len(images))]
    pairs = [
        StoredPair(f"{n:032x}", encode(image, "jpg", 90), text, {}, 0, 0)
        for n, (image, text) in enumerate(zip(images, texts, strict=True))
    ]
    stored = {
        "original_width": original[0],
        "original_height": original[1],
        "format": "jpeg",
        "frames": 1,
        "raw_bytes": 999,
    }
    samples = [
        {"width": image.shape[1], "height": image.shape[0], "raw_sha256": f"{n:064x}"}
        | {"jpg_sha256": hashlib.sha256(pair.jpg).hexdigest()}
        | stored
        for n, (image, pair) in enumerate(zip(images, pairs, strict=True))
    ]
    return PairBatch(pairs, samples)


def hamming(left: bytes, right: bytes) -> int:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).bit_count()


def test_entropy_is_zero_for_one_level_one_bit_for_two_and_eight_for_all() -> None:
    flat = np.full((32, 32), 77, np.uint8)
    two = np.where(np.arange(1024).reshape(32, 32) % 2, 10, 200).astype(np.uint8)
    every = np.arange(1024, dtype=np.int64).reshape(32, 32).astype(np.uint8)
    assert [entropy(image) for image in (flat, two, every)] == pytest.approx([0, 1, 8], abs=1e-5)


def test_sharpness_falls_with_every_blur_and_is_zero_without_edges() -> None:
    image = Image.fromarray(picture(0)).convert("L")
    found = [
        sharpness(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.uint8)) for radius in (0, 1, 2, 4)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * found[1]
    assert sharpness(np.full((16, 16), 9, np.uint8)) == 0


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (24, 24)).astype(np.uint8)
    padded = np.pad(noise.astype(np.int64), 1, mode="reflect")
    plus = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    assert sharpness(noise) == pytest.approx(plus.var(), rel=1e-6)


def test_colourfulness_is_the_spread_of_the_channels() -> None:
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    assert channel_spread(image).tolist() == np.ptp(image.astype(int), axis=2).tolist()
    assert colourfulness(channel_spread(np.repeat(image[..., :1], 3, axis=2))) == 0
    assert colourfulness(channel_spread(image)) == pytest.approx(np.ptp(image.astype(int), axis=2).mean(), rel=1e-6)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert colourfulness(channel_spread(red)) == 255


def test_the_image_signal_tells_stored_sizes_from_the_originals() -> None:
    image = np.full((40, 60, 3), 128, np.uint8)
    batch = batch_of([image], original=(900, 300))
    found = {name: values[0] for name, values in ImageSignal().compute(batch).items()}
    assert [found[name] for name in ("width", "height", "original_width", "original_height")] == [60, 40, 900, 300]
    assert (found["short_side"], found["aspect"]) == (300, 3.0)
    assert found["bytes"] == len(batch.pairs[0].jpg)
    assert found["raw_bytes"] == 999
    assert found["luminance"] == pytest.approx(128, abs=1)
    assert found["entropy"] < 0.1
    tall = ImageSignal().compute(batch_of([image], original=(300, 900)))
    assert (tall["short_side"], tall["aspect"]) == ([300], [3.0])


def test_images_are_decoded_as_rgb_and_a_grey_one_too() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    assert batch_of([red]).images[0][16, 16].tolist() == pytest.approx([250, 0, 0], abs=6)
    grey = cv2.imencode(".jpg", np.full((16, 16), 70, np.uint8))[1].tobytes()
    assert PairBatch([StoredPair("0" * 32, grey, "", {}, 0, 0)], [{}]).images[0][3, 3].tolist() == [70, 70, 70]


@pytest.mark.parametrize("number", range(6))
def test_the_fingerprint_holds_through_a_re_encode_and_a_slight_resize(number: int) -> None:
    image = picture(number)
    bits, quality = pdq_fingerprint(image)
    assert len(bits) == PDQ_BYTES
    assert 50 <= quality <= 100
    assert pdq_fingerprint(image.copy()) == (bits, quality)
    with Image.open(io.BytesIO(encode(image, "jpg", 60))) as again:
        assert hamming(bits, pdq_fingerprint(np.asarray(again, dtype=np.uint8))[0]) <= 31
    height, width = image.shape[:2]
    smaller = cv2.resize(image, (round(width * 0.9), round(height * 0.9)), interpolation=cv2.INTER_AREA)
    assert hamming(bits, pdq_fingerprint(smaller)[0]) <= 31


def test_the_fingerprints_of_different_pictures_are_far_apart() -> None:
    prints = [pdq_fingerprint(picture(number))[0] for number in range(12)]
    distances = [hamming(left, right) for n, left in enumerate(prints) for right in prints[:n]]
    assert min(distances) > 31
    assert sum(distances) / len(distances) > 90


def test_a_fingerprints_bytes_are_pdqs_bits_in_order() -> None:
    import pdqhash

    image = picture(3)
    bits = pdqhash.compute(image)[0]
    packed = pdq_fingerprint(image)[0]
    assert "".join(f"{byte:08b}" for byte in packed) == "".join(map(str, bits.astype(int)))
    other = pdqhash.compute(picture(4))[0]
    assert hamming(packed, pdq_fingerprint(picture(4))[0]) == int((bits != other).sum())


def test_the_pdq_signal_is_of_the_stored_image_and_a_flat_one_has_no_quality() -> None:
    batch = batch_of([picture(1), np.full((64, 64, 3), 90, np.uint8)])
    columns = PdqSignal().compute(batch)
    assert (columns["pdq"][0], columns["quality"][0]) == pdq_fingerprint(batch.images[0])
    assert columns["quality"][1] == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of a small untrained model in open_clip's `local-dir:` form, by way of a checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(7)
    clip = open_clip.CLIP(**json.loads(CONFIG.read_text())["model_cfg"])
    state = {f"module.{key}": value for key, value in clip.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, folder / "epoch_1.pt")
    save_as_folder(folder / "epoch_1.pt", CONFIG, folder / "out")
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted([CONFIG_FILE, WEIGHTS_FILE])
    return f"local-dir:{folder / 'out'}"


def test_similarity_is_the_cosine_of_unit_embeddings_and_no_batch_size_changes_it(model: str) -> None:
    batch = batch_of([picture(number) for number in range(7)])
    found = {size: ClipSignal(model, size).compute(batch) for size in (1, 3, 64)}
    images = binary_to_embeddings(found[3]["image_embedding"])
    texts = binary_to_embeddings(found[3]["text_embedding"])
    assert images.shape == texts.shape == (7, 128)
    assert np.linalg.norm(images, axis=1) == pytest.approx(np.ones(7), abs=2e-3)
    assert np.linalg.norm(texts, axis=1) == pytest.approx(np.ones(7), abs=2e-3)
    assert found[3]["similarity"] == pytest.approx((images * texts).sum(axis=1), abs=2e-3)
    assert np.ptp(images, axis=0).max() > 1e-3
    for size in (1, 64):
        assert found[size]["similarity"] == pytest.approx(found[3]["similarity"], abs=1e-5)
        assert binary_to_embeddings(found[size]["image_embedding"]) == pytest.approx(images, abs=1e-3)


def test_a_model_is_loaded_once_and_what_is_none_is_refused_in_one_line(model: str, tmp_path: Path) -> None:
    assert load_clip(model) is load_clip(model)
    assert load_clip(model).embed_texts([], 4).shape[0] == load_clip(model).embed_images([], 4).shape[0] == 0
    assert load_clip(model).temperature == pytest.approx(1 / 0.07, rel=1e-3)
    for reference in (f"local-dir:{tmp_path}", "no-such-model::tag"):
        with pytest.raises(InputError) as caught:
            load_clip(reference)
        assert reference in str(caught.value)
        assert "\n" not in str(caught.value)


@given(st.lists(st.lists(st.floats(-1, 1, width=16), min_size=5, max_size=5), max_size=4))
def test_embeddings_that_are_float16_come_back_as_they_were(rows: list[list[float]]) -> None:
    vectors = np.array(rows, np.float32).reshape(len(rows), -1 if rows else 5)
    back = binary_to_embeddings(embeddings_to_binary(vectors))
    assert back.dtype == np.float32
    assert back.tolist() == vectors.tolist()
