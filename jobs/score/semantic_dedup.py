"""Semantic duplicates: the cells of a clusters signal are packed, each compared within itself, and grouped.

Spark sorts the embeddings by cell, in SemDeDup's order, and its tasks pack each partition: a file of the distinct
embeddings as plain float16, and one of the pairs that have them. Equal embeddings of a cell stand together, so a
thousand copies are compared once. A cell of more than `MAX_CELL_VECTORS` distinct embeddings is compared in blocks, a
task each.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from filters.search.cosine import Halves, usable_embeddings
from filters.signals.clusters import Centres
from filters.signals.semantic_dedup import SemanticDedupSignal, compare_rows, group_rows, ungrouped_rows
from jobs.score.clusters import table_rows, verified_centres_folder
from jobs.score.corpus_tables import ScoreResult, signal_frame
from jobs.spark.staging import fresh_path, run_step_once, write_batches
from jobs.spark.tasks import run_units
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.work_units import UnitOutput
from pipeline.storage.store import Store

MAX_CELL_VECTORS = 1 << 14
"""Distinct embeddings up to which a cell is one task's; a larger one is cut into blocks of half as many rows."""


UNIT_ROWS = 1 << 16
"""Pairs of the small cells that are one task's."""


PARTITION_ROWS = 1 << 16


MEMBER_SCHEMA = pa.schema([("uid", pa.string()), ("source", pa.string()), ("vector", pa.int64())])


ASSIGNED_DDL = "cluster int, centre_cosine float, uid string, source string, image_embedding binary"


@dataclass(frozen=True)
class Cell:
    """A cell in a pack: where its members and its distinct vectors begin there, and how many there are."""

    members_path: str
    vectors_path: str
    width: int
    member: int
    members: int
    vector: int
    vectors: int

    def rows(self, store: Store, first: int, stop: int) -> Halves:
        """Return distinct embeddings [first, stop) of the cell, (stop - first, d) float16."""
        with store.open(self.vectors_path) as stream:
            stream.seek((self.vector + first) * self.width * 2)
            data = stream.read((stop - first) * self.width * 2)
        return np.frombuffer(data, "<f2").reshape(stop - first, self.width)


def _assign_cells(store: Store, folder: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield `ASSIGNED_DDL`: each pair with its cell and its cosine to the centre, both null without a direction."""
    centres = Centres.open(store.local_folder(folder))
    for batch in batches:
        has_direction, vectors = usable_embeddings(batch["image_embedding"], "image_embedding")
        places = np.full(len(has_direction), -1)
        places[has_direction] = np.arange(len(vectors))
        indices = pa.array(places, mask=places < 0)
        columns = [pa.array(values).take(indices) for values in centres.assign(vectors)]
        others = [batch["uid"], batch["source"], pa.array(batch["image_embedding"])]
        yield pa.RecordBatch.from_arrays(
            [*columns, *others], names=["cluster", "centre_cosine", "uid", "source", "image_embedding"]
        )


class _Packer:
    """Writes the distinct embeddings of a partition, sorted by cell and embedding, and records where cells begin."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.cells: list[list[int]] = []  # member, members, vector, vectors of each
        self.width = 0
        self._cell: int | None = None
        self._last = b""

    def add(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Take a batch; return its rows of `MEMBER_SCHEMA`."""
        vectors = np.full(batch.num_rows, -1)
        for place, (cell, embedding) in enumerate(
            zip(batch["cluster"].to_pylist(), batch["image_embedding"].to_pylist(), strict=True)
        ):
            if not self.cells or cell != self._cell:
                last = self.cells[-1] if self.cells else [0, 0, 0, 0]
                self.cells.append([last[0] + last[1], 0, last[2] + last[3], 0])
                self._cell, self._last = cell, b""
            current = self.cells[-1]
            current[1] += 1
            if cell is not None and embedding != self._last:
                current[3] += 1
                self._stream.write(embedding)
                self._last, self.width = embedding, len(embedding) // 2
            vectors[place] = current[2] + current[3] - 1
        return pa.RecordBatch.from_arrays([batch["uid"], batch["source"], pa.array(vectors)], schema=MEMBER_SCHEMA)


def _pack(store: Store, group: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Write a partition's pack; yield its cells as JSON."""
    vectors, members = fresh_path(group, "vectors", "f16"), fresh_path(group, "members", "parquet")
    with store.create(vectors) as stream:
        packer = _Packer(stream)
        write_batches(store, members, MEMBER_SCHEMA, (packer.add(batch) for batch in batches if batch.num_rows))
    cells = [[members, vectors, packer.width, *cell] for cell in packer.cells]
    yield pa.RecordBatch.from_pydict({"cells": [json.dumps(cells)]})


def pack_cells(run: Run, job: Job, signal: SemanticDedupSignal, folder: str) -> list[Cell]:
    """Return the cells of all packs; write the packs unless they were written before."""
    clips = signal_frame(run, signal.clip, ["uid", "source", "image_embedding"])
    parts = 1 + table_rows(run, signal.clip) // PARTITION_ROWS

    def make() -> dict[str, Any]:
        assigned = clips.mapInArrow(partial(_assign_cells, run.store, folder), ASSIGNED_DDL).repartition(
            parts, "cluster"
        )
        ordered = assigned.sortWithinPartitions("cluster", "centre_cosine", "image_embedding", "uid")
        rows = ordered.mapInArrow(partial(_pack, run.store, job.id), "cells string").collect()
        return {"cells": [cell for row in rows for cell in json.loads(row["cells"])]}

    return [Cell(*cell) for cell in run_step_once(run.store, job.id, "packed", make)["cells"]]


def _members(store: Store, cells: Sequence[Cell]) -> pa.Table:
    """Return the members of adjoining cells of one pack, reading no more row groups than hold them."""
    first, stop = cells[0].member, cells[-1].member + cells[-1].members
    parts, start = [], 0
    with store.arrow(cells[0].members_path) as stream:
        file = pq.ParquetFile(stream)
        for number in range(file.num_row_groups):
            end = start + file.metadata.row_group(number).num_rows
            if start < stop and end > first:
                part = file.read_row_group(number)
                parts.append(part.slice(max(first - start, 0), min(stop, end) - max(first, start)))
            start = end
    return pa.concat_tables(parts)


def _signal_output(job: str, name: str, rows: pa.Table) -> UnitOutput:
    return UnitOutput({job: {signal_table(name): rows}})


def _group_cells(
    store: Store, cells: Sequence[Cell], most: Sequence[npt.NDArray[np.float32]], edges: Sequence[npt.NDArray[np.int64]]
) -> pa.Table:
    """Return the signal's rows of adjoining cells, given what was compared in each."""
    members, base = _members(store, cells), cells[0].vector
    moved = [part + cell.vector - base for part, cell in zip(edges, cells, strict=True)]
    vectors = pa.array(members["vector"].to_numpy() - base)
    return group_rows(members.set_column(2, "vector", vectors), np.concatenate(most), np.concatenate(moved))


def _row_range(vectors: Halves, first: int, stop: int) -> Halves:
    return vectors[first:stop]


def _score_small_cells(store: Store, job: str, name: str, cosine: float, cells: Sequence[Cell]) -> UnitOutput:
    """Return the signal's rows of small cells that adjoin in one pack; a cell without vectors has no directions."""
    if not cells[0].vectors:
        return _signal_output(job, name, ungrouped_rows(_members(store, cells)))
    comparisons = []
    for cell in cells:
        comparisons.append(
            compare_rows(partial(_row_range, cell.rows(store, 0, cell.vectors)), 0, cell.vectors, cosine)
        )
    return _signal_output(
        job,
        name,
        _group_cells(
            store,
            cells,
            [comparison.most for comparison in comparisons],
            [comparison.edges for comparison in comparisons],
        ),
    )


def _compare_block(store: Store, group: str, cosine: float, payload: tuple[Cell, int, int]) -> UnitOutput:
    """Compare a block of a large cell with all rows before it; stage the result."""
    cell, first, stop = payload
    comparison = compare_rows(partial(cell.rows, store), first, stop, cosine)
    paths = []
    for array in (comparison.most, comparison.edges):
        paths.append(fresh_path(group, "blocks", "npy"))
        with store.create(paths[-1]) as stream:
            np.save(stream, array)
    return UnitOutput({}, {"most": paths[0], "edges": paths[1]})


def _load(store: Store, path: str) -> npt.NDArray[Any]:
    with store.open(path) as stream:
        array: npt.NDArray[Any] = np.load(stream, allow_pickle=False)
    return array


def _score_large_cell(store: Store, job: str, name: str, payload: tuple[Cell, Sequence[dict[str, str]]]) -> UnitOutput:
    """Return the signal's rows of a large cell, of which all blocks are compared."""
    cell, blocks = payload
    most = np.concatenate([_load(store, block["most"]) for block in blocks])
    edges = np.concatenate([_load(store, block["edges"]) for block in blocks])
    return _signal_output(job, name, _group_cells(store, [cell], [most], [edges]))


def _adjoining_runs(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Yield runs of cells that adjoin in one pack, each of about `UNIT_ROWS` members; those without vectors apart."""
    run: list[Cell] = []
    for cell in cells:
        adjoins = run and cell.members_path == run[-1].members_path and cell.member == run[-1].member + run[-1].members
        full = sum(member.members for member in run) + cell.members > UNIT_ROWS
        if run and (not adjoins or full or not cell.vectors or not run[-1].vectors):
            yield run
            run = []
        run.append(cell)
    if run:
        yield run


def score(run: Run, job: Job, signal: SemanticDedupSignal) -> ScoreResult:
    """Compute the signal."""
    store, table = run.store, (job.id, job.name)
    cells = pack_cells(run, job, signal, verified_centres_folder(run, signal.clusters))
    small = [cell for cell in cells if cell.vectors <= MAX_CELL_VECTORS]
    large = [cell for cell in cells if cell.vectors > MAX_CELL_VECTORS]
    units: list[tuple[str, Any]] = [(f"cells-{number:06d}", part) for number, part in enumerate(_adjoining_runs(small))]
    work = partial(_score_small_cells, store, *table, signal.cosine)
    done = run_units(run.spark, store, job.id, units, work, run.task("comparing within cells", "tasks"))
    files = [file for record in done.values() for file in record.files[job.id]]
    step = MAX_CELL_VECTORS // 2
    blocks = {
        f"block-{number:06d}-{first:010d}": (cell, first, min(first + step, cell.vectors))
        for number, cell in enumerate(large)
        for first in range(0, cell.vectors, step)
    }
    if large:
        work = partial(_compare_block, store, job.id, signal.cosine)
        task = run.task("comparing within large cells", "blocks")
        records = run_units(run.spark, store, job.id, list(blocks.items()), work, task)
        units = [
            (f"large-{number:06d}", (cell, [records[name].facts for name, block in blocks.items() if block[0] == cell]))
            for number, cell in enumerate(large)
        ]
        work = partial(_score_large_cell, store, *table)
        done = run_units(run.spark, store, job.id, units, work, run.task("grouping large cells", "cells"))
        files += [file for record in done.values() for file in record.files[job.id]]
    counts = [cell.vectors for cell in cells]
    return files, {
        "pairs": sum(cell.members for cell in cells),
        "without_direction": sum(cell.members for cell in cells if not cell.vectors),
        "distinct_embeddings": sum(counts),
        "cells": sum(count > 0 for count in counts),
        "largest_cell": max(counts, default=0),
        "compared": sum(count * (count - 1) // 2 for count in counts),
    }
