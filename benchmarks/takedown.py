"""What a takedown of 100 pairs out of 1,000,000 reads and writes, and how long it takes.

1,000,000 pairs of about 3 kB in 100 shards of 10,000, with their rows in `pairs`, `fetches`, `samples`,
`signals_pdq_v1` and `decisions`, a file for each shard. The 100 are of one site, so they lie in 4 shards, as ingest
leaves a site's pairs side by side. Every fingerprint in the store is compared with theirs. The clock is around all of
it: finding, writing down, rewriting, replacing, clearing. Beside it stands what `cat` takes to copy those 4 shards.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.provenance.verify import verify
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.store import Store
from pipeline.takedown.request import parse_request
from pipeline.takedown.takedown import CodeVersion, plan_takedown, take_down

PAIRS, SHARD, GONE, HOLDING = 1_000_000, 10_000, 100, 4


TAR = ".tar"


Tables = dict[str, pa.Table]


PDQ = pa.schema([("uid", pa.string()), ("source", pa.string()), ("pdq", pa.binary()), ("quality", pa.int32())])


@dataclass(frozen=True)
class Watched(Store):
    """A store that keeps which tars are read and written."""

    read_tars: set[str] = field(default_factory=set, compare=False)
    written_tars: set[str] = field(default_factory=set, compare=False)

    def open(self, relative: str) -> Any:
        """Open a file for reading, and note it."""
        if relative.endswith(TAR):
            self.read_tars.add(relative)
        return super().open(relative)

    @contextmanager
    def create(self, relative: str, named: Any = None) -> Iterator[Any]:
        """Write a file, and note it."""
        with super().create(relative, named) as stream:
            yield stream
        if relative.endswith(TAR):
            self.written_tars.add(named() if named else relative)


def _filled(schema: pa.Schema, count: int, **columns: Any) -> pa.Table:
    """Return rows of a schema: columns as given, one value or all, and empty or 0 where nothing is given."""
    arrays = []
    for kind in schema:
        value = columns.get(kind.name, "" if pa.types.is_string(kind.type) else 0)
        alone = isinstance(value, str | int | bool)
        arrays.append(pa.repeat(pa.scalar(value, kind.type), count) if alone else pa.array(value, kind.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _shard(store: Store, number: int, rng: np.random.Generator) -> tuple[dict[str, Any], Tables, list[str]]:
    """Write a shard; return what the ingest's row says of it, its rows by table, and its uids."""
    uids = sorted(rng.bytes(16).hex() for _ in range(SHARD))
    places, digest = [], ""
    path = f"shards/bench/{number:08d}"
    with store.create(f"{path}{TAR}", lambda: f"{path}-{digest[:12]}{TAR}") as stream:
        writer = ShardWriter(stream)
        for uid in uids:
            members = pair_bytes(uid, rng.bytes(700), "a caption", {"uid": uid})
            places.append((writer.append(members), len(members)))
        digest = writer.close()
    told = {"shard": f"{path}-{digest[:12]}{TAR}", "sha256": digest, "bytes": writer.bytes, "pairs": SHARD}
    own: dict[str, Any] = {"uid": uids, "source": "bench"}
    offsets, sizes = zip(*places, strict=True)
    hashes = [[rng.bytes(32).hex() for _ in uids] for _ in range(2)]
    place = {"shard": told["shard"], "offset": offsets, "size": sizes, "jpg_bytes": 700, "raw_bytes": 700}
    urls = [f"https://site{number}.example/{uid}.jpg" for uid in uids]
    rows = {
        "pairs": _filled(TABLES["pairs"], SHARD, **own, url=urls, caption="a caption", published="{}"),
        "fetches": _filled(TABLES["fetches"], SHARD, **own, attempt=1, final=True, outcome="stored"),
        "samples": _filled(TABLES["samples"], SHARD, **own, **place, jpg_sha256=hashes[0], raw_sha256=hashes[1]),
        "signals_pdq_v1": _filled(PDQ, SHARD, **own, pdq=[rng.bytes(32) for _ in uids], quality=100),
        "decisions": _filled(TABLES["decisions"], SHARD, **own, filter="f", keep=True),
    }
    return told, rows, uids


def _made(store: Store) -> list[str]:
    """Write the store; return the uids that go."""
    rng = np.random.default_rng(0)
    jobs = {"pairs": "ingest", "fetches": "ingest", "samples": "ingest", signal_table("pdq_v1"): "score"}
    jobs["decisions"] = "decide"
    files: dict[str, list[DataFile]] = {table: [] for table in jobs}
    shards, gone = [], list[str]()
    for number in range(PAIRS // SHARD):
        told, rows, uids = _shard(store, number, rng)
        for table, part in rows.items():
            files[table].append(write_rows(store, jobs[table], table, part))
        path = f"tables/pairs/{files['pairs'][-1].path}"
        shards.append({**told, "rows": [path], "published": SHARD, "lane": number})
        if number < HOLDING:
            gone += [uids[at] for at in rng.choice(SHARD, GONE // HOLDING, replace=False)]
    ledger, now = Ledger(store), datetime.now(UTC)
    for table, written in files.items():
        ledger.commit(jobs[table], table, TABLES.get(table, PDQ), written)
    for stage in dict.fromkeys(jobs.values()):
        counts = {table: PAIRS for table, job in jobs.items() if job == stage}
        facts = {"shards": shards} if stage == "ingest" else {}
        name = {"ingest": "bench", "score": "pdq_v1", "decide": "f"}[stage]
        config: dict[str, Any] = {"files": []}
        ledger.finish([JobRow(stage, stage, name, now, now, counts, config, [], "", {}, facts)])
        store.write(f"lineage/{stage}.jsonl", b"{}")
    return gone


def measure() -> dict[str, Any]:
    """Return seconds, tars and bytes."""
    with tempfile.TemporaryDirectory() as root:
        gone = _made(Store(root))
        tars = {str(path.relative_to(root)): path.stat().st_size for path in Path(root).rglob(f"*{TAR}")}
        store = Watched(root)
        ledger = Ledger(store)
        started = time.perf_counter()
        intent, places = plan_takedown(ledger, parse_request("\n".join(gone), "list"), "a benchmark", 31)
        found = time.perf_counter()
        take_down(ledger, intent, CodeVersion("bench", {}), places)
        done = time.perf_counter()
        assert len(intent.uids) == GONE
        holding = sorted(store.read_tars)
        assert len(store.written_tars) == len(holding) == HOLDING
        left = {str(path.relative_to(root)) for path in Path(root).rglob(f"*{TAR}")}
        assert set(tars) - left == set(holding)
        assert not [one for one in verify(Ledger(Store(root)), False, lambda done, of: None) if not one.leftover]
        new = [Path(root) / path for path in sorted(store.written_tars)]
        copied = time.perf_counter()
        with (Path(root) / "copy").open("wb") as out:
            subprocess.run(["/bin/cat", *new], stdout=out, check=True)
        return {
            "takedown": {
                "pairs": PAIRS,
                "taken_down": GONE,
                "tars": len(tars),
                "tars_read": len(holding),
                "tars_written": len(store.written_tars),
                "bytes_of_all_tars": sum(tars.values()),
                "bytes_of_tars_read": sum(tars[path] for path in holding),
                "finding_seconds": round(found - started, 2),
                "rewriting_seconds": round(done - found, 2),
                "cat_seconds_of_the_tars": round(time.perf_counter() - copied, 2),
            }
        }


if __name__ == "__main__":
    print(json.dumps(measure()))
