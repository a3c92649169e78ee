"""Indexes: built once by a job, kept with the digest of what they hold, mapped by workers, refused if they changed."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import yaml
from PIL import Image as Pillow
from pyspark.sql import SparkSession

from filters.search import approximate, image_alignment
from filters.search.approximate import ApproximateSearcher
from filters.signals.base import embeddings_to_binary
from filters.signals.evaluation_index import EvaluationIndex
from filters.signals.evaluation_overlap import EvaluationOverlapSignal
from jobs.score import evaluation_index
from jobs.score.corpus_tables import signal_frame
from jobs.score.evaluation_index import StoredIndex, build_index, open_index, stored_indexes
from jobs.score.evaluation_overlap import stored_images
from jobs.score.stage import execute
from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import Job
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.errors import InputError, StageFailed
from pipeline.evaluation.datasets import open_set
from pipeline.images.pdq import pdq_fingerprint
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow
from pipeline.models.clip import load_clip as load_model
from pipeline.provenance.trace import format_trace, trace
from pipeline.provenance.verify import files_owned_by_jobs
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.store import Store
from sources.world.evaluation import write_evaluation_set
from tests.support.clip_models import saved
from tests.support.road_experiment import ROOT

SETS = {"photo": 12, "none": 0, "sketch": 7}


PER_SHARD, PAIRS = 8, 20


WITHOUT_PRINT, WITHOUT_VECTOR, NAN = 3, 4, 5
"""Pairs that the tables of the other signals lack, and one whose embedding is damaged."""


Image = npt.NDArray[np.uint8]


def picture(number: int) -> Image:
    """Return an image with enough in it to be told from the others, (64, 64, 3) uint8."""
    grid = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(grid, (64, 64), interpolation=cv2.INTER_CUBIC), np.uint8)


def png(image: Image) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def jpeg(image: Image) -> bytes:
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def write_set(folder: Path, numbers: Sequence[int]) -> None:
    images = [(f"{folder.name}_{place:02d}", "png", png(picture(number)), 0) for place, number in enumerate(numbers)]
    write_evaluation_set(folder, ["thing"], ["a {c}"], images)


def pair_images() -> list[Image]:
    """Return the pairs' images: of the evaluation images 0, 1 and 12 as they are, 2 mirrored, then strangers."""
    strangers = [picture(1000 + number) for number in range(PAIRS - 4)]
    return [picture(0), picture(1), picture(12), np.ascontiguousarray(picture(2)[:, ::-1]), *strangers]


def write_experiment(folder: Path, **changes: Any) -> Path:
    """Write an experiment of one source, three evaluation sets, one of them empty, and an untrained model."""
    saved(folder / "model")
    for first, (name, count) in zip((0, 0, 12), SETS.items(), strict=True):
        write_set(folder / "evaluation" / name, range(first, first + count))
    (folder / "rows.jsonl").write_text('{"url": "http://a.example/1.jpg", "caption": "a caption"}\n')
    options = {"kind": "jsonl", "columns": {"url": "url", "caption": "caption"}}
    data = yaml.safe_load((ROOT / "experiments/demo.yaml").read_text("utf-8"))
    data |= {
        "web": None,
        "store": str(folder / "store"),
        "sources": {"bench": {"format": "table", "files": [str(folder / "rows.jsonl")], "options": options}},
        "models": {"tiny": {"folder": str(folder / "model")}},
        "signals": {
            "pdq_v1": None,
            "clip_v1": {"model": "tiny"},
            "nearest_v1": {"pdq": "pdq_v1", "clip": "clip_v1"},
            "nearest_v2": {"pdq": "pdq_v1", "clip": "clip_v1", "align": False},
        },
        "filters": {"clean": {"not_in_evaluation": "nearest_v1"}},
        "mixtures": {"all": {}},
        "evaluation": {"reference": "photo", "sets": {name: str(folder / "evaluation" / name) for name in SETS}},
        "report": {"filter": "clean"},
    }
    data["training"] |= {"mixtures": ["all"], "model": str(ROOT / "experiments/models/resnet_64px")}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(data | changes, sort_keys=False), "utf-8")
    return path


def commit(run: Run, job: Job, table: str, rows: pa.Table) -> None:
    """Commit a job as finished with rows of a table that hold what a test needs."""
    schema, now = run.schema(table), datetime.now(UTC)
    columns = {name: rows[name] if name in rows.column_names else pa.nulls(rows.num_rows) for name in schema.names}
    whole = pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)
    file = write_rows(run.store, job.id, table, whole)
    run.ledger.commit(job.id, table, schema, [file])
    run.ledger.finish(
        [JobRow(job.id, job.stage, job.name, now, now, {table: rows.num_rows}, {"files": []}, [], job.code, {}, {})]
    )


def stored_pairs(run: Run) -> None:
    """Fill the store: the shards and the tables `samples`, PDQ and CLIP, in which some pairs are missing or damaged."""
    images, samples = pair_images(), []
    for first in range(0, PAIRS, PER_SHARD):
        shard = f"shards/bench/{first // PER_SHARD:08d}.tar"
        with run.store.create(shard) as stream:
            writer = ShardWriter(stream)
            for number in range(first, min(first + PER_SHARD, PAIRS)):
                jpg, name = jpeg(images[number]), f"{number:032x}"
                place = {"offset": writer.append(pair_bytes(name, jpg, "a caption", {})), "jpg_bytes": len(jpg)}
                samples.append({"uid": name, "source": "bench", "shard": shard, **place})
            writer.close()
    rows = pa.Table.from_pylist(samples)
    (ingest,), (prints,), (clip,) = run.plan.ingests(), run.plan.signal("pdq_v1"), run.plan.signal("clip_v1")
    commit(run, ingest, "samples", rows)
    shown = rows.select(["uid", "source"])
    bits = shown.append_column("pdq", pa.array([pdq_fingerprint(image)[0] for image in images]))
    commit(run, prints, "signals_pdq_v1", without(bits, WITHOUT_PRINT))
    model = load_model(f"local-dir:{run.experiment.path.parent / 'model'}")
    vectors = model.embed_images([Pillow.fromarray(image) for image in images], 64)
    vectors[NAN, 3] = np.nan
    cells = shown.append_column("image_embedding", embeddings_to_binary(vectors))
    commit(run, clip, "signals_clip_v1", without(cells, WITHOUT_VECTOR))


def without(rows: pa.Table, place: int) -> pa.Table:
    return pa.concat_tables([rows.slice(0, place), rows.slice(place + 1)])


def build(run: Run, jobs: Sequence[Job]) -> None:
    """Build indexes as the stage does."""
    for job in jobs:
        if run.ledger.finished(job.id) is None:
            files, facts = evaluation_index.score(run, job)
            run.finish([(job, files, facts)], datetime.now(UTC), [job.id])


@dataclass(frozen=True)
class Searched:
    """A store in which the signal was computed, and its rows by the number of the pair."""

    run: Run
    rows: list[dict[str, Any]]

    @property
    def sets(self) -> list[EvaluationIndex]:
        """The indexes, opened here."""
        return [EvaluationIndex.open(Path(self.run.store.path(one.folder))) for one in self.kept]

    @property
    def kept(self) -> list[StoredIndex]:
        return stored_indexes(self.run, self.run.plan.indexes("nearest_v1"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Iterator[Searched]:
    run = Run(load_experiment(write_experiment(tmp_path_factory.mktemp("indexes")), []), Display())
    run.__dict__["spark"] = spark
    stored_pairs(run)
    build(run, run.plan.indexes("nearest_v1"))
    execute(run, run.plan.signal("nearest_v1"))
    (job,) = run.plan.signal("nearest_v1")
    rows = run.ledger.read("signals_nearest_v1", jobs=[job.id]).sort_by("uid").to_pylist()
    yield Searched(run, rows)
    run.close()


def test_every_set_has_a_row_that_says_what_its_index_holds(searched: Searched) -> None:
    run = searched.run
    rows = {row["evaluation_set"]: row for row in run.ledger.read("indexes").to_pylist()}
    assert {name: row["rows"] for name, row in rows.items()} == SETS
    for name, row in rows.items():
        assert (row["kind"], row["metric"], row["dimensions"]) == ("exact", "cosine", 24 if SETS[name] else 0)
        assert row["sha256"] == open_set(name, run.experiment.path.parent / "evaluation" / name).digest()
        assert (row["recall"], row["recall_sample"]) == (1.0, SETS[name])
        assert row["build_seconds"] > 0
        assert json.loads(row["parameters"])["bytes"] == 4 * SETS[name] * row["dimensions"]


def test_the_files_are_those_that_the_ledger_and_the_job_say(searched: Searched) -> None:
    run, known = searched.run, files_owned_by_jobs(searched.run.ledger)
    paths = {f"{one.folder}/{name}": sha256 for one in searched.kept for name, sha256 in one.files}
    assert sorted(paths) == run.store.files("indexes")
    for path, sha256 in paths.items():
        assert hashlib.sha256(run.store.read(path)).hexdigest() == sha256
        assert known[path] == (sha256, None)  # so `cuvee verify` rehashes it


def test_every_stored_pair_has_a_row_and_what_cannot_be_compared_is_null_and_counted(searched: Searched) -> None:
    assert [row["uid"] for row in searched.rows] == [f"{number:032x}" for number in range(PAIRS)]
    missing = {name: [n for n, row in enumerate(searched.rows) if row[name] is None] for name in ("pdq_key", "cosine")}
    assert missing == {"pdq_key": [WITHOUT_PRINT], "cosine": [WITHOUT_VECTOR, NAN]}
    (job,) = searched.run.plan.signal("nearest_v1")
    row = searched.run.ledger.finished(job.id)
    assert row is not None
    assert row.rows == {"signals_nearest_v1": PAIRS}
    expected = {"pdq_distance": 1, "cosine": 2, "aligned": sum(row["aligned"] is None for row in searched.rows)}
    assert row.facts["nulls"] == expected


def test_copies_are_found_with_the_set_and_the_key_of_their_original(searched: Searched) -> None:
    found = [(row["aligned_set"], row["aligned_key"]) for row in searched.rows]
    assert found[:4] == [("photo", "photo_00"), ("photo", "photo_01"), ("sketch", "sketch_00"), ("photo", "photo_02")]
    scores = [row["aligned"] or 0 for row in searched.rows]
    assert min(scores[:4]) >= image_alignment.SAME_PICTURE_SCORE > max(scores[4:])
    assert [(row["pdq_set"], row["pdq_key"]) for row in searched.rows[:3]] == found[:3]
    assert max(row["pdq_distance"] for row in searched.rows[:3]) <= 10
    assert [row["cosine_key"] for row in searched.rows[:2]] == ["photo_00", "photo_01"]


def test_sets_stand_in_the_order_of_the_file_and_the_best_of_them_is_the_answer(searched: Searched) -> None:
    assert len(searched.rows) == PAIRS
    for row in searched.rows:
        assert [one["set"] for one in row["per_set"]] == list(SETS)
        assert set(row["per_set"][1].values()) == {"none", None}
        near = [one["pdq_distance"] for one in row["per_set"] if one["pdq_distance"] is not None]
        assert row["pdq_distance"] == min(near, default=None)
        for name in ("cosine", "aligned"):
            each = [one[name] for one in row["per_set"] if one[name] is not None]
            assert row[name] == max(each, default=None)


def test_spark_and_one_process_find_the_same(searched: Searched) -> None:
    run = searched.run
    samples = run.ledger.read("samples", ["uid", "source", "shard", "offset", "jpg_bytes"])
    parts = {name: run.ledger.read(f"signals_{name}_v1").to_pylist() for name in ("pdq", "clip")}
    cells = {
        column: pa.array([by_uid.get(uid) for uid in samples["uid"].to_pylist()], pa.binary())
        for name, column in (("pdq", "pdq"), ("clip", "image_embedding"))
        for by_uid in [{row["uid"]: row[column] for row in parts[name]}]
    }
    rows = samples.append_column("pdq", cells["pdq"]).append_column("image_embedding", cells["image_embedding"])
    for order in (np.arange(PAIRS), np.arange(PAIRS)[::-1]):
        given = rows.take(pa.array(order))
        found = EvaluationOverlapSignal("pdq_v1", "clip_v1").compute(
            given, searched.sets, stored_images(run.store, given)
        )
        expected = [{key: value for key, value in searched.rows[n].items() if key != "job"} for n in order]
        assert found.to_pylist() == expected


def test_what_each_set_says_is_read_by_spark_and_told_by_trace(searched: Searched) -> None:
    run = searched.run
    seen = signal_frame(run, "nearest_v1", ["uid", "per_set"]).selectExpr(
        "uid", "per_set[2].cosine_key as third", "size(filter(per_set, one -> one.cosine > 0.999)) as alike"
    )
    answers = {row["uid"]: (row["third"], row["alike"]) for row in seen.collect()}
    for row in searched.rows:
        alike = sum((one["cosine"] or 0) > np.float32(0.999) for one in row["per_set"])
        assert answers[row["uid"]] == (row["per_set"][2]["cosine_key"], alike)
    (life,) = trace_of(run, searched.rows[0]["uid"])
    assert life["signals"]["nearest_v1"][0]["per_set"] == searched.rows[0]["per_set"]
    assert json.loads(json.dumps(life, default=str))["signals"]["nearest_v1"][0]["per_set"][0]["set"] == "photo"
    assert "photo_00" in format_trace(life)


def trace_of(run: Run, name: str) -> list[dict[str, Any]]:
    """Return the life of a pair, whose published row is added for it."""
    (ingest,) = run.plan.ingests()
    row = pa.table({"uid": [name], "source": ["bench"], "url": ["http://a.example"], "problem": [""], "file": ["x"]})
    if not run.ledger.snapshot("pairs"):
        whole = [row[f.name] if f.name in row.column_names else pa.nulls(1, f.type) for f in TABLES["pairs"]]
        file = write_rows(run.store, ingest.id, "pairs", pa.table(whole, schema=TABLES["pairs"]))
        run.ledger.commit(ingest.id, "pairs", TABLES["pairs"], [file])
    return trace(run.ledger, name)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has mapped is read from Linux's /proc")
def test_an_index_is_mapped_in_the_worker_alone_and_searched_on_one_thread(searched: Searched) -> None:
    store, one = searched.run.store, searched.kept[0]

    def facts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # sent by value, as it is defined here: a worker that imported this module would import all that it imports
        import faiss
        import torch

        from jobs.score.evaluation_index import open_index

        list(batches)
        before = Path(f"/proc/{os.getppid()}/maps").read_text()
        same = open_index(store, one) is open_index(store, one)
        found = {
            "threads": [faiss.omp_get_max_threads(), torch.get_num_threads()],
            "mapped": one.folder in Path("/proc/self/maps").read_text(),
            "parent": [word for word in ("faiss", "torch", one.folder) if word in before],
            "same": same,
        }
        yield pa.RecordBatch.from_pydict({"facts": [json.dumps(found)]})

    answers = searched.run.spark.range(2).mapInArrow(facts, "facts string").collect()
    for answer in answers:
        assert json.loads(answer["facts"]) == {"threads": [1, 1], "mapped": True, "parent": [], "same": True}
    assert evaluation_index._mapped.cache_info().currsize == 0  # the driver opens none


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_a_byte_that_was_flipped_is_found_before_anything_is_searched(searched: Searched, tmp_path: Path) -> None:
    one = searched.kept[0]
    shutil.copytree(searched.run.store.path("indexes"), tmp_path / "indexes")
    for name, sha256 in one.files:
        path = tmp_path / one.folder / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            flip(path, place)
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            with pytest.raises(StageFailed) as caught:
                open_index(Store(str(tmp_path)), one)
            assert str(caught.value) == f"{one.folder}/{name}: expected SHA-256 {sha256}, found {found}"
            path.write_bytes(whole)
        path.unlink()
        with pytest.raises(StageFailed, match=rf"/{name}: expected SHA-256 {sha256}, found no file$"):
            open_index(Store(str(tmp_path)), one)
        path.write_bytes(whole)
    assert list(open_index(Store(str(tmp_path)), one).keys) == list(searched.sets[0].keys)


def test_the_signal_is_not_computed_with_an_index_that_changed(searched: Searched, tmp_path: Path) -> None:
    """In a copy of the store: the workers have the index of the store itself open, as it was."""
    (name, sha256), spark = searched.kept[2].files[0], searched.run.spark
    shutil.copytree(searched.run.store.root, tmp_path / "store")
    run = Run(load_experiment(searched.run.experiment.path, [f"store={tmp_path / 'store'}"]), Display())
    run.__dict__["spark"] = spark
    (job,) = run.plan.signal("nearest_v2")
    assert run.plan.indexes("nearest_v2") == run.plan.indexes("nearest_v1")  # one index serves both
    path = Path(run.store.path(f"{searched.kept[2].folder}/{name}"))
    moved = path.stat().st_size // 2
    flip(path, moved)
    with pytest.raises(Exception, match=rf"{name}: expected SHA-256 {sha256}, found [0-9a-f]{{64}}"):
        execute(run, [job])
    assert run.ledger.finished(job.id) is None
    flip(path, moved)
    execute(run, [job])
    rows = run.ledger.read("signals_nearest_v2", jobs=[job.id]).sort_by("uid")
    assert rows["cosine"].to_pylist() == [row["cosine"] for row in searched.rows]
    assert rows["aligned"].null_count == PAIRS


def test_an_index_follows_from_its_set_its_model_and_its_settings_and_from_no_pair(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)

    def ids(*settings: str) -> tuple[dict[str, str], str]:
        plan = Run(load_experiment(path, list(settings)), Display()).plan
        (nearest,) = plan.signal("nearest_v1")
        jobs = plan.indexes("nearest_v1")
        assert set(jobs) <= set(nearest.needs)
        assert {job.stage for job in jobs} == {"score"}
        return {job.name: job.id for job in jobs}, nearest.id

    first, signal = ids()
    assert list(first) == ["index/photo", "index/none", "index/sketch"]
    (tmp_path / "rows.jsonl").write_text('{"url": "http://b.example/2.jpg", "caption": "another"}\n')
    assert ids()[0] == first
    assert ids()[1] != signal
    for setting in (
        "signals.nearest_v1.min_recall=0.9",
        "signals.nearest_v1.index_mb=9",
        "signals.clip_v1.precision=bf16",
    ):
        assert not set(ids(setting)[0].values()) & set(first.values())
    assert ids("signals.nearest_v1.candidates=2")[0] == first
    shutil.rmtree(tmp_path / "evaluation" / "sketch")
    write_set(tmp_path / "evaluation" / "sketch", [90])
    changed = ids()[0]
    assert [name for name in first if changed[name] != first[name]] == ["index/sketch"]


def test_the_order_of_the_sets_is_the_signals_and_not_the_indexes(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    before = Run(load_experiment(path, []), Display()).plan
    data = yaml.safe_load(path.read_text("utf-8"))
    data["evaluation"]["sets"] = dict(reversed(data["evaluation"]["sets"].items()))
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    after = Run(load_experiment(path, []), Display()).plan
    assert set(before.indexes("nearest_v1")) == set(after.indexes("nearest_v1"))
    assert before.signal("nearest_v1") != after.signal("nearest_v1")


class Spread:
    """Embeds an image by its pixels, turned at random: near to each other where the images are."""

    def embed_images(self, images: Sequence[Pillow.Image], batch_size: int) -> npt.NDArray[np.float32]:
        pixels = np.array([np.asarray(image.resize((8, 8))).ravel() for image in images], np.float32) - 128
        turned = pixels @ np.random.default_rng(0).normal(size=(pixels.shape[1], 16)).astype(np.float32)
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        raise AssertionError("no text is embedded")


class Blind(Spread):
    """Has no vector for the third image."""

    def embed_images(self, images: Sequence[Pillow.Image], batch_size: int) -> npt.NDArray[np.float32]:
        found = super().embed_images(images, batch_size)
        found[2] = 0
        return found


def test_a_large_set_gets_inverted_lists_whose_recall_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "MAX_EXACT_ELEMENTS", 1)
    write_set(tmp_path / "many", range(90))
    found, row = build_index(open_set("many", tmp_path / "many"), Spread(), 0.98, 4096)
    parameters = json.loads(row["parameters"])
    assert isinstance(found.searcher, ApproximateSearcher)
    assert (row["kind"], row["rows"], row["recall_sample"]) == ("ivf", 90, 90)
    assert 0.98 <= row["recall"] <= 1
    assert parameters == {
        "bytes": parameters["bytes"],
        "cells": 32,
        "code": 32,
        "probed": found.searcher.probed,
        "taken": 8,
    }
    root = Store(f"memory://{uuid.uuid4().hex}/store")
    found.save(tmp_path / "saved")
    digests = []
    for path in sorted((tmp_path / "saved").iterdir()):
        root.write(f"indexes/x/{path.name}", path.read_bytes())
        digests.append((path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
    copied = open_index(root, StoredIndex("indexes/x", tuple(digests)))
    queries = found.searcher.vectors[:9]
    assert copied.searcher.search(queries, 2)[0].tolist() == found.searcher.search(queries, 2)[0].tolist()
    assert copied.searcher.search(queries, 1)[0][:, 0].tolist() == list(range(9))


def test_a_set_that_cannot_be_indexed_as_asked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "MAX_EXACT_ELEMENTS", 1)
    monkeypatch.setattr(approximate, "MAX_PROBED_CELLS", 1)
    monkeypatch.setattr(approximate, "MIN_PROBED_CELLS", 1)
    write_set(tmp_path / "many", range(90))
    given = open_set("many", tmp_path / "many")
    with pytest.raises(
        StageFailed, match=r"^evaluation set many: min_recall: expected 1.0, found 0\.\d+ with 1 of 32 "
    ):
        build_index(given, Spread(), 1.0, 4096)
    with pytest.raises(
        InputError, match=r"^evaluation set many: index_mb: expected 1 or more for 90 rows of 16, found 0"
    ):
        build_index(given, Spread(), 1.0, 0)


def test_an_image_without_a_vector_is_named(tmp_path: Path) -> None:
    write_set(tmp_path / "photo", range(5))
    with pytest.raises(StageFailed, match=r"^evaluation set photo: photo_02: expected a unit vector from the model$"):
        build_index(open_set("photo", tmp_path / "photo"), Blind(), 0.95, 4096)


def test_an_image_that_is_damaged_in_its_shard_is_named(searched: Searched) -> None:
    rows = pa.table({"uid": ["u"], "shard": ["shards/bench/00000000.tar"], "offset": [0], "jpg_bytes": [9]})
    expected = r"^shards/bench/00000000.tar: u: expected the JPEG that was stored, found 9 bytes that are none$"
    with pytest.raises(StageFailed, match=expected):
        list(stored_images(searched.run.store, rows)(np.array([0])))
