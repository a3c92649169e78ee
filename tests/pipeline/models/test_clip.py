"""CLIP embeddings: open_clip's own but for rounding, the same in any batch, and null where there is no direction."""

import io
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from filters.signals.clip import PRECISIONS
from pipeline.errors import InputError
from pipeline.models import clip
from pipeline.models.clip import load_clip
from pipeline.models.fast_forward import image_tower, text_tower
from pipeline.models.preprocessing import Preprocessing
from tests.support.clip_models import CAPTIONS, TINY, saved, texture, untrained
from tests.support.road_experiment import ROOT

PHOTOS = ROOT.parent / "shared/data/domains/photo-test.tar"


END = 49407


def altered(part: str = "", **changes: Any) -> dict[str, Any]:
    """Return the tiny model's configuration with changes to a part of it."""
    return TINY | ({part: TINY[part] | changes} if part else changes)


PLAIN = {
    "plain": TINY,
    "quick gelu": altered(quick_gelu=True),
    "custom text": altered(custom_text=True),
    "layer scale": altered("vision_cfg", ls_init_value=0.3),
    "layer scale of texts": altered("text_cfg", ls_init_value=0.3),
    "norm behind the pool": altered("vision_cfg", final_ln_after_pool=True),
    "no first norm": altered("vision_cfg", no_ln_pre=True),
    "projection with a bias": altered("text_cfg", proj_bias=True) | {"custom_text": True},
    "no projection": altered("text_cfg", proj_type="none", width=24),
    "one block": {**altered("vision_cfg", layers=1), "text_cfg": TINY["text_cfg"] | {"layers": 1}},
}


def tokens(lengths: list[int], context: int = 20) -> torch.Tensor:
    """Return tokens of texts with that many words, each between its start and its end."""
    found = torch.zeros(len(lengths), context, dtype=torch.long)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(length)
        found[row, 0] = END - 1
        found[row, 1 : length + 1] = torch.randint(1, END - 1, (length,), generator=generator)
        found[row, length + 1] = END
    return found


def cosines(left: Any, right: Any) -> npt.NDArray[np.float64]:
    return np.asarray(F.cosine_similarity(torch.as_tensor(left).double(), torch.as_tensor(right).double(), dim=1))


@torch.inference_mode()
@pytest.mark.parametrize("name", PLAIN)
def test_the_towers_give_what_open_clip_gives_but_for_rounding(name: str) -> None:
    model = untrained(PLAIN[name], seed=len(name))
    images, texts = image_tower(model), text_tower(model)
    assert images is not None
    assert texts is not None
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(images(pixels), model.encode_image(pixels), rtol=1e-4, atol=1e-5)
    for lengths in ([0], [3, 18, 7], [5, 5, 0, 1], [18]):
        torch.testing.assert_close(texts(tokens(lengths)), model.encode_text(tokens(lengths)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        altered("vision_cfg", layers=[1, 1, 1, 1], patch_size=None, width=16),
        altered("vision_cfg", pool_type="avg"),
        altered("vision_cfg", attentional_pool=True),
        altered("vision_cfg", block_type="custom"),
    ],
)
def test_images_of_other_builds_go_through_their_own_forward(config: dict[str, Any], tmp_path: Path) -> None:
    assert image_tower(untrained(config)) is None
    clip = load_clip(saved(tmp_path / "model", config))
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval()
    pixels = clip._pixels([texture(1), texture(2)])
    with torch.inference_mode():
        expected = plain.encode_image(pixels, normalize=True)
    assert clip.embed_images([texture(1), texture(2)], 8) == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        altered("text_cfg", no_causal_mask=True),
        altered("text_cfg", pool_type="last"),
        altered("text_cfg", embed_cls=True) | {"custom_text": True},
        altered("text_cfg", qk_norm=True),
    ],
)
def test_texts_of_other_builds_go_through_their_own_forward(config: dict[str, Any]) -> None:
    assert text_tower(untrained(config)) is None


@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_preprocessing_has_the_bits_of_open_clips_transform(size: Any, mode: str, data: st.DataObject) -> None:
    transform = image_transform(size, is_train=False, resize_mode=mode, interpolation="bicubic")
    sides = st.tuples(st.integers(20, 90), st.integers(20, 90)) | st.just((size, size) if size == 32 else size)
    drawn = data.draw(st.lists(sides, min_size=1, max_size=4))
    images = [texture(place, *shape) for place, shape in enumerate(drawn)]
    pictures = [Image.fromarray(image) for image in images]
    expected = torch.stack([transform(picture) for picture in pictures])
    assert torch.equal(Preprocessing(transform)(images), expected)
    assert torch.equal(Preprocessing(transform)(pictures), expected)


def test_a_transform_that_is_not_known_is_applied_as_it_is() -> None:
    from torchvision.transforms import Compose, RandomInvert

    steps = image_transform(32, is_train=False).transforms
    transform = Compose([steps[0], RandomInvert(p=1.0), *steps[1:]])
    image = texture(4)
    assert torch.equal(Preprocessing(transform)([image])[0], transform(Image.fromarray(image)))


def test_real_photos_are_preprocessed_with_the_same_bits() -> None:
    if not PHOTOS.exists():
        pytest.skip(f"no real images at {PHOTOS}")
    transform, pictures = image_transform(224, is_train=False), []
    with tarfile.open(PHOTOS) as tar:
        for member in tar:
            if member.name.endswith((".jpg", ".png", ".webp")) and len(pictures) < 8:
                content = tar.extractfile(member)
                assert content is not None
                pictures.append(Image.open(io.BytesIO(content.read())).convert("RGB"))
    assert len(pictures) == 8
    found = Preprocessing(transform)([np.asarray(picture) for picture in pictures])
    assert torch.equal(found, torch.stack([transform(picture) for picture in pictures]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "tiny")


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from([*CAPTIONS, "x y z"]), min_size=1, max_size=9),
    st.integers(1, 9),
    st.sampled_from(PRECISIONS),
)
def test_a_text_has_the_same_vector_in_any_batch_and_order(
    model: str, texts: list[str], batch_size: int, precision: str
) -> None:
    clip = load_clip(model, precision)
    found = clip.embed_texts(texts, batch_size)
    alone = np.concatenate([clip.embed_texts([text], 1) for text in texts])
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-6)
    if precision == "fp32":
        assert found == pytest.approx(alone, abs=1e-6)
    assert cosines(found, alone).min() > 0.9999
    for text in set(texts):
        rows = found[[place for place, one in enumerate(texts) if one == text]]
        assert (rows == rows[0]).all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(1, 7), st.sampled_from(PRECISIONS))
def test_an_image_has_the_same_vector_in_any_batch(
    model: str, seeds: list[int], batch_size: int, precision: str
) -> None:
    images = [texture(seed, 32, 32 + seed) for seed in seeds]
    clip = load_clip(model, precision)
    found = clip.embed_images(images, batch_size)
    alone = np.concatenate([clip.embed_images([image], 1) for image in images])
    if precision == "fp32":
        assert found == pytest.approx(alone, abs=1e-6)
    assert cosines(found, alone).min() > 0.9999


@pytest.mark.parametrize("config", [TINY, altered("vision_cfg", layers=[1, 1, 1, 1], patch_size=None, width=16)])
def test_bf16_has_the_directions_of_fp32(config: dict[str, Any], tmp_path: Path) -> None:
    reference = saved(tmp_path / "model", config)
    images = [texture(seed) for seed in range(20)]
    half, full = load_clip(reference, "bf16"), load_clip(reference)
    assert half is not full
    pairs = [(half.embed_images(images, 8), full.embed_images(images, 8))]
    pairs.append((half.embed_texts(CAPTIONS, 8), full.embed_texts(CAPTIONS, 8)))
    for low, high in pairs:
        assert low.dtype == np.float32
        assert not np.array_equal(low, high)
        assert cosines(low, high).min() > 0.999


def test_each_model_is_loaded_once_for_each_precision(model: str) -> None:
    assert load_clip(model) is load_clip(model, "fp32") is load_clip(model, precision="fp32")
    assert load_clip(model, "bf16") is load_clip(model, "bf16") is not load_clip(model)
    assert set(PRECISIONS) == set(clip.PRECISIONS)
    with pytest.raises(InputError, match="precision: unknown precision 'fp8'"):
        load_clip(model, "fp8")


@pytest.mark.parametrize("text", ["ab" * 100_000, "é" * 100_000, "a " * 100_000, "&amp;" * 50_000])
def test_a_huge_caption_takes_no_more_time_than_the_model_reads_of_it(model: str, text: str) -> None:
    clip = load_clip(model)
    clip.embed_texts(["warm"], 1)
    started = time.process_time()
    assert clip.embed_texts([text], 1).shape == (1, 24)
    assert time.process_time() - started < 2


def test_random_letters_without_end_are_cut_before_they_are_tokenized(model: str) -> None:
    letters = "".join(chr(97 + number) for number in np.random.default_rng(0).integers(0, 26, 30_000))
    started = time.process_time()
    load_clip(model).embed_texts([letters], 1)
    assert time.process_time() - started < 5  # uncut it takes half a minute
