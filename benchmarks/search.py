"""How fast the nearest of one set of embeddings are found in another: exactly and approximately.

Both from the embedding table to the written result, by the functions that a Spark task calls, in two processes of one
thread each, as `local[2]` has them. The exact search stands against a bare SGEMM of as many operations on two threads,
half of it before and half after; the approximate one against the exact one, timed on a sample of the queries.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from filters.search.approximate import (
    ApproximateSearcher,
    ExactSearcher,
    build_searcher,
    load_searcher,
    memory_map,
    plan_index,
    save_searcher,
)
from filters.search.exact import RoundedCorpus, nearest, with_lengths
from filters.search.image_alignment import THUMBNAIL_SHAPE
from filters.signals.evaluation_index import EvaluationIndex
from filters.signals.evaluation_overlap import EvaluationOverlapSignal, unit_embeddings
from jobs.score.evaluation_index import StoredIndex
from jobs.score.evaluation_overlap import search_batches
from pipeline.ledger.data_files import write_rows
from pipeline.storage.store import Store

Halves = npt.NDArray[np.float16]


WIDTH, WORKERS, BATCH = 512, 2, 4096


EXACT_QUERIES, EXACT_ROWS, CHECKED = 100_000, 50_000, 500


MANY, SAMPLE, MEMORY, RECALL = 1_000_000, 2_000, 2 << 30, 0.98


CLUSTERS, FAMILIES, SPREAD = 20_000, 400, 0.7
"""Centres of clusters are 0.8 of their family's direction and 0.6 of their own, all at random; a row is its centre and
noise of 0.7 its length, whose strength in the i-th direction falls as i ** -0.5. The nearest of a million have cosines
of about 0.7 to 0.8."""


S, B = pa.string(), pa.binary()


TABLE = pa.schema([("uid", S), ("source", S), ("pdq", B), ("image_embedding", B)])


def clustered(seed: int, size: int) -> Halves:
    """Return (size, 512) float16 unit vectors of the clusters; another seed has other rows of the same clusters."""
    rng = np.random.default_rng(0)
    families = _unit(rng.standard_normal((FAMILIES, WIDTH), np.float32))
    own = _unit(rng.standard_normal((CLUSTERS, WIDTH), np.float32))
    centres = _unit(0.8 * np.repeat(families, CLUSTERS // FAMILIES, axis=0) + 0.6 * own)
    strength = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    strength *= SPREAD / np.linalg.norm(strength)
    rows, rng = np.empty((size, WIDTH), np.float16), np.random.default_rng(seed)
    for at in range(0, size, 1 << 16):
        part = rows[at : at + (1 << 16)]
        noise = rng.standard_normal(part.shape, np.float32) * strength
        part[:] = _unit(centres[rng.integers(0, CLUSTERS, len(part))] + noise)
    return rows


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(store: Store, name: str, vectors: Halves) -> list[str]:
    """Write embeddings as a signal's table has them, without fingerprints, a file for each worker; return the paths."""
    paths = []
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), WORKERS)):
        paths.append(f"tables/{name}/{number}.parquet")
        with store.create(paths[-1]) as stream, pq.ParquetWriter(stream, TABLE, compression="zstd") as writer:
            for at in range(0, len(rows), 1 << 16):
                part = rows[at : at + (1 << 16)]
                cells = pa.array([row.tobytes() for row in vectors[part[0] : part[-1] + 1]], pa.binary())
                uids = [f"{row:032x}" for row in part.tolist()]
                columns = [uids, ["bench"] * len(part), pa.nulls(len(part), B), cells]
                writer.write_table(pa.table(columns, schema=TABLE))
    return paths


def _wait(ready: Any) -> None:
    """Wait for the others; this module, and all that a worker needs, is imported by then."""
    ready.wait()


def _together(peak: list[int], over: threading.Event) -> None:
    """Keep the most memory that all children have together, in bytes; pages that they share are counted once."""
    while not over.wait(0.5):
        total = 0
        for child in active_children():
            with suppress(OSError, StopIteration):  # it has just ended
                lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
                total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
        peak[0] = max(peak[0], total)


def in_workers(work: Callable[[str], None], paths: list[str]) -> tuple[float, int]:
    """Run `work` on each path in a process of its own; return the seconds, and the memory of all together in bytes."""
    context = get_context("spawn")
    ready, memory, over = context.Barrier(WORKERS + 1), [0], threading.Event()
    watcher = threading.Thread(target=_together, args=(memory, over))
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with patch.dict(os.environ, alone), context.Pool(WORKERS, _wait, (ready,)) as pool:
        ready.wait()  # their imports are not counted: Spark's workers live on from job to job
        watcher.start()
        seconds = timed(partial(pool.map, work, paths, 1))
        over.set()
        watcher.join()
    return seconds, memory[0]


def peak() -> int:
    """Return the most memory that this process has had, in bytes, mapped files included.

    As the kernel keeps it for this program; `getrusage` would begin with that of the process that started it.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def exact_part(store: Store, index: StoredIndex, path: str) -> None:
    """Search for one file's pairs as a task of the signal `nearest` does, and write its rows."""
    signal = EvaluationOverlapSignal("pdq_v1", "clip_v1", align=False)
    with store.arrow(path) as stream:
        batches = list(search_batches(signal, store, [index], pq.ParquetFile(stream).iter_batches(BATCH)))
    write_rows(store, "exact", "signals_nearest_v1", pa.Table.from_batches(batches))


def _indexed(store: Store, vectors: Halves) -> StoredIndex:
    """Put an index of these embeddings, of images that nobody looks at, into the store."""
    count = len(vectors)
    index = EvaluationIndex(
        name="bench",
        keys=[f"{row:08d}" for row in range(count)],
        pdq=np.zeros((count, 32), np.uint8),
        quality=np.zeros(count, np.int32),
        guises=np.zeros((0, 32), np.uint8),
        shown=np.zeros(0, np.int64),
        thumbnails=np.zeros((count, *THUMBNAIL_SHAPE), np.uint8),
        laid=np.zeros(0, np.int64),
        layouts=ExactSearcher.of(np.zeros((0, 128), np.float16)),
        searcher=ExactSearcher.of(vectors),
    )
    folder = Path(store.path("indexes/bench"))
    index.save(folder)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return StoredIndex("indexes/bench", tuple(sorted(files.items())))


def _sgemm(queries: Halves, corpus: Halves) -> float:
    """Return the seconds of a bare product of float32, two threads, in the faster of numpy and torch."""
    right = corpus.astype(np.float32).T.copy()
    left, out = queries[:BATCH].astype(np.float32), np.empty((BATCH, len(corpus)), np.float32)
    torch.set_num_threads(WORKERS)
    ways = (
        lambda: np.dot(left, right, out=out),
        lambda: torch.mm(torch.from_numpy(left), torch.from_numpy(right), out=torch.from_numpy(out)),
    )
    quick = min(ways, key=lambda way: min(timed(way) for _ in range(2)))
    return sum(timed(quick) for _ in range(0, len(queries), BATCH)) * len(queries) / (-len(queries) // BATCH * -BATCH)


def exact() -> dict[str, Any]:
    """Return the rate of the exact search, in multiply-adds twice counted, and of SGEMM, and their ratio."""
    corpus, queries = clustered(1, EXACT_ROWS), clustered(2, EXACT_QUERIES)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        index, paths = _indexed(store, corpus), table(store, "clip", queries)
        half = EXACT_QUERIES // 2
        bare = _sgemm(queries[:half], corpus)
        seconds, memory = in_workers(partial(exact_part, store, index), paths)
        bare += _sgemm(queries[half:], corpus)
        files = sorted(store.files("tables/signals_nearest_v1"))
        rows = pa.concat_tables(pq.read_table(store.path(path)) for path in files).sort_by("uid")
    wide, length = with_lengths(queries[:CHECKED])
    others, lengths = with_lengths(corpus)
    cosines = ((wide @ others.T) / (length[:, None] * lengths)).astype(np.float32)
    places = np.array([int(key) for key in rows["cosine_key"].to_pylist()])
    flops = 2 * EXACT_QUERIES * EXACT_ROWS * WIDTH
    return {
        "queries": EXACT_QUERIES,
        "rows": EXACT_ROWS,
        "dimensions": WIDTH,
        "seconds": round(seconds, 2),
        "gflops": round(flops / seconds / 1e9, 1),
        "sgemm_gflops": round(flops / bare / 1e9, 1),
        "ratio": round(bare / seconds, 3),
        "memory_bytes": memory,
        "checked": CHECKED,
        "as_brute_force": int((places[:CHECKED] == cosines.argmax(axis=1)).sum()),
        "same_cosine": int((rows["cosine"].to_numpy()[:CHECKED] == cosines.max(axis=1)).sum()),
    }


def approximate_part(store: Store, path: str) -> None:
    """Search for one file's embeddings in the inverted lists, in batches as a task has them; write what is found."""
    index, found = load_searcher(Path(store.path("indexes/many")), "embeddings"), []
    with store.arrow(path) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(BATCH):
            rows = pa.Table.from_batches([batch])
            vectors, known = unit_embeddings(rows["image_embedding"], WIDTH)
            places, cosines = index.search(vectors[known], 1)
            found.append(pa.table({"uid": rows["uid"], "place": places[:, 0], "cosine": cosines[:, 0]}))
    write_rows(store, "approximate", "found", pa.concat_tables(found))


def built(folder: str) -> dict[str, Any]:
    """Build the index of a million rows as its job does, and write it; return what it came to."""
    store = Store(folder)
    lists = Path(store.path("indexes/many"))
    lists.mkdir(parents=True)
    np.save(lists / "rows.npy", clustered(1, MANY))
    rows, plan = memory_map(lists / "rows.npy"), plan_index(MANY, WIDTH, MEMORY)
    started = time.perf_counter()
    index, recall, sample = build_searcher(rows, plan, RECALL)
    seconds = time.perf_counter() - started
    assert isinstance(index, ApproximateSearcher)
    save_searcher(index, lists, "embeddings")
    (lists / "rows.npy").unlink()
    parameters = {"kind": plan.kind, "cells": len(index.centroids), "probed": index.probed}
    measured = {"recall_of_its_own_rows": round(recall, 4), "measured_on": sample}
    return parameters | measured | {"build_seconds": round(seconds, 1), "memory_bytes": peak()}


def sampled(folder: str) -> dict[str, Any]:
    """Search exactly for a sample of the queries, by the search of exact indexes and by a bare one of FAISS."""
    vectors = memory_map(Path(folder, "indexes/many/embeddings.vectors.npy"))
    queries = clustered(2, 1 << 16)[:SAMPLE]  # the first file's first rows
    torch.set_num_threads(WORKERS)
    faiss.omp_set_num_threads(WORKERS)
    whole = RoundedCorpus.of(vectors)
    started = time.perf_counter()
    cosines = nearest(queries, vectors, whole)[1][:, 0]
    exact = time.perf_counter() - started
    flat = faiss.IndexFlatIP(WIDTH)
    part = vectors[: MANY // 10].astype(np.float32)
    flat.add(part)
    bare = 10 * timed(partial(flat.search, queries.astype(np.float32), 1))
    return {"cosines": cosines.tolist(), "exact": exact, "faiss": bare, "memory_bytes": peak()}


def approximate() -> dict[str, Any]:
    """Return how much faster than exact a million are searched for in a million, at which recall and in what memory."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        build = _alone("built", folder)
        paths = table(store, "clip", clustered(2, MANY))
        truth = _alone("sampled", folder)
        seconds, memory = in_workers(partial(approximate_part, store), paths)
        files = sorted(store.files("tables/found"))
        rows = pa.concat_tables(pq.read_table(store.path(path)) for path in files).sort_by("uid")
    found, cosines = rows["cosine"].to_numpy()[:SAMPLE], np.array(truth["cosines"], np.float32)
    each = {name: truth[name] * MANY / SAMPLE for name in ("exact", "faiss")}
    return {
        "queries": MANY,
        "rows": MANY,
        "dimensions": WIDTH,
        **build,
        "seconds": round(seconds, 1),
        "recall": round(float((found >= cosines).mean()), 4),
        "sample": SAMPLE,
        "exact_seconds": round(each["exact"]),
        "faiss_exact_seconds": round(each["faiss"]),
        "times_faster": round(each["exact"] / seconds, 1),
        "times_faster_than_faiss": round(each["faiss"] / seconds, 1),
        "times_faster_with_build": round(each["exact"] / (seconds + build["build_seconds"]), 1),
        "build_memory_bytes": build["memory_bytes"],
        "search_memory_bytes": memory,
        "sample_memory_bytes": truth["memory_bytes"],
        "memory_bytes": max(build["memory_bytes"], memory),
    }


def _alone(what: str, folder: str) -> dict[str, Any]:
    """Run a part in a process of its own, so that its memory is its own; return what it came to."""
    line = [sys.executable, "-m", "benchmarks.search", what, folder]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure() -> dict[str, Any]:
    """Return both figures."""
    return {"exact_search_against_sgemm": exact(), "approximate_search": approximate()}


if __name__ == "__main__":
    print(json.dumps({"built": built, "sampled": sampled}[sys.argv[1]](sys.argv[2])))
