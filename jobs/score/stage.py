"""Score: signals of stored pairs. Those that look at images are computed together, in one pass over each shard."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.signals.base import PairBatch
from filters.signals.registry import SignalSpec
from jobs.spark.tasks import run_units
from jobs.workflow.plan import Job, model_reference, needs_of_stage
from jobs.workflow.runner import Run
from jobs.workflow.stages import CORPUS_ENTRY_POINTS, INDEX_ENTRY_POINT, load_entry_point
from pipeline.core.digests import digest
from pipeline.errors import StageFailed
from pipeline.ledger.data_files import DataFile, with_schema
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.ledger.work_units import UnitOutput
from pipeline.shards.tar_format import StoredPair, read_pairs
from pipeline.storage.store import Store

BATCH_PAIRS = 128
"""Pairs that are decoded and scored together."""


@dataclass(frozen=True)
class SignalRequest:
    """A signal to compute for a shard, for which job, and where its model is, if it has one."""

    job: str
    spec: SignalSpec
    model: str

    def build(self, store: Store) -> Any:
        """Return the signal, its model found from where this task runs."""
        settings = dict(self.spec.settings)
        if "model" in settings:
            settings["model"] = model_reference(store, self.model)
        return self.spec.target()(**settings)


def _batches(pairs: Iterator[StoredPair], samples: dict[str, dict[str, Any]]) -> Iterator[PairBatch]:
    while part := list(islice(pairs, BATCH_PAIRS)):
        yield PairBatch(part, [samples[pair.uid] for pair in part])


def _finite(rows: pa.Table) -> pa.Table:
    """Return rows with null for every NaN or infinite number: Spark SQL takes NaN for larger than any threshold."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_floating(field.type):
            column = rows[field.name]
            rows = rows.set_column(place, field, pc.if_else(pc.is_finite(column), column, None))
    return rows


def _nulls(rows: pa.Table) -> dict[str, int]:
    """Return how many nulls each column has that has any."""
    return {name: rows[name].null_count for name in rows.column_names if rows[name].null_count}


def score_shard(store: Store, samples: Sequence[dict[str, Any]], wanted: Sequence[SignalRequest]) -> UnitOutput:
    """Read one shard once and compute every wanted signal; `samples` are the shard's rows in the ledger.

    A number that is NaN or infinite becomes null. The facts are how many `pairs` the shard has, and for each job the
    `nulls` in each column. Raises StageFailed where the shard holds other pairs than the ledger says.
    """
    shard, source = samples[0]["shard"], samples[0]["source"]
    by_uid = {row["uid"]: row for row in samples}
    signals = [(request, request.build(store)) for request in wanted]
    parts: dict[str, list[pa.Table]] = {request.job: [] for request in wanted}
    pair_count = 0
    with store.open(shard) as stream:
        for batch in _batches(_check_known_pairs(read_pairs(stream), by_uid, shard), by_uid):
            pair_count += len(batch.pairs)
            names = {"uid": [pair.uid for pair in batch.pairs], "source": [source] * len(batch.pairs)}
            for request, signal in signals:
                schema = pa.schema([("uid", pa.string()), ("source", pa.string()), *signal.columns])
                try:
                    columns = signal.compute(batch)
                except StageFailed as error:  # a signal knows the pair, not its shard
                    raise StageFailed(f"{shard}: {error}") from error
                parts[request.job].append(_finite(pa.Table.from_pydict({**names, **columns}, schema)))
    if pair_count != len(samples):
        raise StageFailed(f"{shard}: holds {pair_count} pairs, the ledger says {len(samples)}")
    tables = {request.job: pa.concat_tables(parts[request.job]) for request in wanted}
    rows = {request.job: {signal_table(request.spec.name): tables[request.job]} for request in wanted}
    return UnitOutput(rows, {"pairs": pair_count, "nulls": {job: _nulls(table) for job, table in tables.items()}})


def _check_known_pairs(pairs: Iterator[StoredPair], samples: dict[str, Any], shard: str) -> Iterator[StoredPair]:
    seen_uids = set()
    for pair in pairs:
        if pair.uid not in samples or pair.uid in seen_uids:
            problem = "a second time" if pair.uid in seen_uids else "which the ledger does not know"
            raise StageFailed(f"{shard}: holds the pair {pair.uid}, {problem}")
        seen_uids.add(pair.uid)
        yield pair


def shard_rows(store: Store, shard: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return a shard's rows out of these files of `samples`; a compacted one holds many shards' rows."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        with store.arrow(path) as stream:
            rows += with_schema(
                pq.read_table(stream, filters=pc.field("shard") == shard), TABLES["samples"]
            ).to_pylist()
    return rows


def _work(store: Store, threads: int, payload: tuple[str, Sequence[str], Sequence[SignalRequest]]) -> UnitOutput:
    shard, paths, wanted = payload
    if any(request.model for request in wanted):
        from pipeline.models.clip import use_threads

        use_threads(threads)
    return score_shard(store, shard_rows(store, shard, paths), wanted)


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Compute signals: those over shards in one pass, then those over the whole corpus, each by itself."""
    over_shards = [job for job in jobs if "over" in job.local]
    if over_shards:
        _score_shards(run, over_shards)
    for job in jobs:
        if "over" not in job.local:
            _score_corpus(run, job)


def _score_corpus(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    if (
        "set" in job.local
    ):  # not a signal but an index that signals search; imported by name, as its code shapes no signal's job
        files, facts = load_entry_point(INDEX_ENTRY_POINT)(run, job)
    else:
        spec = run.experiment.signals[job.name]
        files, facts = load_entry_point(CORPUS_ENTRY_POINTS[spec.kind])(run, job, spec.target()(**spec.settings))
    run.finish([(job, files, facts)], started, [job.id])


def _shards(run: Run, ingest: str) -> list[tuple[str, list[str]]]:
    """Return the shards of an ingest, each with the files of `samples` that have rows of it."""
    files_by_shard: dict[str, list[str]] = {}
    for _, path in run.ledger.snapshot("samples", [ingest]):
        with run.store.arrow(path) as stream:
            names = pq.read_table(stream, columns=["shard"])["shard"].unique().to_pylist()
        for name in names:
            files_by_shard.setdefault(name, []).append(path)
    return sorted(files_by_shard.items())


def _score_shards(run: Run, jobs: Sequence[Job]) -> None:
    started = datetime.now(UTC)
    units = []
    for ingest in sorted({needs_of_stage(job, "ingest")[0].id for job in jobs}):
        ingest_jobs = [job for job in jobs if needs_of_stage(job, "ingest")[0].id == ingest]
        requests = [
            SignalRequest(job.id, run.experiment.signals[job.config["signal"]], job.local.get("model", ""))
            for job in ingest_jobs
        ]
        units += [(shard, (shard, paths, requests)) for shard, paths in _shards(run, ingest)]
    group = digest(sorted(job.id for job in jobs))
    names = sorted({job.config["signal"] for job in jobs})
    threads = max(1, run.spark.sparkContext.defaultParallelism // max(1, len(units)))  # cores that no shard fills
    work = partial(_work, run.store, threads)
    records = run_units(run.spark, run.store, group, units, work, run.task(", ".join(names), "shards")).values()
    results: list[tuple[Job, list[DataFile], dict[str, Any]]] = []
    for job in jobs:
        nulls: Counter[str] = Counter()
        for record in records:
            nulls.update(record.facts["nulls"].get(job.id, {}))
        files = [file for record in records for file in record.files.get(job.id, [])]
        results.append((job, files, {"nulls": dict(nulls)} if nulls else {}))
    run.finish(results, started, [group])
