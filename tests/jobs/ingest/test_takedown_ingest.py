"""What was taken down does not come back: an ingest, a takedown, and the next ingest of the same rows and of more."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.cli.main import main
from jobs.workflow.experiment import load_experiment
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.errors import StageFailed
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import TAKEN_DOWN
from pipeline.provenance.funnel import inconsistencies, source_funnels
from pipeline.storage.store import Store
from tests.support.hostile_web import HostileWeb, jpeg
from tests.support.ingest_experiments import TABLE, by_uid, ledger_of, write_ingest, write_rows
from tests.support.road_experiment import cuvee_here
from tests.support.takedown_store import everything

NAMED = "http://a.site.test/image?n=1&v=named"


FORBIDDEN = "domain:no.site.test"


ROWS = {
    "named": NAMED,
    "same bytes": "http://b.site.test/image?n=1&v=same",
    "forbidden": "http://img.no.site.test/image?n=2&v=forbidden",
    "forbidden and dead": "http://no.site.test/status?is=404&v=dead",
    **{f"plain {n}": f"http://c.site.test/image?n={n}&v=plain" for n in range(10, 16)},
}


MORE = {
    "new with the same bytes": "http://d.site.test/image?n=1&v=new",
    "new on the site": "http://deep.img.no.site.test/image?n=3&v=new",
    "new with the URL": "HTTP://A.site.test:80/image?n=1&v=named#again",
    "new and led to the site": "http://f.site.test/to?url=http%3A%2F%2Fimg.n%6F.site.test%2Fimage%3Fn%3D5%26v%3Dled",
    "new and plain": "http://e.site.test/image?n=4&v=new",
}


@dataclass(frozen=True)
class Story:
    """The ledger's funnel after the takedown, the store, what the web was asked for in the end, and how often."""

    experiment: Path
    taken: list[Any]
    asked: Counter[str]

    @property
    def ledger(self) -> Ledger:
        """The store's ledger."""
        return ledger_of(self.experiment)


def published(folder: Path, name: str, rows: dict[str, str]) -> dict[str, Any]:
    made = [{"id": key, "url": url, "caption": f"the caption of {key}"} for key, url in rows.items()]
    return {"format": "table", "files": [write_rows(folder / name, made)], "options": TABLE}


@pytest.fixture(scope="module")
def story(site: HostileWeb, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    sources = {"first": published(folder, "first.jsonl", ROWS)}
    experiment = write_ingest(folder, sources, site.hosts, ingest={"pairs_per_shard": 3})
    done = cuvee_here("ingest", str(experiment), spark=spark)
    assert done.returncode == 0, done.stderr
    (folder / "list.txt").write_text(f"{NAMED}\n{FORBIDDEN}\n", "utf-8")
    assert main(["takedown", str(folder / "store"), "--list", str(folder / "list.txt"), "--reason", "asked"]) == 0
    taken = [one.plain() for one in source_funnels(ledger_of(experiment))]
    run = Run(load_experiment(experiment, []), Display())
    assert [job.name for job in run.plan.until("ingest") if run.ledger.finished(job.id) is None] == []
    sources |= {"second": published(folder, "second.jsonl", ROWS | MORE)}
    before = site.asked.copy()
    write_ingest(folder, sources, site.hosts, ingest={"pairs_per_shard": 3})
    done = cuvee_here("ingest", str(experiment), spark=spark)
    assert done.returncode == 0, done.stderr
    return Story(experiment, taken, site.asked - before)


def test_of_the_first_ingest_the_named_rows_are_gone_and_counted(story: Story) -> None:
    [first] = story.taken
    assert first["published"] == len(ROWS)
    assert first["stages"] == [{"stage": "ingest", "in": 10, "kept": 6, "dropped": {TAKEN_DOWN: 4}}]


def test_no_row_that_is_named_is_asked_for_again(story: Story) -> None:
    assert not [path for path in story.asked if "named" in path or "forbidden" in path or "dead" in path]
    assert story.asked["/image?n=3&v=new"] == 0
    assert not [path for path in story.asked if path.endswith("v=led") and path.startswith("/image")]
    assert story.asked["/image?n=4&v=new"] == 1
    assert story.asked["/image?n=1&v=new"] == 1  # its URL is nobody's: what comes from there is told by its bytes


def test_every_row_of_the_next_ingest_has_its_outcome(story: Story) -> None:
    second = {job.name: job.job for job in story.ledger.jobs() if job.stage == "ingest"}["second"]
    rows = by_uid(story.ledger.read("fetches", jobs=[second]))
    assert Counter(row["outcome"] for row in rows.values()) == {TAKEN_DOWN: 8, "stored": 7}
    pairs = by_uid(story.ledger.read("pairs", jobs=[second]))
    assert pairs.keys() == rows.keys()
    blank = [row for row in pairs.values() if row["problem"] == TAKEN_DOWN]
    assert {(row["url"], row["caption"], row["record_id"]) for row in blank} == {("", "", "")}
    # asked for, and told by its bytes or by where a redirect leads: these rows' own URLs were never named
    told = {row["record_id"] for uid, row in pairs.items() if not row["problem"] and rows[uid]["outcome"] == TAKEN_DOWN}
    assert told == {"same bytes", "new with the same bytes", "new and led to the site"}
    assert len(blank) == 5
    funnels = source_funnels(story.ledger)
    assert inconsistencies(funnels) == []
    assert {one.source: one.published for one in funnels} == {"first": 10, "second": 15}


def test_no_byte_of_what_was_named_is_in_the_store(story: Story) -> None:
    held = everything(story.experiment.parent / "store")
    assert jpeg(10, (64, 64)) in held or b"the caption of plain 10" in held
    for needle in ("v=named", "no.site.test", "the caption of named", "the caption of forbidden", "v=dead"):
        assert needle.encode() not in held, needle
    assert jpeg(1, (64, 64)) not in held
    assert main(["verify", str(story.experiment.parent / "store")]) == 0


def test_a_takedown_during_a_run_stops_it(story: Story, tmp_path: Path) -> None:
    run = Run(load_experiment(story.experiment, []), Display())
    (tmp_path / "list.txt").write_text("http://nowhere.test/1.jpg\n", "utf-8")
    store = story.experiment.parent / "store"
    assert main(["takedown", str(store), "--list", str(tmp_path / "list.txt"), "--reason", "asked"]) == 0
    job = run.plan.ingest("first")[0]
    Store(str(store)).write("staging/abc/unit.json", b"{}")
    with pytest.raises(StageFailed, match="a takedown came in between; run again"):
        run.finish([(job, [], {})], datetime.now(UTC), ["abc"])
    run.close()
    assert Store(str(store)).files("staging") == []
