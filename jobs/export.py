"""Export: training tars made of byte ranges of the shards, with manifest, sizes and Croissant."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa

from jobs.plan import Job, of_stage
from jobs.run import Run
from jobs.spark import run_units
from pipeline.exports import Range, croissant, export_digest, laid_out, manifest, sizes, write_tar
from pipeline.schemas import TABLES
from pipeline.store import Store
from pipeline.units import Output


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Export mixtures, one after another."""
    for job in jobs:
        _export(run, job)


def export_folder(job: Job) -> str:
    """Return where an export lies in the store."""
    return f"exports/{job.name}/{job.short}"


def _copy(store: Store, job: str, mixture: str, folder: str, payload: tuple[int, list[Range]]) -> Output:
    """Write one tar; its rows go to `exports` and `export_members`."""
    tar = write_tar(store, folder, *payload)
    about = {
        "mixture": mixture,
        "tar": tar.name,
        "pairs": tar.pairs,
        "bytes": tar.bytes,
        "sha256": tar.sha256,
    }
    uids, offsets, lengths = zip(*tar.members, strict=True)
    members = {
        "mixture": [mixture] * tar.pairs,
        "uid": uids,
        "tar": [tar.name] * tar.pairs,
        "offset": offsets,
        "size": lengths,
    }
    tables = {
        "exports": pa.Table.from_pylist([about], TABLES["exports"]),
        "export_members": pa.Table.from_pydict(members, TABLES["export_members"]),
    }
    return Output({job: tables}, about)


def _export(run: Run, job: Job) -> None:
    started = datetime.now(UTC)
    blend = of_stage(job, "blend")[0]
    chosen = run.ledger.read("mixtures", ["uid", "times"], [blend.id]).to_pydict()
    times = dict(zip(chosen["uid"], chosen["times"], strict=True))
    ingests = [one.id for one in of_stage(job, "ingest")]
    samples = run.ledger.read("samples", ["uid", "shard", "offset", "size"], ingests).to_pylist()
    ranges = {
        row["uid"]: Range(row["uid"], row["shard"], row["offset"], row["size"])
        for row in samples
        if row["uid"] in times
    }
    layout = laid_out(times, job.config["seed"], job.config["pairs_per_tar"])
    units = [(f"tar-{number:08d}", (number, [ranges[uid] for uid in uids])) for number, uids in enumerate(layout)]
    folder = export_folder(job)
    work = partial(_copy, run.store, job.id, job.name, folder)
    records = run_units(run.spark, run.store, job.id, units, work, run.task(f"exporting {job.name}", "tars"))
    tars = [record.facts for record in records.values()]
    inputs = {"blend": blend.id, "ingest": ingests, "tables": run.ledger.versions()}
    licences = {name: run.experiment.file.sources[name].licence for name in run.experiment.mixture_sources(job.name)}
    beside = {
        "manifest.json": manifest(job.name, job.id, inputs, tars),
        "sizes.json": sizes(tars),
        "croissant.json": croissant(run.experiment.file.title, job.name, licences, tars),
    }
    for name, data in beside.items():
        run.store.write(f"{folder}/{name}", data)
    digests = {f"{folder}/{name}": hashlib.sha256(data).hexdigest() for name, data in beside.items()}
    files = [file for record in records.values() for file in record.files[job.id]]
    run.finish([(job, files, {"folder": folder, "digest": export_digest(tars), "files": digests})], started, [job.id])
