"""How long `cuvee decide` takes with the datacomp_1b preset on 10,000,000 pairs, and whether it is right.

The store is drawn: files of 10,000 rows as ingest and score leave them, with every column of every table (what the
preset does not read holds nulls, embeddings 64 bytes). The clock is around the whole command, Spark's start included,
on `local[2]` with 4 GB for the driver. What it keeps is compared with numpy's answer.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import Job
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.core.uid_arrays import uid_keys, uid_strings
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store

PAIRS, SHARD, LIMIT = 10_000_000, 10_000, 90


ROOT = Path(__file__).parent.parent


SOURCES = ("cc12m", "redcaps", "shutterstock", "wit", "yfcc")


def _experiment(folder: Path) -> Path:
    """Write an experiment whose one filter is the preset; return its path."""
    (folder / "rows.tsv").write_text("http://a.test/1.jpg\ta caption\n")
    images = folder / "images"
    (images / "test").mkdir(parents=True)
    (images / "classnames.txt").write_text("thing\n")
    (images / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\n")
    (images / "test" / "nshards.txt").write_text("1\n")
    (images / "test" / "0.tar").write_bytes(bytes(1024))
    clusters = {"clip": "clip_l14_v1", "clusters": 1000}
    data: dict[str, Any] = {
        "title": "decide",
        "question": "how long does it take?",
        "store": str(folder / "store"),
        "spark": {"master": "local[2]", "memory": "4g"},
        "sources": {name: {"format": "cc12m", "files": [str(folder / "rows.tsv")]} for name in SOURCES},
        "evaluation": {"reference": "images", "sets": {"images": str(images)}},
        "models": {"l14": {"name": "ViT-L-14", "pretrained": "openai"}},
        "signals": {
            "caption_v1": None,
            "clip_l14_v1": {"kind": "clip", "model": "l14"},
            "clusters_v1": clusters,
            "reference_v1": {"clip": "clip_l14_v1", "clusters": "clusters_v1", "images": str(images)},
        },
        "filters": {"best": {"preset": "datacomp_1b"}},
        "mixtures": {"everything": {}},
        "training": {
            "model": str(ROOT / "experiments/models/resnet_64px"),
            "mixtures": ["everything"],
            "samples_seen": 64,
        },
        "report": {"filter": "best", "examples": 0},
    }
    path = folder / "decide.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return path


@dataclass(frozen=True)
class Drawn:
    """Pairs of one source: uids (n,) S16 and what the preset looks at, (n,) each."""

    source: str
    uids: npt.NDArray[np.bytes_]
    language: npt.NDArray[np.str_]
    words: npt.NDArray[np.int32]
    chars: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]
    near: npt.NDArray[np.bool_]


def _draw(source: str, count: int, seed: Sequence[int]) -> Drawn:
    """Draw pairs; similarities are in steps of 2^-12, so that thousands share the value at the cut."""
    rng = np.random.default_rng(seed)
    return Drawn(
        source,
        np.frombuffer(rng.bytes(16 * count), "S16"),
        rng.choice(np.array(["en", "de", "und"]), count, p=[0.6, 0.3, 0.1]),
        rng.integers(0, 30, count, np.int32),
        rng.integers(0, 150, count, np.int32),
        (np.round(rng.normal(0.22, 0.06, count) * 4096) / 4096).astype(np.float32),
        rng.random(count) < 0.4,
    )


def _shards(pairs: int) -> Iterator[tuple[int, str, int]]:
    """Yield number, source and size of each shard."""
    for number, start in enumerate(range(0, pairs, SHARD)):
        yield number, SOURCES[number % len(SOURCES)], min(SHARD, pairs - start)


def _filled(schema: pa.Schema, count: int, columns: dict[str, Any]) -> pa.Table:
    return pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in schema], schema=schema)


def _written(run: Run, jobs: dict[tuple[str, str], Job], one: Drawn) -> list[tuple[Job, DataFile]]:
    """Write a shard's rows of each table, a file each."""
    count = len(one.uids)
    names = {"uid": uid_strings(one.uids), "source": pa.array([one.source] * count)}
    embedding = pa.array(np.frombuffer(bytes(64 * count), "S64"), pa.binary(64)).cast(pa.binary())
    signals = {
        "caption_v1": {name: pa.array(getattr(one, name)) for name in ("language", "words", "chars")},
        "clip_l14_v1": {
            "similarity": pa.array(one.similarity),
            "image_embedding": embedding,
            "text_embedding": embedding,
        },
    }
    files = []
    for name, columns in [("samples", {}), *signals.items()]:
        table = name if name == "samples" else signal_table(name)
        job = jobs[name, one.source]
        rows = _filled(run.schema(table), count, names | columns)
        files.append((job, write_rows(run.store, job.id, table, rows)))
    return files


def _reference(run: Run, drawn: Sequence[Drawn], job: Job) -> list[DataFile]:
    """Write the corpus signal in eight files, its rows in an order of their own."""
    uids = np.concatenate([one.uids for one in drawn])
    near = np.concatenate([one.near for one in drawn])
    sources = pa.array(np.repeat([one.source for one in drawn], [len(one.uids) for one in drawn]))
    table, files = signal_table("reference_v1"), []
    for part in np.array_split(np.random.default_rng(1).permutation(len(uids)), 8):
        columns = {
            "uid": uid_strings(uids[part]),
            "source": sources.take(pa.array(part)),
            "near_reference": pa.array(near[part]),
        }
        files.append(write_rows(run.store, job.id, table, _filled(run.schema(table), len(part), columns)))
    return files


def build(folder: Path, pairs: int) -> tuple[Path, list[Drawn]]:
    """Write an experiment and its store, as finished up to `score`; return the experiment file and what was drawn."""
    path = _experiment(folder)
    run, started = Run(load_experiment(path, []), Display()), datetime.now(UTC)
    ingests = {job.name: job for job in run.plan.ingests()}
    jobs = {("samples", name): job for name, job in ingests.items()}
    for signal in ("caption_v1", "clip_l14_v1"):
        jobs |= {(signal, job.name.partition("/")[2]): job for job in run.plan.signal(signal)}
    made: dict[Job, list[DataFile]] = {job: [] for job in run.plan.until("score")}
    drawn = [_draw(source, count, (7, number)) for number, source, count in _shards(pairs)]
    with ThreadPoolExecutor(2) as pool:
        for files in pool.map(lambda one: _written(run, jobs, one), drawn):
            for job, file in files:
                made[job].append(file)
    reference = run.plan.signal("reference_v1")[0]
    made[reference] = _reference(run, drawn, reference)
    run.finish([(job, files, {}) for job, files in made.items()], started)
    run.close()
    return path, drawn


def expected(drawn: Sequence[Drawn]) -> npt.NDArray[np.bytes_]:
    """Return the uids that the preset keeps, sorted, as numpy finds them."""
    columns = {
        name: np.concatenate([getattr(one, name) for one in drawn])
        for name in Drawn.__annotations__
        if name != "source"
    }
    uids, similarity = columns["uids"], columns["similarity"]
    numbers = uids.view(">u8").reshape(-1, 2)
    best = np.lexsort((numbers[:, 1], numbers[:, 0], -similarity))[: -(-3 * len(uids) // 10)]
    top = np.zeros(len(uids), bool)
    top[best] = True
    english = (columns["language"] == "en") & (columns["words"] > 1) & (columns["chars"] > 5)
    return np.sort(uids[english & columns["near"] & top])


def kept(ledger: Ledger, job: str) -> npt.NDArray[np.bytes_]:
    """Return the uids that a decided filter keeps, sorted."""
    parts = []
    for _, path in ledger.snapshot("decisions", [job]):
        with ledger.store.arrow(path) as stream:
            rows = pq.read_table(stream, columns=["uid", "keep"])
        parts.append(uid_keys(rows.filter(pc.field("keep"))["uid"]))
    return np.sort(np.concatenate(parts))


def measure(pairs: int = PAIRS) -> dict[str, Any]:
    """Return the seconds of the command, whether it keeps what numpy does, and how busy the machine was before."""
    with tempfile.TemporaryDirectory(prefix="cuvee-decide-") as name:
        path, drawn = build(Path(name), pairs)
        load, started = os.getloadavg()[0], time.perf_counter()
        subprocess.run([sys.executable, "-m", "jobs.cli.main", "decide", str(path)], cwd=ROOT, check=True)
        seconds = time.perf_counter() - started
        ledger = Ledger(Store(str(Path(name) / "store")))
        [job] = [row for row in ledger.jobs() if row.stage == "decide"]
        found, right = kept(ledger, job.job), expected(drawn)
    return {
        "decide_datacomp_1b": {
            "pairs": pairs,
            "seconds": round(seconds, 1),
            "limit_seconds": LIMIT,
            "pairs_per_second": round(pairs / seconds),
            "load_before": round(load, 1),
            "kept": len(found),
            "kept_as_numpy": bool(np.array_equal(found, right)),
        }
    }


if __name__ == "__main__":
    print(measure(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS))
