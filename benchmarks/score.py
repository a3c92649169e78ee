"""How fast the signals that need no model are computed from a shard, against decoding its images alone."""

import hashlib
import tempfile
import time
from typing import Any

import cv2
import numpy as np

from filters.registry import signal_spec
from jobs.score import Wanted, score_shard
from pipeline.shards import ShardWriter, pair_bytes, read_pairs
from pipeline.store import Store

PAIRS, SIDE = 2_000, 224


def _shard(store: Store) -> list[dict[str, Any]]:
    """Write one shard of textured JPEGs; return its rows of `samples`."""
    rng, rows = np.random.default_rng(0), []
    with store.create("shards/bench/00000000.tar") as stream:
        writer = ShardWriter(stream)
        for index in range(PAIRS):
            uid = hashlib.sha256(str(index).encode()).hexdigest()[:32]
            coarse = rng.integers(0, 255, (14, 14, 3), np.uint8)
            jpg = cv2.imencode(".jpg", cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))[1].tobytes()
            members = pair_bytes(uid, jpg, "a photo of a house by the sea", {"uid": uid})
            rows.append(
                {
                    "uid": uid,
                    "source": "bench",
                    "shard": "shards/bench/00000000.tar",
                    "offset": writer.append(members),
                    **dict.fromkeys(("width", "height", "original_width", "original_height"), SIDE),
                }
            )
        writer.close()
    return rows


def measure() -> dict[str, Any]:
    """Return images a second of caption, image and PDQ signals, of bare decoding, and their ratio, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        rows = _shard(store)
        wanted = [Wanted(name, signal_spec(name, None), "") for name in ("caption_v1", "image_v1", "pdq_v1")]
        score_shard(store, rows, wanted[:1])  # the language model is loaded before the clock starts
        started = time.perf_counter()
        with store.open("shards/bench/00000000.tar") as stream:
            for pair in read_pairs(stream):
                cv2.imdecode(np.frombuffer(pair.jpg, np.uint8), cv2.IMREAD_COLOR)
        decode = time.perf_counter() - started
        started = time.perf_counter()
        score_shard(store, rows, wanted)
        ours = time.perf_counter() - started
    return {
        "signals_against_decoding": {
            "images": PAIRS,
            "signals_images_per_second": round(PAIRS / ours),
            "decode_images_per_second": round(PAIRS / decode),
            "ratio": round(decode / ours, 3),
        }
    }
