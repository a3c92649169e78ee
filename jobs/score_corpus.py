"""Signals that look at the whole corpus at once: duplicate groups, and the nearest evaluation image."""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from filters.duplicates import Duplicates, groups, name_groups, near_edges
from filters.nearest import EvaluationIndex, Nearest
from filters.placeholders import Placeholders
from filters.published import Published
from jobs.ledger_source import frame
from jobs.plan import Job
from jobs.run import Run
from jobs.score import model_reference
from jobs.spark import frame_name, run_units, write_frame
from pipeline.evaluation_sets import EvaluationSet
from pipeline.ledger import write_rows
from pipeline.models import load
from pipeline.pdq import PDQ_BYTES, pdq
from pipeline.schemas import TABLES, signal_table
from pipeline.store import Store
from pipeline.units import Output
from pipeline.zeroshot import open_image

BLOCK = 8192
"""Rows of the corpus that one task compares with all others."""


def score_corpus(run: Run, job: Job) -> None:
    """Compute one corpus signal."""
    started = datetime.now(UTC)
    spec = run.experiment.signals[job.name]
    signal = spec.target()(**spec.settings)
    if isinstance(signal, Duplicates):
        rows = _duplicates(run, job, signal)
        file = write_rows(run.store, job.id, signal_table(job.name), rows)
        run.finish([(job, [file], {})], started, [job.id])
    elif isinstance(signal, Placeholders | Published):
        rows = _placeholders(run, signal) if isinstance(signal, Placeholders) else _published(run, job, signal)
        table = signal_table(job.name)
        record = write_frame(rows, run.store, job.id, table, run.schema(table))
        run.finish([(job, record.files[job.id], {})], started, [job.id])
    else:
        facts = _nearest(run, job, signal)
        run.finish([(job, facts.pop("files"), facts)], started, [job.id])


def _stored(run: Run, columns: list[str]) -> tuple[DataFrame, DataFrame]:
    """Return the `samples` (uid, source, raw_sha256) and the `pairs` (uid and `columns`) behind them."""
    ingests = [one.id for one in run.plan.ingests()]
    samples = frame(run.spark, run.ledger, "samples", TABLES["samples"], ["uid", "source", "raw_sha256"], ingests)
    pairs = frame(run.spark, run.ledger, "pairs", TABLES["pairs"], ["uid", "problem", *columns], ingests)
    return samples, pairs.filter("problem = ''").drop("problem")


def _placeholders(run: Run, signal: Placeholders) -> DataFrame:
    names = frame_name(), frame_name()
    for name, rows in zip(names, _stored(run, ["url"]), strict=True):
        rows.createOrReplaceTempView(name)
    return run.spark.sql(signal.query(*names))


def _carry(signal: Published, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield from signal.compute(pa.Table.from_batches([batch])).to_batches()


def _published(run: Run, job: Job, signal: Published) -> DataFrame:
    samples, pairs = _stored(run, ["licence", "published"])
    rows = samples.join(pairs, "uid").select("uid", "source", "licence", "published")
    return rows.mapInArrow(partial(_carry, signal), _ddl(run, job))


def _signal_jobs(run: Run, name: str) -> list[str]:
    return [job.id for job in run.plan.signal(name)]


def _compare(store: Store, path: str, distance: int, first: int) -> Output:
    """Compare one block of the corpus with all of it; the edges found are rows of the unit's record."""
    with store.open(path) as stream:
        corpus: npt.NDArray[np.uint8] = np.load(stream, allow_pickle=False)
    edges = near_edges(corpus[first : first + BLOCK], first, corpus, distance)
    return Output({}, {"edges": edges.tolist()})


def _duplicates(run: Run, job: Job, signal: Duplicates) -> pa.Table:
    prints = run.ledger.read(signal_table(signal.pdq), ["uid", "pdq", "quality"], _signal_jobs(run, signal.pdq))
    prints = prints.sort_by("uid")
    good = prints.filter(pc.greater_equal(prints["quality"], signal.min_quality))
    corpus = np.frombuffer(b"".join(good["pdq"].to_pylist()), np.uint8).reshape(-1, PDQ_BYTES)
    path = f"staging/{job.id}/pdq.npy"
    with run.store.create(path) as stream:
        np.save(stream, corpus)
    units = [(f"block-{first:012d}", first) for first in range(0, len(corpus), BLOCK)]
    work = partial(_compare, run.store, path, signal.distance)
    records = run_units(run.spark, run.store, job.id, units, work, run.task("comparing fingerprints", "blocks"))
    edges = [edge for record in records.values() for edge in record.facts["edges"]]
    near = dict(
        zip(
            good["uid"].to_pylist(),
            groups(len(corpus), np.array(edges, np.int64).reshape(-1, 2)),
            strict=True,
        )
    )
    samples = run.ledger.read("samples", ["uid", "source", "raw_sha256"], [one.id for one in run.plan.ingests()])
    return group_rows(samples.sort_by("uid"), near)


def group_rows(samples: pa.Table, near: dict[str, Any]) -> pa.Table:
    """Return each sample's exact group (equal SHA-256 of what was fetched) and near group, of which exact is a part.

    `near` gives the component of those whose fingerprints were compared; the others are alone, but for exact copies.
    """
    uids, hashes = samples["uid"].to_pylist(), samples["raw_sha256"].to_pylist()
    exact = np.unique(np.array(hashes), return_inverse=True)[1].astype(np.int32)
    fresh = iter(range(len(near), len(near) + len(uids)))
    component = np.array([near[uid] if uid in near else next(fresh) for uid in uids], np.int64)
    joined = np.concatenate([_chain(exact), _chain(np.unique(component, return_inverse=True)[1])])
    exact_names, exact_sizes = name_groups(uids, exact)
    near_names, near_sizes = name_groups(uids, groups(len(uids), joined))
    return pa.table(
        {
            "uid": samples["uid"],
            "source": samples["source"],
            "exact_group": exact_names,
            "exact_size": pa.array(exact_sizes, pa.int64()),
            "near_group": near_names,
            "near_size": pa.array(near_sizes, pa.int64()),
        }
    )


def _chain(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return (m, 2) edges that link the rows of each label in a chain."""
    order = np.argsort(labels, kind="stable")
    same = labels[order][1:] == labels[order][:-1]
    return np.stack([order[:-1][same], order[1:][same]], axis=1).astype(np.int64)


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


def _nearest(run: Run, job: Job, signal: Nearest) -> dict[str, Any]:
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
    prints = _frame(run, signal.pdq, ["uid", "source", "pdq"])
    clips = _frame(run, signal.clip, ["uid", "image_embedding"])
    rows = prints.join(clips, "uid").select("uid", "source", "pdq", "image_embedding")
    found = rows.mapInArrow(partial(_search, signal, run.store, folder, list(sets)), _ddl(run, job))
    record = write_frame(found, run.store, job.id, signal_table(job.name), run.schema(signal_table(job.name)))
    return {"files": record.files[job.id], "evaluation_sets": sorted(sets)}


def _frame(run: Run, name: str, columns: list[str]) -> Any:
    table = signal_table(name)
    return frame(run.spark, run.ledger, table, run.schema(table), columns, _signal_jobs(run, name))


def _ddl(run: Run, job: Job) -> str:
    kinds = {pa.string(): "string", pa.int32(): "int", pa.float32(): "float", pa.float64(): "double"}
    return ", ".join(f"{field.name} {kinds[field.type]}" for field in run.schema(signal_table(job.name)))
