"""Compaction: small files become few, every question has the same answer, older versions stay for as long as asked."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from jobs.cli.main import main
from jobs.score.stage import shard_rows
from pipeline.errors import StageFailed
from pipeline.ledger import compaction
from pipeline.ledger.compaction import compact, finish_compactions, plan_compaction, remove_replaced, with_joined_files
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.job_graph import current_jobs, jobs_as_of
from pipeline.ledger.journal import check_none_unfinished, unfinished_compactions
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import Ledger
from pipeline.provenance.funnel import source_funnels
from pipeline.provenance.trace import trace
from pipeline.provenance.verify import verify
from pipeline.storage.store import Store
from pipeline.takedown.request import parse_request
from pipeline.takedown.takedown import CodeVersion, plan_takedown, take_down
from tests.end_to_end.test_killed_takedown import Killed, Mortal, MortalLedger
from tests.pipeline.ledger.test_tables import job_row
from tests.support.s3 import BUCKET, bucket
from tests.support.takedown_store import Builder, Made, content, road, rows

MADE = rows()


NAMED = next(one for one in MADE if one.name == "named")


def built(root: str | Path, made: Sequence[Made] = MADE) -> Ledger:
    """Write a store of small files: two pairs in a shard, two lanes for each source."""
    builder = Builder(root, made, per_shard=2, lanes=2)
    return road(builder, [job for source in ("alpha", "beta") for job in builder.ingest(source)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compaction") / "store"
    built(root)
    return root


@pytest.fixture
def ledger(whole: Path, tmp_path: Path) -> Ledger:
    """A store of its own."""
    shutil.copytree(whole, tmp_path / "store")
    return Ledger(Store(str(tmp_path / "store")))


def compacted(ledger: Ledger) -> Ledger:
    """Compact; return the ledger, opened anew."""
    finish_compactions(ledger)
    compact(ledger, plan_compaction(ledger))
    return Ledger(ledger.store)


def lives(ledger: Ledger) -> list[Any]:
    """Return what `cuvee trace` says of some pairs, by uid, URL and hash."""
    some = MADE[9:11] + [one for one in MADE if one.source not in one.name]
    hashes = sorted(set(ledger.read("samples", ["raw_sha256"])["raw_sha256"].to_pylist()))
    keys = [*(one.uid for one in some), NAMED.url, MADE[3].url, *hashes[:3]]
    # which of two tars of one pair is named first follows from the names of files
    return [sorted(json.dumps(_sorted(life), sort_keys=True) for life in trace(ledger, key)) for key in keys]


def _sorted(life: dict[str, Any]) -> dict[str, Any]:
    return {
        key: sorted(value, key=lambda one: json.dumps(one, sort_keys=True)) if isinstance(value, list) else value
        for key, value in life.items()
    }


def answers(ledger: Ledger) -> dict[str, Any]:
    """Return what is asked of a store: its rows but for file names in `jobs`, funnels of then and now, lives."""
    held = {key: value for key, value in content(ledger.store).items() if ": files" not in key and key != "jobs"}
    held = {key: value for key, value in held.items() if not key.startswith("compactions/")}
    jobs = ledger.jobs()
    funnels = [
        [one.plain() for one in source_funnels(ledger, current_jobs(jobs_as_of(jobs, job.job)))]
        for job in jobs
        if job.stage != "ingest"
    ]
    takedown = plan_takedown(ledger, parse_request(NAMED.uid, "list"), "asked", 31)[0].answer
    return {"held": held, "funnels": funnels, "lives": lives(ledger), "takedown": _sorted(takedown)}


def counts(ledger: Ledger) -> Counter[tuple[str, str]]:
    """Return how many files each job has in each table."""
    return Counter((table, one.job) for table in ledger.tables() for one in ledger.files(table))


def test_files_are_few_every_answer_is_the_same_and_a_second_time_does_nothing(ledger: Ledger) -> None:
    before, many = answers(ledger), counts(ledger)
    assert max(many.values()) > 10
    after = compacted(ledger)
    few = counts(after)
    assert few.keys() == many.keys()
    assert {table for (table, _), count in few.items() if count > 1} == {"pairs"}  # one for each lane
    assert max(few.values()) == 2
    assert answers(after) == before
    assert verify(after, False, lambda done, of: None) == []
    assert plan_compaction(after) == []


def test_a_joined_file_is_as_a_task_writes_it(ledger: Ledger) -> None:
    after = compacted(ledger)
    for table in ("pairs", "samples", "fetches", "signals_pdq_v1"):
        files = after.files(table)
        assert files, table
        for one in files:
            with after.store.parquet(one.path) as file:
                rows = file.read(use_threads=False)
                codec = {
                    file.metadata.row_group(0).column(at).path_in_schema: file.metadata.row_group(0).column(at)
                    for at in range(file.metadata.num_columns)
                }
            uids = rows["uid"].to_pylist()
            assert uids == sorted(uids)
            assert (one.first, one.last, one.rows) == (uids[0], uids[-1], len(uids))
            assert "job" not in rows.column_names
            if table == "samples":
                assert codec["jpg_sha256"].compression == "UNCOMPRESSED"
                assert codec["uid"].compression == "ZSTD"


def test_a_shards_rows_are_found_in_a_file_of_many_shards(ledger: Ledger) -> None:
    def by_shard(one: Ledger) -> dict[str, list[Any]]:
        paths = [path for _, path in one.snapshot("samples")]
        shards = sorted(set(one.read("samples", ["shard"])["shard"].to_pylist()))
        return {shard: sorted(map(repr, shard_rows(one.store, shard, paths))) for shard in shards}

    assert by_shard(ledger) == by_shard(compacted(ledger))


def test_an_ingest_names_each_file_of_pairs_once_in_its_lane_and_all_its_rows(ledger: Ledger) -> None:
    before = {job.job: job.facts["shards"] for job in ledger.jobs() if "shards" in job.facts}
    after = compacted(ledger)
    assert before
    for job, old in before.items():
        row = after.finished(job)
        assert row is not None
        new = row.facts["shards"]
        assert [{**one, "rows": 0, "published": 0} for one in new] == [
            {**one, "rows": 0, "published": 0} for one in old
        ]
        assert sum(one["published"] for one in new) == sum(one["published"] for one in old)
        named = [path for one in new for path in one["rows"]]
        if row.config.get("retry"):
            assert named == list(dict.fromkeys(named))
            continue
        assert sorted(named) == sorted(path for _, path in after.snapshot("pairs", [job]))
        for one in new:  # what a retry of the lane reads holds the pairs of the lane's shards alone
            stored = {sample["uid"] for sample in after.read("samples").to_pylist() if sample["shard"] == one["shard"]}
            lane = [path for other in new if other["lane"] == one["lane"] for path in other["rows"]]
            held = {uid for path in lane for uid in pq.read_table(after.store.path(path))["uid"].to_pylist()}
            assert stored <= held


def test_published_rows_are_counted_with_the_file_that_holds_them() -> None:
    shards = [{"rows": [f"p{n}"], "published": n + 1, "lane": 0} for n in range(4)]
    row = job_row("a")
    row = type(row)(**{**row.__dict__, "stage": "ingest", "facts": {"shards": shards}, "config": {}})
    told = with_joined_files(row, {"p0": "new", "p2": "new", "p3": "new"}).facts["shards"]
    assert [(one["rows"], one["published"]) for one in told] == [(["new"], 8), (["p1"], 2), ([], 0), ([], 0)]
    retry = type(row)(
        **{
            **row.__dict__,
            "config": {"retry": {"of": "b"}},
            "facts": {"shards": [{"rows": ["p0", "p1", "p2"], "published": 5}]},
        }
    )
    told = with_joined_files(retry, {"p0": "new", "p2": "new"}).facts["shards"]
    assert told == [{"rows": ["new", "p1"], "published": 5}]


def test_a_takedown_after_it_takes_the_same_and_leaves_no_older_version(ledger: Ledger, tmp_path: Path) -> None:
    shutil.copytree(ledger.store.root, tmp_path / "plain")
    held = []
    for one in (Ledger(Store(str(tmp_path / "plain"))), compacted(ledger)):
        intent, places = plan_takedown(one, parse_request(NAMED.uid, "list"), "asked", 31)
        take_down(one, intent, CodeVersion("code", {}), places)
        after = Ledger(one.store)
        assert verify(after, False, lambda done, of: None) == []
        held.append({key: value for key, value in content(one.store).items() if ": files" not in key})
        jobs = {job.job: job for job in after.jobs()}
        taken = next(job for job in jobs.values() if job.stage == "takedown")
        held[-1] |= {"jobs": [], "taken": taken.facts["removed"], "rows": {job: row.rows for job, row in jobs.items()}}
        held[-1]["gone"] = [row.facts.get("taken_down") for row in after.jobs()]
        held[-1]["published"] = [sum(s["published"] for s in row.facts.get("shards", ())) for row in after.jobs()]
        kept = {path for table in after.tables() for _, path in after.snapshot(table)}
        data = {path for path in one.store.files("tables") if "_delta_log" not in path}
        assert data == kept  # older versions held the pair
        compact(after, plan_compaction(after))
        remove_replaced(after, 0, dry_run=False)  # files that are gone already are no fault
        assert verify(Ledger(one.store), False, lambda done, of: None) == []
    assert held[0] == held[1]


def test_older_versions_are_read_until_their_days_are_over(ledger: Ledger) -> None:
    tables = [plan.table for plan in plan_compaction(ledger)]
    before = {table: (ledger.version(table), sorted(map(repr, ledger.read(table).to_pylist()))) for table in tables}
    after = compacted(ledger)
    assert remove_replaced(after, 7, dry_run=False) == {}
    for table, (version, rows_) in before.items():
        old = DeltaTable(after.store.uri(f"tables/{table}"), version=version)
        assert len(old.file_uris()) > len(after.files(table))
        names = ledger.read(table).column_names
        assert sorted(map(repr, old.to_pyarrow_table().select(names).to_pylist())) == rows_
        assert rows_
        assert any("compacted" in str(one.get("cuvee")) for one in old_history(after, table))
    assert verify(after, True, lambda done, of: None) == []  # they are no leftovers, and are not pruned
    would = remove_replaced(after, 0, dry_run=True)
    assert set(would) == set(tables)
    assert remove_replaced(after, 0, dry_run=False) == would
    for table in tables:
        files = [path for path in after.store.files(f"tables/{table}") if "_delta_log" not in path]
        assert files == sorted(one.path for one in after.files(table))
    assert remove_replaced(after, 0, dry_run=False) == {}


def old_history(ledger: Ledger, table: str) -> list[dict[str, Any]]:
    delta = ledger.open(table)
    assert delta is not None
    return delta.history()


def test_delta_keeps_its_log_for_as_long_as_is_asked(ledger: Ledger) -> None:
    def said(table: str) -> dict[str, str]:
        delta = ledger.open(table)
        assert delta is not None
        found: dict[str, str] = delta.metadata().configuration
        return found

    version = ledger.version("pairs")
    remove_replaced(ledger, 7, dry_run=False)
    assert ledger.version("pairs") == version  # Delta's own default, so nothing is written
    remove_replaced(ledger, 90, dry_run=False)
    remove_replaced(ledger, 14, dry_run=False)  # never less
    assert said("pairs")["delta.deletedFileRetentionDuration"] == "interval 90 days"
    assert said("pairs")["delta.logRetentionDuration"] == "interval 90 days"
    assert ledger.version("pairs") == version + 1


def test_what_a_job_that_is_not_finished_wrote_stays(ledger: Ledger) -> None:
    schema = TABLES["exports"]
    rows_ = pa.Table.from_pylist([dict.fromkeys(schema.names)], schema)
    loose = write_rows(ledger.store, "c", "exports", rows_)  # written, and not committed
    ledger.commit("d", "exports", schema, [write_rows(ledger.store, "d", "exports", rows_) for _ in range(3)])
    after = compacted(ledger)
    remove_replaced(after, 0, dry_run=False)
    assert after.store.exists(f"tables/exports/{loose.path}")
    assert len(after.snapshot("exports", ["d"])) == 3


def test_files_are_joined_by_neighbours_up_to_the_size(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MAX_FILE_ROWS", 6)
    before = ledger.files("samples")
    after = compacted(ledger)
    now = after.files("samples")
    assert len(before) > len(now) > len({one.job for one in now})
    assert all(one.rows <= 6 for one in now)
    for job in {one.job for one in now}:
        mine = [one for one in before if one.job == job and one.rows]
        spans = sorted((one.first, one.last) for one in now if one.job == job and one.rows)
        assert (spans[0][0], max(last for _, last in spans)) == (
            min(one.first for one in mine),
            max(one.last for one in mine),
        )
    assert plan_compaction(after) == []


SOME, ALL = (1, 16, 17), range(1, 30)


@pytest.mark.parametrize(
    "step", [*SOME, *(pytest.param(step, marks=pytest.mark.slow) for step in ALL if step not in SOME)]
)
def test_killed_at_any_write_it_is_finished_by_the_next(whole: Path, tmp_path: Path, step: int) -> None:
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    before = answers(Ledger(Store(str(root)))) if step in (16, 25) else None
    mortal = MortalLedger(Mortal(str(root), [step]))
    try:
        compacted(mortal)
    except Killed:
        pass
    else:
        assert step > 15, "it has no such write"
    killed = Ledger(Store(str(root)))
    half = bool(unfinished_compactions(killed.store))
    for path in root.rglob("*.draft"):
        path.unlink()
    if before is not None:
        assert answers(killed) == before  # whoever asks meanwhile
    if half:
        with pytest.raises(StageFailed, match="a compaction is unfinished; finish with: cuvee compact"):
            check_none_unfinished(killed.store)
        assert [one.what for one in verify(killed, True, lambda done, of: None)] == [
            f"{root}: a compaction is unfinished; finish with: cuvee compact {root}"
        ]
        (tmp_path / "list").write_text(NAMED.uid)
        assert main(["takedown", str(root), "--list", str(tmp_path / "list"), "--reason", "asked"]) == 1
    after = compacted(killed)
    check_none_unfinished(after.store)
    assert [one for one in verify(after, True, lambda done, of: None) if not one.leftover] == []
    assert plan_compaction(after) == []
    if before is not None:
        assert answers(after) == before


def test_a_bucket_is_compacted_as_a_folder_is(tmp_path: Path) -> None:
    with bucket(tmp_path) as s3:
        root = f"s3://{BUCKET}/compaction/store"
        Builder(root, [*MADE[:6], NAMED], per_shard=2, lanes=2).ingest("alpha")
        ledger = Ledger(Store(root))
        before, many = content(ledger.store), len(s3.keys("compaction/store/tables/samples/job"))
        assert main(["compact", root, "--keep-days", "0"]) == 0
        after = Ledger(Store(root))
        now = content(after.store)
        changed = {key for key in before if before[key] != now[key]}
        assert all(key == "jobs" or ": files" in key for key in changed)
        assert verify(after, False, lambda done, of: None) == []
        assert len(s3.keys("compaction/store/tables/samples/job")) == len(after.files("samples")) < many
        assert [life["uid"] for life in trace(after, NAMED.uid)] == [NAMED.uid]
        for key in s3.keys("compaction/"):  # the server's buckets outlive it, for whoever asks for all keys
            s3.client.delete_object(Bucket=BUCKET, Key=key)


def test_the_command_tells_and_refuses(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    root = ledger.store.root
    before = content(ledger.store)
    assert main(["compact", root, "--dry-run", "--json"]) == 0
    would = json.loads(capsys.readouterr().out)
    assert content(ledger.store) == before
    assert main(["compact", root, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["tables"] == would["tables"]
    assert {one["table"]: one["files_after"] for one in done["tables"]} == {
        table: len(Ledger(ledger.store).files(table)) for table in (one["table"] for one in done["tables"])
    }
    assert main(["compact", root]) == 0
    assert capsys.readouterr().out == "nothing to do: no table has small files to join or old ones to remove\n"
    for value in ("-1", "a", "1.5", "99999", "²"):
        assert main(["compact", root, f"--keep-days={value}"]) == 2
        assert f"--keep-days: found {value!r}, expected a number of days" in capsys.readouterr().err
    assert main(["compact", root + "/nowhere"]) == 2
    assert "no store" in capsys.readouterr().err
    intent, _ = plan_takedown(Ledger(ledger.store), parse_request(NAMED.uid, "list"), "asked", 31)
    intent.write(ledger.store)
    assert main(["compact", root]) == 1
    assert f"a takedown is unfinished; finish with: cuvee takedown {root}" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_committed(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = ledger.versions()
    path = ledger.files("samples")[0].path
    Path(ledger.store.path(path)).write_bytes(b"PAR1 and no more")
    assert main(["compact", ledger.store.root]) == 1
    said = capsys.readouterr().err
    assert path in said
    assert len(said.splitlines()) == 1
    assert Ledger(ledger.store).version("samples") == versions["samples"]
