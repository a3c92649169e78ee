"""How fast an export copies byte ranges, against `cat` and against a plain loop over webdataset.

50,000 pairs of about 10 kB in 5 tars, of which 30 % are exported into 2 tars by 2 threads, SHA-256 of the output
included. `cat` copies the same bytes to a file. The loop reads the same tars by `webdataset` and writes the same pairs
by its `TarWriter`; it stands for DataComp's resharder, which cannot be run here. All work on files that are in memory.
Of five rounds, each of an export and a `cat`, the quickest of either count; the loop runs once.
"""

import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from jobs.export.stage import copy_tar, run_in_threads
from pipeline.core.uid_arrays import sort_order, uid_strings
from pipeline.core.uids import uid
from pipeline.export.layout import layout_tars
from pipeline.export.tar_writer import write_tar
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.byte_ranges import ByteRanges
from pipeline.storage.store import Store

PAIRS, TARS, SHARE, PER_TAR, THREADS, ROUNDS = 50_000, 5, 0.3, 10_000, 2, 5


def _source(store: Store) -> ByteRanges:
    """Write the source tars; return where each pair lies, in the order of their uids."""
    rng = np.random.default_rng(0)
    names, columns = [], []
    for number in range(TARS):
        names.append(f"shards/bench/{number:08d}.tar")
        with store.create(names[-1]) as stream:
            writer = ShardWriter(stream)
            for index in range(PAIRS // TARS):
                key = uid("bench", f"{number}:{index}", "", "")
                members = pair_bytes(key, rng.bytes(int(rng.integers(6_000, 12_000))), "a caption", {"uid": key})
                columns.append((bytes.fromhex(key), number, writer.append(members), len(members)))
            writer.close()
    keys, of, offsets, sizes = zip(*columns, strict=True)
    found = ByteRanges(tuple(names), np.array(keys, "S16"), np.array(of, np.int32), np.array(offsets), np.array(sizes))
    return found.take(sort_order(found.keys))


def _units(pieces: ByteRanges) -> list[tuple[int, ByteRanges]]:
    once = np.ones(len(pieces), np.int32)
    return [(number, pieces.take(at)) for number, at in enumerate(layout_tars(pieces.keys, once, 0, PER_TAR))]


def _export(store: Store, pieces: ByteRanges) -> None:
    """Lay out and write the tars: what of an export is copying."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda unit: write_tar(store, "exports/bench", *unit), _units(pieces)))


def _job(store: Store, pieces: ByteRanges) -> None:
    """Do the same as the job does: with the rows for the ledger and each tar's completion record."""
    units = [(f"tar-{number}", (number, part)) for number, part in _units(pieces)]
    work = partial(copy_tar, store, "bench", "bench", "exports/job")
    run_in_threads(store, "bench", units, work, THREADS, lambda done, of: None)


def _cat(paths: list[Path], target: Path) -> None:
    with target.open("wb") as out:
        subprocess.run(["/bin/cat", *paths], stdout=out, check=True)


def _loop(paths: list[Path], chosen: set[str], target: Path) -> None:
    with warnings.catch_warnings(), wds.TarWriter(str(target), encoder=False) as writer:
        warnings.simplefilter("ignore")
        for sample in wds.WebDataset(list(map(str, paths)), shardshuffle=False):
            if sample["__key__"] in chosen:
                writer.write({key: sample[key] for key in ("__key__", "jpg", "txt", "json")})


def _seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that passed, and those that cores worked on it, in this process and in what it started."""
    started, before = time.perf_counter(), os.times()
    work()
    passed, after = time.perf_counter() - started, os.times()
    return passed, sum(after[:4]) - sum(before[:4])


def _rounds(store: Store, folder: Path, pieces: ByteRanges) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each round; every round writes new files."""
    times: dict[str, list[tuple[float, float]]] = {"export": [], "job": [], "cat": []}
    for _ in range(ROUNDS):
        for made in ("exports", "staging", "tables"):
            shutil.rmtree(folder / made, ignore_errors=True)
        (folder / "copy").unlink(missing_ok=True)
        times["export"].append(_seconds(partial(_export, store, pieces)))
        times["cat"].append(_seconds(partial(_cat, _tars(folder), folder / "copy")))
        times["job"].append(_seconds(partial(_job, store, pieces)))
    return times


def _tars(folder: Path) -> list[Path]:
    return sorted((folder / "exports/bench").iterdir())


def measure() -> dict[str, Any]:
    """Return the rates in bytes a second, the times in seconds, and the ratios; the load is the last minute's."""
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name), Store(name)
        pieces = _source(store)
        pieces = pieces.take(np.arange(int(len(pieces) * SHARE)))  # uids are hashes: the first of them are any
        times = _rounds(store, folder, pieces)
        size = sum(path.stat().st_size for path in _tars(folder))
        sources = [folder / shard for shard in pieces.shards]
        loop, _ = _seconds(partial(_loop, sources, set(uid_strings(pieces.keys).to_pylist()), folder / "loop.tar"))
    export, job, cat = (min(seconds for seconds, _ in times[one]) for one in ("export", "job", "cat"))
    rounds = zip(times["cat"], times["export"], strict=True)
    return {
        "export_against_cat": {
            "bytes": size,
            "export_bytes_per_second": round(size / export),
            "with_ledger_rows_bytes_per_second": round(size / job),
            "cat_bytes_per_second": round(size / cat),
            "ratio": round(cat / export, 3),
            "ratio_with_ledger_rows": round(cat / job, 3),
            "ratio_of_each_round": [round(one / other, 3) for (one, _), (other, _) in rounds],
            "export_core_seconds": round(min(cores for _, cores in times["export"]), 3),
            "cat_core_seconds": round(min(cores for _, cores in times["cat"]), 3),
            "load": round(os.getloadavg()[0], 1),
        },
        "export_against_webdataset_loop": {
            "pairs": len(pieces),
            "export_seconds": round(export, 3),
            "loop_seconds": round(loop, 3),
            "ratio": round(loop / export, 1),
        },
    }
