"""How the cost of deduplication grows from 100,000 to 1,000,000 pairs: by fingerprint, and by embedding.

The jobs are the product's, on Spark (`local[2]`), from the signal tables to the written result: `duplicates`, then
`clusters` and `semantic` with a cluster for each 1,000 pairs. The clock starts when Spark has; memory is the largest
sum of the resident sizes of all processes, the JVM's among them. Pages that workers share are counted once for each.
Two more exponents are of the work itself, without what Spark costs at any size: of one band of the comparison of
fingerprints, and of finding centres and assigning to them. Within a cell the work is the same at any size.

The pairs are drawn in files of 10,000, each by itself:
- fingerprints of 256 random bits; of 100 pairs, 10 are near copies of another with 1 to 28 of its bits turned, 2 have
  the bytes of another, and 1 is of one crowd of the whole corpus, up to 12 bits from one fingerprint;
- embeddings of 512 dimensions, float16: a concept for each 50 pairs, themselves around a theme for each 5,000 (cosine
  0.6 to the theme, 0.8 from a pair to its concept); of 100 pairs, 5 are near copies at a cosine of 0.98, where pairs
  from 0.95 on are duplicates.
"""

import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.processes import resident
from benchmarks.tables import experiment, finished
from filters.search.cosine import usable_embeddings
from filters.signals.clusters import ClustersSignal, train_centres
from filters.signals.duplicates import DuplicatesSignal
from jobs.score.stage import execute
from jobs.workflow.experiment import load_experiment
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.images.pdq import PDQ_BYTES
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store

SIZES = (100_000, 1_000_000)


FILE, WIDTH, CELL = 10_000, 512, 1_000


NEAR, EXACT, CROWD, SEMANTIC = 1_000, 200, 100, 500
"""Of each file, the last rows are near copies of its first ones, before them exact ones, and before these the crowd."""


COSINE = 0.95


SIGNALS = ("duplicates_v1", "clusters_v1", "semantic_v1")


def uid_of(row: int) -> str:
    """Return a row's uid."""
    return hashlib.sha256(str(row).encode()).hexdigest()[:32]


def _samples(pairs: int) -> Iterator[pa.Table]:
    for first in range(0, pairs, FILE):
        sums = np.arange(first, first + FILE)
        sums[-NEAR - EXACT : -NEAR] = sums[:EXACT]
        uids = [uid_of(row) for row in range(first, first + FILE)]
        yield pa.table({"uid": uids, "source": ["bench"] * FILE, "raw_sha256": [f"{one:064x}" for one in sums]})


def _fingerprints(pairs: int) -> Iterator[pa.Table]:
    crowd = np.random.default_rng(1).integers(0, 2, 256, np.uint8)
    for first in range(0, pairs, FILE):
        rng = np.random.default_rng([2, first])
        bits = rng.integers(0, 2, (FILE, 256), np.uint8)
        for row, copied in zip(range(FILE - NEAR, FILE), range(NEAR), strict=True):
            bits[row] = bits[copied]
            bits[row, rng.choice(256, rng.integers(1, 29), replace=False)] ^= 1
        bits[-NEAR - EXACT : -NEAR] = bits[:EXACT]
        for row in range(FILE - NEAR - EXACT - CROWD, FILE - NEAR - EXACT):
            bits[row] = crowd
            bits[row, rng.choice(256, rng.integers(0, 13), replace=False)] ^= 1
        codes = [code.tobytes() for code in np.packbits(bits, axis=1)]
        uids = [uid_of(row) for row in range(first, first + FILE)]
        yield pa.table({"uid": uids, "pdq": pa.array(codes, pa.binary()), "quality": [100] * FILE})


def _around(centres: npt.NDArray[Any], cosine: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return unit vectors, each at about this cosine to the unit vector in its row of `centres`."""
    noise = rng.standard_normal(centres.shape, np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    mixed = cosine * centres + math.sqrt(1 - cosine**2) * noise
    unit: npt.NDArray[np.float32] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit


def _embeddings(pairs: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(3)
    themes = _around(np.zeros((pairs // 5_000, WIDTH), np.float32), 0, rng)
    concepts = _around(themes[rng.integers(0, len(themes), pairs // 50)], 0.6, rng)
    for first in range(0, pairs, FILE):
        rng = np.random.default_rng([4, first])
        vectors = _around(concepts[rng.integers(0, len(concepts), FILE)], 0.8, rng)
        vectors[-SEMANTIC:] = _around(vectors[:SEMANTIC], 0.98, rng)
        embeddings = pa.array([row.tobytes() for row in vectors.astype("<f2")], pa.binary())
        yield pa.table({"uid": [uid_of(row) for row in range(first, first + FILE)], "image_embedding": embeddings})


def _one_band(pairs: int) -> float:
    """Return the processor seconds of one band of the near pairs, one of as many tasks as there are bands."""
    codes = sorted({code for part in _fingerprints(pairs) for code in part["pdq"].to_pylist()})
    distinct = np.frombuffer(b"".join(codes), np.uint8).reshape(-1, PDQ_BYTES)
    started = time.process_time()
    DuplicatesSignal("pdq_v1").compare(distinct, (0, 0, 1))
    return time.process_time() - started


def _clustering(pairs: int) -> float:
    """Return the processor seconds of finding the centres, and of assigning all pairs as measured on one file."""
    signal, parts = ClustersSignal("clip_v1", pairs // CELL), _embeddings(pairs)
    first = usable_embeddings(next(parts)["image_embedding"], "")[1]
    sample = [first]
    while sum(map(len, sample)) < signal.training_rows:
        sample.append(usable_embeddings(next(parts)["image_embedding"], "")[1])
    started = time.process_time()
    centres = train_centres(np.concatenate(sample)[: signal.training_rows], signal)
    trained = time.process_time()
    centres.assign(first)
    return trained - started + (time.process_time() - trained) * pairs / len(first)


def _prepare(folder: Path, pairs: int) -> Path:
    signals = {
        "pdq_v1": None,
        "clip_v1": {"model": "any"},
        "duplicates_v1": {"pdq": "pdq_v1"},
        "clusters_v1": {"clip": "clip_v1", "clusters": pairs // CELL},
        "semantic_v1": {"clip": "clip_v1", "clusters": "clusters_v1", "cosine": COSINE},
    }
    path = experiment(folder, signals)
    finished(path, {"samples": _samples(pairs), "pdq_v1": _fingerprints(pairs), "clip_v1": _embeddings(pairs)})
    return path


def _run(path: Path) -> None:
    """Run the three signals; print the seconds of each as JSON."""
    run = Run(load_experiment(path, []), Display())
    try:
        run.spark.range(10).groupBy("id").count().collect()
        seconds = {}
        for name in SIGNALS:
            started = time.perf_counter()
            execute(run, run.plan.signal(name))
            seconds[name] = round(time.perf_counter() - started, 1)
    finally:
        run.close()
    print(json.dumps(seconds))


def _found(store: Store, signal: str, column: str, copies: int) -> float:
    """Return the share of the planted copies that are in the group of what they copy."""
    table = Ledger(store).read(signal_table(signal), ["uid", column])
    group = dict(zip(table["uid"].to_pylist(), table[column].to_pylist(), strict=True))
    planted = [
        (first + copied, first + FILE - copies + copied)
        for first in range(0, len(group), FILE)
        for copied in range(copies)
    ]
    return sum(group[uid_of(one)] == group[uid_of(other)] for one, other in planted) / len(planted)


def _measured(pairs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cuvee-dedup-") as scratch:
        path = _prepare(Path(scratch), pairs)
        command = [sys.executable, "-m", "benchmarks.dedup", str(path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        peak = 0
        while child.poll() is None:
            peak = max(peak, resident(child.pid))
            time.sleep(0.2)
        output, errors = child.communicate()
        assert child.returncode == 0, errors[-2000:]
        store = Store(str(Path(scratch, "store")))
        facts = {row.name: row.facts for row in Ledger(store).jobs()}
        return {
            "seconds": json.loads(output.splitlines()[-1]),
            "peak_bytes": peak,
            "one_band_processor_seconds": round(_one_band(pairs), 2),
            "clustering_processor_seconds": round(_clustering(pairs), 2),
            "near_copies_found": _found(store, "duplicates_v1", "near_group", NEAR),
            "semantic_copies_found": _found(store, "semantic_v1", "semantic_group", SEMANTIC),
            "fingerprints_compared": facts["duplicates_v1"]["compared"],
            "embeddings_compared": facts["semantic_v1"]["compared"],
            "nearest_centre_recall": facts["clusters_v1"]["recall"],
        }


def _growth(few: float, many: float) -> float:
    return round(math.log(many / few) / math.log(SIZES[1] / SIZES[0]), 3)


def measure() -> dict[str, Any]:
    """Return seconds, memory and what was found at each size, and the exponents by which the seconds grow."""
    figures = {size: _measured(size) for size in SIZES}

    def exponent(*names: str) -> float:
        return _growth(*(sum(figures[size]["seconds"][name] for name in names) for size in SIZES))

    return {
        "deduplication": {
            "pairs": {str(size): figure for size, figure in figures.items()},
            "exponent_pdq": exponent("duplicates_v1"),
            "exponent_embedding": exponent("clusters_v1", "semantic_v1"),
            "exponent": exponent(*SIGNALS),
            "exponent_one_band": _growth(*(figures[size]["one_band_processor_seconds"] for size in SIZES)),
            "exponent_clustering": _growth(*(figures[size]["clustering_processor_seconds"] for size in SIZES)),
            "peak_bytes": max(figure["peak_bytes"] for figure in figures.values()),
        }
    }


if __name__ == "__main__":
    _run(Path(sys.argv[1]))
