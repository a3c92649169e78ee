"""The whole road, end to end, on a small web: what came out of it against what was planted, and what it promised."""

import json
from pathlib import Path

import pytest
import webdataset
from pyspark.sql import SparkSession

from jobs.report.self_check import EXPECTED_OUTCOMES, outcomes_with_truth, read_decisions, self_check
from jobs.workflow.runner import Run
from pipeline.export.manifest import export_digest
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support.finished_road import Road
from tests.support.road_experiment import SETS, answered, cuvee_here


def test_it_says_where_the_report_lies(road: Road) -> None:
    page = Path(road.stdout.strip().splitlines()[-1])
    assert page == road.store / "reports" / "road" / "index.html"
    assert page.read_text("utf-8").lower().startswith("<!doctype html>")


def test_without_a_terminal_it_prints_plain_lines_of_progress(road: Road) -> None:
    assert "\x1b" not in road.stderr
    for stage in ("publish", "ingest", "score", "decide", "blend", "export", "train", "evaluate", "report"):
        assert f"] {stage}: done in" in road.stderr
    assert "shards" in road.stderr


def test_the_funnel_adds_up_for_every_source_and_stage(road: Road) -> None:
    funnels = answered("funnel", str(road.store))
    assert [one["source"] for one in funnels] == sorted(["yfcc", "laion", "cc12m", "wit", "redcaps", "shutterstock"])
    for one in funnels:
        assert one["stages"][0]["in"] == one["published"] == (1200 if one["source"] == "shutterstock" else 100)
        assert {stage["stage"] for stage in one["stages"]} >= {"ingest", "filter:filtered", "mixture:all_filtered"}
        for stage in one["stages"]:
            assert stage["in"] == stage["kept"] + sum(stage["dropped"].values()), (one["source"], stage)
        kept = one["stages"][0]["kept"]
        assert all(stage["in"] == kept for stage in one["stages"][1:])


def test_every_row_comes_to_what_the_web_planted_for_it(run: Run) -> None:
    rows = outcomes_with_truth(run)
    assert len(rows) == 1700
    assert rows["behaviour"].notna().all()
    fetched = rows[rows["problem"] == ""]
    wrong = fetched[
        [out not in EXPECTED_OUTCOMES[said] for out, said in zip(fetched.outcome, fetched.behaviour, strict=True)]
    ]
    assert wrong.empty, wrong[["url", "behaviour", "outcome"]].to_string()
    for planted in ("http_404", "noai", "truncated", "oversized", "html", "pixels"):
        assert (rows["behaviour"] == planted).any()


def test_a_passing_error_is_tried_again_and_both_attempts_are_kept(run: Run) -> None:
    rows = outcomes_with_truth(run)
    once = rows[rows["behaviour"] == "error_once"]
    assert not once.empty
    fetches = run.ledger.read("fetches").to_pandas()
    for uid in once["uid"]:
        attempts = fetches[fetches["uid"] == uid].sort_values("attempt")
        assert attempts["outcome"].tolist() == ["http_500", "stored"]
        assert attempts["final"].tolist() == [False, True]


def test_a_refusal_keeps_the_header_word_for_word(run: Run) -> None:
    rows = outcomes_with_truth(run)
    fetches = run.ledger.read("fetches").to_pandas().set_index("uid")
    refused = rows[(rows["behaviour"] == "noai") & (rows["problem"] == "")]["uid"]
    assert not refused.empty
    for uid in refused:
        assert fetches.loc[uid]["detail"].lower().startswith("x-robots-tag: ")
        assert "noai" in fetches.loc[uid]["detail"].lower()


def test_of_exact_duplicates_one_stays_and_the_others_have_the_reason(run: Run) -> None:
    rows = outcomes_with_truth(run)
    stored = rows[rows["outcome"] == "stored"].merge(read_decisions(run.ledger, run.plan.decide("exact").id), on="uid")
    planted = stored[stored["plant"] == "exact_duplicate"]
    assert not planted.empty
    groups = stored[stored["plant_group"].isin(set(planted["plant_group"])) & (stored["plant"] != "near_duplicate")]
    for _, members in groups.groupby("plant_group"):
        assert members["keep"].sum() == 1
        assert set(members[~members["keep"]]["reason"]) == {"exact_duplicate"}


def test_evaluation_copies_are_dropped_and_clean_pairs_are_not(run: Run) -> None:
    rows = outcomes_with_truth(run)
    stored = rows[rows["outcome"] == "stored"].merge(
        read_decisions(run.ledger, run.plan.decide("not_evaluated").id), on="uid"
    )
    copy = stored["plant"].isin(["evaluation_copy", "evaluation_near_copy"])
    assert copy.sum() >= 6
    assert (~stored[copy]["keep"]).mean() >= 0.95
    assert (~stored[~copy]["keep"]).mean() <= 0.02


def test_all_checks_against_the_truth_hold(run: Run) -> None:
    checks = self_check(run)
    assert any("AUC" in one["what"] for one in checks)
    assert [one for one in checks if not one["ok"]] == []


def test_an_export_is_read_by_plain_webdataset_and_agrees_with_its_manifest(road: Road) -> None:
    folder = next((road.store / "exports" / "all_filtered").iterdir())
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    sizes = json.loads((folder / "sizes.json").read_text("utf-8"))
    tars = sorted(folder.glob("*.tar"))
    samples = list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False).decode("pil"))
    assert len(samples) == manifest["pairs"] == sum(sizes.values())
    assert all(sample["jpg"].mode in ("RGB", "L") and sample["txt"] for sample in samples)
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    rows = [{"tar": name, **about} for name, about in manifest["tars"].items()]
    assert manifest["digest"] == export_digest(rows)


def test_an_export_is_read_by_open_clip_train(road: Road) -> None:
    from open_clip import get_tokenizer, image_transform
    from open_clip_train.data import get_wds_dataset
    from open_clip_train.params import parse_args

    folder = next((road.store / "exports" / "all_filtered").iterdir())
    tars = "::".join(str(tar) for tar in sorted(folder.glob("*.tar")))
    arguments = parse_args(
        ["--train-data", tars, "--train-num-samples", "64", "--batch-size", "32", "--workers", "0", "--seed", "1"]
    )
    arguments.world_size = 1
    data = get_wds_dataset(arguments, image_transform(64, is_train=False), True, tokenizer=get_tokenizer("RN50"))
    images, texts = next(iter(data.dataloader))
    assert images.shape == (32, 3, 64, 64)
    assert texts.shape[0] == 32


def test_each_training_saw_what_was_asked(run: Run) -> None:
    rows = run.ledger.read("trainings").to_pylist()
    assert {row["mixture"]: row["samples_seen"] for row in rows} == {
        "clean_slice": 16000,
        "yfcc_only": 1280,
        "all_filtered": 1280,
    }
    assert all(row["outcome"] == "done" and len(row["checkpoint_sha256"]) == 64 for row in rows)


def test_every_model_is_evaluated_on_every_set(run: Run) -> None:
    rows = run.ledger.read("evaluations").to_pandas()
    assert sorted(zip(rows["mixture"], rows["evaluation_set"], strict=True)) == sorted(
        (mixture, name) for mixture in ("yfcc_only", "all_filtered") for name in SETS
    )
    predictions = run.ledger.read("predictions", ["mixture", "evaluation_set", "label", "predicted"]).to_pandas()
    hits = predictions.assign(hit=predictions.label == predictions.predicted)
    counted = hits.groupby(["mixture", "evaluation_set"])["hit"].agg(["sum", "count"])
    for row in rows.itertuples():
        assert tuple(counted.loc[(row.mixture, row.evaluation_set)]) == (row.correct, row.n)
        assert row.low <= row.top1 <= row.high


def test_a_second_run_does_nothing_starts_no_spark_and_commits_nothing(road: Road, tmp_path: Path) -> None:
    store = road.copy(tmp_path)
    ledger = Ledger(Store(str(store)))
    before, files = ledger.versions(), sorted(store.rglob("*"))
    done = cuvee_here("run", str(road.experiment), "--set", f"store={store}")
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr
    assert "Spark" not in done.stderr
    assert ledger.versions() == before
    assert sorted(store.rglob("*")) == files
    assert done.stdout == road.stdout.replace(str(road.store), str(store))


def test_a_changed_threshold_decides_anew_and_touches_no_image(road: Road, spark: SparkSession, tmp_path: Path) -> None:
    settings = ["--set", f"store={road.copy(tmp_path)}", "--set", "filters.clip_top.top_fraction=0.4"]
    done = cuvee_here("run", str(road.experiment), "--until", "decide", *settings, spark=spark)
    assert done.returncode == 0, done.stderr
    stages = {line.split("] ")[1].split(":")[0] for line in done.stderr.splitlines() if "done in" in line}
    assert stages == {"publish", "decide"}


def test_verify_finds_nothing_wrong_and_nothing_left_over(road: Road) -> None:
    assert answered("verify", str(road.store)) == {"differences": [], "leftovers": []}


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "extra"])
def test_verify_finds_damage(road: Road, tmp_path: Path, damage: str) -> None:
    store = road.copy(tmp_path)
    tar = next((store / "exports" / "yfcc_only").rglob("00000000.tar"))
    data = bytearray(tar.read_bytes())
    if damage == "flipped":
        data[700] ^= 1
        tar.write_bytes(data)
    elif damage == "cut":
        tar.write_bytes(data[: len(data) // 1024 * 512])
    elif damage == "missing":
        tar.unlink()
    else:
        (tar.parent / "99999999.tar").write_bytes(data)
    done = cuvee_here("verify", str(store), "--json")
    found = json.loads(done.stdout)
    if damage == "extra":
        assert done.returncode == 0
        assert "99999999.tar" in found["leftovers"][0]
        assert cuvee_here("verify", str(store), "--prune").returncode == 0
        assert not (tar.parent / "99999999.tar").exists()
    else:
        assert done.returncode == 1
        assert len(found["differences"]) == 1
        assert "00000000.tar" in found["differences"][0]


def test_trace_tells_a_pairs_whole_life_by_uid_url_and_hash(road: Road, run: Run) -> None:
    member = run.ledger.read("export_members", ["mixture", "uid", "tar"]).to_pylist()[-1]
    [life] = answered("trace", str(road.store), member["uid"])
    assert life["uid"] == member["uid"]
    published = life["published"][0]
    assert len(published["file_sha256"]) == 64
    assert life["fetches"][-1]["outcome"] == "stored"
    assert set(life["signals"]) == {"caption_v1", "image_v1", "pdq_v1", "clip_v1", "nearest_v1", "duplicates_v1"}
    assert {row["filter"] for row in life["decisions"]} == set(run.experiment.rules)
    assert any(row["tar"] == member["tar"] and row["trainings"] for row in life["exports"])
    assert answered("trace", str(road.store), published["url"])[0]["uid"] == member["uid"]
    by_hash = answered("trace", str(road.store), life["stored"][0]["raw_sha256"])
    assert member["uid"] in {one["uid"] for one in by_hash}
    assert member["uid"] in cuvee_here("trace", str(road.store), member["uid"]).stdout


def test_trace_of_an_unknown_key_is_one_line_and_exit_2(road: Road) -> None:
    done = cuvee_here("trace", str(road.store), "http://nowhere.test/1.jpg")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_reports_json_holds_the_numbers_of_the_ledger(road: Road, run: Run) -> None:
    report = json.loads((road.store / "reports" / "road" / "report.json").read_text("utf-8"))
    found = {(one["mixture"], one["set"]): one["correct"] for one in report["evaluation"]["results"]}
    rows = run.ledger.read("evaluations").to_pylist()
    assert found == {(row["mixture"], row["evaluation_set"]): row["correct"] for row in rows}
    assert {one["reason"] for one in report["examples"]} >= {"", "exact_duplicate", "evaluation_copy"}
    assert len(report["provenance"]["jobs"]) == len([job for job in run.ledger.jobs() if job.stage != "report"])


def test_the_report_says_which_evaluation_images_a_mixture_holds(road: Road, run: Run) -> None:
    """Copies are planted in every source, so the unfiltered one has some; the filtered one has none left."""
    report = json.loads((road.store / "reports" / "road" / "report.json").read_text("utf-8"))
    found = {(one["mixture"], one["set"]): one for one in report["contamination"]}
    assert {name for _, name in found} == set(SETS)
    assert not any(one["copies"] for (mixture, _), one in found.items() if mixture == "all_filtered")
    held = [one for (mixture, _), one in found.items() if mixture == "yfcc_only"]
    assert sum(one["copies"] for one in held) > 0
    results = {(one["mixture"], one["set"]): one["top1"] for one in report["evaluation"]["results"]}
    for key, one in found.items():
        assert one["accuracy"] == pytest.approx(results[key])
        assert one["copied_images"] <= one["copies"] <= one["pairs"]
    assert [one["samples"] for one in report["cost"]] == [1280, 1280]


def test_each_job_has_its_openlineage_events(road: Road, run: Run) -> None:
    jobs = run.ledger.jobs()
    assert {job.stage for job in jobs} >= {"ingest", "score", "decide", "blend", "export", "train", "evaluate"}
    for job in jobs:
        lines = (road.store / "lineage" / f"{job.job}.jsonl").read_text("utf-8").splitlines()
        told = [json.loads(line) for line in lines]
        assert [one["eventType"] for one in told] == ["START", "COMPLETE"]
        assert {one["job"]["name"] for one in told} == {f"{job.stage}.{job.name}"}
