"""Semantic duplicates (SemDeDup, Abbas et al. 2023, arXiv 2303.09540): near-equal embeddings of one cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.connected_components import Forest
from filters.search.cosine import Halves, exact_cosines, float32_margin, unit_vectors
from pipeline.errors import InputError

BLOCK_ROWS, BLOCK_COLUMNS = 256, 4096
"""Rows and columns of one product; they do not affect results."""


NO_EARLIER_COSINE = -1.0
"""`max_cosine` of a member without an earlier member: the smallest possible cosine."""


@dataclass(frozen=True)
class SemanticDedupSignal:
    """Settings: the CLIP signal, its clusters, and the cosine from which two embeddings are duplicates.

    The paper's epsilon is 1 - cosine. Only pairs of the same cluster are compared. Within a cluster the order is the
    paper's: by ascending cosine to the centre (it keeps the embeddings least similar to the centre), then by the
    embedding's bytes, then by uid. `max_cosine` is the largest cosine to an earlier member, -1 where there is none: the
    paper drops embeddings above 1 - epsilon. `semantic_group` is the smallest uid of a connected component of the pairs
    at or above `cosine`, and `semantic_size` its number of pairs: of a chain the paper's rule may keep several pairs,
    while the chain is one group. An embedding without a direction is a group of its own, with a null `max_cosine`.
    """

    clip: str
    clusters: str
    cosine: float

    columns: ClassVar[pa.Schema] = pa.schema(
        [("semantic_group", pa.string()), ("semantic_size", pa.int64()), ("max_cosine", pa.float32())]
    )

    def __post_init__(self) -> None:
        value: Any = self.cosine
        if type(value) not in (int, float) or not -1 < value <= 1:
            raise InputError(f"cosine: expected a number above -1 and at most 1, found {value!r}")


@dataclass(frozen=True)
class CellComparison:
    """For rows of a cell: the largest cosine to an earlier row, (n,) float32, and a forest of near pairs, (m, 2)."""

    most: npt.NDArray[np.float32]
    edges: npt.NDArray[np.int64]


def compare_rows(rows: Callable[[int, int], Halves], first: int, stop: int, cosine: float) -> CellComparison:
    """Compare the rows of a cell in [first, stop) with all earlier rows; `rows(a, b)` returns (b - a, d) embeddings.

    A pair is near where its cosine, rounded to float32, is at least `cosine`: so the groups agree with a predicate on
    `max_cosine`. Results have the same bits for any division of a cell.
    """
    forest, own = Forest(stop), unit_vectors(rows(first, stop))
    most = np.full(stop - first, NO_EARLIER_COSINE, np.float64)
    for ahead in range(0, stop, BLOCK_COLUMNS):
        earlier = unit_vectors(rows(ahead, min(ahead + BLOCK_COLUMNS, stop)))
        for start in range(first, stop, BLOCK_ROWS):
            end = min(start + BLOCK_ROWS, stop)
            if end > ahead:
                block, best = own[start - first : end - first], most[start - first : end - first]
                _compare(block, start, earlier[: end - ahead], ahead, cosine, best, forest)
    return CellComparison(most.astype(np.float32), forest.edges())


def _compare(
    block: Any, start: int, earlier: Any, ahead: int, cosine: float, best: npt.NDArray[np.float64], forest: Forest
) -> None:
    """Compare a block of rows from `start` with rows from `ahead`; update `best`, (n,), in place, and add edges."""
    scores = block @ earlier.T
    tolerance = float32_margin(block.shape[1])
    is_earlier = np.arange(ahead, ahead + len(earlier))[None] < np.arange(start, start + len(block))[:, None]
    scores[~is_earlier] = -2
    largest = np.maximum(scores.max(axis=1), best)
    may_be_best = scores >= largest[:, None] - tolerance
    uncertain = np.abs(scores - cosine) <= tolerance
    rows, columns = np.nonzero(is_earlier & (may_be_best | uncertain))
    cosines = exact_cosines(block[rows], earlier[columns])
    np.maximum.at(best, rows, cosines)
    certain_rows, certain_columns = np.nonzero(scores > cosine + tolerance)
    forest.add(certain_rows + start, certain_columns + ahead)
    is_near = uncertain[rows, columns] & (cosines.astype(np.float32).astype(np.float64) >= cosine)
    forest.add(rows[is_near] + start, columns[is_near] + ahead)


def group_rows(members: pa.Table, most: npt.NDArray[np.float32], edges: npt.NDArray[np.int64]) -> pa.Table:
    """Return uid, source and the columns of the members (uid, source, vector) of cells.

    `vector` is a member's row among the (n,) distinct embeddings of their cells, to which `most` and `edges` refer.
    Members of one vector are adjacent and in order: all but the first have an equal earlier member.
    """
    vectors = members["vector"].to_numpy()
    is_first = np.ones(len(vectors), bool)
    is_first[1:] = vectors[1:] != vectors[:-1]
    forest = Forest(len(most))
    forest.add(edges[:, 0], edges[:, 1])
    component = forest.components()[vectors]
    labels = pa.table({"label": component, "uid": members["uid"]})
    groups = labels.group_by("label").aggregate([("uid", "min"), ("uid", "count")])
    group_index = np.empty(len(most), np.int64)
    group_index[groups["label"].to_numpy()] = np.arange(groups.num_rows)
    indices = pa.array(group_index[component])
    return pa.table(
        {
            "uid": members["uid"],
            "source": members["source"],
            "semantic_group": groups["uid_min"].take(indices),
            "semantic_size": groups["uid_count"].take(indices),
            "max_cosine": pa.array(np.where(is_first, most[vectors], np.float32(1)), pa.float32()),
        }
    )


def ungrouped_rows(members: pa.Table) -> pa.Table:
    """Return the signal's rows of members (uid, source) whose embedding has no direction."""
    count = members.num_rows
    return pa.table(
        {
            "uid": members["uid"],
            "source": members["source"],
            "semantic_group": members["uid"],
            "semantic_size": pa.array(np.ones(count, np.int64)),
            "max_cosine": pa.nulls(count, pa.float32()),
        }
    )
