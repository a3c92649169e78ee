"""Clusters of image embeddings: k-means on a sample, then each embedding's nearest centre.

The units are the files of the CLIP signal's table: tasks read these themselves, so no embedding goes through Spark.
The centres are kept in `indexes/`, with their digests in the job's facts.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.search.cosine import Halves, usable_embeddings
from filters.signals.clusters import Centres, ClustersSignal, train_centres
from jobs.score.corpus_tables import ScoreResult, signal_jobs
from jobs.spark.staging import fresh_path, read_staged, write_batches
from jobs.spark.tasks import run_units
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.core.digests import stream_sha256
from pipeline.core.sampling import rank_key
from pipeline.errors import StageFailed
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.work_units import UnitOutput
from pipeline.storage.store import Store

SAMPLE_SCHEMA = pa.schema([("rank", pa.string()), ("embedding", pa.binary())])


RECALL_SAMPLE_ROWS = 4096
"""Rows of the sample on which the recall of the two levels is measured."""


def table_files(run: Run, signal: str) -> list[str]:
    """Return the paths of the files of a signal's table."""
    return [path for _, path in run.ledger.snapshot(signal_table(signal), signal_jobs(run, signal))]


def table_rows(run: Run, signal: str) -> int:
    """Return how many rows a signal's table has."""
    rows = [run.ledger.finished(job) for job in signal_jobs(run, signal)]
    return sum(row.rows.get(signal_table(signal), 0) for row in rows if row is not None)


def read_embeddings(store: Store, path: str) -> tuple[pa.Table, Any, Halves]:
    """Return a file's (uid, source), which rows have a direction, (n,) bool, and their embeddings, (m, d)."""
    with store.arrow(path) as stream:
        rows = pq.read_table(stream, columns=["uid", "source", "image_embedding"])
    has_direction, vectors = usable_embeddings(rows["image_embedding"], path)
    return rows.select(["uid", "source"]), has_direction, vectors


def _sample(store: Store, group: str, seed: int, share: float, path: str) -> UnitOutput:
    """Stage the embeddings of one file whose rank is below `share` of all ranks; count those without a direction."""
    rows, has_direction, vectors = read_embeddings(store, path)
    ranks = [rank_key(seed, uid) for uid in rows["uid"].filter(pa.array(has_direction)).to_pylist()]
    below = format(min(int(share * 2.0**52), 2**52 - 1), "013x")  # as many hex digits as a float holds
    chosen = [place for place, rank in enumerate(ranks) if share >= 1 or rank[:13] < below]
    embeddings = pa.array([vectors[place].tobytes() for place in chosen], pa.binary())
    table = pa.table([pa.array([ranks[place] for place in chosen], pa.string()), embeddings], schema=SAMPLE_SCHEMA)
    staged = fresh_path(group, "sample", "parquet")
    write_batches(store, staged, SAMPLE_SCHEMA, table.to_batches())
    return UnitOutput({}, {"path": staged, "usable": len(vectors), "rows": len(has_direction)})


def sample_share(rows: int, wanted: int) -> float:
    """Return the share of ranks below which `wanted` of `rows` rows lie, but for one case in a billion."""
    share = min(1.0, wanted / max(rows, 1))
    return float(min(1.0, share + 6 * (share / max(rows, 1)) ** 0.5 + 40 / max(rows, 1)))


def _train(store: Store, job: str, folder: str, signal: ClustersSignal, paths: Sequence[str]) -> UnitOutput:
    """Find the centres by the rows of the smallest ranks, and keep them."""
    ranks = read_staged(store, paths, SAMPLE_SCHEMA, ["rank"])
    order = pc.sort_indices(ranks["rank"]).to_numpy()[: signal.training_rows]
    if len(order) < signal.clusters:
        raise StageFailed(
            f"{job}: clusters: expected no more than the {len(order)} embeddings of {signal.clip} that have a "
            f"direction, found {signal.clusters}"
        )
    places = np.full(ranks.num_rows, -1)
    places[order] = np.arange(len(order))
    sample, first = np.zeros((0, 0), "<f2"), 0
    for path in paths:
        vectors = usable_embeddings(read_staged(store, [path], SAMPLE_SCHEMA, ["embedding"])["embedding"], path)[1]
        if not sample.size and len(vectors):
            sample = np.empty((len(order), vectors.shape[1]), "<f2")
        targets = places[first : first + len(vectors)]
        sample[targets[targets >= 0]] = vectors[targets >= 0]
        first += len(vectors)
    centres = train_centres(sample, signal)
    files = {}
    for name, data in centres.files().items():
        store.write(f"{folder}/{name}", data)
        with store.open(f"{folder}/{name}") as stream:
            files[f"{folder}/{name}"] = stream_sha256(stream)[0]
    facts = {
        "trained_on": len(sample),
        "cells": len(centres.cells),
        "recall": centres.recall(sample[:RECALL_SAMPLE_ROWS]),
    }
    return UnitOutput({}, {"files": files, **facts})


def _assign(store: Store, job: str, name: str, folder: str, path: str) -> UnitOutput:
    """Return the signal's rows of one file of embeddings."""
    rows, has_direction, vectors = read_embeddings(store, path)
    cluster, cosine = Centres.open(store.local_folder(folder)).assign(vectors)
    places = np.full(len(has_direction), -1)
    places[has_direction] = np.arange(len(vectors))
    indices = pa.array(places, mask=places < 0)
    table = rows.append_column("cluster", pa.array(cluster).take(indices))
    return UnitOutput({job: {signal_table(name): table.append_column("centre_cosine", pa.array(cosine).take(indices))}})


def verified_centres_folder(run: Run, clusters: str) -> str:
    """Return the folder in which the centres of a clusters signal lie; raise StageFailed where their digests differ."""
    row = run.ledger.finished(run.plan.signal(clusters)[0].id)
    assert row is not None  # the plan runs it before
    for path, sha256 in row.facts["files"].items():
        if not run.store.exists(path):
            raise StageFailed(f"{path}: missing; the ledger says SHA-256 {sha256[:12]}…")
        with run.store.open(path) as stream:
            actual = stream_sha256(stream)[0]
        if actual != sha256:
            raise StageFailed(f"{path}: SHA-256 is {actual[:12]}…, the ledger says {sha256[:12]}…")
    return str(Path(next(iter(row.facts["files"]))).parent)


def score(run: Run, job: Job, signal: ClustersSignal) -> ScoreResult:
    """Compute the signal."""
    store, folder, paths = run.store, f"indexes/{job.short}", table_files(run, signal.clip)
    share = sample_share(table_rows(run, signal.clip), signal.training_rows)
    work = partial(_sample, store, job.id, signal.seed, share)
    units = [(f"sample-{path}", path) for path in paths]
    sampled = run_units(run.spark, store, job.id, units, work, run.task("choosing a sample", "files"))
    facts = [record.facts for record in sampled.values()]
    staged = [file_facts["path"] for file_facts in facts]
    work = partial(_train, store, job.name, folder, signal)
    trained = run_units(run.spark, store, job.id, [("train", staged)], work, run.task("finding centres", "jobs"))
    work = partial(_assign, store, job.id, job.name, folder)
    units = [(f"assign-{path}", path) for path in paths]
    assigned = run_units(run.spark, store, job.id, units, work, run.task("assigning to centres", "files"))
    rows, with_direction = (
        sum(file_facts["rows"] for file_facts in facts),
        sum(file_facts["usable"] for file_facts in facts),
    )
    files = [file for record in assigned.values() for file in record.files[job.id]]
    return files, trained["train"].facts | {"rows": rows, "without_direction": rows - with_direction}
