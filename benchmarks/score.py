"""How fast signals are computed from shards: those without a model against decoding, CLIP against its bare forward.

CLIP is a ViT-B-32 with random weights, scored by the product's job on Spark (`local[2]`): shards of 224 px JPEGs are
read and decoded, images and captions embedded, the table written and committed. The clock starts when Spark has, and
when each of its two workers holds the model. What it is held against is open_clip's own `encode_image` and
`encode_text` in float32 on ready tensors, 64 at a time with two threads, captions padded to 77 tokens as its tokenizer
pads them. The captions have 4 to 20 words, about as many as in CC3M (Sharma et al. 2018: 10.3 tokens on average); as
short ones cost less, the same is measured with captions that fill the context, and against `encode_image` alone.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.tables import experiment
from filters.signals.base import binary_to_embeddings
from filters.signals.registry import signal_spec
from jobs.score.stage import SignalRequest, execute, score_shard
from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import Plan
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.core.hardware import has_bf16
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from pipeline.shards.tar_format import ShardWriter, pair_bytes, read_pairs
from pipeline.storage.store import Store

PAIRS, SIDE = 2_000, 224


SHORT, FULL, SHARDS, BARE = 768, 256, 8, 64


WORDS = (
    "house",
    "sea",
    "blue",
    "old",
    "street",
    "woman",
    "red",
    "car",
    "tree",
    "with",
    "a",
    "the",
    "of",
    "on",
    "winter",
)


Captions = Callable[[int], str]


def short_caption(number: int) -> str:
    """Return a caption of 4 to 20 words."""
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, rng.integers(4, 21)))


def full_caption(number: int) -> str:
    """Return a caption of more tokens than CLIP's context has."""
    return " ".join(np.random.default_rng(number).choice(WORDS, 90))


def write_shard(
    store: Store, source: str, shard: int, numbers: Sequence[int], caption: Captions
) -> list[dict[str, Any]]:
    """Write one shard of textured JPEGs, a pair for each number; return its rows of `samples`."""
    rows, path = [], f"shards/{source}/{shard:08d}.tar"
    with store.create(path) as stream:
        writer = ShardWriter(stream)
        for number in numbers:
            uid = hashlib.sha256(f"{source}/{number}".encode()).hexdigest()[:32]
            coarse = np.random.default_rng(number).integers(0, 255, (14, 14, 3), np.uint8)
            jpg = cv2.imencode(".jpg", cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))[1].tobytes()
            place = {"offset": writer.append(pair_bytes(uid, jpg, caption(number), {"uid": uid}))}
            sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), SIDE)
            about = {"raw_bytes": len(jpg), "format": "jpeg", "frames": 1}
            rows.append({"uid": uid, "source": source, "shard": path, **place, **sizes, **about})
        writer.close()
    return rows


def ingested(path: Path, samples: dict[str, list[dict[str, Any]]]) -> None:
    """Commit the ingest of each source of an experiment as finished, with these rows of `samples`."""
    opened, schema, now = load_experiment(path, []), TABLES["samples"], datetime.now(UTC)
    ledger, rows = Ledger(opened.store), []
    for job in Plan(opened).ingests():
        table = pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in samples[job.name]], schema)
        ledger.commit(job.id, "samples", schema, [write_rows(opened.store, job.id, "samples", table)])
        counts = {"samples": table.num_rows}
        rows.append(JobRow(job.id, job.stage, job.name, now, now, counts, job.config, [], job.code, {}, {}))
    ledger.finish(rows)


def _signals() -> dict[str, Any]:
    """Return images a second of caption, image and PDQ signals, of bare decoding, and their ratio, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        rows = write_shard(store, "bench", 0, range(PAIRS), lambda _: "a photo of a house by the sea")
        wanted = [SignalRequest(name, signal_spec(name, None), "") for name in ("caption_v1", "image_v1", "pdq_v1")]
        score_shard(store, rows, wanted[:1])  # the language model is loaded before the clock starts
        started = time.perf_counter()
        with store.open(rows[0]["shard"]) as stream:
            for pair in read_pairs(stream):
                cv2.imdecode(np.frombuffer(pair.jpg, np.uint8), cv2.IMREAD_COLOR)
        decode = time.perf_counter() - started
        started = time.perf_counter()
        score_shard(store, rows, wanted)
        ours = time.perf_counter() - started
    return {
        "images": PAIRS,
        "signals_images_per_second": round(PAIRS / ours),
        "decode_images_per_second": round(PAIRS / decode),
        "ratio": round(decode / ours, 3),
    }


def _model(folder: Path) -> None:
    """Write a ViT-B-32 with random weights in open_clip's `local-dir:` form."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-32")
    folder.mkdir()
    save_file(open_clip.CLIP(**config).state_dict(), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))


class _Bare:
    """open_clip's own forward on ready tensors; `seconds` an image are the fastest yet of images and of texts."""

    def __init__(self, folder: Path) -> None:
        import open_clip
        import torch

        self._model = open_clip.create_model(f"local-dir:{folder}").eval()
        self._pixels = torch.randn(BARE, 3, SIDE, SIDE)
        self._tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([short_caption(n) for n in range(BARE)])
        self.seconds = [float("inf"), float("inf")]

    def measure(self, times: int) -> None:
        """Run it, with two threads."""
        import torch

        torch.set_num_threads(2)
        with torch.inference_mode():
            for _ in range(times):
                for place, work in enumerate((self._model.encode_image, self._model.encode_text)):
                    started = time.perf_counter()
                    work(self._tokens if place else self._pixels)
                    self.seconds[place] = min(self.seconds[place], (time.perf_counter() - started) / BARE)


def _cosines(run: Run, column: str) -> npt.NDArray[np.float64]:
    """Return the cosine of the embedding in fp32 and in bf16, of each pair that has both."""
    both = []
    for name in ("clip_v1", "clip_v2"):
        rows = run.ledger.read(signal_table(name), ["uid", column]).sort_by("uid")
        vectors = binary_to_embeddings(rows[column]).astype(np.float64)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        both.append(dict(zip(rows["uid"].to_pylist(), unit, strict=True)))
    return np.array([vector @ both[0][uid] for uid, vector in both[1].items()])


def _clip() -> dict[str, Any]:
    """Return images a second of CLIP through the pipeline and of its bare forward, and how fp32 and bf16 agree."""
    sizes: dict[str, tuple[int, Captions]] = {
        "warm": (2 * SHARDS, short_caption),
        "short": (SHORT, short_caption),
        "full": (FULL, full_caption),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _model(folder / "model")
        options = {"kind": "jsonl", "columns": {"url": "url", "caption": "caption"}}
        source = {"format": "table", "files": [str(folder / "rows.jsonl")], "options": options}
        path = experiment(
            folder,
            {"clip_v1": {"model": "b32"}, "clip_v2": {"model": "b32", "precision": "bf16"}},
            sources=dict.fromkeys(sizes, source),
            models={"b32": {"folder": str(folder / "model")}},
        )
        store = Store(str(folder / "store"))
        ingested(
            path,
            {
                name: [
                    row
                    for shard, numbers in enumerate(np.array_split(np.arange(count), SHARDS))
                    for row in write_shard(store, name, shard, numbers.tolist(), caption)
                ]
                for name, (count, caption) in sizes.items()
            },
        )
        run, seconds = Run(load_experiment(path, []), Display()), {}
        bare = _Bare(folder / "model")
        bare.measure(3)
        try:
            for signal in ("clip_v1", "clip_v2"):
                # where the processor lacks bfloat16, its speed says nothing, and takes half an hour to be measured
                scored = list(sizes) if signal == "clip_v1" or has_bf16() else ["warm"]
                jobs = {job.name.partition("/")[2]: job for job in run.plan.signal(signal)}
                for name in scored:
                    started = time.perf_counter()
                    execute(run, [jobs[name]])
                    seconds[signal, name] = (time.perf_counter() - started) / sizes[name][0]
            bare.measure(2)
            cosines = np.concatenate([_cosines(run, f"{one}_embedding") for one in ("image", "text")])
        finally:
            run.close()
    both = sum(bare.seconds)
    found: dict[str, Any] = {
        "images": SHORT,
        "bare_fp32_images_per_second": round(1 / both, 2),
        "bare_fp32_images_per_second_without_text": round(1 / bare.seconds[0], 2),
    }
    for precision, signal in (("fp32", "clip_v1"), ("bf16", "clip_v2")):
        if (signal, "short") not in seconds:
            continue
        ours = seconds[signal, "short"]
        found[f"{precision}_images_per_second"] = round(1 / ours, 2)
        found[f"ratio_{precision}"] = round(both / ours, 3)
        found[f"ratio_{precision}_full_captions"] = round(both / seconds[signal, "full"], 3)
        found[f"ratio_{precision}_to_images_alone"] = round(bare.seconds[0] / ours, 3)
    return found | {"cosine_min": round(float(cosines.min()), 6), "cosine_mean": round(float(cosines.mean()), 6)}


def measure() -> dict[str, Any]:
    """Return both figures."""
    return {"signals_against_decoding": _signals(), "clip_through_the_pipeline": _clip()}
