"""The demo's web: the same bytes every time, formats as claimed, a server that misbehaves as told."""

import collections
import csv
import gzip
import hashlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import numpy as np
import pdqhash
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.search.image_alignment import SAME_PICTURE_SCORE, alignment_scores, thumbnail
from sources.world.alterations import ALTERATIONS
from sources.world.captions import TRANSLATIONS, WORDS
from sources.world.catalogue import SOURCES
from sources.world.photographs import DOMAINS, publish_domains
from sources.world.pictures import Picture, draw_picture
from sources.world.planning import MIN_PAIRS, plan_rows, site_key
from sources.world.publish import publish_world
from sources.world.server import WebServer
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES
from tests.support.road_experiment import ROOT

PAIRS, EVALUATION_IMAGES, SEED = 40, 12, 5


NAMES = [settings.name for settings in SOURCES]


def publish(folder: Path, processes: int = 2) -> None:
    publish_world(folder, seed=SEED, pairs=PAIRS, evaluation_images=EVALUATION_IMAGES, processes=processes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    publish(folder)
    return folder


@pytest.fixture(scope="module")
def truth(world: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(world / "truth.parquet").to_pylist()
    return rows


@pytest.fixture(scope="module")
def server(world: Path) -> Iterator[WebServer]:
    with WebServer(world) as running:
        yield running


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def get(server: WebServer, url: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Host": parts.netloc})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def having(truth: list[dict[str, Any]], **wanted: str) -> list[dict[str, Any]]:
    found = [row for row in truth if all(row[name] == value for name, value in wanted.items())]
    assert found, f"the web has no row with {wanted}"
    return found


def test_the_same_arguments_give_the_same_bytes_in_one_process_or_two(world: Path, tmp_path: Path) -> None:
    publish(tmp_path / "again", processes=1)
    assert digests(tmp_path / "again") == digests(world)


def test_a_finished_web_is_left_alone_and_another_one_is_replaced(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    arguments: dict[str, Any] = {"seed": 1, "pairs": MIN_PAIRS, "evaluation_images": 2, "processes": 1}
    publish_world(tmp_path, **arguments, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    publish_world(tmp_path, **arguments, on_progress=lambda done, total: pytest.fail("drew a picture"))
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    (tmp_path / "web.json").unlink()
    (tmp_path / "site" / "stale.jpg").write_bytes(b"left by a web that was cut short")
    publish_world(tmp_path, **{**arguments, "seed": 2})
    assert not (tmp_path / "site" / "stale.jpg").exists()
    assert json.loads((tmp_path / "web.json").read_text())["arguments"]["seed"] == 2


def test_a_web_too_small_for_its_plants_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"pairs: found {MIN_PAIRS - 1}"):
        publish_world(tmp_path / "few", seed=1, pairs=MIN_PAIRS - 1, evaluation_images=12)
    with pytest.raises(ValueError, match="evaluation_images: found 1"):
        publish_world(tmp_path / "few", seed=1, pairs=MIN_PAIRS, evaluation_images=1)
    assert not (tmp_path / "few").exists()


def read_yfcc(folder: Path) -> list[tuple[str, str]]:
    rows = [line.split("\t") for line in (folder / "yfcc100m_dataset.tsv").read_text().split("\n")[:-1]]
    assert {len(row) for row in rows} == {25}
    pairs = []
    for row in rows:
        written = " ".join(filter(None, (unquote_plus(row[8]), unquote_plus(row[9]))))
        tags = ", ".join(unquote_plus(tag) for tag in row[10].split(","))
        assert row[24] == "0"
        assert row[1] in row[16]
        pairs.append((row[16], written or tags))
    return pairs


def read_laion(folder: Path) -> list[tuple[str, str]]:
    files = sorted(folder.glob("*.parquet"))
    assert len(files) >= 2
    tables = [pq.read_table(file) for file in files]
    names = ["SAMPLE_ID", "URL", "TEXT", "HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity"]
    assert all(table.column_names == names for table in tables)
    return [(row["URL"], row["TEXT"]) for table in tables for row in table.to_pylist()]


def read_two_columns(folder: Path) -> list[tuple[str, str]]:
    (file,) = folder.glob("*.tsv")
    rows = [line.split("\t") for line in file.read_text().split("\n")[:-1]]
    return [(url, text) for url, text in rows]


def read_wit(folder: Path) -> list[tuple[str, str]]:
    files = sorted(folder.glob("*.tsv.gz"))
    assert [file.name for file in files] == [f"wit_v1.train.all-{n:05d}-of-00002.tsv.gz" for n in range(2)]
    pairs, places = [], set()
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened, dialect=csv.excel_tab):
                assert len(row) == 17
                captions = [row[f"caption_{place}_description"] for place in ("reference", "attribution", "alt_text")]
                places |= {index for index, text in enumerate(captions) if text}
                pairs.append((row["image_url"], "".join(captions)))
    assert len(places) > 1, "captions stand in more than one column"
    return pairs


def read_redcaps(folder: Path) -> list[tuple[str, str]]:
    files = sorted(folder.glob("*.json"))
    assert len(files) >= 2
    read = [json.loads(file.read_text()) for file in files]
    assert all(set(content) == {"info", "annotations"} for content in read)
    return [(row["url"], row["caption"]) for content in read for row in content["annotations"]]


READERS = {
    "yfcc": read_yfcc,
    "laion": read_laion,
    "cc12m": read_two_columns,
    "wit": read_wit,
    "redcaps": read_redcaps,
    "shutterstock": read_two_columns,
}


@pytest.mark.parametrize("source", NAMES)
def test_the_truth_tells_what_the_source_published(world: Path, truth: list[dict[str, Any]], source: str) -> None:
    published = READERS[source](world / "published" / source)
    told = [(row["url"], row["caption"]) for row in having(truth, source=source)]
    assert sorted(published) == sorted(told)
    assert len({url for url, _ in published}) == PAIRS


def test_tricky_text_survives_every_format() -> None:
    rows = plan_rows(SEED, 400, 60)
    texts = {name: "".join(row.caption.text for row in rows if row.source == name) for name in NAMES}
    assert all('"' in text and "&" in text and "\U0001f60d" in text for text in texts.values())
    assert "\t" in texts["yfcc"]
    assert "\n" in texts["laion"]
    assert "\t" in texts["wit"]
    assert not set("\t\n\r") & set(texts["cc12m"] + texts["shutterstock"])


def test_a_caption_names_its_class_unless_its_kind_says_otherwise() -> None:
    rows = plan_rows(SEED, 300, 60)
    assert {"right", "title", "tags", "other_language", "boilerplate", "filename", "empty"} <= {
        row.caption.kind for row in rows
    }
    for row in rows:
        words = [*WORDS[row.class_name], *TRANSLATIONS[row.class_name]]
        named = any(word.lower() in row.caption.text.lower() for word in words)
        if row.caption.kind in ("right", "title", "tags", "other_language"):
            assert named, row.caption
        elif row.caption.kind in ("boilerplate", "filename", "empty"):
            assert not named, row.caption


def test_every_kind_of_plant_and_behaviour_occurs_in_a_small_web(truth: list[dict[str, Any]]) -> None:
    plants = {"none", "exact_duplicate", "near_duplicate", "evaluation_copy", "evaluation_near_copy"}
    assert {row["plant"] for row in truth} == plants
    behaviours = {"ok", "http_404", "error_once", "slow", "html", "truncated", "oversized", "pixels", "noai"}
    for source in NAMES:
        assert {row["behaviour"] for row in having(truth, source=source)} == behaviours
    assert all(row["behaviour"] == "ok" for row in truth if row["plant"] != "none")
    assert {"wrong", "boilerplate", "other_language", "tags", "filename", "title", "right"} <= {
        row["caption_kind"] for row in truth
    }


def test_shares_of_a_source_sum_to_one() -> None:
    for settings in SOURCES:
        assert sum(settings.styles.values()) == pytest.approx(1)
        assert sum(settings.captions.values()) == pytest.approx(1)
        assert set(settings.styles) <= set(STYLES)


def test_plain_rows_are_served_as_they_are_stored(server: WebServer, world: Path, truth: list[dict[str, Any]]) -> None:
    plain = having(truth, behaviour="ok")
    assert plain
    for row in plain:
        status, headers, body = get(server, row["url"])
        if status == 301:
            location = headers["Location"]
            target = location if location.startswith("http") else f"http://{urlsplit(row['url']).netloc}{location}"
            status, headers, body = get(server, target)
        assert status == 200
        assert int(headers["Content-Length"]) == len(body)
        with Image.open(io.BytesIO(body)) as image:
            assert image.get_format_mimetype() == headers["Content-Type"]
            image.load()
            assert min(image.size) >= 60
            assert max(image.size) <= 560


def test_redirects_and_controls_are_there(world: Path) -> None:
    paths = json.loads((world / "site.json").read_text())["paths"]
    names = collections.Counter(entry["behaviour"] for entry in paths.values())
    assert names["redirect"] >= len(NAMES)
    assert any("otherbot" in value for entry in paths.values() for value in entry.get("robots", []))


def test_dead_links_and_unknown_hosts_are_404(server: WebServer, truth: list[dict[str, Any]]) -> None:
    for row in having(truth, behaviour="http_404"):
        assert get(server, row["url"])[0] == 404
    assert get(server, "http://nobody.test/x.jpg")[0] == 404
    assert get(server, f"http://{server.hosts[0]}/../../web.json")[0] == 404


def test_an_error_happens_once(server: WebServer, truth: list[dict[str, Any]]) -> None:
    statuses = [[get(server, row["url"])[0] for _ in range(3)] for row in having(truth, behaviour="error_once")]
    assert statuses
    assert statuses == [[500, 200, 200]] * len(statuses)


def test_slow_answers_arrive_late(server: WebServer, truth: list[dict[str, Any]]) -> None:
    start = time.monotonic()
    assert get(server, having(truth, behaviour="slow")[0]["url"])[0] == 200
    assert time.monotonic() - start > 0.4


def test_pages_instead_of_images(server: WebServer, truth: list[dict[str, Any]]) -> None:
    pages = having(truth, behaviour="html")
    assert pages
    for row in pages:
        status, headers, body = get(server, row["url"])
        assert (status, headers.get_content_type()) == (200, "text/html")
        assert body.startswith(b"<!doctype html>")


def test_truncated_images_do_not_load(server: WebServer, truth: list[dict[str, Any]]) -> None:
    truncated = having(truth, behaviour="truncated")
    assert truncated
    for row in truncated:
        _, headers, body = get(server, row["url"])
        assert int(headers["Content-Length"]) == len(body)
        with pytest.raises(OSError, match="truncated"), Image.open(io.BytesIO(body)) as image:
            image.load()


def test_oversized_bodies_and_pixel_bombs(server: WebServer, world: Path, truth: list[dict[str, Any]]) -> None:
    announced = set()
    for row in having(truth, behaviour="oversized", source="laion"):
        _, headers, body = get(server, row["url"])
        announced.add(headers.get("Content-Length"))
        assert len(body) > 4_000_000
        assert body.startswith(b"\xff\xd8\xff")
        assert not (world / "site" / site_key(row["url"])).exists()
    assert announced == {str(len(body)), None}, "one of the two is sent in chunks"
    _, _, body = get(server, having(truth, behaviour="pixels")[0]["url"])
    assert len(body) < 100_000
    assert body[16:24] == (20_000).to_bytes(4, "big") * 2


def test_opted_out_images_say_so(server: WebServer, truth: list[dict[str, Any]]) -> None:
    said = [get(server, row["url"])[1].get_all("X-Robots-Tag") or [] for row in having(truth, behaviour="noai")]
    assert all("noai" in ",".join(values).lower() for values in said)
    assert any(len(values) > 1 for values in said)
    assert any(value.startswith("cuvee:") for values in said for value in values)


def test_the_server_sustains_a_crawl(server: WebServer, truth: list[dict[str, Any]]) -> None:
    host = server.hosts[0]
    urls = [row["url"] for row in truth if row["behaviour"] == "ok" and urlsplit(row["url"]).netloc == host]
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    start = time.monotonic()
    for index in range(400):
        connection.request("GET", urlsplit(urls[index % len(urls)]).path, headers={"Host": host})
        connection.getresponse().read()
    connection.close()
    # One client that waits for each answer, on a shared and loaded machine: a hundredth of what the server can do.
    assert 400 / (time.monotonic() - start) > 10


def test_the_server_stops_with_its_block(world: Path) -> None:
    with WebServer(world) as running:
        pid = running.pid
        assert pid is not None
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_server_ends_when_its_parent_is_killed(world: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sources.world.server import WebServer\n"
        f"with WebServer(Path({str(world)!r})) as web:\n"
        "    sys.stdout.write(f'{web.pid} {web.address[1]}\\n'); sys.stdout.flush(); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    _, port = map(int, parent.stdout.readline().split())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
        except ConnectionRefusedError:
            return
        time.sleep(0.1)
    pytest.fail("the server outlived its parent")


def test_a_folder_without_a_web_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="publish the web first"):
        WebServer(tmp_path)


def evaluation_images(folder: Path) -> dict[str, tuple[bytes, int]]:
    images: dict[str, tuple[bytes, int]] = {}
    for file in sorted(folder.glob("*/test/0.tar")):
        with tarfile.open(file) as tar:
            contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, content in contents.items():
            key, _, extension = name.partition(".")
            if extension != "cls":
                images[key] = content, int(contents[f"{key}.cls"])
    return images


def test_evaluation_sets_are_laid_out_as_clip_benchmark_reads_them(world: Path) -> None:
    sets = sorted(folder.name for folder in (world / "evaluation").iterdir())
    assert sets == sorted(STYLES)
    assert len(sets) == 6
    for name in sets:
        folder = world / "evaluation" / name
        assert tuple((folder / "classnames.txt").read_text().splitlines()) == CLASSES
        templates = (folder / "zeroshot_classification_templates.txt").read_text().splitlines()
        assert len(templates) == 5
        assert all("{c}" in template for template in templates)
        assert (folder / "test" / "nshards.txt").read_text() == "1"
        with tarfile.open(folder / "test" / "0.tar") as tar:
            members = tar.getmembers()
        assert len(members) == 2 * EVALUATION_IMAGES
        assert {member.mtime for member in members} == {0}
    labels = collections.Counter(label for _, label in evaluation_images(world / "evaluation").values())
    assert set(labels.values()) == {len(sets) * EVALUATION_IMAGES // len(CLASSES)}


def distance(first: bytes, second: bytes) -> int:
    bits = [pdqhash.compute(np.asarray(Image.open(io.BytesIO(item)).convert("RGB")))[0] for item in (first, second)]
    return int((bits[0] != bits[1]).sum())


def test_copies_are_copies_of_what_the_truth_names(world: Path, truth: list[dict[str, Any]]) -> None:
    site, images = world / "site", evaluation_images(world / "evaluation")
    originals = {row["plant_group"]: row for row in truth if row["plant_group"] >= 0 and row["plant"] == "none"}
    near: dict[str, list[tuple[int, float]]] = {}
    for row in truth:
        if row["plant"] == "none":
            assert row["evaluation_key"] == ""
            continue
        content = (site / site_key(row["url"])).read_bytes()
        if row["plant"].startswith("evaluation"):
            original, label = images[row["evaluation_key"]]
            assert CLASSES[label] == row["class_name"]
            assert row["style"] == row["evaluation_set"]
        else:
            other = originals[row["plant_group"]]
            original = (site / site_key(other["url"])).read_bytes()
            assert other["class_name"] == row["class_name"]
        if row["plant"] in ("exact_duplicate", "evaluation_copy"):
            assert content == original
            assert row["transformation"] == ""
        else:
            assert content != original
            thumbnails = [
                thumbnail(np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))) for one in (content, original)
            ]
            score = float(alignment_scores(thumbnails[0], thumbnails[1][None])[0])
            near.setdefault(row["transformation"], []).append((distance(content, original), score))
    assert np.mean([score >= SAME_PICTURE_SCORE for found in near.values() for _, score in found]) > 0.9
    assert np.mean([apart <= 31 for apart, _ in near["trimmed"]]) > 0.8
    assert len({row["source"] for row in truth if row["plant"] == "exact_duplicate"}) > 1
    copied = [row["evaluation_key"] for row in truth if row["evaluation_key"]]
    assert len(copied) == len(set(copied))


def test_near_copies_of_evaluation_images_are_altered_in_every_way() -> None:
    rows = plan_rows(SEED, 800, 200)
    turns = collections.Counter(row.transformation for row in rows if row.plant == "evaluation_near_copy")
    assert set(turns) == set(ALTERATIONS) - {"trimmed"}
    assert max(turns.values()) - min(turns.values()) <= 1
    assert {row.transformation for row in rows if row.plant == "near_duplicate"} == {"trimmed"}
    assert {row.transformation for row in rows if "near" not in row.plant} == {""}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_any_image_can_be_altered(name: str) -> None:
    for shape in ((1, 1, 3), (1, 90, 3), (80, 120, 3)):
        image = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
        found = [ALTERATIONS[name](image.copy(), np.random.default_rng(5)) for _ in range(2)]
        assert found[0].dtype == np.uint8
        assert found[0].shape[2:] == (3,)
        assert min(found[0].shape) >= 1
        assert (found[0] == found[1]).all()


def test_pictures_drawn_apart_are_not_near_duplicates() -> None:
    bits, qualities = [], []
    for style in STYLES:
        for index in range(40):
            pixels = draw_picture(Picture((77, index), CLASSES[index % 3], style))
            assert pixels.dtype == np.uint8
            assert min(pixels.shape[:2]) >= 80
            assert max(pixels.shape[:2]) <= 400
            found, quality = pdqhash.compute(pixels)
            bits.append(found)
            qualities.append(quality)
    signs = np.array(bits, dtype=np.int32) * 2 - 1
    apart = (256 - signs @ signs.T) // 2
    # The same seed composes the same scene in each style; only pictures of different seeds are independent.
    seeds = np.tile(np.arange(40), len(STYLES))
    assert apart[seeds[:, None] != seeds[None, :]].min() > 31
    assert np.mean(np.array(qualities) > 50) > 0.99


def test_missing_real_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"photo-train\.tar"):
        publish_domains(tmp_path / "web", tmp_path, seed=1)
    assert not (tmp_path / "web").exists()


def write_domain_tars(folder: Path) -> None:
    """Tars as those of the real images, with a few generated ones: this much needs no data."""
    for number, domain in enumerate(DOMAINS):
        for split, count in (("train", 12), ("test", 6)):
            with tarfile.open(folder / f"{domain.name}-{split}.tar", "w") as tar:
                for index in range(count):
                    buffer = io.BytesIO()
                    class_name = ("horse", "dog")[index % 2]
                    Image.fromarray(draw_picture(Picture((number, len(split), index), "car", "photo"))).save(
                        buffer, "JPEG"
                    )
                    for extension, content in (("cls", class_name.encode()), ("jpg", buffer.getvalue())):
                        member = tarfile.TarInfo(f"{class_name}_{index:03d}.{extension}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))


def test_real_images_are_published_like_the_rest(tmp_path: Path) -> None:
    write_domain_tars(tmp_path)
    web = tmp_path / "web"
    publish_domains(web, tmp_path, seed=3)
    publish_domains(tmp_path / "again", tmp_path, seed=3)
    assert digests(web) == digests(tmp_path / "again")
    rows = pq.read_table(web / "truth.parquet").to_pylist()
    for domain in DOMAINS:
        told = having(rows, source=domain.source)
        assert sorted(READERS[domain.source](web / "published" / domain.source)) == sorted(
            (row["url"], row["caption"]) for row in told
        )
        assert all(row["class_name"] in " ".join(row["caption"].split()[:5]) for row in told)
        assert (web / "evaluation" / domain.name / "classnames.txt").read_text() == "dog\nhorse\n"
    assert collections.Counter(row["behaviour"] for row in rows) == {"ok": 52, "http_404": 4}
    for row in having(rows, plant="exact_duplicate"):
        (original,) = [other for other in rows if other["plant_group"] == row["plant_group"] and other is not row]
        first, second = ((web / "site" / site_key(item["url"])).read_bytes() for item in (row, original))
        assert first == second
    with WebServer(web) as running:
        assert get(running, having(rows, behaviour="ok")[0]["url"])[0] == 200


@pytest.mark.skipif(
    not (ROOT.parent / "shared" / "data" / "domains").is_dir(),
    reason="the real images of ../shared/data/domains are absent",
)
def test_the_real_domains_have_seven_classes(tmp_path: Path) -> None:
    publish_domains(tmp_path, ROOT.parent / "shared" / "data" / "domains", seed=1)
    rows = pq.read_table(tmp_path / "truth.parquet").to_pylist()
    assert len(rows) > 4930
    assert len({row["class_name"] for row in rows}) == 7
    images = evaluation_images(tmp_path / "evaluation")
    assert len(images) == 339 + 397 + 477 + 814
