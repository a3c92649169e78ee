"""Ingest as a job: every published row has one outcome, whatever the format, the split of the work, or the failure."""

import hashlib
import io
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from pyspark.sql import SparkSession

from pipeline.fetch.urls import host_of
from pipeline.ledger.tables import Ledger
from tests.sources.test_contract import yfcc_line
from tests.support.hostile_web import HostileWeb, jpeg
from tests.support.ingest_experiments import TABLE, by_uid, ledger_of, write_ingest, write_rows, write_tar
from tests.support.road_experiment import answered, cuvee, cuvee_here

RIGHT, OTHER = jpeg(7, (64, 64)), jpeg(8, (64, 64))


@dataclass(frozen=True)
class Ingested:
    """An experiment that was run up to its mixtures, and what the run printed."""

    experiment: Path
    stderr: str

    @property
    def ledger(self) -> Ledger:
        """The store's ledger."""
        return ledger_of(self.experiment)


def a_list(folder: Path) -> dict[str, object]:
    """A source with rows of every kind: good, malformed, empty, repeated, dead, refused; with hashes and scores."""
    rows: list[dict[str, object] | str] = [
        {"id": f"r{n}", "url": f"http://h{n % 7}.site.test/image?n={n}", "caption": f"number {n}", "score": n / 40}
        for n in range(40)
    ]
    rows[3] = "no JSON at all"
    rows[11] = {"id": "e", "url": "http://h1.site.test/image?n=11", "caption": " "}
    rows[12] = dict(rows[10])  # type: ignore[arg-type]
    rows[20] = {"id": "d", "url": "http://h2.site.test/status?is=404", "caption": "dead"}
    rows[21] = {"id": "o", "url": "http://h3.site.test/image?n=1&tag=noai", "caption": "no"}
    rows[22] = {"id": "x", "url": "http://h3.site.test/image?n=7", "caption": "as said", "sum": _sha(RIGHT)}
    rows[23] = {"id": "y", "url": "http://h3.site.test/image?n=8", "caption": "not as said", "sum": _sha(RIGHT)}
    rows[24] = {"id": "f", "url": "http://h3.site.test/once?is=503", "caption": "later"}
    rows += [{"id": f"p{n}", "url": f"http://h4.site.test/image?n=99&v={n}", "caption": "gone"} for n in range(12)]
    options = {
        **TABLE,
        "columns": {**TABLE["columns"], "sha256": "sum", "licence": "licence"},
        "scores": {"score": "number"},
    }
    return {"format": "table", "files": [write_rows(folder / "list.jsonl", rows)], "options": options, "licence": "CC0"}


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def a_tar(folder: Path) -> dict[str, object]:
    """A source that is downloaded already."""
    members: dict[str, bytes] = {}
    for n in range(5):
        members |= {f"{n:04d}.jpg": jpeg(n + 50), f"{n:04d}.txt": f"stored {n}".encode()}
    members["0005.txt"] = b"an image is missing"
    return {"format": "webdataset", "files": [write_tar(folder / "had" / "00000.tar", members)]}


def a_subset(folder: Path) -> dict[str, object]:
    """YFCC15M: a list of YFCC100M's rows, one of which is not there."""
    lines = [yfcc_line(n, f"http://h5.site.test/image?n={n}", f"photo+{n}") for n in range(6)]
    (folder / "yfcc100m_dataset").write_bytes(b"\n".join(lines) + b"\n")
    listed = [f"{n}\t{6_000_000 + n}\t{n:032x}\n" for n in (4, 1, 99)]
    (folder / "subset.tsv").write_text("".join(listed))
    return {
        "format": "yfcc15m",
        "files": [str(folder / "subset.tsv")],
        "joined": [str(folder / "yfcc100m_dataset")],
        "licence": "unknown",
    }


def a_face(folder: Path, site: HostileWeb) -> dict[str, object]:
    """A source of one image of noise, with a box in its middle."""
    stream = io.BytesIO()
    Image.effect_noise((96, 96), 90).convert("RGB").save(stream, "JPEG", quality=95)
    body = stream.getvalue()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    url = "http://faces.site.test" + site.answering(head.encode() + body)
    rows = [{"id": "1", "url": url, "caption": "a face", "boxes": [[0.25, 0.25, 0.75, 0.75]]}]
    options = {**TABLE, "columns": {**TABLE["columns"], "faces": "boxes"}}
    return {"format": "table", "files": [write_rows(folder / "faces.jsonl", rows)], "options": options}


@pytest.fixture(scope="module")
def done(site: HostileWeb, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("ingest")
    (folder / "concepts.txt").write_text("gone\nnever there\nPhoto\nnumber 7\n")
    experiment = write_ingest(
        folder,
        {"listed": a_list(folder), "had": a_tar(folder), "subset": a_subset(folder), "faces": a_face(folder, site)},
        site.hosts,
        ingest={"pairs_per_shard": 16, "part_bytes": 700},
        signals={
            "caption_v1": None,
            "concepts_v1": {"file": str(folder / "concepts.txt")},
            "hashes_v1": None,
            "image_v1": None,
            "repeats_v1": {"caption": "caption_v1"},
            "published_v1": {"numbers": ["score"]},
            "placeholders_v1": {"urls": 10},
        },
        filters={
            "short": {"drop_when": {"caption_too_short": "caption_v1.words < 1"}},
            "real": {"drop_when": {"placeholder": "placeholders_v1.placeholder"}},
            "free": {"drop_when": {"licence": "published_v1.licence <> 'CC0'"}},
        },
        mixtures={"everything": {}, "as_they_came": {"mismatched": True}, "free": {"filter": "free"}},
    )
    ran = cuvee_here("run", str(experiment), "--until", "blend", spark=spark)
    assert ran.returncode == 0, ran.stderr
    return Ingested(experiment, ran.stderr)


def test_every_published_row_has_one_outcome(done: Ingested) -> None:
    pairs, fetches = done.ledger.read("pairs"), done.ledger.read("fetches")
    final = fetches.filter(fetches["final"])
    assert pairs.num_rows == final.num_rows == 52 + 6 + 3 + 1
    assert Counter(pairs["uid"].to_pylist()) == Counter(final["uid"].to_pylist())
    listed = Counter(row["outcome"] for row in final.to_pylist() if row["source"] == "listed")
    assert listed == {
        "stored": 52 - 6,
        **dict.fromkeys(("malformed", "empty_caption", "repeated_row", "http_404", "opted_out", "http_503"), 1),
    }


def test_a_malformed_row_is_counted_with_its_file_and_line_and_said(done: Ingested) -> None:
    [row] = [row for row in done.ledger.read("pairs").to_pylist() if row["problem"] and row["source"] == "listed"][:1]
    malformed = [r for r in done.ledger.read("pairs").to_pylist() if r["problem"] == "malformed"]
    assert {(r["file"], r["line"]) for r in malformed} == {("list.jsonl", 4), ("00000.tar", 6), ("subset.tsv", 3)}
    assert row["file"] == "list.jsonl"
    assert "listed: 1 malformed rows of 52; the first: list.jsonl line 4" in done.stderr
    [missing] = [r for r in malformed if r["source"] == "subset"]
    assert "6000099" in missing["detail"]


def test_a_host_belongs_to_one_lane(done: Ingested) -> None:
    url = {uid: row["url"] for uid, row in by_uid(_good(done)).items()}
    lane_of = {
        shard["shard"]: (shard["lane"], job.name)
        for job in done.ledger.jobs()
        if job.stage == "ingest"
        for shard in job.facts["shards"]
    }
    lanes: dict[tuple[str, str], set[object]] = {}
    for row in done.ledger.read("samples").to_pylist():
        lane, job = lane_of[row["shard"]]
        lanes.setdefault((job, host_of(url[row["uid"]])), set()).add(lane)
    assert len(lanes) >= 7
    assert {len(found) for (_, host), found in lanes.items() if host} == {1}


def _good(done: Ingested) -> "object":
    pairs = done.ledger.read("pairs")
    return pairs.filter([not problem for problem in pairs["problem"].to_pylist()])


def test_neither_the_parts_nor_the_task_count_changes_a_shard(done: Ingested, site: HostileWeb, tmp_path: Path) -> None:
    store = tmp_path / "store"
    settings = [f"store={store}", "ingest.part_bytes=1000000", "spark.master=local[1]"]
    site.asked["/once?is=503"] = 0  # it fails once more
    ran = cuvee("ingest", str(done.experiment), *(part for one in settings for part in ("--set", one)))
    assert ran.returncode == 0, ran.stderr
    assert _tars(store) == _tars(done.experiment.parent / "store")


def _tars(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in (store / "shards").rglob("*.tar")}


def test_images_that_a_source_brings_along_are_stored_without_a_request(done: Ingested) -> None:
    fetches = [row for row in done.ledger.read("fetches").to_pylist() if row["source"] == "had"]
    stored = [row for row in fetches if row["outcome"] == "stored"]
    assert len(stored) == 5
    assert {row["status"] for row in stored} == {0}
    assert all(row["detail"].startswith("00000.tar at byte ") for row in stored)
    raw = {row["raw_sha256"] for row in done.ledger.read("samples").to_pylist() if row["source"] == "had"}
    assert raw == {_sha(jpeg(n + 50)) for n in range(5)}


def test_a_list_of_another_formats_rows_takes_their_urls_captions_and_licences(done: Ingested) -> None:
    rows = [row for row in _good(done).to_pylist() if row["source"] == "subset"]  # type: ignore[attr-defined]
    assert sorted((row["record_id"], row["caption"]) for row in rows) == [
        ("6000001", "photo 1"),
        ("6000004", "photo 4"),
    ]
    assert all("creativecommons.org" in row["licence"] for row in rows)


def test_what_is_not_the_image_that_was_published_is_kept_and_not_drawn(done: Ingested) -> None:
    samples, pairs = by_uid(done.ledger.read("samples")), by_uid(_good(done))  # type: ignore[arg-type]
    verdicts = {pairs[uid]["record_id"]: row["verdict"] for uid, row in samples.items() if row["verdict"]}
    assert verdicts == {"x": "match", "y": "mismatch"}
    [wrong] = [uid for uid, row in samples.items() if row["verdict"] == "mismatch"]
    drawn = {name: {row["uid"] for row in _drawn(done, name)} for name in ("everything", "as_they_came")}
    assert drawn["as_they_came"] == set(samples)
    assert drawn["everything"] == set(samples) - {wrong}
    [funnel] = [one for one in answered("funnel", str(done.experiment.parent / "store")) if one["source"] == "listed"]
    [stage] = [one for one in funnel["stages"] if one["stage"] == "mixture:everything"]
    assert stage["dropped"] == {"quarantined": 1}


def _drawn(done: Ingested, mixture: str) -> list[dict[str, object]]:
    return [row for row in done.ledger.read("mixtures").to_pylist() if row["mixture"] == mixture]


def test_the_same_bytes_behind_many_urls_are_a_placeholder(done: Ingested) -> None:
    rows, pairs = by_uid(done.ledger.read("signals_placeholders_v1")), by_uid(_good(done))  # type: ignore[arg-type]
    assert set(rows) == {row["uid"] for row in done.ledger.read("samples").to_pylist()}
    flagged = {pairs[uid]["record_id"] for uid, row in rows.items() if row["placeholder"]}
    assert flagged == {f"p{n}" for n in range(12)}
    reasons = Counter(row["reason"] for row in done.ledger.read("decisions").to_pylist() if row["filter"] == "real")
    assert reasons == {"": len(rows) - 12, "placeholder": 12}


def test_repeats_and_concepts_of_captions_and_hashes_of_images_are_signals(done: Ingested) -> None:
    samples, pairs = by_uid(done.ledger.read("samples")), by_uid(_good(done))  # type: ignore[arg-type]
    repeats, concepts = (by_uid(done.ledger.read(f"signals_{name}_v1")) for name in ("repeats", "concepts"))
    hashes, images = (by_uid(done.ledger.read(f"signals_{name}_v1")) for name in ("hashes", "image"))
    assert set(repeats) == set(concepts) == set(hashes) == set(images) == set(samples)
    times = Counter(pairs[uid]["caption"] for uid in samples)
    assert times["gone"] == 12
    for uid, sample in samples.items():
        caption = pairs[uid]["caption"]
        assert repeats[uid]["caption_pairs"] == times[caption]
        assert repeats[uid]["caption_sources"] == 1
        assert concepts[uid]["concepts"] == [
            n for n, one in enumerate(("gone", "", "photo", "number 7")) if one in (caption, caption.split()[0])
        ]
        assert (hashes[uid]["raw_sha256"], hashes[uid]["stored_sha256"]) == (sample["raw_sha256"], sample["jpg_sha256"])
        assert len(hashes[uid]["pixels_sha256"]) == 64
        assert (sample["format"], sample["frames"]) == ("jpeg", 1)
        assert (images[uid]["format"], images[uid]["animated"]) == ("jpeg", False)
    assert {concepts[uid]["concept_count"] for uid in samples} == {0, 1}
    [job] = [job for job in done.ledger.jobs() if job.name == "concepts_v1/listed"]
    assert job.config["files"] == [_sha((done.experiment.parent / "concepts.txt").read_bytes())]


def test_licences_and_published_scores_are_signals(done: Ingested) -> None:
    rows, pairs = by_uid(done.ledger.read("signals_published_v1")), by_uid(_good(done))  # type: ignore[arg-type]
    for uid, row in rows.items():
        said = json.loads(pairs[uid]["published"])
        assert row["score"] == said.get("score")
        assert row["licence"] == pairs[uid]["licence"]
    assert Counter(row["licence"] for row in rows.values() if row["source"] == "listed") == {"CC0": 46}
    assert {row["licence"] for row in rows.values() if row["source"] == "had"} == {"unknown"}
    assert {row["source"] for row in _drawn(done, "free")} == {"listed"}


def test_a_job_says_which_files_it_read_and_on_what_terms(done: Ingested) -> None:
    [job] = [job for job in done.ledger.jobs() if job.name == "subset"]
    files = {one["file"]: one["sha256"] for one in job.config["files"]}
    folder = done.experiment.parent
    assert files == {name: _sha((folder / name).read_bytes()) for name in ("subset.tsv", "yfcc100m_dataset")}
    assert {"licence", "terms", "snapshot", "citation"} <= set(job.config["about"])


def test_what_failed_for_now_is_tried_again_beside_the_old_attempt(
    done: Ingested, spark: SparkSession, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(done.experiment.parent / "store", store)
    settings = ["--set", f"store={store}"]
    again = cuvee_here("ingest", str(done.experiment), "--retry-failed", *settings, spark=spark)
    assert again.returncode == 0, again.stderr
    ledger = Ledger(type(done.ledger.store)(str(store)))
    [failed] = [row for row in done.ledger.read("fetches").to_pylist() if row["outcome"] == "http_503"]
    attempts = sorted(
        (row["attempt"], row["outcome"]) for row in ledger.read("fetches").to_pylist() if row["uid"] == failed["uid"]
    )
    assert attempts == [(1, "http_503"), (2, "stored")]
    assert ledger.read("fetches").num_rows == done.ledger.read("fetches").num_rows + 1
    [funnel] = [one for one in answered("funnel", str(store)) if one["source"] == "listed"]
    assert [stage["stage"] for stage in funnel["stages"]] == ["ingest"]  # filters and mixtures are of before
    assert funnel["stages"][0]["kept"] == 47
    nothing = cuvee_here("ingest", str(done.experiment), "--retry-failed", *settings)
    assert nothing.returncode == 0
    assert "no failure is one that another attempt may change" in nothing.stderr
    ran = cuvee_here("run", str(done.experiment), "--until", "blend", *settings, spark=spark)
    assert ran.returncode == 0, ran.stderr
    [funnel] = [one for one in answered("funnel", str(store)) if one["source"] == "listed"]
    assert {stage["in"] for stage in funnel["stages"][1:]} == {47}
    assert answered("verify", str(store)) == {"differences": [], "leftovers": []}
    [life] = answered("trace", str(store), failed["uid"])
    assert [row["outcome"] for row in life["fetches"]] == ["http_503", "stored"]
    assert set(life["signals"]) == {
        *("caption_v1", "concepts_v1", "hashes_v1", "image_v1", "repeats_v1", "published_v1", "placeholders_v1")
    }


def test_what_dead_attempts_leave_is_found_and_cleaned(done: Ingested, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(done.experiment.parent / "store", store)
    tar = next((store / "shards" / "listed").rglob("*.tar"))
    left = [
        tar.with_name("00000000-0123456789ab.tar"),  # an attempt that came to something else
        tar.with_name(f"00000000.tar.{'0' * 32}.draft"),  # one that was killed as it wrote
        store / "tables" / "fetches" / f"job={'0' * 64}" / "0123.parquet",
        store / "staging" / ("0" * 64) / "fetch-00000000.json",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar.read_bytes())
    found = answered("verify", str(store))
    assert found["differences"] == []
    assert {line.split(":")[0] for line in found["leftovers"]} == {str(path.relative_to(store)) for path in left}
    assert cuvee_here("verify", str(store), "--prune").returncode == 0
    assert not any(path.exists() for path in left)
    assert answered("verify", str(store)) == {"differences": [], "leftovers": []}


def test_faces_that_a_source_publishes_are_blurred_and_the_row_says_so(done: Ingested) -> None:
    ledger = done.ledger
    [sample] = [row for row in ledger.read("samples").to_pylist() if row["source"] == "faces"]
    assert sample["blurred_faces"] == 1
    data = ledger.store.read(sample["shard"])[sample["offset"] + 512 :][: sample["jpg_bytes"]]
    stored = Image.open(io.BytesIO(data)).convert("L")
    inside, outside = stored.crop((24, 24, 40, 40)), stored.crop((0, 0, 8, 64))
    assert _spread(inside) < _spread(outside) / 2


def _spread(image: Image.Image) -> float:
    values = image.tobytes()
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5)
