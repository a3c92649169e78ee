"""Export: training tars made of byte ranges of the shards, and the documents beside them."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.export.documentation import collect_dataset_facts
from jobs.spark.session import master_of
from jobs.spark.tasks import Unit, run_units
from jobs.workflow.plan import Job, export_folder, needs_of_stage
from jobs.workflow.runner import Run
from pipeline.core.uid_arrays import find_keys, sort_order, uid_strings
from pipeline.core.uid_arrays import uid_keys as keys
from pipeline.errors import StageFailed
from pipeline.export.documents import render_documents
from pipeline.export.layout import ExportPairs, layout_tars, tars_of_parts
from pipeline.export.manifest import export_digest
from pipeline.export.tar_writer import write_tar
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.work_units import UnitOutput, UnitRecord, finished_units, run_unit
from pipeline.storage.byte_ranges import ByteRanges
from pipeline.storage.store import Store

ONE_MACHINE_MAX_BYTES = 4 << 30
"""Largest export, in bytes, that the driver's threads copy although Spark has other machines."""


_LOCAL = re.compile(r"local(?:\[(\d+|\*)(?:,\s*\d+)?\])?")


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Export mixtures, one after another."""
    for job in jobs:
        _export(run, job)


def thread_count(master: str, size: int) -> int:
    """Return the number of driver threads that copy an export of `size` bytes, 0 where Spark does it.

    On one machine it equals the number of Spark's tasks, without their start-up time. On a cluster, Spark copies
    exports of more than `ONE_MACHINE_MAX_BYTES` bytes.
    """
    cores = os.cpu_count() or 1
    if local_master := _LOCAL.fullmatch(master):
        return cores if local_master[1] == "*" else int(local_master[1] or 1)
    return 0 if size > ONE_MACHINE_MAX_BYTES else cores


def copy_tar(store: Store, job: str, mixture: str, folder: str, payload: tuple[int, ByteRanges]) -> UnitOutput:
    """Write one tar; its rows go to `exports` and `export_members`."""
    number, pieces = payload
    tar = write_tar(store, folder, number, pieces)
    tar_row = {"mixture": mixture, "tar": tar.name, "pairs": tar.pairs, "bytes": tar.bytes, "sha256": tar.sha256}
    member_columns = [
        pa.repeat(mixture, tar.pairs),
        uid_strings(pieces.keys),
        pa.repeat(tar.name, tar.pairs),
        np.cumsum(pieces.sizes) - pieces.sizes,
        pieces.sizes,
    ]
    tables = {
        "exports": pa.Table.from_pylist([tar_row], TABLES["exports"]),
        "export_members": pa.Table.from_arrays(list(map(pa.array, member_columns)), schema=TABLES["export_members"]),
    }
    return UnitOutput({job: tables}, tar_row)


def _read_mixture(run: Run, blend: str) -> tuple[ExportPairs, dict[str, int]]:
    """Return the pairs of a mixture, and the number of distinct pairs per source."""
    rows = run.ledger.read("mixtures", ["uid", "source", "part", "times"], [blend])
    uid_keys = keys(rows["uid"])
    by_uid = sort_order(uid_keys)
    parts = rows["part"].combine_chunks().dictionary_encode()
    names = parts.dictionary.to_pylist()
    sorted_names = sorted(names)
    part_of_pair = np.array([sorted_names.index(name) for name in names], np.int32)[parts.indices.to_numpy()][by_uid]
    times = rows["times"].to_numpy()[by_uid].astype(np.int32)
    by_source = {entry["values"]: entry["counts"] for entry in pc.value_counts(rows["source"]).to_pylist()}
    return ExportPairs(uid_keys[by_uid], times, part_of_pair, tuple(sorted_names)), by_source


def _locate_pieces(run: Run, chosen: ExportPairs, ingests: Sequence[str]) -> ByteRanges:
    """Return the byte ranges of the chosen pairs in the shards, in their order; the tables are read file by file.

    Raises StageFailed where a pair is not stored.
    """
    count = len(chosen.keys)
    shard_numbers, offsets, sizes = np.full(count, -1, np.int32), np.zeros(count, np.int64), np.zeros(count, np.int64)
    shard_index: dict[str, int] = {}
    for _, path in run.ledger.snapshot("samples", ingests):
        with run.store.arrow(path) as stream:
            rows = pq.read_table(stream, columns=["uid", "shard", "offset", "size"])
        rows_in_mixture, is_chosen = find_keys(keys(rows["uid"]), chosen.keys)
        chosen_rows, rows_in_mixture = rows.filter(pa.array(is_chosen)), rows_in_mixture[is_chosen]
        names = chosen_rows["shard"].combine_chunks().dictionary_encode()
        numbers = [shard_index.setdefault(name, len(shard_index)) for name in names.dictionary.to_pylist()]
        shard_numbers[rows_in_mixture] = np.array(numbers, np.int32)[names.indices.to_numpy()]
        offsets[rows_in_mixture], sizes[rows_in_mixture] = (
            chosen_rows["offset"].to_numpy(),
            chosen_rows["size"].to_numpy(),
        )
    if absent := int((shard_numbers < 0).sum()):
        first = uid_strings(chosen.keys[shard_numbers < 0][:1])[0]
        raise StageFailed(f"{run.store.root}: {absent} pairs of the mixture are not stored ({first} is one)")
    return ByteRanges(tuple(shard_index), chosen.keys, shard_numbers, offsets, sizes)


def layout_pieces(run: Run, job: Job, chosen: ExportPairs) -> tuple[list[ByteRanges], dict[str, float]]:
    """Return the byte ranges of each tar of an export, in order, and its upsampling factor by the tar's name."""
    config = job.config
    pieces = _locate_pieces(run, chosen, [ingest.id for ingest in needs_of_stage(job, "ingest")])
    if config["repeat_as"] != "weights":
        return [
            pieces.take(rows)
            for rows in layout_tars(chosen.keys, chosen.times, config["seed"], config["pairs_per_tar"])
        ], {}
    layout = list(tars_of_parts(chosen, config["seed"], config["pairs_per_tar"]))
    factors = {f"{number:08d}.tar": factor for number, (_, factor) in enumerate(layout)}
    return [pieces.take(rows) for rows, _ in layout], factors


def run_in_threads(
    store: Store,
    group: str,
    units: Sequence[Unit],
    work: Callable[[tuple[int, ByteRanges]], UnitOutput],
    count: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, UnitRecord]:
    """Run units as `run_units` does, but in threads of this process."""
    with ThreadPoolExecutor(count, "export") as pool:
        running = [pool.submit(run_unit, store, group, name, partial(work, payload)) for name, payload in units]
        try:
            for done, future in enumerate(as_completed(running)):
                on_progress(done, len(units))
                future.result()
        except OSError as error:
            raise StageFailed(f"{store.root}: {error}") from error
        finally:
            for future in running:
                future.cancel()
    on_progress(len(units), len(units))
    done_units = finished_units(store, group)
    return {name: done_units[name] for name, _ in units}


def _export(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    folder = export_folder(job)
    chosen, by_source = _read_mixture(run, needs_of_stage(job, "blend")[0].id)
    tar_pieces, factors = layout_pieces(run, job, chosen)
    units = [(f"tar-{number:08d}", (number, pieces)) for number, pieces in enumerate(tar_pieces)]
    work = partial(copy_tar, run.store, job.id, job.name, folder)
    task = run.task(f"exporting {job.name}", "tars")
    size = sum(int(unit_pieces.sizes.sum()) for _, (_, unit_pieces) in units)
    if count := thread_count(master_of(run.experiment.file.spark), size):
        records = run_in_threads(run.store, job.id, units, work, count, task)
    else:
        records = run_units(run.spark, run.store, job.id, units, work, task)
    written = [record.facts for record in records.values()]
    dataset_facts = collect_dataset_facts(run, job, chosen.pairs(), by_source, factors)
    digests = {}
    for name, data in render_documents(dataset_facts, written).items():
        run.store.write(f"{folder}/{name}", data)
        digests[f"{folder}/{name}"] = hashlib.sha256(data).hexdigest()
    files = [file for record in records.values() for file in record.files[job.id]]
    facts = {"folder": folder, "digest": export_digest(written), "files": digests, "about": dataset_facts}
    run.finish([(job, files, facts)], started, [job.id])
