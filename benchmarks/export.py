"""How fast an export copies byte ranges, against `cat` copying the same number of bytes to a file."""

import hashlib
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exports import Range, laid_out, write_tar
from pipeline.shards import ShardWriter, pair_bytes
from pipeline.store import Store

PAIRS, TARS, SHARE = 20_000, 4, 0.3


def _source(store: Store) -> list[Range]:
    """Write the source tars: `PAIRS` pairs of about 10 kB; return where each lies."""
    rng = np.random.default_rng(0)
    ranges = []
    for number in range(TARS):
        name = f"shards/bench/{number:08d}.tar"
        with store.create(name) as stream:
            writer = ShardWriter(stream)
            for index in range(PAIRS // TARS):
                uid = hashlib.sha256(f"{number}:{index}".encode()).hexdigest()[:32]
                members = pair_bytes(uid, rng.bytes(int(rng.integers(6_000, 12_000))), "a caption", {"uid": uid})
                ranges.append(Range(uid, name, writer.append(members), len(members)))
            writer.close()
    return ranges


def measure() -> dict[str, Any]:
    """Return the export's rate and `cat`'s, in bytes a second, and their ratio; hashing of the output included."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        ranges = {part.uid: part for part in _source(store)}
        chosen = sorted(ranges)[: int(PAIRS * SHARE)]
        started = time.perf_counter()
        tars = [
            write_tar(store, "exports/bench", number, [ranges[uid] for uid in uids])
            for number, uids in enumerate(laid_out(dict.fromkeys(chosen, 1), 0, 10_000))
        ]
        ours = time.perf_counter() - started
        size = sum(tar.bytes for tar in tars)
        paths = [str(Path(folder, "exports/bench", tar.name)) for tar in tars]
        started = time.perf_counter()
        with Path(folder, "copy").open("wb") as out:
            subprocess.run(["/bin/cat", *paths], stdout=out, check=True)
        cat = time.perf_counter() - started
    return {
        "export_against_cat": {
            "bytes": size,
            "export_bytes_per_second": round(size / ours),
            "cat_bytes_per_second": round(size / cat),
            "ratio": round(cat / ours, 3),
        }
    }
