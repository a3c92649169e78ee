"""A takedown on the finished road: what goes is nowhere, the rest is as it was, and the next run has little to do."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from pipeline.ledger.tables import Ledger
from pipeline.provenance.funnel import inconsistencies, source_funnels
from pipeline.shards.tar_format import TAR_BLOCK_BYTES
from pipeline.storage.store import Store
from tests.support.finished_road import Road
from tests.support.road_experiment import answered, cuvee_here
from tests.support.takedown_store import everything


@dataclass(frozen=True)
class Gone:
    """A copy of the road from which pairs were taken: the answer, and what was stored of the pairs before."""

    store: Path
    answer: dict[str, Any]
    images: list[bytes]
    texts: list[str]

    @property
    def uids(self) -> set[str]:
        """The pairs that went."""
        return set(self.answer["pairs"])


def chosen(road: Road) -> list[str]:
    """Return lines that name pairs of each kind: shown in the report, in an export, alike to others, of a site."""
    ledger = road.ledger
    report = json.loads(next(road.store.glob("reports/*/report.json")).read_bytes())
    members = Counter(ledger.read("export_members")["uid"].to_pylist())
    alike = [row["uid"] for row in ledger.read("signals_duplicates_v1").to_pylist() if row["near_size"] > 1]
    urls = {row["uid"]: row["url"] for row in ledger.read("pairs", ["uid", "url", "problem"]).to_pylist()}
    stored = [row["uid"] for row in ledger.read("samples", ["uid"]).to_pylist()]
    return [report["examples"][0]["uid"], members.most_common(1)[0][0], alike[0], urls[stored[7]]]


@pytest.fixture(scope="module")
def gone(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Gone:
    return take(road, tmp_path_factory.mktemp("takedown_road"))


def take(road: Road, folder: Path) -> Gone:
    """Take pairs out of a copy of the road."""
    store = road.copy(folder)
    (folder / "list.txt").write_text("\n".join(chosen(road)), "utf-8")
    given = ["takedown", str(store), "--list", str(folder / "list.txt"), "--reason", "a test"]
    dry = answered(*given, "--dry-run")["takedown"]
    answer = answered(*given)["takedown"]
    assert answer == dry
    uids, images = set(answer["pairs"]), []
    for row in road.ledger.read("samples").to_pylist():
        if row["uid"] in uids:
            with (road.store / row["shard"]).open("rb") as stream:
                stream.seek(row["offset"] + TAR_BLOCK_BYTES)
                images.append(stream.read(row["jpg_bytes"]))
    pairs = road.ledger.read("pairs").to_pylist()
    kept = {text for row in pairs if row["uid"] not in uids for text in (row["url"], row["caption"])}
    texts = {text for row in pairs if row["uid"] in uids for text in (row["url"], row["caption"])}
    return Gone(store, answer, images, sorted(texts - kept))


def test_no_byte_of_image_caption_or_url_is_anywhere_under_the_store(road: Road, gone: Gone) -> None:
    assert len(gone.images) > 3
    assert len(gone.texts) > 6
    before, after = everything(road.store), everything(gone.store)
    for needle in [*gone.images, *(text.encode() for text in gone.texts if len(text) > 12)]:
        assert needle in before
        assert needle not in after


def test_verify_and_funnel_find_nothing_wrong(road: Road, gone: Gone) -> None:
    assert answered("verify", str(gone.store)) == {"differences": [], "leftovers": []}
    before, after = source_funnels(road.ledger), source_funnels(Ledger(Store(str(gone.store))))
    assert inconsistencies(after) == []
    assert {one.source: one.published for one in after} == {one.source: one.published for one in before}
    assert sum(one.steps[0].dropped.get("taken_down", 0) for one in after) == len(gone.uids)


def test_every_other_pair_has_the_bytes_that_it_had(road: Road, gone: Gone) -> None:
    store, count = Store(str(gone.store)), 0
    before = {row["uid"]: row for row in road.ledger.read("samples").to_pylist()}
    for row in Ledger(store).read("samples").to_pylist():
        old = before.pop(row["uid"])
        whole, part = road.store / old["shard"], gone.store / row["shard"]
        if whole.name == part.name:
            continue
        with whole.open("rb") as one, part.open("rb") as other:
            one.seek(old["offset"])
            other.seek(row["offset"])
            assert one.read(old["size"]) == other.read(row["size"])
        count += 1
    assert count > 50
    assert before.keys() <= gone.uids


def test_trainings_are_named(gone: Gone) -> None:
    assert gone.answer["trainings"]
    for one in gone.answer["trainings"]:
        assert (gone.store / one["checkpoint"]).is_dir()
        assert one["total"] > 0
        assert set(one["times"]) <= gone.uids


def test_the_next_run_makes_the_report_anew_and_nothing_else(road: Road, gone: Gone, spark: SparkSession) -> None:
    assert not list(gone.store.glob("reports/*/index.html"))
    jobs = {job.job for job in road.ledger.jobs()}
    done = cuvee_here("run", str(road.experiment), "--set", f"store={gone.store}", spark=spark)
    assert done.returncode == 0, done.stderr
    assert f"resuming: {len(jobs) - 1} of {len(jobs)} jobs are finished" in done.stderr
    ledger = Ledger(Store(str(gone.store)))
    assert {job.job for job in ledger.jobs() if job.stage != "takedown"} == jobs
    page = next(gone.store.glob("reports/*/index.html")).read_text("utf-8")
    assert not [uid for uid in gone.uids if uid[:8] in page]
    assert answered("verify", str(gone.store)) == {"differences": [], "leftovers": []}
