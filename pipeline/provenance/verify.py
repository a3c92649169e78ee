"""Verification: rows are recounted and files rehashed against the ledger, and files that no job owns are found."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.tombstones import read_tombstones
from pipeline.ledger.compaction import retained_files
from pipeline.ledger.journal import (
    unfinished_compaction_message,
    unfinished_compactions,
    unfinished_takedowns,
    unfinished_takedowns_message,
)
from pipeline.ledger.scan import matching_rows, scan_table
from pipeline.ledger.tables import Ledger
from pipeline.models.checkpoint import WEIGHTS_FILE
from pipeline.operations.openlineage import event_path
from pipeline.outcomes import TAKEN_DOWN
from pipeline.provenance.funnel import inconsistencies, source_funnels
from pipeline.storage.store import Store


@dataclass(frozen=True)
class Finding:
    """A difference between the store and its ledger. `leftover` marks a file that no finished job owns, no error."""

    what: str
    leftover: bool = False


ProgressCallback = Callable[[int, int], None]


def _sha256(store: Store, path: str) -> str:
    with store.open(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def _check_row_counts(ledger: Ledger, table: str) -> Iterator[Finding]:
    """Compare the number of rows in each file of a snapshot with that of its commit."""
    delta = ledger.open(table)
    if delta is None:
        return
    actions = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    for action in actions:
        path = f"tables/{table}/{action['path']}"
        try:
            with ledger.store.arrow(path) as stream:
                rows = pq.ParquetFile(stream).metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            yield Finding(f"{path}: cannot be read: {error}")
            continue
        if rows != action["num_records"]:
            yield Finding(f"{path}: holds {rows} rows, the ledger says {action['num_records']}")


def _check_digest(store: Store, path: str, expected: str, size: int | None = None) -> Iterator[Finding]:
    if not store.exists(path):
        yield Finding(f"{path}: missing; the ledger says SHA-256 {expected[:12]}…")
    elif size is not None and store.size(path) != size:
        yield Finding(f"{path}: {store.size(path)} bytes, the ledger says {size}")
    elif (actual := _sha256(store, path)) != expected:
        yield Finding(f"{path}: SHA-256 is {actual[:12]}…, the ledger says {expected[:12]}…")


def files_owned_by_jobs(ledger: Ledger) -> dict[str, tuple[str, int | None]]:
    """Return the files that finished jobs own outside the tables: SHA-256 ("" if unknown) and size by path."""
    files: dict[str, tuple[str, int | None]] = {}
    for job in ledger.jobs():
        files[event_path(job.job)] = ("", None)
        for shard in job.facts.get("shards", []):
            files[shard["shard"]] = (shard["sha256"], shard["bytes"])
        for name, sha256 in job.facts.get("files", {}).items():
            files[name] = (sha256, None)
    folders = {job.job: job.facts["folder"] for job in ledger.jobs() if "folder" in job.facts}
    for row in ledger.read("exports").to_pylist():
        if row["job"] in folders:
            files[f"{folders[row['job']]}/{row['tar']}"] = (row["sha256"], row["bytes"])
    for row in ledger.read("trainings").to_pylist():
        if ledger.finished(row["job"]) is not None:
            files[f"{row['checkpoint']}/{WEIGHTS_FILE}"] = (row["checkpoint_sha256"], None)
    return files


def _table_files(ledger: Ledger) -> set[str]:
    """Return the paths of the data files in the newest snapshot of every table."""
    return {path for table in ledger.tables() for _, path in ledger.snapshot(table)}


OWNED_FOLDERS = ("tables", "shards", "exports", "staging", "lineage", "trainings", "indexes")
"""The folders of a store in which every file must belong to a finished job."""


def unowned_files(ledger: Ledger, known_files: Mapping[str, Any], tops: Sequence[str] = OWNED_FOLDERS) -> Iterator[str]:
    """Yield the files in these folders that no finished job owns; `known_files` are as `owned` returns them."""
    table_files = _table_files(ledger)
    trainings = {path.split("/")[1] for path in known_files if path.startswith("trainings/")}
    for top in tops:
        for path in ledger.store.files(top):
            segments = path.split("/")
            if top == "tables" and (path in table_files or "_delta_log" in segments):
                continue
            if path in known_files or (top == "trainings" and segments[1] in trainings):
                continue
            yield path


def _check_tombstones(ledger: Ledger) -> Iterator[Finding]:
    """Find pairs that were taken down and are still stored; matching by PDQ is left to `cuvee takedown`."""
    tombstones = read_tombstones(ledger)
    if not tombstones:
        return

    def named_mask(rows: pa.RecordBatch) -> Any:
        columns = (rows[name].to_pylist() for name in ("uid", "url", "problem"))
        return pa.array(
            [problem != TAKEN_DOWN and tombstones.names(uid, url) for uid, url, problem in zip(*columns, strict=True)],
            pa.bool_(),
        )

    def stored_mask(rows: pa.RecordBatch) -> Any:
        columns = (rows[name].to_pylist() for name in ("uid", "raw_sha256", "jpg_sha256"))
        digests = zip(*columns, strict=True)
        return pa.array(
            [row[0] in tombstones.uids or not tombstones.images.isdisjoint(row) for row in digests], pa.bool_()
        )

    for table, columns, mask in (
        ("pairs", ["uid", "url", "problem"], named_mask),
        ("samples", ["uid", "raw_sha256", "jpg_sha256"], stored_mask),
    ):
        for batch, row in matching_rows(scan_table(ledger, table, columns), mask):
            yield Finding(f"{batch.path}: holds the pair {row['uid']}, which was taken down")


def verify(ledger: Ledger, prune: bool, on_progress: ProgressCallback) -> list[Finding]:
    """Return every difference; with `prune`, remove the files that no finished job owns. Nothing else is changed.

    A row whose job has no row in `jobs` belongs to an unfinished job: its files are leftovers of a kill between two
    commits, and a new run finishes it. Where a takedown or a compaction is unfinished, unowned files may be its own and
    are not touched. Files that a compaction replaced are kept for time travel, and are no leftovers until they expire.
    """
    owned_files = files_owned_by_jobs(ledger)
    unfinished_work = (
        [unfinished_takedowns_message(ledger.store, takedowns)]
        if (takedowns := unfinished_takedowns(ledger.store))
        else []
    )
    unfinished_work += [unfinished_compaction_message(ledger.store)] if unfinished_compactions(ledger.store) else []
    findings = [Finding(line) for line in unfinished_work]
    for number, (path, (sha256, size)) in enumerate(sorted(owned_files.items())):
        on_progress(number, len(owned_files))
        if sha256:
            findings.extend(_check_digest(ledger.store, path, sha256, size))
    on_progress(len(owned_files), len(owned_files))
    for table in ledger.tables():
        findings.extend(_check_row_counts(ledger, table))
    if ledger.jobs():
        findings.extend(
            Finding(f"the counts do not add up: {line}") for line in inconsistencies(source_funnels(ledger))
        )
    findings.extend(_check_tombstones(ledger))
    kept_for_time_travel = retained_files(ledger)
    for path in (
        []
        if unfinished_work
        else (path for path in unowned_files(ledger, owned_files) if path not in kept_for_time_travel)
    ):
        findings.append(Finding(f"{path}: no finished job owns it{'; removed' if prune else ''}", leftover=True))
        if prune:
            ledger.store.remove(path)
    return findings
