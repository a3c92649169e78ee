"""The index of an evaluation set: built once by a job, kept in the store, mapped to memory by the tasks that search."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from filters.search.approximate import ApproximateSearcher, build_searcher, plan_index
from filters.search.exact import are_unit
from filters.signals.evaluation_index import EvaluationIndex, ImageDescriptors
from jobs.score.corpus_tables import ScoreResult
from jobs.workflow.plan import Job, model_reference
from jobs.workflow.runner import Run
from pipeline.errors import CuveeError, StageFailed
from pipeline.evaluation.datasets import EvaluationSet
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.models.clip import load_clip
from pipeline.models.embedder import Embedder
from pipeline.models.image_embedding import open_image
from pipeline.storage.store import Store

_AT_ONCE, _BATCH = 256, 128


def build_index(
    evaluation: EvaluationSet, model: Embedder, min_recall: float, index_mb: int
) -> tuple[EvaluationIndex, dict[str, Any]]:
    """Return a set's index, of the kind that `plan_index` says, and the columns that describe it in its row.

    Raises InputError at an unreadable image or a memory limit too small for an index of the set, StageFailed where
    `model` gives no unit vector or the recall stays too small.
    """
    images = iter(evaluation.images())
    keys, looks, vectors = list[str](), list[ImageDescriptors](), list[npt.NDArray[np.float16]]()
    while batch := list(islice(images, _AT_ONCE)):
        pictures = [open_image(image.data, f"evaluation set {evaluation.name}: {image.key}") for image in batch]
        keys.extend(image.key for image in batch)
        looks.extend(ImageDescriptors.of(np.asarray(picture)) for picture in pictures)
        vectors.append(model.embed_images(pictures, _BATCH).astype(np.float16))
    embeddings = np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float16)
    for row in np.flatnonzero(~are_unit(embeddings)):
        raise StageFailed(f"evaluation set {evaluation.name}: {keys[row]}: expected a unit vector from the model")
    started = time.perf_counter()
    try:
        plan = plan_index(len(keys), embeddings.shape[1], index_mb << 20)
        search, recall, sample = build_searcher(embeddings, plan, min_recall)
    except CuveeError as error:
        raise type(error)(f"evaluation set {evaluation.name}: {error}") from None
    parameters = dict(plan.__dict__)
    if isinstance(search, ApproximateSearcher):
        parameters |= {"cells": len(search.centroids), "probed": search.probed, "taken": search.taken}
    index = EvaluationIndex.of(evaluation.name, keys, looks, search)
    return index, {
        "evaluation_set": evaluation.name,
        "rows": len(keys),
        "dimensions": embeddings.shape[1],
        "metric": "cosine",
        "kind": parameters.pop("kind"),
        "parameters": json.dumps(parameters, sort_keys=True),
        "sha256": evaluation.digest(),
        "recall": recall,
        "recall_sample": sample,
        "build_seconds": time.perf_counter() - started,
    }


def score(run: Run, job: Job) -> ScoreResult:
    """Build the index of the set that `job` names, and put its files under `indexes/` in the store."""
    run.task(f"indexing {job.local['set'].name}", "sets")(0, 1)
    model = load_clip(model_reference(run.store, job.local["model"]), job.config["precision"])
    index, row = build_index(job.local["set"], model, job.config["min_recall"], job.config["index_mb"])
    digests = {}
    with tempfile.TemporaryDirectory(prefix="cuvee-index-") as drafts:
        index.save(Path(drafts))
        for path in sorted(Path(drafts).iterdir()):
            digests[path.name] = _sha256(path)
            with path.open("rb") as draft, run.store.create(f"{index_folder(job)}/{path.name}") as stream:
                shutil.copyfileobj(draft, stream)
    row["files"] = json.dumps(digests, sort_keys=True)
    table = pa.Table.from_pylist([row], TABLES["indexes"])
    owned = {f"{index_folder(job)}/{name}": sha256 for name, sha256 in digests.items()}
    return [write_rows(run.store, job.id, "indexes", table)], {"files": owned}


def index_folder(job: Job) -> str:
    """Return where a job's index lies in the store."""
    return f"indexes/{job.short}"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class StoredIndex:
    """An index in a store: its folder, and what the ledger says its files' SHA-256 are, by name."""

    folder: str
    files: tuple[tuple[str, str], ...]


def stored_indexes(run: Run, jobs: Iterable[Job]) -> list[StoredIndex]:
    """Return the indexes that jobs built, in the order of the jobs."""
    index_jobs = list(jobs)
    rows = run.ledger.read("indexes", ["files"], [job.id for job in index_jobs]).to_pylist()
    files = {row["job"]: json.loads(row["files"]) for row in rows}
    return [StoredIndex(index_folder(job), tuple(sorted(files[job.id].items()))) for job in index_jobs]


def open_index(store: Store, index: StoredIndex) -> EvaluationIndex:
    """Return an index, mapped into memory once in this process, to be searched on one thread: Spark fills the cores.

    Called in tasks alone: what a worker forks from holds no index. Raises StageFailed where a file is not the one that
    the ledger knows.
    """
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    return _mapped(store, index)


@cache
def _mapped(store: Store, index: StoredIndex) -> EvaluationIndex:
    local = Path(store.local_folder(index.folder))
    for name, expected in index.files:
        actual = _sha256(local / name) if (local / name).is_file() else "no file"
        if actual != expected:
            raise StageFailed(f"{index.folder}/{name}: expected SHA-256 {expected}, found {actual}")
    return EvaluationIndex.open(local)
