"""Takedown: what goes is gone from every byte of the store, the rest is as it was, and the ledger still adds up."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.main import main
from pipeline.errors import InputError
from pipeline.images.normalize import StoredImage
from pipeline.ingest.tombstones import read_tombstones
from pipeline.ledger.data_files import write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import Ledger
from pipeline.operations.openlineage import event_path
from pipeline.provenance.funnel import inconsistencies, source_funnels
from pipeline.provenance.verify import verify
from pipeline.shards.tar_format import read_pairs
from pipeline.storage.store import Store
from pipeline.takedown.impact import find_impact, training_exposures
from pipeline.takedown.request import parse_request
from pipeline.takedown.takedown import CodeVersion, plan_takedown, take_down
from pipeline.takedown.update_mixture_facts import _equals_text, lost_pairs_of
from tests.support.takedown_store import Made, about, build, content, everything, job_id, kept, picture, rows

CODE = CodeVersion("code", {})


COPIES = {"named", "same_url", "same_url_failed", "alike", "same_stored", "same_fetched_as_alike", "late"}


BY_NAME = {one.name: one for one in rows()}


NAMES = {one.uid: one.name for one in rows()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store from which nothing was taken; not to be changed."""
    root = tmp_path_factory.mktemp("takedown") / "store"
    build(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def taken(root: str | Path, lines: str, reason: str = "asked by its author", distance: int = 31) -> dict[str, Any]:
    """Take down what a list names; return the answer."""
    ledger = Ledger(Store(str(root)))
    intent, places = plan_takedown(ledger, parse_request(lines, "list", distance), reason, distance)
    if intent.uids or intent.tombstones:
        take_down(ledger, intent, CODE, places)
    return intent.answer


def found(root: Path, lines: str, distance: int = 31) -> dict[str, str]:
    """Return the names of the pairs that a list would take, and how each was found."""
    intent, _ = plan_takedown(Ledger(Store(str(root))), parse_request(lines, "list", distance), "why", distance)
    return {NAMES[uid]: why["how"] for uid, why in intent.answer["pairs"].items()}


def differences(root: str | Path) -> list[str]:
    return [one.what for one in verify(Ledger(Store(str(root))), False, lambda done, total: None)]


def tars(root: Path) -> dict[str, bytes]:
    """Return each pair's members in each shard and export tar, by uid and folder."""
    held = {}
    for path in root.rglob("*.tar"):
        data = path.read_bytes()
        with path.open("rb") as stream:
            for pair in read_pairs(stream):
                where = f"{path.parent.relative_to(root)}/{path.name[:8]}"
                held[f"{where} {pair.uid}"] = data[pair.offset : pair.offset + pair.size]
    return held


def test_the_store_by_hand_is_one_that_verify_accepts(whole: Path) -> None:
    assert differences(whole) == []
    assert {one.source: one.published for one in source_funnels(Ledger(Store(str(whole))))} == {"alpha": 17, "beta": 16}


def test_a_named_pair_goes_with_all_its_copies_and_no_byte_of_them_stays(root: Path) -> None:
    answer = taken(root, BY_NAME["named"].uid)
    assert {NAMES[uid] for uid in answer["pairs"]} == COPIES
    held = everything(root)
    for one in (BY_NAME[name] for name in COPIES):
        assert one.caption.encode() not in held
        assert f"see {one.name}".encode() not in held
        assert not one.jpg or one.jpg not in held
    for needle in (BY_NAME["named"].url, "named.test", "mirror.test", "other.test", "far.test"):
        assert needle.encode() not in held, needle
    assert BY_NAME["alpha0"].caption.encode() in held


def test_a_search_opens_its_tables_as_often_whatever_their_files(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, before = Counter[Path](), Ledger.open

    def counted(ledger: Ledger, *given: Any) -> Any:
        opened[Path(ledger.store.root)] += 1
        return before(ledger, *given)

    more = tmp_path / "more"
    files = [len(ledger.files("pairs")) for ledger in (Ledger(Store(str(whole))), build(more, per_shard=1))]
    assert files[1] > 3 * files[0]
    monkeypatch.setattr(Ledger, "open", counted)
    for root in (whole, more):
        found(root, "\n".join(one.uid for one in BY_NAME.values()))
    assert opened[more] == opened[whole] > 0


def test_all_else_is_as_it_was_to_the_byte(root: Path, whole: Path) -> None:
    taken(root, BY_NAME["named"].uid)
    gone = {BY_NAME[name].uid for name in COPIES}
    before = {key: data for key, data in tars(whole).items() if key.split()[1] not in gone}
    assert tars(root) == before
    assert any(key.startswith("exports/") for key in before)


def test_the_ledger_adds_up_and_verify_finds_nothing(root: Path) -> None:
    taken(root, BY_NAME["named"].uid)
    assert differences(root) == []
    funnels = source_funnels(Ledger(Store(str(root))))
    assert inconsistencies(funnels) == []
    plain = {one.source: one.plain() for one in funnels}
    assert {source: one["published"] for source, one in plain.items()} == {"alpha": 17, "beta": 16}
    dropped = {source: one["stages"][0]["dropped"] for source, one in plain.items()}
    assert dropped == {"alpha": {"taken_down": 4}, "beta": {"taken_down": 3, "malformed": 1}}


def test_the_rows_in_jobs_count_what_is_there(root: Path) -> None:
    taken(root, BY_NAME["named"].uid)
    ledger = Ledger(Store(str(root)))
    for job in ledger.jobs():
        for table, count in job.rows.items():
            assert ledger.read(table, jobs=[job.job]).num_rows == count, (job.stage, table)
        for shard in job.facts.get("shards", []):
            assert all(ledger.store.exists(path) for path in shard["rows"])
            with ledger.store.open(shard["shard"]) as stream:
                assert sum(1 for _ in read_pairs(stream)) == shard["pairs"]
    blend = ledger.finished(job_id("blend/everything"))
    assert blend is not None
    drawn = ledger.read("mixtures").to_pylist()
    by_source = Counter[str]()
    for row in drawn:
        by_source[row["source"]] += row["times"]
    assert blend.facts["by_source"] == by_source
    keeps = {row["uid"] for row in ledger.read("decisions").to_pylist() if row["keep"]}
    right = [row for row in ledger.read("samples").to_pylist() if row["uid"] in keeps and row["verdict"] != "mismatch"]
    assert blend.facts["available"] == Counter(row["source"] for row in right)
    assert len(right) > len(drawn)
    assert blend.facts["quarantined"] == {"beta": 0}
    assert blend.facts["parts"] == {
        name: {"available": blend.facts["available"][name], "pairs": by_source[name]} for name in ("alpha", "beta")
    }


def test_offsets_lead_to_the_pairs(root: Path) -> None:
    taken(root, BY_NAME["named"].uid)
    store = Store(str(root))
    ledger = Ledger(store)
    samples = ledger.read("samples").to_pylist()
    members = [
        row | {"shard": f"exports/everything/{job_id('export/everything')[:16]}/{row['tar']}"}
        for row in ledger.read("export_members").to_pylist()
    ]
    assert len(samples) == 31 - 6
    for row in samples + members:
        data = store.read(row["shard"])[row["offset"] : row["offset"] + row["size"]]
        assert data[:36] == f"{row['uid']}.jpg".encode()
        assert BY_NAME[NAMES[row["uid"]]].jpg in data


def test_the_exports_papers_agree_with_its_tars(root: Path) -> None:
    before = json.loads(next(root.rglob("manifest.json")).read_bytes())
    taken(root, BY_NAME["named"].uid)
    path = next(root.rglob("manifest.json"))
    manifest, sizes = json.loads(path.read_bytes()), json.loads(path.with_name("sizes.json").read_bytes())
    ledger = Ledger(Store(str(root)))
    told = {row["tar"]: row for row in ledger.read("exports").to_pylist()}
    assert manifest["tars"].keys() == sizes.keys() == told.keys() == {one.name for one in path.parent.glob("*.tar")}
    for name, row in told.items():
        assert manifest["tars"][name] == {key: row[key] for key in ("pairs", "bytes", "sha256")}
        assert sizes[name] == row["pairs"]
    assert manifest["pairs"] == sum(sizes.values()) < before["pairs"]
    job = ledger.finished(job_id("export/everything"))
    assert job is not None
    assert job.facts["digest"] == manifest["digest"] != before["digest"]
    assert job.facts["about"] == about(ledger, job.job, job_id("blend/everything"))
    croissant = path.with_name("croissant.json").read_text("utf-8")
    assert all(row["sha256"] in croissant for row in told.values())


def test_a_tar_of_which_nothing_is_left_goes(root: Path) -> None:
    members = Ledger(Store(str(root))).read("export_members").to_pylist()
    first = [row["uid"] for row in members if row["tar"] == "00000000.tar"]
    taken(root, "\n".join(first))
    folder = next(root.rglob("manifest.json")).parent
    assert not (folder / "00000000.tar").exists()
    assert "00000000.tar" not in json.loads((folder / "manifest.json").read_bytes())["tars"]
    assert differences(root) == []


def test_a_shard_of_which_nothing_is_left_is_an_empty_tar(root: Path) -> None:
    shard = Ledger(Store(str(root))).read("samples", ["uid", "shard"]).to_pylist()[0]["shard"]
    with (root / shard).open("rb") as stream:
        uids = [pair.uid for pair in read_pairs(stream)]
    taken(root, "\n".join(uids))
    assert not (root / shard).exists()
    [path] = (root / shard).parent.glob(f"{Path(shard).name[:8]}-*.tar")
    assert path.read_bytes() == bytes(1024)
    assert differences(root) == []


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("{named}", COPIES),
        ("http://NAMED.test/pictures/1.jpg", COPIES | {"same_url"}),
        ("domain:site.test", {"on_the_site", "of_the_site"}),
        ("domain:cdn.site.test", {"on_the_site"}),
        ("{raw}", COPIES),
        ("{jpg}", COPIES),
        ("{flat}", {"flat"}),
    ],
)
def test_what_a_line_takes(whole: Path, lines: str, names: set[str]) -> None:
    ledger = Ledger(Store(str(whole)))
    sample = {NAMES[row["uid"]]: row for row in ledger.read("samples").to_pylist()}
    named = {"named": BY_NAME["named"].uid, "flat": BY_NAME["flat"].uid}
    hashes = {"raw": sample["named"]["raw_sha256"], "jpg": sample["named"]["jpg_sha256"]}
    assert set(found(whole, lines.format(**named, **hashes))) == names


def test_each_copy_is_found_in_its_own_way(whole: Path) -> None:
    assert found(whole, BY_NAME["named"].uid) == {
        "named": "named",
        "same_url": "same_url",
        "same_url_failed": "same_url",
        "alike": "looks_alike",
        "same_stored": "looks_alike",
        "late": "looks_alike",
        "same_fetched_as_alike": "same_bytes",
    }


def test_a_listed_fingerprint_reaches_as_far_as_it_says(whole: Path) -> None:
    signals = Ledger(Store(str(whole))).read("signals_pdq_v1").to_pylist()
    mine = next(row["pdq"].hex() for row in signals if NAMES[row["uid"]] == "named")
    same = {"named", "same_stored", "late"}
    assert set(found(whole, f"pdq:{mine}/0")) == same
    assert set(found(whole, f"pdq:{mine}")) == same | {"alike", "same_fetched_as_alike"}
    assert set(found(whole, f"pdq:{mine}", distance=0)) == same


def test_flat_pictures_are_alike_to_nothing(whole: Path) -> None:
    assert found(whole, f"pdq:{'0' * 64}/64") == {}


def test_the_answer_says_which_line_found_what(whole: Path) -> None:
    text = f"# a comment\n{BY_NAME['alpha3'].uid}\n\nhttp://nowhere.test/\n  domain:site.test  "
    intent, _ = plan_takedown(Ledger(Store(str(whole))), parse_request(text, "list"), "why", 31)
    assert intent.answer["lines"] == {"2": 1, "4": 0, "5": 2}


def test_without_fingerprints_the_answer_says_that_none_were_compared(tmp_path: Path) -> None:
    build(tmp_path / "store", trained=False)
    answer = taken(tmp_path / "store", BY_NAME["named"].uid)
    assert {NAMES[uid] for uid in answer["pairs"]} == {*("named", "same_url", "same_url_failed", "same_stored", "late")}
    assert "no signal table has a column pdq" in answer["notes"][0]


def test_trainings_are_named_with_how_often_they_saw_a_pair(root: Path) -> None:
    members = Counter(Ledger(Store(str(root))).read("export_members")["uid"].to_pylist())
    [twice, *_] = [uid for uid, count in members.items() if count == 2]
    [one] = taken(root, twice)["trainings"]
    assert (one["training"], one["checkpoint"]) == ("0123456789abcdef", "trainings/0123456789abcdef/model")
    assert one["times"] == {twice: round(2 * 640 / members.total(), 3)}
    assert one["about"]
    assert (root / one["checkpoint"] / "open_clip_model.safetensors").exists()
    other = next(uid for uid in members if uid != twice and members[uid] == 1)
    [later] = taken(root, other)["trainings"]  # the export is smaller now, but was not when the training read it
    assert later["times"] == {other: round(640 / members.total(), 3)}
    seen = {row["value"]: row["seen"] for row in Ledger(Store(str(root))).read("tombstones").to_pylist()}
    assert json.loads(seen[twice]) == {"0123456789abcdef": one["times"][twice]}


def test_where_pairs_are_repeated_by_weights_a_tar_is_seen_by_its_factor(whole: Path) -> None:
    ledger = Ledger(Store(str(whole)))
    export = ledger.finished(job_id("export/everything"))
    assert export is not None
    sizes = {row["tar"]: row["pairs"] for row in ledger.read("exports").to_pylist()}
    factors = {tar: 1.0 + number for number, tar in enumerate(sorted(sizes))}
    export.facts["about"]["factors"] = factors
    member = ledger.read("export_members").to_pylist()[-1]
    [one] = training_exposures(ledger, find_impact(ledger, {member["uid"]}))
    held = [row["tar"] for row in ledger.read("export_members").to_pylist() if row["uid"] == member["uid"]]
    weight = sum(factors[tar] * count for tar, count in sizes.items())
    assert one.times == {member["uid"]: round(sum(factors[tar] * 640 / weight for tar in held), 3)}
    assert one.about


def test_a_pair_that_goes_is_counted_in_the_part_that_would_have_taken_it(whole: Path) -> None:
    ledger = Ledger(Store(str(whole)))
    blend = ledger.finished(job_id("blend/everything"))
    assert blend is not None
    names = ["alpha1", "alpha2", "alpha3", "beta4", "beta5", "flat", "alike"]
    parts = [
        {"name": "said", "by": "caption_v1.normalised", "values": [BY_NAME["alpha1"].caption]},
        {"name": "flat", "by": "pdq_v1.quality", "below": 50},
        {"name": "kept", "filter": "tall", "sources": ["alpha"]},
        {"name": "rest", "dropped_by": "tall"},
    ]
    signals = [job_id("score/caption_v1"), job_id("score/pdq_v1")]
    row = replace(blend, config={"of": ["alpha", "beta"], "parts": parts}, inputs=[*blend.inputs, *signals])
    lost = lost_pairs_of(ledger, row, find_impact(ledger, {BY_NAME[name].uid for name in names}))
    expected = [("alpha", "said"), ("alpha", "flat")]
    for name in ("alpha2", "alpha3", "beta4", "beta5", "alike"):
        source, stays = BY_NAME[name].source, kept({"uid": BY_NAME[name].uid})
        if not stays or source == "alpha":
            expected.append((source, "kept" if stays else "rest"))
    assert Counter(lost.available + lost.quarantined) == Counter(expected)
    assert len(lost.quarantined) == (
        not kept({"uid": BY_NAME["alike"].uid})
    )  # it is of beta, and no part takes it else


@pytest.mark.parametrize(
    ("value", "text", "same"),
    [
        (True, "true", True),
        (False, "true", False),
        (2, "2", True),
        (2.5, "2.5", True),
        ("2", "2", True),
        ("a", "b", False),
    ],
)
def test_values_are_compared_as_spark_compares_them(value: object, text: str, same: bool) -> None:
    assert _equals_text(value, text) is same


def test_a_report_that_shows_a_pair_goes_with_its_row_and_can_be_made_again(root: Path) -> None:
    taken(root, BY_NAME["named"].uid)
    ledger = Ledger(Store(str(root)))
    assert [job.name for job in ledger.jobs() if job.stage == "report"] == ["hides"]
    assert sorted(path.name for path in (root / "reports").rglob("*") if path.is_dir()) == ["hides", "shows"]
    assert not (root / "reports/shows/index.html").exists()
    old = next(job for job in Ledger(Store(str(root))).jobs() if job.name == "hides")
    ledger.finish([old.__class__(**{**old.__dict__, "job": job_id("report/shows"), "name": "shows"})])
    assert Ledger(Store(str(root))).finished(job_id("report/shows")) is not None


def test_tombstones_hold_hashes_and_neither_urls_nor_hosts(root: Path) -> None:
    taken(root, f"{BY_NAME['named'].uid}\ndomain:site.test\nhttp://elsewhere.test/not/here.jpg")
    stones = read_tombstones(Ledger(Store(str(root))))
    assert stones.names("0" * 32, "HTTP://elsewhere.test:80/not/here.jpg#x")
    assert stones.names("0" * 32, BY_NAME["named"].url)
    assert stones.names(BY_NAME["alike"].uid, "")
    assert stones.names("0" * 32, "https://deep.img.site.test/")
    assert not stones.names("0" * 32, BY_NAME["alike"].url)
    assert stones.refuses_bytes(BY_NAME["alike"].jpg)
    assert stones.is_near_removed(StoredImage(picture(1000, quality=60), 1, 1, 1, 1))
    assert not stones.is_near_removed(StoredImage(picture(1), 1, 1, 1, 1))
    held = everything(root)
    for needle in (b"elsewhere.test", b"site.test/", b"named.test"):
        assert needle not in held.replace(b"site.test.example", b""), needle


def test_a_second_takedown_of_the_same_has_nothing_to_do(root: Path) -> None:
    taken(root, BY_NAME["named"].uid)
    before = content(Store(str(root)))
    answer = taken(root, BY_NAME["named"].uid)
    assert (answer["pairs"], sum(answer["tombstones"].values())) == ({}, 0)
    assert content(Store(str(root))) == before


def test_the_takedown_is_a_job_of_its_own(root: Path) -> None:
    taken(root, BY_NAME["named"].uid)
    ledger = Ledger(Store(str(root)))
    [job] = [job for job in ledger.jobs() if job.stage == "takedown"]
    assert job.facts["removed"]["samples"] == 6
    assert job.facts["found"] == {"named": 1, "same_url": 2, "looks_alike": 3, "same_bytes": 1}
    assert job.rows == {"tombstones": ledger.read("tombstones").num_rows}
    for one in job.facts["rewritten"]:
        assert not (root / one["from"]).exists()
        assert (root / one["to"]).stat().st_size == one["bytes"]
    events = [json.loads(line) for line in (root / event_path(job.job)).read_text().splitlines()]
    assert {one["job"]["name"] for one in events} == {"takedown.takedown/1"}


def test_what_a_killed_ingest_left_behind_goes_too(root: Path) -> None:
    store = Store(str(root))
    ledger = Ledger(store)
    one = BY_NAME["alpha1"]
    store.write("shards/alpha/ffffffffffffffff/00000000-aaaaaaaaaaaa.tar", one.jpg)
    store.write("staging/abc/fetch-00000000.json", b"{}")
    store.write("reports/other/index.html", one.jpg)
    (root / "exports/x.tar.123.draft").write_bytes(one.jpg)
    begun = build(root.parent / "begun", [one], trained=False).read("pairs").drop(["job"])
    assert ledger.commit("unfinished", "pairs", TABLES["pairs"], [write_rows(store, "unfinished", "pairs", begun)])
    taken(root, one.uid)
    assert one.caption.encode() not in everything(root)
    assert one.jpg not in everything(root)
    assert differences(root) == []
    again = [write_rows(store, "unfinished", "pairs", begun.slice(0, 0))]
    assert Ledger(store).commit("unfinished", "pairs", TABLES["pairs"], again)  # it may be made again


@dataclass(frozen=True)
class Watched(Store):
    """A store that keeps what is read of it and written to it."""

    reads: list[str] = field(default_factory=list, compare=False)
    writes: list[str] = field(default_factory=list, compare=False)
    columns: dict[str, set[str]] = field(default_factory=dict, compare=False)

    def open(self, relative: str) -> Any:
        self.reads.append(relative)
        return super().open(relative)

    @contextmanager
    def parquet(self, relative: str) -> Iterator[Any]:
        with super().parquet(relative) as file:
            yield _Noted(file, self.columns.setdefault(relative, set()))

    @contextmanager
    def create(self, relative: str, named: Callable[[], str] | None = None) -> Iterator[Any]:
        with super().create(relative, named) as stream:
            yield stream
        self.writes.append(named() if named else relative)


class _Noted:
    """A Parquet file that notes the columns that are read of it."""

    def __init__(self, file: Any, columns: set[str]) -> None:
        self._file, self._columns = file, columns

    def __getattr__(self, name: str) -> Any:
        if name in ("read", "read_row_group"):
            self._columns.add("*")
        return getattr(self._file, name)

    def iter_batches(self, size: int, columns: list[str], use_threads: bool) -> Any:
        self._columns.update(columns)
        return self._file.iter_batches(size, columns=columns, use_threads=use_threads)


def test_only_the_tars_and_files_that_hold_a_pair_are_read_and_written(tmp_path: Path) -> None:
    names = ["named", "alpha0", *(f"p{n}" for n in range(58))]
    made = [Made(name, "alpha", f"http://h{n}.test/", picture(n)) for n, name in enumerate(names)]
    build(tmp_path / "store", made)
    store = Watched(str(tmp_path / "store"))
    ledger = Ledger(store)
    sample = {row["uid"]: row["shard"] for row in ledger.read("samples").to_pylist()}
    one = next(one for one in made if one.uid in set(ledger.read("mixtures")["uid"].to_pylist()))
    holds = {row["tar"] for row in ledger.read("export_members").to_pylist() if row["uid"] == one.uid}
    store.columns.clear()
    intent, places = plan_takedown(ledger, parse_request(one.uid, "list"), "why", 0)
    assert store.writes == []
    take_down(ledger, intent, CODE, places)
    read_tars = [path for path in store.reads if path.endswith(".tar")]
    wrote = [path for path in store.writes if path.endswith(".tar")]
    folder = f"exports/everything/{job_id('export/everything')[:16]}"
    assert sorted(read_tars) == sorted([sample[one.uid], *(f"{folder}/{name}" for name in holds)])
    assert len(wrote) == len(read_tars) < len(set(sample.values()))
    whole = {path for path, columns in store.columns.items() if "*" in columns and "/jobs/" not in path}
    tables = Counter(path.split("/")[1] for path in whole)
    assert tables.pop("exports") == 1
    assert tables == dict.fromkeys(
        ("pairs", "fetches", "samples", "signals_pdq_v1", "signals_caption_v1", "decisions", "mixtures"), 1
    ) | {"export_members": len(holds)}
    passed = {path: columns for path, columns in store.columns.items() if path not in whole and "/jobs/" not in path}
    looked = {"uid", "url", "pdq", "quality", "raw_sha256", "jpg_sha256"}
    assert all(columns <= looked for columns in passed.values())
    assert len(passed) > 3 * len(whole)


def command(root: Path, lines: str, *more: str) -> int:
    (root.parent / "list.txt").write_text(lines, "utf-8")
    given = ["--list", str(root.parent / "list.txt"), "--reason", "asked by its author"]
    return main(["takedown", str(root), *given, *more])


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_dry_run_tells_all_and_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(root)
    assert command(root, BY_NAME["named"].uid, "--dry-run", "--json") == 0
    assert tree(root) == before
    dry = json.loads(capsys.readouterr().out)["takedown"]
    assert command(root, BY_NAME["named"].uid, "--json") == 0
    done = json.loads(capsys.readouterr().out)["takedown"]
    assert dry == done
    assert {NAMES[uid] for uid in dry["pairs"]} == COPIES
    assert dry["tables"]["samples"] == 6


def test_the_command_speaks_to_people(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(root, BY_NAME["named"].uid, "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.startswith("would take down\n  7 pairs: 1 named, 2 same_url, 3 looks_alike, 1 same_bytes\n")
    assert command(root, BY_NAME["named"].uid) == 0
    said = capsys.readouterr().out
    for part in ("took down", "table samples: 6 rows", "its checkpoint is kept: trainings/", "new tombstones: 7 uid"):
        assert part in said
    assert command(root, BY_NAME["named"].uid) == 0
    assert capsys.readouterr().out == "nothing to do: everything on the list was taken down before\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "found no unfinished takedown, expected --list FILE and --reason TEXT"),
        (["--list", "LIST"], "--reason: found none"),
        (["--list", "LIST", "--reason", " "], "--reason: found none"),
        (["--list", "nowhere.txt", "--reason", "x"], "nowhere.txt: cannot be read"),
        (["--list", "LIST", "--reason", "x", "--pdq-distance", "65"], "--pdq-distance: found 65, expected 0 to 64"),
    ],
)
def test_wrong_input_is_one_line_and_does_nothing(
    root: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(root)
    (root.parent / "list.txt").write_text(BY_NAME["named"].uid)
    given = [str(root.parent / "list.txt") if part == "LIST" else part for part in arguments]
    assert main(["takedown", str(root), *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert tree(root) == before


def test_a_line_that_names_nothing_is_refused_before_anything_is_done(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(root)
    assert command(root, f"{BY_NAME['named'].uid}\nftp://named.test/1.jpg\n") == 2
    assert "list.txt line 2: found 'ftp://named.test/1.jpg', expected a uid (32 hex digits), a URL" in (
        capsys.readouterr().err
    )
    assert tree(root) == before


def test_a_shard_that_holds_more_than_the_ledger_knows_stops_it_before_anything_goes(root: Path) -> None:
    sample = next(row for row in Ledger(Store(str(root))).read("samples").to_pylist() if NAMES[row["uid"]] == "named")
    path = root / sample["shard"]
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(Exception, match="for the ledger's pairs"):
        taken(root, BY_NAME["named"].uid)
    assert len(Ledger(Store(str(root))).read("samples")) == 31
    with pytest.raises(InputError):
        parse_request("", "list")
