"""Near a reference: the set's images are embedded and clustered once, then each file of embeddings is compared."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.signals.clusters import Centres
from filters.signals.near_reference import NearReferenceSignal, ReferenceImages, reference_columns
from jobs.score.clusters import read_embeddings, table_files, verified_centres_folder
from jobs.score.corpus_tables import ScoreResult
from jobs.spark.staging import run_step_once, write_batches
from jobs.spark.tasks import run_units
from jobs.workflow.plan import Job, model_reference
from jobs.workflow.runner import Run
from pipeline.errors import StageFailed
from pipeline.evaluation.datasets import open_set
from pipeline.evaluation.zero_shot import embed_set
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.work_units import UnitOutput
from pipeline.models.clip import load_clip
from pipeline.storage.store import Store

REFERENCE_SCHEMA = pa.schema([("key", pa.string()), ("cluster", pa.int32()), ("embedding", pa.binary())])


def _embed(run: Run, job: Job, signal: NearReferenceSignal, folder: str, path: str) -> dict[str, Any]:
    """Embed the set's images, give each to its cluster, and stage them."""
    run.task("embedding reference images", "sets")(0, 1)
    model = load_clip(model_reference(run.store, job.local["model"]))
    keys, vectors = embed_set(open_set(job.name, Path(signal.images)), model)
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise StageFailed(f"{job.name}: images: {signal.images}: an embedding has no direction (NaN or zero)")
    images = ReferenceImages.of(keys, vectors, Centres.open(run.store.local_folder(folder)))
    embeddings = pa.array([row.tobytes() for row in images.embeddings], pa.binary())
    table = pa.table([images.keys, pa.array(images.clusters), embeddings], schema=REFERENCE_SCHEMA)
    write_batches(run.store, path, REFERENCE_SCHEMA, table.to_batches())
    return {"reference_images": len(keys), "reference_clusters": len(np.unique(images.clusters))}


def _find(store: Store, job: str, name: str, folder: str, images: str, path: str) -> UnitOutput:
    """Return the signal's rows of one file of embeddings."""
    with store.arrow(images) as stream:
        staged = pq.read_table(stream).combine_chunks()
    embeddings = np.frombuffer(b"".join(staged["embedding"].to_pylist()), "<f2").reshape(staged.num_rows, -1)
    reference = ReferenceImages(staged["cluster"].to_numpy(), embeddings, staged["key"].combine_chunks())
    rows, has_direction, vectors = read_embeddings(store, path)
    columns = reference_columns(reference, Centres.open(store.local_folder(folder)), vectors, has_direction)
    near = int(columns["near_reference"].to_pandas().eq(True).sum())
    table = pa.table([*rows.columns, *columns.columns], names=[*rows.column_names, *columns.column_names])
    return UnitOutput({job: {signal_table(name): table}}, {"near": near})


def score(run: Run, job: Job, signal: NearReferenceSignal) -> ScoreResult:
    """Compute the signal."""
    folder, images = verified_centres_folder(run, signal.clusters), f"staging/{job.id}/images.parquet"
    embed = partial(_embed, run, job, signal, folder, images)
    facts = run_step_once(run.store, job.id, "embedded", embed)
    units = [(f"found-{path}", path) for path in table_files(run, signal.clip)]
    work = partial(_find, run.store, job.id, job.name, folder, images)
    done = run_units(run.spark, run.store, job.id, units, work, run.task("finding reference images", "files"))
    files = [file for record in done.values() for file in record.files[job.id]]
    return files, facts | {"near": sum(record.facts["near"] for record in done.values())}
