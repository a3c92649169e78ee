"""What N pairs would cost: arithmetic on rates that were measured, what is unknown said so, and held against a run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.main import main
from pipeline.operations.cost_model import (
    CORES,
    FIXED,
    GPUS,
    NETWORK,
    Cluster,
    CostModel,
    CostScope,
    StageCost,
    measured_rate,
)
from tests.support.road_experiment import ROOT
from tests.support.scored_store import write_experiment

MADE = {"made_at": "2026-11-28T00:00:00+00:00", "cores": 2}


STAGE = {"seconds": 0.0, "peak_bytes": 1}


def at(decide: float, blend: float, export: float, pairs: int) -> dict[str, Any]:
    """Return what was measured at one size: 30 % of the pairs drawn, at 10 kB each."""
    seconds = {"decide": decide, "blend": blend, "export": export}
    held = {"pairs": 100 * pairs, "fetches": 30 * pairs, "samples": 170 * pairs, "decisions": 40 * pairs}
    held |= {"mixtures": 10 * pairs, "export_members": 9 * pairs, "signals_caption_v1": 50 * pairs}
    stages = {name: STAGE | {"seconds": value} for name, value in seconds.items()}
    return {"stages": stages, "table_bytes": held, "exported_bytes": 3_000 * pairs}


FIGURES: dict[str, Any] = {
    "stages": {**MADE, "pairs": {"20000": at(11, 10, 8, 20_000), "100000": at(15, 12, 12, 100_000)}},
    "ingest_against_img2dataset": {**MADE, "reencoded": {"images_per_second": 1000}},
    "signals_against_decoding": {**MADE, "signals_images_per_second": 500},
    "deduplication": {
        **MADE,
        "pairs": {"1000000": {"seconds": {"duplicates_v1": 100, "clusters_v1": 50}}},
        "exponent_pdq": 0.4,
        "exponent_embedding": 1.5,
    },
    "report": {**MADE, "seconds": 50, "trainings": 210},
}


SCOPE = CostScope(
    stored=0.5,
    drawn={"all": 0.2},
    fetched_bytes=50_000,
    pair_bytes=10_000,
    pairs_per_shard=10_000,
    pairs_per_tar=10_000,
    filters=2,
    signals=("caption", "image"),
    corpus=("clusters", "duplicates"),
    clip=0,
    samples_seen=1_000_000,
    trainings=420,
    evaluated=7_200_000,
)


CLUSTER = Cluster(4, 2, 1e9)


def costs(figures: dict[str, Any] = FIGURES, gpu_rate: float | None = 1000.0, **scope: Any) -> dict[str, StageCost]:
    """Return the costs of 10,000,000 pairs by stage."""
    made = CostModel(figures, CostScope(**{**SCOPE.__dict__, **scope}), CLUSTER, gpu_rate)
    return {one.stage: one for one in made.of(10_000_000)}


def test_a_stage_is_what_it_costs_at_any_size_and_what_each_pair_adds() -> None:
    rate = measured_rate(FIGURES, "decide")
    assert rate is not None
    assert (rate.each, rate.fixed, rate.cores) == (4 / 80_000, 10, 2)
    assert rate.source == "stages.decide, 2026-11-28T00:00:00+00:00, 2 cores, at 20,000 and 100,000 pairs"
    assert measured_rate({"stages": {**MADE, "pairs": {"1": at(1, 1, 1, 1)}}}, "decide") is None


def test_the_numbers_follow_from_the_rates() -> None:
    found = costs()
    stored = 5_000_000
    assert found["ingest"].core_hours == pytest.approx(stored / 1000 * 2 / 3600)
    assert found["ingest"].download_bytes == stored * 50_000
    assert found["ingest"].storage_bytes == pytest.approx(stored * 10_000 + 10_000_000 * 300)
    assert found["score"].core_hours == pytest.approx(stored / 500 / 3600)
    assert found["score"].egress_bytes == stored * 10_000
    # in proportion at least, and by the measured growth where that is more
    assert found["score, whole corpus"].core_hours == pytest.approx((100 * 2 * 5 + 50 * 2 * 5**1.5) / 3600)
    assert found["decide"].core_hours == pytest.approx(stored * 4 / 80_000 * 2 / 3600)
    assert found["decide"].wall_hours == pytest.approx((10 + stored * 4 / 80_000 / 2) / 3600)
    drawn = 2_000_000 * 10_000
    assert found["export"].core_hours == pytest.approx(drawn * (4 / 80_000 / 3_000) * 2 / 3600)
    assert found["export"].storage_bytes == pytest.approx(drawn + 2_000_000 / 0.3 * 9)
    assert found["train"].gpu_hours == pytest.approx(3 * 1_000_000 / 1000 / 3600)
    assert found["train"].wall_hours == pytest.approx(3 * 1_000_000 / 1000 / 3600 / 2)
    assert found["evaluate"].gpu_hours == pytest.approx(7_200_000 / 1000 / 3600)
    assert found["report"].wall_hours == pytest.approx(50 * 420 / 210 / 3600)
    assert costs(trainings=2)["report"].wall_hours == pytest.approx(50 / 3600)
    assert all(one.sources for one in found.values())


def test_what_binds_is_the_slowest_of_what_goes_on_side_by_side() -> None:
    assert costs()["ingest"].binds == CORES
    assert costs(fetched_bytes=5e6)["ingest"].binds == NETWORK
    assert costs(clip=2)["score"].binds == GPUS
    assert CostModel(FIGURES, SCOPE, CLUSTER, None).of(100)[3].binds == FIXED


def test_without_a_rate_a_stage_is_unknown_and_the_others_are_not() -> None:
    for name in FIGURES:
        found = costs({key: value for key, value in FIGURES.items() if key != name})
        odd = {stage for stage, one in found.items() if one.unknown}
        assert (
            odd
            == {
                "stages": {"ingest", "score", "decide", "blend", "export"},
                "ingest_against_img2dataset": {"ingest"},
                "signals_against_decoding": {"score"},
                "deduplication": {"score, whole corpus"},
                "report": {"report"},
            }[name]
        )
        assert all(found[stage].wall_hours is None for stage in odd)
    found = costs(gpu_rate=None, clip=1, corpus=("nearest",), signals=("concepts",))
    assert found["score"].unknown == [
        "signals of the kinds concepts",
        "images a second of CLIP (clip_through_the_pipeline; or give --gpu-rate)",
    ]
    assert found["score, whole corpus"].unknown == ["the signal kind nearest"]
    assert found["train"].unknown == ["samples a second of the trained model in train (give --gpu-rate)"]
    assert found["evaluate"].wall_hours is None


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    return str(write_experiment(tmp_path, {"short": {"drop_when": {"short": "caption_v1.words < 3"}}}))


def test_the_command_prints_a_table_and_json(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps(FIGURES))
    line = ["plan", experiment, "--rates", str(rates), "--pairs", "1e6,1e10", "--cores", "128"]
    assert main(line) == 0
    said = capsys.readouterr().out
    for words in ("1,000,000 pairs", "10,000,000,000 pairs", "assumptions:", "unknown: signals of the kinds concepts"):
        assert words in said
    assert "ingest_against_img2dataset.reencoded, 2026-11-28T00:00:00+00:00, 2 cores" in said
    assert main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [plan["pairs"] for plan in told["plans"]] == [1_000_000, 10_000_000_000]
    small, large = ({one["stage"]: one for one in plan["stages"]} for plan in told["plans"])
    assert large["ingest"]["core_hours"] == pytest.approx(10_000 * small["ingest"]["core_hours"])
    assert small["train"]["unknown"]


def test_the_figures_that_are_shipped_are_read(experiment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", experiment, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [plan["pairs"] for plan in told["plans"]] == [10**6, 10**9, 10**10]
    assert told["rates"] == str(ROOT / "benchmarks/results.json")
    for plan in told["plans"]:
        known = {one["stage"] for one in plan["stages"] if not one["unknown"]}
        assert {"decide", "blend", "export"} <= known


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--pairs", "1e6,many"], "--pairs: found 'many', expected a whole number from 1"),
        (["--pairs", "0"], "--pairs: found '0'"),
        (["--pairs", "1.5"], "--pairs: found '1.5'"),
        (["--cores", "nan"], "--cores: found 'nan'"),
        (["--drawn", "2"], "--drawn: found '2', expected a number from 0 to 1"),
        (["--gpu-rate", "0"], "--gpu-rate: found '0'"),
        (["--gpu-rate", "100"], "--gpu-rate: found no --gpus beside it"),
        (["--rates", "/nowhere.json"], "--rates: /nowhere.json: No such file or directory"),
        (["--rates", __file__], "expected JSON"),
    ],
)
def test_what_cannot_be_is_refused(
    experiment: str, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", experiment, *more]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_prediction_for_100_000_pairs_is_within_a_factor_of_a_half_of_a_run() -> None:
    """Decide, blend and export, by what this machine took for fewer; other stages read images, or the web."""
    from benchmarks.stages import IMAGE
    from benchmarks.stages import at as run_at

    cores = os.cpu_count() or 1
    figures = {"stages": {**MADE, "cores": cores, "pairs": {str(size): run_at(size) for size in (20_000, 50_000)}}}
    real = run_at(100_000)
    scope = {**SCOPE.__dict__, "stored": 1.0, "drawn": {"all": 0.3}}
    scope["pair_bytes"] = real["exported_bytes"] / 30_000
    assert 0.8 * IMAGE < scope["pair_bytes"] < 1.4 * IMAGE
    plan = {one.stage: one for one in CostModel(figures, CostScope(**scope), Cluster(cores, 0, 1e12), None).of(100_000)}
    for stage in ("decide", "blend", "export"):
        predicted, took = plan[stage].wall_hours, real["stages"][stage]["seconds"]
        assert predicted is not None
        assert 1 / 1.5 < predicted * 3600 / took < 1.5, (stage, predicted * 3600, took)
    held = sum(real["table_bytes"][table] for table in ("decisions",))
    assert plan["decide"].storage_bytes == pytest.approx(held, rel=0.5)
