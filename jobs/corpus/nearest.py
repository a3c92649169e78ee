"""The nearest evaluation image of each pair."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from filters.nearest import EvaluationIndex, Nearest
from jobs.corpus.tables import Made, ddl, signal_frame, written
from jobs.plan import Job
from jobs.run import Run
from jobs.score import model_reference
from pipeline.evaluation_sets import EvaluationSet
from pipeline.models import load
from pipeline.pdq import PDQ_BYTES, pdq
from pipeline.store import Store
from pipeline.zeroshot import open_image


def evaluation_index(evaluation: EvaluationSet, model: str) -> EvaluationIndex:
    """Return a set's keys, fingerprints and embeddings."""
    clip = load(model)
    keys, prints, vectors = [], [], []
    waiting = []
    for image in evaluation.images():
        picture = open_image(image.data, f"evaluation set {evaluation.name}: {image.key}")
        keys.append(image.key)
        prints.append(pdq(np.asarray(picture)))
        waiting.append(picture)
        if len(waiting) == 256:
            vectors.append(clip.embed_images(waiting, 128))
            waiting = []
    if waiting:
        vectors.append(clip.embed_images(waiting, 128))
    return EvaluationIndex(
        evaluation.name,
        keys,
        np.frombuffer(b"".join(bits for bits, _ in prints), np.uint8).reshape(-1, PDQ_BYTES),
        np.array([quality for _, quality in prints], np.int32),
        np.concatenate(vectors).astype(np.float32),
    )


def _search(
    signal: Nearest, store: Store, folder: str, names: list[str], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    local = Path(store.local_folder(folder))
    indexes = [EvaluationIndex.open(local, name) for name in names]
    for batch in batches:
        if batch.num_rows:
            yield from signal.compute(pa.Table.from_batches([batch]), indexes).to_batches()


def score(run: Run, job: Job, signal: Nearest) -> Made:
    """Compute the signal."""
    sets = run.experiment.evaluation_sets()
    task = run.task("indexing evaluation sets", "sets")
    model = model_reference(run.store, job.local["model"])
    folder = f"staging/{job.id}/index"
    with tempfile.TemporaryDirectory(prefix="cuvee-index-") as drafts:
        for number, evaluation in enumerate(sets.values()):
            task(number, len(sets))
            evaluation_index(evaluation, model).save(Path(drafts))
        for path in sorted(Path(drafts).iterdir()):
            run.store.write(f"{folder}/{path.name}", path.read_bytes())
    task(len(sets), len(sets))
    prints = signal_frame(run, signal.pdq, ["uid", "source", "pdq"])
    clips = signal_frame(run, signal.clip, ["uid", "image_embedding"])
    rows = prints.join(clips, "uid").select("uid", "source", "pdq", "image_embedding")
    found = rows.mapInArrow(partial(_search, signal, run.store, folder, list(sets)), ddl(run, job))
    return written(run, job, found), {"evaluation_sets": sorted(sets)}
