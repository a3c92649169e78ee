"""Work spread over Spark: units with completion records, partitions run in turn, DataFrames written as data files."""

import json
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from jobs.spark import worker_daemon
from pipeline.errors import StageFailed
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.work_units import UnitOutput, UnitRecord, finished_units, record_path, run_unit
from pipeline.storage.store import Store
from pipeline.storage.task_lease import hold_lease

Work = Callable[[Any], UnitOutput]


Unit = tuple[str, Any]
"""A unit of work: its name, and what its work is called with."""


def run_units(
    spark: SparkSession,
    store: Store,
    group: str,
    units: Sequence[Unit],
    work: Work,
    on_progress: Callable[[int, int], None],
) -> dict[str, UnitRecord]:
    """Run the units of `group` that have no completion record, a task each; return all records.

    `on_progress` is called with (done, total), by the records in the store.
    """
    return run_partitions(spark, store, group, [[unit] for unit in units], lambda: nullcontext(work), on_progress)


def run_partitions(
    spark: SparkSession,
    store: Store,
    group: str,
    lanes: Sequence[Sequence[Unit]],
    opened: Callable[[], AbstractContextManager[Work]],
    on_progress: Callable[[int, int], None],
    alone: bool = False,
) -> dict[str, UnitRecord]:
    """As `run_units`, but a task for each lane: it opens what does the work once, and runs the lane's units in turn.

    `alone`: of attempts at a lane, which Spark may have several of at once, one works, and the others wait for it.
    """
    names = [name for lane in lanes for name, _ in lane]
    done = finished_units(store, group)
    todo = [unfinished for lane in lanes if (unfinished := [unit for unit in lane if unit[0] not in done])]
    on_progress(len(names) - sum(map(len, todo)), len(names))
    if todo:
        stop = threading.Event()
        records = {record_path(group, name) for name in names}

        def watch() -> None:
            while not stop.wait(0.5):
                on_progress(len(records.intersection(store.files(f"staging/{group}"))), len(names))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            leases = f"staging/{group}/leases-{uuid.uuid4().hex}" if alone else ""  # new ones: a killed run holds none
            task = partial(_run_partition, store, group, opened, leases)
            spark.sparkContext.parallelize(todo, len(todo)).mapPartitions(task).collect()
        except Exception as error:
            raise StageFailed(f"{store.root}: {error_line(error)}") from error
        finally:
            stop.set()
            watcher.join()
        done = finished_units(store, group)
    on_progress(len(names), len(names))
    return {name: done[name] for name in names}


_settle = cache(worker_daemon.freeze_garbage)
"""Once in each worker, after its first task's imports: workers that our daemon did not fork import by themselves."""


def _run_partition(
    store: Store, group: str, opened: Callable[[], AbstractContextManager[Work]], leases: str, lanes: Any
) -> list[str]:
    finished = []
    for lane in lanes:
        with _lease(store, group, leases, [name for name, _ in lane]) as acquired:
            if acquired:
                finished += _run_lane(store, group, opened, lane)
    return finished


def _lease(store: Store, group: str, leases: str, names: Sequence[str]) -> AbstractContextManager[bool]:
    """Hold the lease of a lane of these units, where there are leases."""
    if not leases:
        return nullcontext(True)
    records = {record_path(group, name) for name in names}
    return hold_lease(store, f"{leases}/{names[0]}", lambda: all(map(store.exists, records)))


def _run_lane(
    store: Store, group: str, opened: Callable[[], AbstractContextManager[Work]], lane: Sequence[Unit]
) -> list[str]:
    with opened() as work:
        _settle()
        return [run_unit(store, group, name, partial(work, payload)).unit for name, payload in lane]


def error_line(error: Exception) -> str:
    """Return the line of Spark's error that names the failure of a task."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    python = [line for line in lines if re.match(r"^[\w.]*(Error|Exception|Failed|Tar|Refused)\b.*: ", line)]
    message = python[-1] if python else lines[0] if lines else type(error).__name__
    return re.sub(r"^pipeline\.errors\.\w+: ", "", message)[:400]  # our own errors are written for people


def _write_partition(store: Store, job: str, table: str, schema: pa.Schema, batches: Any) -> Any:
    parts = [batch for batch in batches if batch.num_rows]
    if parts:
        rows = pa.Table.from_batches(parts)
        # Spark marks literals as never null; the table's own schema says what is stored
        file = write_rows(store, job, table, pa.Table.from_arrays(rows.columns, schema=schema))
        yield pa.RecordBatch.from_pydict({"file": [json.dumps(file.__dict__)]})


def write_frame(
    frame: DataFrame, store: Store, job: str, table: str, schema: pa.Schema, unit: str = "all"
) -> UnitRecord:
    """Write a DataFrame as Parquet files of `table`, one for each partition, and the unit's completion record."""
    if store.exists(record_path(job, unit)):
        return finished_units(store, job)[unit]
    rows = frame.mapInArrow(partial(_write_partition, store, job, table, schema), "file string").collect()
    files = [DataFile(**json.loads(row["file"])) for row in rows]
    record = UnitRecord(unit, {job: files}, {})
    store.write(record_path(job, unit), record.to_json().encode())
    return record


def view_name() -> str:
    """Return a unique name for a temporary view."""
    return f"t_{uuid.uuid4().hex}"
