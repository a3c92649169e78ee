"""The jobs of CLIP signals and of heads on them, on Spark: side by side, resumed, and refused before Spark starts."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from benchmarks.score import ingested, short_caption, write_shard
from benchmarks.tables import experiment, finished
from jobs.score.stage import SignalRequest, _shards, _work, execute
from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import needs_of_stage
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.core.digests import digest
from pipeline.errors import InputError
from pipeline.ledger.work_units import run_unit
from pipeline.storage.store import Store
from tests.filters.signals.test_clip_heads import LINEAR, drawn, head, linear, table_of
from tests.support.clip_models import saved, without_image_directions


def opened(path: Path, spark: SparkSession | None = None) -> Run:
    run = Run(load_experiment(path, []), Display())
    if spark is not None:
        run.__dict__["spark"] = spark  # one session for all tests
    return run


def head_signals(folder: Path, **given: Any) -> dict[str, Any]:
    (folder / "head.safetensors").write_bytes(linear())
    plain = {"kind": "heads", "clip": "clip_v1", "file": str(folder / "head.safetensors"), "layout": LINEAR}
    return {"clip_v1": {"model": "any"}, "aesthetic_v1": plain | given}


def test_the_job_scores_each_row_once_and_counts_the_nulls(spark: SparkSession, tmp_path: Path) -> None:
    vectors = drawn(1, 50)
    vectors[7] = 0
    path = experiment(tmp_path, head_signals(tmp_path, output=["aesthetic"]))
    parts = [table_of(vectors).slice(0, 20), table_of(vectors).slice(20)]
    finished(path, {"clip_v1": iter(parts)})
    run = opened(path, spark)
    execute(run, run.plan.signal("aesthetic_v1"))
    found = run.ledger.read("signals_aesthetic_v1", ["uid", "source", "aesthetic"]).drop_columns("job").sort_by("uid")
    signal = head(output=["aesthetic"])
    assert found.to_pydict() == signal.compute(signal.open(linear()), table_of(vectors), "here").to_pydict()
    [facts] = [row.facts for row in run.ledger.jobs() if row.name == "aesthetic_v1"]
    assert facts == {"nulls": {"aesthetic": 1}}
    assert run.store.files("staging") == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "signals.aesthetic_v1: expected a head on 4 numbers, which clip_v1 has for each image, found one on 6 in"),
        ({"layout": [{"linear": "other"}]}, "signals.aesthetic_v1: .*head.safetensors: unknown tensor 'other.weight'"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_before_spark_starts(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = experiment(tmp_path, head_signals(tmp_path, **given))
    finished(path, {"clip_v1": iter([table_of(np.ones((3, 4), np.float32))])})
    run = opened(path)
    with pytest.raises(InputError, match=said):
        execute(run, run.plan.signal("aesthetic_v1"))
    assert "spark" not in run.__dict__


TINY_HEAD = {"kind": "heads", "clip": "clip_v1", "layout": LINEAR, "input": "text"}


def scoring_run(folder: Path, spark: SparkSession) -> Run:
    """Return a run with two shards of 70 pairs, two models side by side, one of them in both precisions, and a head."""
    folder.mkdir()
    (folder / "head.safetensors").write_bytes(linear(np.linspace(-1, 1, 24)[None]))
    path = experiment(
        folder,
        {
            "clip_v1": {"model": "good"},
            "clip_broken_v1": {"kind": "clip", "model": "broken"},
            "clip_half_v1": {"kind": "clip", "model": "good", "precision": "bf16"},
            "aesthetic_v1": TINY_HEAD | {"file": str(folder / "head.safetensors")},
        },
        models={
            "good": {"folder": saved(folder / "good").removeprefix("local-dir:")},
            "broken": {"folder": saved(folder / "broken", change=without_image_directions).removeprefix("local-dir:")},
        },
    )
    store = Store(str(folder / "store"))
    shards = [write_shard(store, "bench", shard, range(70 * shard, 70 * shard + 70), short_caption) for shard in (0, 1)]
    ingested(path, {"bench": [row for shard in shards for row in shard]})
    return opened(path, spark)


CLIPS = ("clip_v1", "clip_broken_v1", "clip_half_v1")


def test_models_side_by_side_are_scored_in_one_reading_and_a_resumed_run_gives_the_same(
    spark: SparkSession, tmp_path: Path
) -> None:
    whole, resumed = scoring_run(tmp_path / "a", spark), scoring_run(tmp_path / "b", spark)
    for run in (whole, resumed):
        jobs = [job for name in CLIPS for job in run.plan.signal(name)]
        if run is resumed:  # what a run that was killed behind its first shard leaves
            [shard, paths] = _shards(run, needs_of_stage(jobs[0], "ingest")[0].id)[0]
            wanted = [
                SignalRequest(job.id, run.experiment.signals[job.config["signal"]], job.local["model"]) for job in jobs
            ]
            work = partial(_work, run.store, 1, (shard, paths, wanted))
            run_unit(run.store, digest(sorted(job.id for job in jobs)), shard, work)
        execute(run, jobs)
        execute(run, run.plan.signal("aesthetic_v1"))
    tables = {}
    for name in (*CLIPS, "aesthetic_v1"):
        first, again = (
            run.ledger.read(f"signals_{name}").drop_columns("job").sort_by("uid").combine_chunks()
            for run in (whole, resumed)
        )
        assert first == again
        assert first.num_rows == 140
        tables[name] = first
    for run in (whole, resumed):
        facts = {row.name: row.facts for row in run.ledger.jobs()}
        assert facts["clip_broken_v1/bench"] == {"nulls": {"image_embedding": 140, "similarity": 140}}
        assert facts["clip_v1/bench"] == facts["clip_half_v1/bench"] == {}
        assert facts["aesthetic_v1"] == {"nulls": {"score": 0}}
    assert tables["clip_broken_v1"]["text_embedding"].equals(tables["clip_v1"]["text_embedding"])
    similarity = [np.array(tables[name]["similarity"].to_pylist()) for name in ("clip_v1", "clip_half_v1")]
    assert similarity[1] == pytest.approx(similarity[0], abs=0.02)
    assert len(set(similarity[0])) == 140
    assert len(set(tables["aesthetic_v1"]["score"].to_pylist())) > 100
