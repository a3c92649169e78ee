"""The CLIP signal: what it stores, what it refuses, and that a number that is none is null and counted."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from filters.signals.base import PairBatch, binary_to_embeddings
from filters.signals.clip import PRECISIONS, ClipSignal
from filters.signals.registry import signal_spec
from jobs.score.stage import SignalRequest, score_shard
from pipeline.errors import InputError, StageFailed
from pipeline.models.clip import load_clip, use_threads
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.store import Store
from tests.support.clip_models import CAPTIONS, Weights, saved, stored_pairs, without_image_directions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "tiny")


def batch_of(captions: list[str]) -> PairBatch:
    pairs = stored_pairs(captions)
    return PairBatch(pairs, [{} for _ in pairs])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_signal_has_unit_float16_embeddings_and_their_cosine(model: str, precision: str) -> None:
    found = ClipSignal(model, 3, precision).compute(batch_of(CAPTIONS))
    images, texts = (binary_to_embeddings(found[f"{name}_embedding"]) for name in ("image", "text"))
    assert images.shape == texts.shape == (4, 24)
    assert np.linalg.norm(images, axis=1) == pytest.approx(np.ones(4), abs=2e-3)
    assert found["similarity"].to_pylist() == pytest.approx((images * texts).sum(axis=1), abs=2e-3)
    clip = load_clip(model, precision)
    exact = clip.embed_images(batch_of(CAPTIONS).images, 3).astype(np.float64) * clip.embed_texts(CAPTIONS, 3)
    assert found["similarity"].to_pylist() == exact.sum(axis=1).astype(np.float32).tolist()


def _not_finite(weights: Weights) -> None:
    weights["text_projection"][:] = float("nan")


def _overflowing(weights: Weights) -> None:
    weights["visual.ln_post.weight"][:] = 3e38
    weights["visual.proj"][:] = 3e38


@pytest.mark.parametrize(
    ("change", "column"),
    [(_not_finite, "text_embedding"), (without_image_directions, "image_embedding"), (_overflowing, "image_embedding")],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_embedding_without_a_direction_is_null_and_so_is_its_similarity(
    change: Any, column: str, precision: str, tmp_path: Path
) -> None:
    reference = saved(tmp_path / "model", change=change)
    found = ClipSignal(reference, 4, precision).compute(batch_of(CAPTIONS))
    nulls = {name: values.null_count for name, values in found.items()}
    assert nulls == {"image_embedding": 0, "text_embedding": 0} | {column: 4, "similarity": 4}


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"batch_size": True}, {"batch_size": 1.5}, {"precision": "fp16"}])
def test_wrong_settings_are_refused_by_name(given: dict[str, Any]) -> None:
    [key] = given
    with pytest.raises(InputError, match=rf"^signals\.clip_v1\.{key}: .*found|^signals\.clip_v1\.{key}: unknown"):
        signal_spec("clip_v1", {"model": "any", **given})


def test_models_side_by_side_are_signals_of_one_kind() -> None:
    assert signal_spec("clip_l14_v1", {"kind": "clip", "model": "l14"}).kind == "clip"
    assert signal_spec("clip_v2", {"model": "l14"}).kind == "clip"
    with pytest.raises(InputError, match="unknown kind of signal 'clip_l14'"):
        signal_spec("clip_l14_v1", {"model": "l14"})


def shard_of(store: Store, captions: list[str], times: int = 1) -> list[dict[str, Any]]:
    """Write a shard with each pair so many times; return its rows of `samples`."""
    pairs = stored_pairs(captions)
    with store.create("shards/s/00000000.tar") as stream:
        writer = ShardWriter(stream)
        for pair in pairs * times:
            writer.append(pair_bytes(pair.uid, pair.jpg, pair.caption, {"uid": pair.uid}))
        writer.close()
    return [{"uid": pair.uid, "source": "s", "shard": "shards/s/00000000.tar"} for pair in pairs]


def wanted(name: str, reference: str, **given: Any) -> SignalRequest:
    spec = signal_spec(name, {"kind": "clip", "model": "any", **given})
    return SignalRequest(f"job of {name}", spec, reference)


def test_scoring_a_shard_again_gives_the_same_tables_and_counts_nulls(model: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    rows = shard_of(store, CAPTIONS * 5)
    broken = saved(tmp_path / "broken", change=without_image_directions)
    signals = [wanted("clip_v1", model), wanted("clip_v2", broken), wanted("clip_v3", model, precision="bf16")]
    first, again = score_shard(store, rows, signals), score_shard(store, rows, signals)
    assert first.rows == again.rows
    assert first.facts == {
        "pairs": 20,
        "nulls": {
            "job of clip_v1": {},
            "job of clip_v2": {"image_embedding": 20, "similarity": 20},
            "job of clip_v3": {},
        },
    }
    assert first.rows["job of clip_v1"]["signals_clip_v1"].num_rows == 20


class Odd:
    """A signal that gives numbers that are none."""

    columns = ClipSignal.columns

    def compute(self, batch: PairBatch) -> dict[str, Any]:
        odd = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)
        return {"image_embedding": [b""] * 4, "text_embedding": [None] * 4, "similarity": odd}


def test_a_number_that_is_none_becomes_null_whatever_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    monkeypatch.setattr(SignalRequest, "build", lambda self, store: Odd())
    found = score_shard(store, shard_of(store, CAPTIONS), [wanted("clip_v1", "")])
    table = found.rows["job of clip_v1"]["signals_clip_v1"]
    assert table["similarity"].to_pylist() == [None, None, None, 0.5]
    assert found.facts["nulls"] == {"job of clip_v1": {"text_embedding": 4, "similarity": 3}}


def test_a_pair_twice_is_no_shard_of_the_ledgers(model: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = shard_of(store, ["a", "b"], times=2)
    rows += [{**rows[0], "uid": "e" * 32}, {**rows[0], "uid": "f" * 32}]
    with pytest.raises(StageFailed, match=f"holds the pair {rows[0]['uid']}, a second time"):
        score_shard(store, rows, [wanted("clip_v1", model)])


def test_an_image_that_does_not_decode_is_named_by_its_shard_and_its_pair(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rows = shard_of(store, CAPTIONS)
    store.write(rows[0]["shard"], store.read(rows[0]["shard"]).replace(b"\xff\xd8\xff", b"\0\0\0"))
    with pytest.raises(StageFailed, match=rf"^{rows[0]['shard']}: pair {rows[0]['uid']}, at byte 0 of its shard: "):
        score_shard(store, rows, [SignalRequest("a job", signal_spec("image_v1", {}), "")])


def test_models_take_as_many_threads_as_they_are_given_but_no_more_than_there_are_cores() -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, 10_000):
            use_threads(count)
            found.append(torch.get_num_threads())
        assert found == [1, os.cpu_count()]
    finally:
        torch.set_num_threads(before)
