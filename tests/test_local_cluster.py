"""Spark's mode local-cluster, executors in processes of their own: retried and speculative tasks ask no host twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ledger import Ledger
from pipeline.store import Store
from tests.clusters import rows_of, submitting, zipped
from tests.hostile_web import HostileWeb
from tests.ingests import TABLE, write_ingest, write_rows
from tests.roads import cuvee

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROWS, SLOW = 120, 12


@pytest.fixture(scope="module")
def site() -> Iterator[HostileWeb]:
    with HostileWeb() as server:
        yield server


def test_speculation_asks_no_host_twice_and_changes_no_row(site: HostileWeb, tmp_path: Path) -> None:
    """One host takes a second for each image, so a second attempt is made of the task that asks it."""
    rows = [
        {"id": str(n), "url": f"http://h{n % 24 + 1}.site.test/slow?s=0.01&n={n}", "caption": f"number {n}"}
        for n in range(ROWS)
    ]
    rows += [
        {"id": f"s{n}", "url": f"http://late.site.test/slow?s=1&n=s{n}", "caption": f"slow {n}"} for n in range(SLOW)
    ]
    source = {"format": "table", "files": [write_rows(tmp_path / "rows.jsonl", rows)], "options": TABLE}
    experiment = write_ingest(
        tmp_path, {"rows": source}, site.hosts, ingest={"pairs_per_shard": 10, "per_host": {"at_once": 1}}
    )
    assert cuvee("ingest", str(experiment)).returncode == 0
    local = Ledger(Store(str(tmp_path / "store")))
    site.asked.clear()
    (events := tmp_path / "events").mkdir()
    conf = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri(), "spark.eventLog.compress": "false"}
    told = ["ingest", str(experiment), "--set", f"store={tmp_path}/cluster"]
    process = submitting("local-cluster[2,2,1024]", zipped(tmp_path / "dist"), *told, **conf)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    images = {asked: count for asked, count in site.asked.items() if asked.startswith("/slow")}
    assert (len(images), set(images.values())) == (ROWS + SLOW, {1})
    kept = b"".join(path.read_bytes() for path in events.rglob("*") if path.is_file())
    assert b'"Speculative":true' in kept, "no second attempt was made: nothing was tried"
    remote = Ledger(Store(str(tmp_path / "cluster")))
    for table in ("pairs", "fetches", "samples"):
        assert rows_of(remote, table, set()) == rows_of(local, table, set()), table
    assert {job.job for job in remote.jobs()} == {job.job for job in local.jobs()}
