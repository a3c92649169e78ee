"""How long `cuvee trace` takes on a ledger of 10,000,000 pairs, by uid, by URL and by an image's SHA-256.

The store is drawn: `pairs` in files of 100,000 rows in the order of publication, `fetches`, `samples` and three signals
in files of 10,000 pairs of neighbouring uids, as ingest and score leave them; two filters in files of 100,000; a
mixture of all pairs in one file and one of a tenth, and their exports, whose tars hold pairs of anywhere. Embeddings
are 128 bytes. The clock is around the whole command, the interpreter's start included; each answer is checked.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.uid_arrays import UidKeys, sort_order, uid_strings
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.storage.store import Store

PAIRS, SHARD, PART = 10_000_000, 10_000, 100_000


ASKED = 5
"""Seconds that an answer may take."""


EMBEDDING = 128


Part = tuple[str, str, pa.Table]
"""A table's name, the job and the rows of one file."""


def numbered(text: str, numbers: Any, end: str = "") -> pa.Array:
    return pc.binary_join_element_wise(text, pa.array(numbers).cast(pa.string()), end, "")


def _columns(count: int, **columns: Any) -> dict[str, Any]:
    """Return columns of `count` rows, of which one value is given or all."""
    return {
        name: pa.repeat(value, count) if isinstance(value, str | int | float | bool) else value
        for name, value in columns.items()
    }


def filled(schema: pa.Schema, count: int, **columns: Any) -> pa.Table:
    """Return rows of a schema; a column that is not given is empty or 0."""
    given = _columns(count, **columns)
    blank = {pa.string(): "", pa.binary(): b""}
    arrays = [
        given[field.name].cast(field.type)
        if field.name in given
        else pa.repeat(pa.scalar(blank.get(field.type, 0)).cast(field.type), count)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _parts(found: UidKeys, ranked: Any, size: int) -> Iterator[tuple[Any, pa.Array]]:
    for at in range(0, len(ranked), size):
        rows = ranked[at : at + size]
        yield rows, uid_strings(found[rows])


SIGNALS = {
    "caption_v1": pa.schema([("uid", pa.string()), ("source", pa.string()), ("words", pa.int32())]),
    "clip_v1": pa.schema(
        [("uid", pa.string()), ("source", pa.string()), ("similarity", pa.float32()), ("embedding", pa.binary())]
    ),
    "pdq_v1": pa.schema([("uid", pa.string()), ("source", pa.string()), ("pdq", pa.binary())]),
}


def _tables(found: UidKeys, hashes: UidKeys) -> Iterator[Part]:
    rng = np.random.default_rng(3)
    for rows, uids in _parts(found, np.arange(PAIRS), PART):
        count, file = len(rows), f"part-{rows[0] // (10 * PART):03}.parquet"
        url, caption = numbered("https://img.example/a/", rows, ".jpg"), numbered("a caption of some words, ", rows)
        own = {"record_id": pa.array(rows).cast(pa.string()), "line": pa.array(rows), "file": file}
        columns = {"uid": uids, "source": "web", "url": url, "caption": caption, "published": "{}", **own}
        yield "pairs", "ingest", filled(TABLES["pairs"], count, **columns)
    by_uid = sort_order(found)
    for number, (rows, uids) in enumerate(_parts(found, by_uid, SHARD)):
        count = len(rows)
        mine = {"uid": uids, "source": "web"}
        yield (
            "fetches",
            "ingest",
            filled(TABLES["fetches"], count, **mine, attempt=1, final=True, outcome="stored", status=200),
        )
        raw = pc.binary_join_element_wise(uid_strings(hashes[rows]), uids, "")
        jpg = pc.binary_join_element_wise(uids, uid_strings(hashes[rows]), "")
        place = {"shard": f"shards/web/{number:08d}.tar", "offset": pa.array(np.arange(count) * 8192), "size": 8192}
        yield "samples", "ingest", filled(TABLES["samples"], count, **mine, raw_sha256=raw, jpg_sha256=jpg, **place)
        noise = [
            pa.array([cell.tobytes() for cell in rng.integers(0, 256, (count, width), np.uint8)])
            for width in (EMBEDDING, 32)
        ]
        similarity = pa.array(rng.random(count))
        for name, more in (
            ("caption_v1", {"words": 5}),
            ("clip_v1", {"similarity": similarity, "embedding": noise[0]}),
            ("pdq_v1", {"pdq": noise[1]}),
        ):
            yield signal_table(name), name, filled(SIGNALS[name], count, **mine, **more)
    for rows, uids in _parts(found, by_uid, PART):
        for name in ("basic", "filtered"):
            told = {"uid": uids, "source": "web", "filter": name, "keep": True}
            yield "decisions", name, filled(TABLES["decisions"], len(rows), **told)
    for name, some in (("all", np.arange(PAIRS)), ("tenth", np.arange(PAIRS // 10))):
        of = {"uid": uid_strings(found[some]), "mixture": name, "source": "web", "part": "web", "times": 1}
        yield "mixtures", f"blend {name}", filled(TABLES["mixtures"], len(some), **of, rank=pa.array(some))
        for number, (rows, uids) in enumerate(_parts(found, some, SHARD)):
            place = {"tar": f"{number:08d}.tar", "offset": pa.array(np.arange(len(rows)) * 8192), "size": 8192}
            members = filled(TABLES["export_members"], len(rows), uid=uids, mixture=name, **place)
            yield "export_members", f"export {name}", members


def _made(store: Store) -> tuple[UidKeys, UidKeys]:
    """Write the ledger; return the uids, and what the hashes of images begin with."""
    rng = np.random.default_rng(1)
    found, hashes = (np.frombuffer(rng.bytes(16 * PAIRS), "S16").copy() for _ in range(2))
    files: dict[tuple[str, str], list[Any]] = {}
    with ThreadPoolExecutor(2) as pool:
        waiting: list[tuple[tuple[str, str], Any]] = []
        for table, job, rows in _tables(found, hashes):
            waiting.append(((table, job), pool.submit(write_rows, store, job.replace(" ", "_"), table, rows)))
            if len(waiting) > 8:
                key, future = waiting.pop(0)
                files.setdefault(key, []).append(future.result())
        for key, future in waiting:
            files.setdefault(key, []).append(future.result())
    ledger, now, jobs = Ledger(store), datetime.now(UTC), set()
    for (table, job), written in files.items():
        schema = TABLES.get(table) or SIGNALS[table.removeprefix("signals_")]
        ledger.commit(job.replace(" ", "_"), table, schema, written)
        jobs.add(job)
    config = {"files": [{"file": f"part-{number:03}.parquet", "sha256": "0" * 64} for number in range(10)]}
    ledger.finish(
        [JobRow(job.replace(" ", "_"), "stage", job, now, now, {}, config, [], "", {}, {}) for job in sorted(jobs)]
    )
    return found, hashes


def _asked(root: str, key: str) -> tuple[float, list[dict[str, Any]]]:
    started = time.perf_counter()
    line = [sys.executable, "-m", "jobs.cli.main", "trace", root, key, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, json.loads(done.stdout)


def measure() -> dict[str, Any]:
    """Return the seconds of each kind of question, the first and the slowest of five."""
    with tempfile.TemporaryDirectory() as root:
        found, hashes = _made(Store(root))
        told: dict[str, Any] = {"pairs": PAIRS, "asked_seconds": ASKED}
        rng = np.random.default_rng(2)
        for kind in ("uid", "url", "sha256"):
            seconds = []
            for row in rng.integers(0, PAIRS, 5).tolist():
                uid = uid_strings(found[row : row + 1])[0].as_py()
                image = uid + uid_strings(hashes[row : row + 1])[0].as_py()
                key = {"uid": uid, "url": f"https://img.example/a/{row}.jpg", "sha256": image}[kind]
                spent, lives = _asked(root, key)
                assert [life["uid"] for life in lives] == [uid]
                assert lives[0]["exports"]
                assert lives[0]["stored"]
                assert len(lives[0]["signals"]) == len(SIGNALS)
                assert len(lives[0]["decisions"]) == 2
                seconds.append(round(spent, 2))
            told[kind] = {"first_seconds": seconds[0], "slowest_seconds": max(seconds)}
        return {"trace": told}


if __name__ == "__main__":
    print(json.dumps(measure()))
