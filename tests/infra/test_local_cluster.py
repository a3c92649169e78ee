"""Spark's mode local-cluster, executors in processes of their own: no host is asked twice, and no row is another."""

from pathlib import Path

import pytest

from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.support.clusters import rows_of, submitting, zipped
from tests.support.hostile_web import HostileWeb
from tests.support.ingest_experiments import TABLE, write_ingest, write_rows
from tests.support.road_experiment import cuvee

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


ROWS, SLOW = 120, 12


def test_executors_of_their_own_ask_no_host_twice_and_change_no_row(site: HostileWeb, tmp_path: Path) -> None:
    """Speculation is on, but Spark starts no second attempt on the first one's host:
    tests/pipeline/storage/test_task_lease.py has those.
    """
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
    told = ["ingest", str(experiment), "--set", f"store={tmp_path}/cluster"]
    process = submitting("local-cluster[2,2,1024]", zipped(tmp_path / "dist"), *told)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    images = {asked: count for asked, count in site.asked.items() if asked.startswith("/slow")}
    assert (len(images), set(images.values())) == (ROWS + SLOW, {1})
    remote = Ledger(Store(str(tmp_path / "cluster")))
    for table in ("pairs", "fetches", "samples"):
        assert rows_of(remote, table, set()) == rows_of(local, table, set()), table
    assert {job.job for job in remote.jobs()} == {job.job for job in local.jobs()}
