"""Groups of duplicates over the whole corpus.

Spark groups equal bytes, then equal fingerprints, so that of each fingerprint one is compared; tasks compare them
(`filters.search.hamming_join`) and write the edges of a forest; the components of these are the near groups. Each step
leaves its rows in the staging area with a completion record, and a run that was killed resumes after the last.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from filters.signals.duplicates import DuplicatesSignal, sort_order
from jobs.score.corpus_tables import ScoreResult, signal_frame, stored_pairs, write_signal
from jobs.spark.connected_components import EDGE_SCHEMA, connected_components
from jobs.spark.frames import parquet_frame
from jobs.spark.staging import StagedTable, fresh_path, read_staged, run_step_once, stage_frame, write_batches
from jobs.spark.tasks import run_units
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.errors import StageFailed
from pipeline.images.pdq import PDQ_BYTES
from pipeline.ledger.work_units import UnitOutput
from pipeline.storage.store import Store

ROW_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("source", pa.string()),
        ("exact_group", pa.string()),
        ("exact_size", pa.int64()),
        ("code", pa.binary()),
    ]
)


CODE_SCHEMA = pa.schema([("code", pa.binary()), ("node", pa.string()), ("pairs", pa.int64())])


def exact_groups(samples: DataFrame, prints: DataFrame, min_quality: int) -> DataFrame:
    """Return `ROW_SCHEMA` of samples (uid, source, raw_sha256) and fingerprints (uid, pdq, quality).

    `code` is the fingerprint where its quality lets it be compared, else null.
    """
    known = prints.select("uid", F.expr(f"case when quality >= {int(min_quality)} then pdq end").alias("code"))
    sizes = samples.groupBy("raw_sha256").agg(F.min("uid").alias("exact_group"), F.count("uid").alias("exact_size"))
    return samples.join(sizes, "raw_sha256").join(known, "uid", "left").select(*ROW_SCHEMA.names)


def by_code(rows: DataFrame) -> DataFrame:
    """Return `CODE_SCHEMA` of `ROW_SCHEMA`: each fingerprint that is compared, and the smallest exact group that has
    it.
    """
    compared = rows.filter("code is not null")
    return compared.groupBy("code").agg(F.min("exact_group").alias("node"), F.count("uid").alias("pairs"))


def exact_group_edges(rows: DataFrame, codes: DataFrame) -> DataFrame:
    """Return edges between each exact group and the smallest that shares a fingerprint with it."""
    joined = rows.join(codes, "code").filter("exact_group != node")
    return joined.select(F.col("exact_group").alias("left"), F.col("node").alias("right")).distinct()


def near_groups(rows: DataFrame, groups: DataFrame) -> DataFrame:
    """Return the signal's rows of `ROW_SCHEMA`, and of the near group of each exact group that is not its name."""
    grouped = rows.join(groups, rows["exact_group"] == groups["member"], "left")
    grouped = grouped.withColumn("near_group", F.coalesce("group", "exact_group"))
    sizes = grouped.groupBy("near_group").agg(F.count("uid").alias("near_size"))
    return grouped.join(sizes, "near_group").select(
        "uid", "source", "exact_group", "exact_size", "near_group", "near_size"
    )


def _collect(store: Store, group: str, files: Sequence[str]) -> dict[str, int]:
    """Write the distinct fingerprints as one array, sorted, and their nodes in the same order."""
    table = read_staged(store, files, CODE_SCHEMA).combine_chunks()
    if faulty := [len(code) for code in table["code"].to_pylist() if len(code) != PDQ_BYTES]:
        raise StageFailed(f"fingerprints: expected {PDQ_BYTES} bytes each, found one of {faulty[0]}")
    codes = np.frombuffer(b"".join(table["code"].to_pylist()), np.uint8).reshape(-1, PDQ_BYTES)
    order = sort_order(codes)
    with store.create(f"staging/{group}/compared/codes.npy") as stream:
        np.save(stream, codes[order])
    nodes = table.select(["node"]).take(pa.array(order))
    write_batches(store, f"staging/{group}/compared/nodes.parquet", nodes.schema, nodes.to_batches())
    return {"fingerprints": len(codes), "pairs": int(np.sum(table["pairs"].to_numpy()))}


def _compare(store: Store, group: str, signal: DuplicatesSignal, task: tuple[int, int, int]) -> UnitOutput:
    """Compare one part; the edges found are a staged file that the unit's record names."""
    with store.open(f"staging/{group}/compared/codes.npy") as stream:
        codes: npt.NDArray[np.uint8] = np.load(stream, allow_pickle=False)
    comparison = signal.compare(codes, task)
    nodes = read_staged(store, [f"staging/{group}/compared/nodes.parquet"], pa.schema([("node", pa.string())]))["node"]
    edges = pa.table([nodes.take(pa.array(side)) for side in comparison.edges.T], schema=EDGE_SCHEMA)
    edges = edges.filter(pc.not_equal(edges["left"], edges["right"]))
    path = fresh_path(group, "edges", "parquet")
    write_batches(store, path, EDGE_SCHEMA, edges.to_batches())
    return UnitOutput(
        {}, {"path": path, "edges": edges.num_rows, "compared": comparison.compared, "most": comparison.most}
    )


def score(run: Run, job: Job, signal: DuplicatesSignal) -> ScoreResult:
    """Compute the signal."""
    samples, _ = stored_pairs(run, [])
    prints = signal_frame(run, signal.pdq, ["uid", "pdq", "quality"])
    staged = stage_frame(exact_groups(samples, prints, signal.min_quality), run.store, job.id, "rows")
    rows = parquet_frame(run.spark, run.store, staged.files, ROW_SCHEMA)
    distinct = stage_frame(by_code(rows), run.store, job.id, "codes")
    counts = run_step_once(run.store, job.id, "collected", partial(_collect, run.store, job.id, distinct.files))
    linked = stage_frame(
        exact_group_edges(rows, parquet_frame(run.spark, run.store, distinct.files, CODE_SCHEMA)),
        run.store,
        job.id,
        "links",
    )
    units = [(f"compared-{'-'.join(map(str, task))}", task) for task in signal.tasks(counts["fingerprints"])]
    work = partial(_compare, run.store, job.id, signal)
    done = run_units(run.spark, run.store, job.id, units, work, run.task("comparing fingerprints", "parts"))
    part_facts = [record.facts for record in done.values()]
    files = (*linked.files, *(facts["path"] for facts in part_facts))
    edges = StagedTable(files, linked.rows + sum(facts["edges"] for facts in part_facts))
    groups, computed_in = connected_components(run.spark, run.store, job.id, edges)
    facts = counts | {
        "method": signal.method,
        "compared": sum(facts["compared"] for facts in part_facts),
        "most_under_one_value": max((facts["most"] for facts in part_facts), default=0),
        "edges": edges.rows,
        "joined_in": computed_in,
    }
    return write_signal(run, job, near_groups(rows, groups)), facts
