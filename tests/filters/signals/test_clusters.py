"""Clusters, semantic duplicates and near-a-reference: the pure functions against brute force, and the jobs on Spark."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyspark.sql import SparkSession

from benchmarks.tables import experiment, finished
from filters.search.cosine import exact_cosines, nearest_unordered, unit_vectors, usable_embeddings
from filters.signals import clusters as clusters_module
from filters.signals import semantic_dedup as semantic_module
from filters.signals.clusters import Centres, ClustersSignal, _shares, train_centres
from filters.signals.near_reference import NearReferenceSignal, ReferenceImages, reference_columns
from filters.signals.semantic_dedup import NO_EARLIER_COSINE, SemanticDedupSignal, compare_rows
from jobs.score import near_reference as reference_job
from jobs.score import semantic_dedup as semantic_job
from jobs.score.clusters import sample_share
from jobs.score.stage import execute
from jobs.workflow.experiment import load_experiment
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.errors import InputError, StageFailed
from pipeline.evaluation.datasets import open_set
from pipeline.evaluation.zero_shot import embed_set
from tests.support.road_experiment import ROOT

Halves = npt.NDArray[np.float16]


SEEDS = st.integers(0, 2**32 - 1)


QUICK = settings(max_examples=30, deadline=None)


def clustered(seed: int, count: int, width: int = 8, centres: int = 4, noise: float = 0.3) -> Halves:
    """Return (n, d) float16 vectors near a few directions, some of them equal, some opposite."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(centres, width))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    vectors = middles[rng.integers(0, centres, count)] + noise / width**0.5 * rng.normal(size=(count, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[rng.random(count) < 0.2] = vectors[:1]
    vectors[rng.random(count) < 0.1] *= -1
    return vectors.astype("<f2")


def cosine(left: Halves, right: Halves) -> float:
    """Return the cosine of two vectors in Python's own numbers."""
    pairs = list(zip(map(float, left), map(float, right), strict=True))
    scale = sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs)
    return sum(a * b for a, b in pairs) / scale**0.5


def cosines(left: Halves, right: Halves) -> npt.NDArray[np.float64]:
    return np.array([[cosine(a, b) for b in right] for a in left]).reshape(len(left), len(right))


def column(vectors: Halves) -> pa.Array:
    return pa.array([row.tobytes() for row in vectors], pa.binary())


@QUICK
@given(SEEDS, st.integers(1, 12), st.integers(1, 20), st.integers(1, 5), st.sampled_from([2, 8, 33]))
def test_the_nearest_are_those_of_brute_force_and_ties_go_to_the_smaller_row(
    seed: int, queries: int, corpus: int, count: int, width: int
) -> None:
    asked, held = clustered(seed, queries, width), clustered(seed + 1, corpus, width)
    held[corpus // 2 :] = held[: corpus - corpus // 2]  # each at least twice
    found = nearest_unordered(unit_vectors(asked), unit_vectors(held), count)
    expected = cosines(asked, held)
    assert len(found) == queries
    for row, places in enumerate(found.tolist()):
        by_hand = sorted(range(corpus), key=lambda place: (-round(expected[row, place], 6), place))[:count]
        assert sorted(places) == sorted(by_hand)


@QUICK
@given(SEEDS, st.integers(1, 30), st.integers(1, 7))
def test_a_cosine_has_the_same_bits_in_any_batch(seed: int, count: int, step: int) -> None:
    left, right = clustered(seed, count, 33), clustered(seed + 1, count, 33)
    whole = exact_cosines(left, right)
    parts = [exact_cosines(left[first : first + step], right[first : first + step]) for first in range(0, count, step)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert exact_cosines(np.asfortranarray(left), right).tobytes() == whole.tobytes()
    for row in range(count):
        assert exact_cosines(np.broadcast_to(left[row], (count, 33)), right)[row] == whole[row]
        assert whole[row] == pytest.approx(cosine(left[row], right[row]), abs=1e-12)


def test_an_embedding_is_usable_where_it_has_a_direction() -> None:
    vectors = clustered(1, 6)
    vectors[1], vectors[2, 3], vectors[3, 0] = 0, np.nan, np.inf
    rows = [row.tobytes() for row in vectors]
    rows[4] = None
    for whole in (pa.array(rows, pa.binary()), pa.array([b"x", *rows, b"y"], pa.binary()).slice(1, 6)):
        there, found = usable_embeddings(whole, "here")
        assert there.tolist() == [True, False, False, False, False, True]
        assert found.tobytes() == vectors[[0, 5]].tobytes()
    assert usable_embeddings(pa.array([None], pa.binary()), "here")[0].tolist() == [False]
    assert usable_embeddings(pa.chunked_array([], pa.binary()), "here")[1].shape == (0, 0)
    with pytest.raises(StageFailed, match=r"^here: expected embeddings of one length, found 2 and 4 bytes"):
        usable_embeddings(pa.array([b"abcd", b"ab"], pa.binary()), "here")


def trained(seed: int, count: int, clusters: int, flat: int = 256, **changes: Any) -> tuple[Halves, Centres]:
    sample = clustered(seed, count, **changes)
    with patch.object(clusters_module, "MAX_ONE_LEVEL_CLUSTERS", flat):
        return sample, train_centres(sample, ClustersSignal("clip_v1", clusters, iterations=4))


@pytest.mark.parametrize("flat", [256, 2])
@QUICK
@given(SEEDS, st.integers(1, 60), st.integers(1, 60), st.integers(1, 9))
def test_there_are_as_many_centres_as_were_asked_and_all_are_unit(
    flat: int, seed: int, count: int, clusters: int, step: int
) -> None:
    clusters = min(clusters, count)
    sample, centres = trained(seed, count, clusters, flat)
    assert len(centres.centroids) == clusters == centres.starts[-1]
    assert len(centres.starts) == len(centres.cells) + 1
    assert (np.diff(centres.starts) > 0).all()
    assert np.linalg.norm(centres.centroids, axis=1) == pytest.approx(np.ones(clusters), abs=1e-6)
    cluster, found = centres.assign(sample)
    order = np.random.default_rng(seed).permutation(count)
    for first in range(0, count, step):  # in any batch and order
        part = order[first : first + step]
        again = centres.assign(sample[part])
        assert (again[0].tobytes(), again[1].tobytes()) == (cluster[part].tobytes(), found[part].tobytes())
    expected = cosines(sample, centres.centroids)
    assert found == pytest.approx(expected[np.arange(count), cluster], abs=1e-6)
    if len(centres.cells) <= clusters_module.PROBED_CELLS:  # all cells are looked into: exact
        assert found == pytest.approx(expected.max(axis=1), abs=1e-6)
        assert centres.recall(sample) == 1


@QUICK
@given(SEEDS, st.integers(1, 20), st.integers(1, 12))
def test_of_equal_centres_the_smaller_number_is_taken(seed: int, count: int, clusters: int) -> None:
    sample, once = trained(seed, 40, clusters)
    twice = Centres(np.tile(once.centroids, (2, 1)), np.tile(once.cells, (2, 1)), np.array([0, clusters, 2 * clusters]))
    assert twice.assign(sample[:count])[0].tolist() == once.assign(sample[:count])[0].tolist()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.floats(0, 1))
def test_clusters_are_shared_out_by_rows(sizes: list[int], part: float) -> None:
    total = len(sizes) + round(part * (sum(sizes) - len(sizes)))
    shares = _shares(np.array(sizes), total)
    assert shares.sum() == total
    assert all(1 <= share <= size for share, size in zip(shares.tolist(), sizes, strict=True))
    for share, size in zip(shares.tolist(), sizes, strict=True):
        quota = size * total / sum(sizes)
        assert share <= max(1, -(-quota // 1)) + len(sizes)


def test_two_levels_miss_few_of_the_nearest_centres() -> None:
    sample, centres = trained(3, 6000, 300, width=32, centres=60, noise=0.7)
    assert len(centres.cells) == 17
    assert 0.95 < centres.recall(sample[:2000]) <= 1


FRESH = """
import hashlib, sys
import numpy as np
from filters.signals import clusters
sample = np.load(sys.argv[1], allow_pickle=False)
for clusters.MAX_ONE_LEVEL_CLUSTERS in (256, 2):
    centres = clusters.train_centres(sample, clusters.ClustersSignal("clip_v1", 20, iterations=4))
    print(hashlib.sha256(b"".join(centres.files().values())).hexdigest())
"""


def test_the_centres_are_the_same_in_a_fresh_process_with_more_threads(tmp_path: Path) -> None:
    expected = []
    for flat in (256, 2):
        sample, centres = trained(5, 500, 20, flat, width=64)
        expected.append(hashlib.sha256(b"".join(centres.files().values())).hexdigest())
    np.save(tmp_path / "sample.npy", sample)
    command = [sys.executable, "-c", FRESH, str(tmp_path / "sample.npy")]
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        ({"clusters": 0}, "clusters: expected a whole number from 1 to"),
        ({"clusters": "9"}, "clusters: expected a whole number from 1 to .*, found '9'"),
        ({"clusters": True}, "clusters: expected a whole number"),
        ({"clusters": 9, "iterations": 0}, "iterations: expected a whole number from 1 to 10000, found 0"),
        ({"clusters": 9, "seed": -1}, "seed: expected a whole number from 0 to 2147483647, found -1"),
        ({"clusters": 9, "sample": 8}, r"sample: expected at least as many rows as clusters \(9\), found 8"),
    ],
)
def test_a_setting_of_clusters_that_is_wrong_is_refused(given_settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}"):
        ClustersSignal("clip_v1", **given_settings)


@pytest.mark.parametrize("value", [-1, 1.01, "0.9", True, float("nan"), None])
def test_a_cosine_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^cosine: expected a number above -1 and at most 1"):
        SemanticDedupSignal("clip_v1", "clusters_v1", value)
    with pytest.raises(InputError, match=r"^images: expected a folder"):
        NearReferenceSignal("clip_v1", "clusters_v1", value if not isinstance(value, str) else "")


@given(st.integers(0, 10**9), st.integers(1, 10**7))
def test_the_share_of_ranks_holds_the_sample_and_little_more(rows: int, wanted: int) -> None:
    share = sample_share(rows, wanted)
    assert 0 < share <= 1
    if share < 1:
        deviation = (rows * share * (1 - share)) ** 0.5
        assert wanted + 5 * deviation < rows * share < 2 * wanted + 200


def by_hand(vectors: Halves, limit: float) -> tuple[list[float], list[list[int]]]:
    """Return each row's largest cosine to an earlier one, and the rows that pairs at or above `limit` connect it to."""
    values = cosines(vectors, vectors).astype(np.float32).astype(np.float64)
    most = [max(values[row, :row], default=NO_EARLIER_COSINE) for row in range(len(vectors))]
    members = [[row] for row in range(len(vectors))]
    for row in range(len(vectors)):
        for earlier in range(row):
            if values[row, earlier] >= limit and members[row] is not members[earlier]:
                members[earlier].extend(members[row])
                for moved in list(members[row]):
                    members[moved] = members[earlier]
    return most, members


@QUICK
@given(SEEDS, st.integers(1, 30), st.integers(1, 9), st.sampled_from([0.5, 0.9, 0.99, 1.0]), st.integers(1, 5))
def test_a_cell_is_compared_as_by_hand_however_it_is_cut(
    seed: int, count: int, step: int, limit: float, block: int
) -> None:
    vectors = clustered(seed, count, 33)
    most, members = by_hand(vectors, limit)
    edges, found = [], []
    with patch.multiple(semantic_module, BLOCK_ROWS=block, BLOCK_COLUMNS=step):
        for first in range(0, count, step):
            part = compare_rows(lambda a, b: vectors[a:b], first, min(first + step, count), limit)
            edges.append(part.edges)
            found.append(part.most)
    assert np.concatenate(found) == pytest.approx(most, abs=1e-6)
    whole = compare_rows(lambda a, b: vectors[a:b], 0, count, limit)
    assert np.concatenate(found).tobytes() == whole.most.tobytes()
    reach = {row: {row} for row in range(count)}
    for left, right in np.concatenate(edges).tolist():
        for row in (joined := reach[left] | reach[right]):
            reach[row] = joined
    assert [sorted(reach[row]) for row in range(count)] == [sorted(members[row]) for row in range(count)]


@QUICK
@given(SEEDS, st.integers(1, 20), st.integers(1, 12), st.integers(1, 6))
def test_the_nearest_reference_image_is_that_of_the_own_cluster(
    seed: int, count: int, images: int, clusters: int
) -> None:
    vectors, held = clustered(seed, count), clustered(seed + 1, images)
    centres = train_centres(clustered(seed + 2, 30), ClustersSignal("clip_v1", clusters, iterations=2))
    keys = [f"key-{n * 7 % images}-{n}" for n in range(images)]
    reference = ReferenceImages.of(keys, held.astype(np.float32), centres)
    there = np.random.default_rng(seed).random(count) < 0.8
    rows = reference_columns(reference, centres, vectors[there], there).to_pylist()
    own, others = centres.assign(vectors)[0], centres.assign(held)[0]
    assert len(rows) == count
    for row, found in enumerate(rows):
        beside = [n for n in range(images) if others[n] == own[row]]
        if not there[row]:
            assert list(found.values()) == [None, None, None]
        elif not beside:
            assert list(found.values()) == [False, None, None]
        else:
            assert found["near_reference"] is True
            values = {keys[n]: cosine(vectors[row], held[n]) for n in beside}
            assert found["reference_cosine"] == pytest.approx(max(values.values()), abs=1e-6)
            close = [key for key, value in values.items() if value >= max(values.values()) - 1e-9]
            assert found["reference_key"] == min(close)


def uid_of(number: int) -> str:
    return f"{number * 7919 % 1009:032x}"


def write_set(folder: Path, images: int) -> Path:
    """Write a set of drawn images in CLIP_benchmark's layout."""
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("thing\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    (folder / "test" / "nshards.txt").write_text("1\n")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number in range(images):
            stream = BytesIO()
            Image.fromarray(np.full((8, 8, 3), number * 30, np.uint8)).save(stream, "png")
            for suffix, data in (("png", stream.getvalue()), ("cls", b"0")):
                member = tarfile.TarInfo(f"image-{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    return folder


class Drawn:
    """An embedder that knows the drawn images by their grey."""

    def __init__(self, vectors: Halves) -> None:
        self.vectors = vectors

    def embed_images(self, images: Sequence[Image.Image], batch_size: int) -> npt.NDArray[np.float32]:
        return np.stack([self.vectors[np.asarray(image)[0, 0, 0] // 30] for image in images]).astype(np.float32)

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        raise NotImplementedError


def test_a_set_is_embedded_in_its_order_and_an_empty_one_is_an_error(tmp_path: Path) -> None:
    held = clustered(1, 5)
    keys, vectors = embed_set(open_set("mine", write_set(tmp_path / "a", 5)), Drawn(held))
    assert keys == [f"image-{number}" for number in range(5)]
    assert vectors.tolist() == held.astype(np.float32).tolist()
    with pytest.raises(InputError, match=r"^evaluation set mine: no images"):
        embed_set(open_set("mine", write_set(tmp_path / "b", 0)), Drawn(held))


SIGNALS: dict[str, Any] = {
    "clip_v1": {"model": "any"},
    "clusters_v1": {"clip": "clip_v1", "clusters": 5, "iterations": 4},
    "semantic_v1": {"clip": "clip_v1", "clusters": "clusters_v1", "cosine": 0.97},
}


def prepared(
    folder: Path, spark: SparkSession, vectors: Sequence[bytes | None], order: Sequence[int], files: int, signals: Any
) -> Run:
    """Return a run whose CLIP signal has these embeddings, in `files` files in an order; nothing else is scored."""
    folder.mkdir(exist_ok=True)
    parts = [list(order)[number::files] for number in range(files)]
    tables = [
        pa.table(
            {
                "uid": pa.array([uid_of(n) for n in part], pa.string()),
                "source": pa.array(["bench"] * len(part), pa.string()),
                "image_embedding": pa.array([vectors[n] for n in part], pa.binary()),
            }
        )
        for part in parts
    ]
    path = experiment(folder, signals)
    finished(path, {"clip_v1": iter(tables)})
    run = Run(load_experiment(path, []), Display())
    run.__dict__["spark"] = spark  # one session for all tests
    return run


def rows_of(run: Run, name: str) -> dict[str, dict[str, Any]]:
    rows = run.ledger.read(f"signals_{name}").drop_columns(["job"]).to_pylist()
    found = {row["uid"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def facts_of(run: Run, name: str) -> dict[str, Any]:
    run.ledger.refresh()
    [facts] = [row.facts for row in run.ledger.jobs() if row.name == name]
    return facts


def embeddings(count: int) -> list[bytes | None]:
    """Return embeddings of which some are equal, some near, and four have no direction."""
    vectors = clustered(11, count, 16, centres=6, noise=0.4)
    rows: list[bytes | None] = [row.tobytes() for row in vectors]
    rows[3], rows[17] = None, np.zeros(16, "<f2").tobytes()
    rows[29], rows[31] = np.full(16, np.nan, "<f2").tobytes(), np.full(16, np.inf, "<f2").tobytes()
    return rows


LOST = {uid_of(number) for number in (3, 17, 29, 31)}


def check_semantic(run: Run, vectors: Sequence[bytes | None], limit: float) -> None:
    """Compare the job's rows with the paper's own rule and with walking from pair to pair, cell by cell."""
    clusters, found = rows_of(run, "clusters_v1"), rows_of(run, "semantic_v1")
    assert set(found) == set(clusters) == {uid_of(number) for number in range(len(vectors))}
    for uid in LOST:
        assert (clusters[uid]["cluster"], clusters[uid]["centre_cosine"]) == (None, None)
        assert (found[uid]["semantic_group"], found[uid]["semantic_size"], found[uid]["max_cosine"]) == (uid, 1, None)
    of = {uid_of(number): vector for number, vector in enumerate(vectors)}
    for cell in {row["cluster"] for row in clusters.values()} - {None}:
        members = [uid for uid, row in clusters.items() if row["cluster"] == cell]
        members.sort(key=lambda uid: (clusters[uid]["centre_cosine"], of[uid], uid))
        most, groups = by_hand(np.stack([np.frombuffer(of[uid] or b"", "<f2") for uid in members]), limit)
        assert [found[uid]["max_cosine"] for uid in members] == pytest.approx(most, abs=1e-6)
        for uid, group in zip(members, groups, strict=True):
            assert found[uid]["semantic_group"] == min(members[place] for place in group)
            assert found[uid]["semantic_size"] == len(group)


def test_the_jobs_find_clusters_duplicates_and_references_in_any_order(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, held = embeddings(160), clustered(12, 6, 16)
    signals = SIGNALS | {
        "reference_v1": {"clip": "clip_v1", "clusters": "clusters_v1", "images": str(write_set(tmp_path / "set", 6))}
    }
    monkeypatch.setattr(reference_job, "load_clip", lambda _: Drawn(held))
    run = prepared(tmp_path / "a", spark, vectors, range(160), 1, signals)
    for name in ("clusters_v1", "semantic_v1", "reference_v1"):
        execute(run, run.plan.signal(name))
    facts = facts_of(run, "clusters_v1")
    assert (facts["rows"], facts["without_direction"], facts["trained_on"], facts["recall"]) == (160, 4, 156, 1)
    assert len(facts["files"]) == 3
    check_semantic(run, vectors, 0.97)
    counts = facts_of(run, "semantic_v1")
    assert (counts["pairs"], counts["without_direction"], counts["cells"]) == (160, 4, 5)
    assert counts["distinct_embeddings"] == len(set(vectors)) - 4
    centres = Centres.open(str(Path(run.store.path(next(iter(facts["files"])))).parent))
    near = set(centres.assign(held)[0].tolist())
    clusters, references = rows_of(run, "clusters_v1"), rows_of(run, "reference_v1")
    assert {row["near_reference"] for uid, row in references.items() if uid not in LOST} == {True, False}
    for uid, row in references.items():
        assert row["near_reference"] == (None if uid in LOST else clusters[uid]["cluster"] in near)
        assert (row["reference_key"] is None) == (not row["near_reference"])
    assert facts_of(run, "reference_v1")["near"] == sum(row["near_reference"] or 0 for row in references.values())
    assert run.store.files("staging") == []

    monkeypatch.setattr(semantic_job, "MAX_CELL_VECTORS", 8)  # every cell is now a large one, in blocks
    order = np.random.default_rng(2).permutation(160).tolist()
    other = prepared(tmp_path / "b", spark, vectors, order, 3, signals)
    for name in ("clusters_v1", "semantic_v1", "reference_v1"):
        execute(other, other.plan.signal(name))
        assert rows_of(other, name) == rows_of(run, name)
    assert list(facts_of(other, "clusters_v1")["files"].values()) == list(facts["files"].values())


@pytest.mark.parametrize("count", [0, 1, 4])
def test_more_clusters_than_embeddings_are_one_line(spark: SparkSession, tmp_path: Path, count: int) -> None:
    vectors = [row.tobytes() for row in clustered(1, count)] if count else []
    run = prepared(tmp_path, spark, [*vectors, None], range(count + 1), 1, SIGNALS)
    with pytest.raises(StageFailed) as caught:
        execute(run, run.plan.signal("clusters_v1"))
    assert str(caught.value).endswith(
        f"clusters_v1: clusters: expected no more than the {count} embeddings of clip_v1 that have a direction, found 5"
    )


def test_equal_embeddings_are_one_group(spark: SparkSession, tmp_path: Path) -> None:
    vectors = [clustered(1, 1)[0].tobytes()] * 40
    signals = SIGNALS | {"clusters_v1": {"clip": "clip_v1", "clusters": 2}}
    run = prepared(tmp_path, spark, vectors, range(40), 2, signals)
    for name in ("clusters_v1", "semantic_v1"):
        execute(run, run.plan.signal(name))
    assert len({row["cluster"] for row in rows_of(run, "clusters_v1").values()}) == 1
    found = rows_of(run, "semantic_v1")
    assert {(row["semantic_group"], row["semantic_size"]) for row in found.values()} == {(min(found), 40)}
    assert sorted((row["max_cosine"], uid) for uid, row in found.items()) == [
        (NO_EARLIER_COSINE, min(found)),
        *((1.0, uid) for uid in sorted(found)[1:]),
    ]
    assert facts_of(run, "semantic_v1")["compared"] == 0


def test_centres_that_changed_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    vectors = embeddings(60)
    run = prepared(tmp_path, spark, vectors, range(60), 1, SIGNALS)
    execute(run, run.plan.signal("clusters_v1"))
    path = Path(run.store.path(next(iter(facts_of(run, "clusters_v1")["files"]))))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StageFailed, match=r"^indexes/.*\.npy: SHA-256 is .*, the ledger says "):
        execute(run, run.plan.signal("semantic_v1"))
    path.unlink()
    with pytest.raises(StageFailed, match=r"^indexes/.*\.npy: missing; the ledger says SHA-256 "):
        execute(run, run.plan.signal("semantic_v1"))


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        ({"clusters": "clusters_v1"}, "clusters: expected clusters of clip_v1, found those of clip_v2"),
        ({"clusters": "clip_v2"}, "clusters: expected a signal of the kind clusters, found clip"),
        (
            {"clusters": "clusters_v1", "clip": "clusters_v1"},
            "clip: expected a signal of the kind clip, found clusters",
        ),
    ],
)
def test_a_signal_of_another_kind_or_of_other_embeddings_is_refused(
    tmp_path: Path, signal: dict[str, str], said: str
) -> None:
    signals = {
        **SIGNALS,
        "clip_v2": {"kind": "clip", "model": "any"},
        "clusters_v1": {"clip": "clip_v2", "clusters": 2},
        "semantic_v1": {"clip": "clip_v1", "cosine": 0.9, **signal},
    }
    with pytest.raises(InputError, match=rf"signals\.semantic_v1\.{said}"):
        load_experiment(experiment(tmp_path, signals), [])


def test_the_facts_of_a_job_are_json(tmp_path: Path) -> None:
    _, centres = trained(1, 30, 3)
    assert json.loads(json.dumps(centres.recall(clustered(1, 5)))) <= 1
