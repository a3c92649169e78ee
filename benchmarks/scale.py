"""`make scale`: how the stages that read no image grow from 100,000 to 10,000,000 pairs, in seconds and in memory.

The store is drawn, in files of 10,000 pairs of neighbouring uids as ingest and score leave them: `pairs`, `fetches` and
`samples`, the signals `caption_v1`, `clip_v1` (its embeddings are null: no stage here reads them) and `pdq_v1`. On it
run the commands themselves, each a process of its own, the interpreter's and Spark's start included: `decide` (two
filters: words of the caption, the best 30 % by similarity), `blend` (one mixture, of what the second keeps), `funnel`,
`trace` of one uid, and the search of a takedown of 50 uids and a site (`--dry-run`). Each answer is checked. Memory is
the largest sum of the resident sizes of a command and of all below it.

The exponent is the slope of the logarithms by least squares over the sizes; the last one is that of the last two sizes
alone, where what a command costs at any size weighs least.

`python -m benchmarks.scale 10000000 FOLDER` measures one size on a store that it leaves in FOLDER, and finds it there.
"""

import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.processes import watched
from benchmarks.tables import experiment
from benchmarks.trace import filled, numbered
from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import Job
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.core.uid_arrays import sort_order, uid_strings
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.ledger.tables import Ledger
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.store import Store

SIZES, SHARD, ASKED = (100_000, 1_000_000, 10_000_000), 10_000, 1.1


TOP, NAMED, SITES = 0.3, 50, 1000


DONE = "built"


Place = dict[str, Any]


def _experiment(folder: Path) -> Path:
    return experiment(
        folder,
        {"pdq_v1": None, "clip_v1": {"model": "any"}},
        spark={"master": "local[2]", "memory": "4g"},
        filters={
            "short": {"drop_when": {"caption_too_short": "caption_v1.words < 3"}},
            "top": {"top_fraction": TOP, "by": "clip_v1.similarity"},
        },
        mixtures={"all": {"filter": "top"}},
    )


def _shard(store: Store, number: int, uids: Sequence[str], image: int) -> Place:
    """Write a shard of pairs of about `image` bytes each; return the columns that say where they lie."""
    rng, offsets, sizes = np.random.default_rng((5, number)), [], []
    path = f"shards/bench/{number:08d}.tar"
    with store.create(path) as stream:
        writer = ShardWriter(stream)
        for uid in uids:
            body = rng.bytes(int(rng.integers(image // 2, image * 3 // 2)))
            members = pair_bytes(uid, body, "a caption", {"uid": uid})
            offsets.append(writer.append(members))
            sizes.append(len(members))
        writer.close()
    return {"shard": path, "offset": pa.array(offsets), "size": pa.array(sizes)}


def _tables(run: Run, rows: Any, uids: pa.Array, number: int, image: int) -> dict[str, pa.Table]:
    """Return the rows of a shard, by table."""
    count, rng = len(rows), np.random.default_rng((9, number))
    mine = {"uid": uids, "source": "bench"}
    host = numbered("https://h", rows % SITES, ".example/")
    url = pc.binary_join_element_wise(host, numbered("a/", rows, ".jpg"), "")
    bits = [pa.array(np.frombuffer(rng.bytes(32 * count), "V32").tolist(), pa.binary()) for _ in range(3)]
    raw, jpg = (pa.array([one.hex() for one in column.to_pylist()]) for column in bits[:2])
    place: Place = {
        "shard": f"shards/bench/{number:08d}.tar",
        "offset": pa.array(np.arange(count) * 8192),
        "size": 8192,
    }
    if image:
        place = _shard(run.store, number, uids.to_pylist(), image)
    told = {"url": url, "caption": numbered("a caption of some words, ", rows), "published": "{}"}
    tables = {
        "pairs": filled(TABLES["pairs"], count, **mine, **told, line=pa.array(rows), file="rows.jsonl"),
        "fetches": filled(TABLES["fetches"], count, **mine, attempt=1, final=True, outcome="stored", status=200),
        "samples": filled(TABLES["samples"], count, **mine, raw_sha256=raw, jpg_sha256=jpg, **place),
    }
    similarity = pa.array(rng.normal(0.25, 0.06, count).astype(np.float32))
    words = pa.array(rng.integers(0, 30, count, np.int32))
    given = {"caption_v1": {"words": words}, "clip_v1": {"similarity": similarity}, "pdq_v1": {"pdq": bits[2]}}
    for name, columns in given.items():
        if name == "pdq_v1":
            columns["quality"] = pa.array(np.full(count, 100, np.int32))
        schema, held = run.schema(signal_table(name)), {"uid": uids, "source": pa.repeat("bench", count), **columns}
        arrays = [held[f.name].cast(f.type) if f.name in held else pa.nulls(count, f.type) for f in schema]
        tables[signal_table(name)] = pa.Table.from_arrays(arrays, schema=schema)
    return tables


def build(folder: Path, pairs: int, image: int = 0) -> Path:
    """Write an experiment and its store, finished up to `score`; with `image`, shards of pairs of so many bytes too.

    Return the experiment file.
    """
    path = folder / "experiment.yaml"
    if (folder / DONE).exists():
        return path
    path = _experiment(folder)
    run, started = Run(load_experiment(path, []), Display()), datetime.now(UTC)
    jobs = {job.name.partition("/")[0]: job for job in run.plan.until("score") if job.stage == "score"}
    [ingest] = run.plan.ingests()
    found = np.frombuffer(np.random.default_rng(1).bytes(16 * pairs), "S16").copy()
    ranked = sort_order(found)
    made: dict[Job, list[DataFile]] = {job: [] for job in (ingest, *jobs.values())}

    def write(start: int) -> list[tuple[Job, DataFile]]:
        rows = ranked[start : start + SHARD]
        tables = _tables(run, rows, uid_strings(found[rows]), start // SHARD, image)
        owner = {table: jobs.get(table.removeprefix("signals_"), ingest) for table in tables}
        return [(owner[name], write_rows(run.store, owner[name].id, name, part)) for name, part in tables.items()]

    with ThreadPoolExecutor(2) as pool:
        for written in pool.map(write, range(0, pairs, SHARD)):
            for job, file in written:
                made[job].append(file)
    run.finish([(job, files, {}) for job, files in made.items()], started)
    run.close()
    np.save(folder / "named.npy", found[np.random.default_rng(2).choice(pairs, NAMED, replace=False)])
    (folder / DONE).write_text("")
    return path


def _cuvee(*arguments: str) -> tuple[float, int, str]:
    return watched([sys.executable, "-m", "jobs.cli.main", *arguments])


def _commands(path: Path, pairs: int) -> Iterator[tuple[str, tuple[str, ...], Callable[[Any], bool]]]:
    """Yield each stage, its command, and what its answer must be."""
    folder, store = path.parent, str(path.parent / "store")
    named = uid_strings(np.load(folder / "named.npy")).to_pylist()
    kept = math.ceil(TOP * pairs)

    def blended(_: Any) -> bool:
        [row] = [job for job in Ledger(Store(store)).jobs() if job.stage == "blend"]
        return row.rows["mixtures"] == kept

    def drawn(told: Any) -> bool:
        stages = {one["stage"]: one for one in told[0]["stages"]}
        return told[0]["published"] == pairs and stages["mixture:all"]["kept"] == kept

    yield "decide", ("decide", str(path)), lambda told: True
    yield "blend", ("blend", str(path)), blended
    yield "export", ("export", str(path)), lambda told: True
    yield "funnel", ("funnel", store, "--json"), drawn
    yield "trace", ("trace", store, named[0], "--json"), lambda told: [one["uid"] for one in told] == [named[0]]
    (folder / "list").write_text("\n".join([*named, "domain:h7.example"]) + "\n")
    search = ("takedown", store, "--list", str(folder / "list"), "--reason", "a benchmark", "--dry-run", "--json")
    yield "takedown_search", search, lambda told: set(named) <= told["takedown"]["pairs"].keys()


def measured(path: Path, pairs: int, names: Sequence[str]) -> dict[str, Any]:
    """Return seconds and peak bytes of each of these stages on a store that `build` wrote."""
    found = {}
    for name, command, right in _commands(path, pairs):
        if name in names:
            load_before = round(os.getloadavg()[0], 1)
            seconds, peak, out = _cuvee(*command)
            assert right(json.loads(out) if "--json" in command else None), name
            found[name] = {"seconds": round(seconds, 2), "peak_bytes": peak, "load_before": load_before}
            print(f"{pairs} {name}: {found[name]}", flush=True)
    return found


def table_bytes(path: Path) -> dict[str, int]:
    """Return the bytes of each table's data files, and under `exports` those of the tars."""
    ledger = Ledger(Store(str(path.parent / "store")))
    found: Counter[str] = Counter()
    for table in ledger.tables():
        delta = ledger.open(table)
        assert delta is not None
        found[table] = sum(one["size_bytes"] for one in pa.table(delta.get_add_actions()).to_pylist())
    return dict(found)


def exponent(sizes: dict[int, float]) -> float:
    """Return the slope of the logarithms by least squares."""
    slope, _ = np.polyfit(np.log(list(sizes)), np.log(list(sizes.values())), 1)
    return round(float(slope), 3)


NAMES = ("decide", "blend", "funnel", "trace", "takedown_search")


def summed_up(pairs: dict[str, Any]) -> dict[str, Any]:
    """Return the figure from what was measured at each size, with the exponents where there are two sizes or more."""
    sizes = sorted(map(int, pairs))
    told: dict[str, Any] = {"asked_exponent": ASKED, "pairs": {str(size): pairs[str(size)] for size in sizes}}
    if len(sizes) > 1:
        for key, what in (("exponent", "seconds"), ("exponent_peak_bytes", "peak_bytes")):
            by_stage = {
                name: {size: pairs[str(size)]["stages"][name][what] for size in sizes}
                for name in pairs[str(sizes[0])]["stages"]
            }
            told[key] = {name: exponent(found) for name, found in by_stage.items()}
            told[f"{key}_last"] = {
                name: exponent({size: found[size] for size in sizes[-2:]}) for name, found in by_stage.items()
            }
    return told


def main(arguments: list[str]) -> None:
    """Measure one size, or all, and keep them among the results, each as soon as it is there."""
    from benchmarks.run import RESULTS, keep

    for size in [int(arguments[0])] if arguments else SIZES:
        with tempfile.TemporaryDirectory(prefix="cuvee-scale-") as scratch:
            folder = Path(arguments[1]) if len(arguments) > 1 else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            path = build(folder, size)
            if arguments[2:] == ["build"]:
                return
            told = {"stages": measured(path, size, NAMES), "table_bytes": table_bytes(path)}
        figures = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        had = figures.get("scale", {}).get("pairs", {})
        made = {"made_at": datetime.now(UTC).isoformat(timespec="seconds")}
        keep(figures, {"scale": summed_up(had | {str(size): made | told})})


if __name__ == "__main__":
    main(sys.argv[1:])
