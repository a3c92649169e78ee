"""Duplicate groups: near pairs and components against brute force, and the job on a small corpus, on Spark."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from benchmarks.tables import experiment, finished
from filters.search import connected_components as components_module
from filters.search import hamming_join
from filters.search.connected_components import Forest, component_labels, smallest_rows, string_components
from filters.search.hamming_join import FINGERPRINT_BITS, bands, join_band, join_blocks
from filters.signals.duplicates import DuplicatesSignal, sort_order
from jobs.score import duplicates as duplicates_job
from jobs.score.stage import execute
from jobs.spark import connected_components as jobs_components
from jobs.spark.connected_components import EDGE_SCHEMA, are_stars, components_in_driver, components_in_spark
from jobs.spark.staging import StagedTable, stage_frame
from jobs.workflow.experiment import load_experiment
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.errors import InputError
from pipeline.storage.store import Store

Bits = npt.NDArray[np.uint8]


SEEDS = st.integers(0, 2**32 - 1)


QUICK = settings(max_examples=40, deadline=None)


def clustered(seed: int, size: int, centres: int = 3, spread: int = 41) -> Bits:
    """Return (n, 32) uint8, distinct and sorted, n <= size: rows less than `spread` bits from a few centres."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (centres, FINGERPRINT_BITS), dtype=np.uint8)[rng.integers(0, centres, size)]
    for row in bits:
        row[rng.choice(FINGERPRINT_BITS, rng.integers(0, spread), replace=False)] ^= 1
    return np.unique(np.packbits(bits, axis=1), axis=0)


def flipped(base: Bits, count: int) -> Bits:
    """Return `base`, (32,) uint8, with its first `count` bits turned."""
    bits = np.unpackbits(base)
    bits[:count] ^= 1
    return np.packbits(bits)


def distances(codes: Bits) -> npt.NDArray[np.int64]:
    """Return (n, n) Hamming distances by counting bits one by one."""
    return np.unpackbits(codes[:, None] ^ codes[None], axis=2).sum(axis=2, dtype=np.int64)


def walked(near: npt.NDArray[np.bool_]) -> list[int]:
    """Return the smallest row that each row reaches along pairs, (n, n): the transitive closure, by hand."""
    reach = near | np.eye(len(near), dtype=bool)
    for middle in range(len(near)):
        reach |= reach[:, [middle]] & reach[[middle]]
    return [int(row.argmax()) for row in reach]


def joined(size: int, forests: Sequence[npt.NDArray[np.int64]]) -> list[int]:
    forest = Forest(size)
    for edges in forests:
        forest.add(edges[:, 0], edges[:, 1])
    return forest.components().tolist()


@pytest.mark.parametrize("crowd", [8, 128])
@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 60), st.sampled_from([0, 3, 20, 31, 47]), st.integers(1, 3))
def test_the_bands_forests_have_the_components_of_all_near_pairs(
    crowd: int, seed: int, size: int, distance: int, parts: int
) -> None:
    codes = clustered(seed, size)
    expected = walked(distances(codes) <= distance)
    with patch.multiple(hamming_join, CROWD_ROWS=crowd, SLICE_ROWS=8, MAX_TRAVERSALS=2, BLOCK_ROWS=2):
        forests = [
            join_band(codes, places, distance, part, parts).edges for places in bands(distance) for part in range(parts)
        ]
    assert joined(len(codes), forests) == expected
    for edges in forests:  # each a forest, and of near rows' components alone
        assert len(edges) < max(len(codes), 1)
        assert all(expected[left] == expected[right] for left, right in edges.tolist())


@QUICK
@given(SEEDS, st.integers(1, 40), st.integers(1, 17), st.sampled_from([0, 31, 60, 120, 256]))
def test_blocks_have_the_components_of_all_near_pairs(seed: int, size: int, block: int, distance: int) -> None:
    codes = clustered(seed, size)
    with patch.multiple(hamming_join, BLOCK_ROWS=4, SLICE_ROWS=8):
        forests = [
            join_blocks(codes, first, min(first + block, len(codes)), distance).edges
            for first in range(0, len(codes), block)
        ]
    assert joined(len(codes), forests) == walked(distances(codes) <= distance)


@pytest.mark.parametrize("distance", [0, 10, 31, 47])
def test_bands_share_out_the_bits_and_are_enough_for_the_distance(distance: int) -> None:
    places = bands(distance)
    assert sorted(np.concatenate(places).tolist()) == list(range(FINGERPRINT_BITS))
    assert max(map(len, places)) <= 24
    assert 3 * len(places) > distance  # or a pair could differ in three bits of each


@pytest.mark.parametrize("limit", [0, 1, 31, 48, 60])
def test_the_distance_is_inclusive(limit: int) -> None:
    base = clustered(1, 1)[0]
    codes = np.stack([base, flipped(base, limit), flipped(base, limit + 70)])
    codes = np.unique(codes, axis=0)
    signal = DuplicatesSignal("pdq_v1", limit)
    forests = [signal.compare(codes, task).edges for task in signal.tasks(len(codes))]
    assert len(set(joined(len(codes), forests))) == 2 if limit else 3
    if limit:
        closer = DuplicatesSignal("pdq_v1", limit - 1)
        forests = [closer.compare(codes, task).edges for task in closer.tasks(len(codes))]
        assert len(set(joined(len(codes), forests))) == 3


def test_a_crowd_of_near_copies_costs_about_its_size_and_no_more_edges() -> None:
    codes = clustered(5, 6000, centres=1, spread=9)
    found = join_band(codes, bands(31)[4], 31)
    assert found.most > 1000
    assert found.compared < len(codes) ** 2 / 10  # under two dozen values lie most rows, and all their pairs are near
    assert len(found.edges) == len(codes) - 1


def test_the_order_of_fingerprints_is_that_of_their_bytes() -> None:
    codes = np.random.default_rng(0).integers(0, 3, (200, 32), dtype=np.uint8)
    assert [code.tobytes() for code in codes[sort_order(codes)]] == sorted(code.tobytes() for code in codes)


@pytest.mark.parametrize("key", ["distance", "min_quality"])
@pytest.mark.parametrize("value", [-1, 257, 1.5, True, "31", None])
def test_a_setting_that_is_no_number_of_bits_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{key}: expected a whole number from 0 to"):
        DuplicatesSignal("pdq_v1", **{key: value})


EDGE_LISTS = st.integers(1, 14).flatmap(
    lambda size: st.tuples(
        st.just(size), st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=16)
    )
)


def reached(size: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    near = np.zeros((size, size), bool)
    for left, right in edges:
        near[left, right] = near[right, left] = True
    return walked(near)


@given(EDGE_LISTS)
def test_groups_are_the_connected_components(graph: tuple[int, list[tuple[int, int]]]) -> None:
    size, edges = graph
    labels = component_labels(size, np.array(edges, np.int64).reshape(-1, 2))
    assert smallest_rows(labels).tolist() == reached(size, edges)


@given(EDGE_LISTS, st.integers(1, 5), st.randoms())
def test_a_forest_is_the_same_however_its_edges_come(
    graph: tuple[int, list[tuple[int, int]]], step: int, random: Any
) -> None:
    size, edges = graph
    expected = reached(size, edges)
    random.shuffle(edges)
    with patch.object(components_module, "MIN_PENDING_EDGES", 1):
        forest = Forest(size)
        for first in range(0, len(edges), step):
            part = np.array(edges[first : first + step], np.int64).reshape(-1, 2)
            forest.add(part[:, 0], part[:, 1])
    assert forest.components().tolist() == expected
    assert len(forest.edges()) == size - len(set(expected))
    assert reached(size, [tuple(edge) for edge in forest.edges().tolist()]) == expected


def named(number: int) -> str:
    return f"{number * 7919 % 1009:04x}"


@given(EDGE_LISTS)
def test_a_group_is_named_by_its_smallest_string(graph: tuple[int, list[tuple[int, int]]]) -> None:
    size, edges = graph
    expected = reached(size, edges)
    sides = [pa.chunked_array([[named(edge[side]) for edge in edges]], pa.string()) for side in (0, 1)]
    found = string_components(*sides)
    ends = {end for edge in edges for end in edge}
    assert found["member"].to_pylist() == sorted(named(end) for end in ends)
    least = {named(end): min(named(other) for other in ends if expected[other] == expected[end]) for end in ends}
    assert dict(zip(found["member"].to_pylist(), found["group"].to_pylist(), strict=True)) == least


def graph_of_many_shapes() -> list[tuple[str, str]]:
    """Return edges: a long chain, a star, a ring, a clique, a pair twice and both ways, and random components."""
    edges = [(f"chain-{n * 7 % 17:02d}", f"chain-{(n + 1) * 7 % 17:02d}") for n in range(16)]
    edges += [("star-20", f"star-{n:02d}") for n in range(30) if n != 20]
    edges += [(f"ring-{n:02d}", f"ring-{(n + 1) % 20:02d}") for n in range(20)]
    edges += list(itertools.combinations([f"clique-{n}" for n in range(9)], 2))
    edges += [("twice-b", "twice-a"), ("twice-a", "twice-b"), ("twice-a", "twice-b")]
    rng = np.random.default_rng(3)
    edges += [(f"random-{a:03d}", f"random-{b:03d}") for a, b in rng.integers(0, 400, (230, 2)).tolist() if a != b]
    return edges


def test_spark_and_the_driver_find_the_same_components(spark: SparkSession, tmp_path: Path) -> None:
    store, edges = Store(str(tmp_path)), graph_of_many_shapes()
    frame = spark.createDataFrame(edges, "left string, right string")
    staged = stage_frame(frame.repartition(3), store, "a", "edges")
    assert staged.rows == len(edges)
    names = sorted({end for edge in edges for end in edge})
    place = {name: number for number, name in enumerate(names)}
    least = reached(len(names), [(place[left], place[right]) for left, right in edges])
    by_hand = {name: names[first] for name, first in zip(names, least, strict=True) if names[first] != name}
    assert not are_stars(frame)
    for found in (components_in_driver(spark, store, "a", staged), components_in_spark(spark, store, "a", frame)):
        rows = [(row["member"], row["group"]) for row in found.collect()]
        assert len(rows) == len(by_hand)
        assert dict(rows) == by_hand
    steps = [path for path in store.files("staging/a") if path.endswith("-checked.json")]
    assert 2 <= len(steps) <= 6
    assert components_in_spark(spark, store, "a", spark.createDataFrame([], frame.schema)).count() == len(
        by_hand
    )  # it goes on


Pair = tuple[str, bytes | None, int | None]
"""SHA-256 of what was fetched, fingerprint and quality of a pair."""


def corpus(seed: int) -> list[Pair]:
    """Return pairs with exact and near copies, low qualities, no fingerprints, and a chain across exact copies."""
    rng = np.random.default_rng(seed)
    codes = clustered(seed, 60, centres=25, spread=30)
    pairs: list[Pair] = []
    for number, code in enumerate(codes[rng.integers(0, len(codes), 90)]):
        kind = number % 9
        quality = 100 if kind < 7 else (49 if kind == 7 else None)
        fingerprint = code.tobytes() if kind < 8 else None
        pairs.append((f"{number if rng.random() < 0.8 else rng.integers(0, 90):064x}", fingerprint, quality))
    return pairs


def uid_of(number: int) -> str:
    return f"{number * 7919 % 1009:032x}"


def expected_rows(pairs: Sequence[Pair]) -> dict[str, tuple[Any, ...]]:
    """Return each uid's columns, by comparing each pair with each."""
    near = np.zeros((len(pairs), len(pairs)), bool)
    same = np.zeros_like(near)
    for i, (raw, code, quality) in enumerate(pairs):
        for j, (other_raw, other, other_quality) in enumerate(pairs):
            same[i, j] = raw == other_raw
            good = code is not None and other is not None and (quality or 0) >= 50 and (other_quality or 0) >= 50
            near[i, j] = same[i, j] or (
                good and (int.from_bytes(code or b"") ^ int.from_bytes(other or b"")).bit_count() <= 31
            )
    rows = {}
    exact, close = walked(same), walked(near)
    for i in range(len(pairs)):
        columns: list[Any] = []
        for least in (exact, close):
            members = [uid_of(j) for j in range(len(pairs)) if least[j] == least[i]]
            columns += [min(members), len(members)]
        rows[uid_of(i)] = ("bench", *columns)
    return rows


def scored(folder: Path, spark: SparkSession, pairs: Sequence[Pair], order: Sequence[int], files: int) -> Run:
    """Run the duplicates signal on pairs that lie in `files` files in an order; return the run."""
    parts = [list(order)[number::files] for number in range(files)]
    samples = [
        pa.table(
            {
                "uid": pa.array([uid_of(n) for n in part], pa.string()),
                "source": pa.array(["bench"] * len(part), pa.string()),
                "raw_sha256": pa.array([pairs[n][0] for n in part], pa.string()),
            }
        )
        for part in parts
    ]
    prints = [
        pa.table(
            {
                "uid": pa.array([uid_of(n) for n in part[::-1]], pa.string()),
                "pdq": pa.array([pairs[n][1] for n in part[::-1]], pa.binary()),
                "quality": pa.array([pairs[n][2] for n in part[::-1]], pa.int32()),
            }
        )
        for part in parts
    ]
    path = experiment(folder, {"pdq_v1": None, "duplicates_v1": {"pdq": "pdq_v1"}})
    finished(path, {"samples": iter(samples), "pdq_v1": iter(prints)})
    run = Run(load_experiment(path, []), Display())
    run.__dict__["spark"] = spark  # one session for all tests
    execute(run, run.plan.signal("duplicates_v1"))
    return run


def rows_of(run: Run) -> dict[str, tuple[Any, ...]]:
    table = run.ledger.read("signals_duplicates_v1", ["uid", "source", *DuplicatesSignal.columns.names])
    rows = [tuple(row.values())[:6] for row in table.to_pylist()]
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_job_finds_what_comparing_each_with_each_finds_in_any_order_and_either_way(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = corpus(7)
    expected = expected_rows(pairs)
    assert len({row[3] for row in expected.values()}) < len({row[1] for row in expected.values()}) < len(pairs)
    (tmp_path / "a").mkdir()
    run = scored(tmp_path / "a", spark, pairs, range(len(pairs)), 1)
    assert rows_of(run) == expected
    [facts] = [row.facts for row in run.ledger.jobs() if row.name == "duplicates_v1"]
    compared = {code for _, code, quality in pairs if code and (quality or 0) >= 50}
    assert facts["fingerprints"] == len(compared)
    assert facts["pairs"] == sum(bool(code and (quality or 0) >= 50) for _, code, quality in pairs)
    assert facts["joined_in"] == "driver"
    assert run.store.files("staging") == []
    monkeypatch.setattr(jobs_components, "MAX_DRIVER_EDGES", 0)
    (tmp_path / "b").mkdir()
    other = scored(tmp_path / "b", spark, pairs, np.random.default_rng(1).permutation(len(pairs)).tolist(), 3)
    assert rows_of(other) == expected
    [again] = [row.facts for row in other.ledger.jobs() if row.name == "duplicates_v1"]
    assert again == facts | {"joined_in": "spark"}


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("a" * 64, bytes(32), 100)],
        [("a" * 64, None, None), *[(f"{number:064x}", bytes(32), 0) for number in range(4)], ("a" * 64, None, None)],
        [("a" * 64, bytes(32), 100)] * 5,
    ],
    ids=["none", "one", "none comparable", "all the same"],
)
def test_a_corpus_of_little(spark: SparkSession, tmp_path: Path, pairs: list[Pair]) -> None:
    assert rows_of(scored(tmp_path, spark, pairs, range(len(pairs)), 1)) == expected_rows(pairs)


def test_a_run_that_ended_early_goes_on_behind_what_it_had_done(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = corpus(9)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(duplicates_job, "connected_components", killed)
        with pytest.raises(KeyboardInterrupt):
            scored(tmp_path, spark, pairs, range(len(pairs)), 2)
    store = Store(str(tmp_path / "store"))
    before = {path: Path(store.path(path)).stat().st_mtime_ns for path in store.files("staging")}
    assert sum("compared-" in path for path in before) == len(DuplicatesSignal("pdq_v1").tasks(1))

    def seen(spark: SparkSession, store: Store, group: str, edges: StagedTable) -> Any:
        assert {path: Path(store.path(path)).stat().st_mtime_ns for path in store.files("staging")} == before
        return connected(spark, store, group, edges)

    connected = duplicates_job.connected_components
    monkeypatch.setattr(duplicates_job, "connected_components", seen)
    run = Run(load_experiment(tmp_path / "experiment.yaml", []), Display())
    run.__dict__["spark"] = spark
    execute(run, run.plan.signal("duplicates_v1"))
    assert rows_of(run) == expected_rows(pairs)


def test_a_fingerprint_of_another_length_is_an_error_that_says_so(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="expected 32 bytes each, found one of 31"):
        scored(tmp_path, spark, [("a" * 64, bytes(31), 100), ("b" * 64, bytes(32), 100)], range(2), 1)


def test_staged_edges_have_the_schema_that_the_components_read() -> None:
    assert EDGE_SCHEMA.names == ["left", "right"]
