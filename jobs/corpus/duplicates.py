"""Groups of duplicates over the whole corpus."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from filters.duplicates import Duplicates, groups, name_groups, near_edges
from jobs.corpus.tables import Made, signal_jobs
from jobs.plan import Job
from jobs.run import Run
from jobs.spark import run_units
from pipeline.ledger import write_rows
from pipeline.pdq import PDQ_BYTES
from pipeline.schemas import signal_table
from pipeline.store import Store
from pipeline.units import Output

BLOCK = 8192
"""Rows of the corpus that one task compares with all others."""


def _compare(store: Store, path: str, distance: int, first: int) -> Output:
    """Compare one block of the corpus with all of it; the edges found are rows of the unit's record."""
    with store.open(path) as stream:
        corpus: npt.NDArray[np.uint8] = np.load(stream, allow_pickle=False)
    edges = near_edges(corpus[first : first + BLOCK], first, corpus, distance)
    return Output({}, {"edges": edges.tolist()})


def score(run: Run, job: Job, signal: Duplicates) -> Made:
    """Compute the signal."""
    prints = run.ledger.read(signal_table(signal.pdq), ["uid", "pdq", "quality"], signal_jobs(run, signal.pdq))
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
    rows = group_rows(samples.sort_by("uid"), near)
    return [write_rows(run.store, job.id, signal_table(job.name), rows)], {}


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
