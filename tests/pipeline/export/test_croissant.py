"""An export's papers: Croissant that its own validator takes and reads, and a data card in which nobody else speaks."""

import hashlib
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.export.croissant import croissant
from pipeline.export.data_card import LICENCES, data_card, escape_markdown, inline_code, licence_id, size_category
from pipeline.export.dataset_facts import DatasetFacts
from pipeline.export.documents import render_documents
from pipeline.export.tar_writer import write_tar
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.byte_ranges import ByteRanges
from pipeline.storage.store import Store

ABOUT: DatasetFacts = {
    "title": "Web | pairs <script>alert(1)</script> `x` [a](http://evil.example) & *more*",
    "mixture": "half",
    "job": "f" * 64,
    "inputs": {"blend": "b" * 64, "ingest": ["i" * 64], "tables": {"samples": 3}},
    "sources": {
        "wit": {
            "format": "wit",
            "licence": "CC BY-SA 3.0",
            "terms": "unknown",
            "snapshot": "2026-11-01",
            "citation": "Srinivasan et al. 2021 | <b>WIT</b>\n# heading",
            "pairs": 4,
        },
        "laion": {
            "format": "laion",
            "licence": "unknown",
            "terms": "",
            "snapshot": "unknown",
            "citation": "",
            "pairs": 2,
        },
    },
    "parts": [
        {"name": "good", "share": 0.5, "pairs": 3, "distinct": 2},
        {"name": "it's `| odd", "share": None, "pairs": 4, "distinct": 4},
    ],
    "filters": [{"name": "basic", "rule": "drop as too_short when caption_v1.words < 2 | `x`"}],
    "signals": [
        {"name": "caption_v1", "kind": "caption", "model": ""},
        {"name": "clip_v1", "kind": "clip", "model": "ViT-B-32 laion2b"},
    ],
    "funnel": [
        {
            "source": "wit",
            "published": 9,
            "stages": [
                {"stage": "ingest", "in": 9, "kept": 6, "dropped": {"http_404": 2, "timeout": 1}},
                {"stage": "mixture:half", "in": 6, "kept": 4, "dropped": {"not_sampled": 2}},
            ],
        },
    ],
    "ingest": {"robots_txt": True, "refuse": [], "resize": {"mode": "keep_ratio", "size": 256, "quality": 95}},
    "mismatched": False,
    "contact": "remove_me@example.org",
    "factors": {},
}


UIDS = [f"{number + 16:032x}" for number in range(7)]


def write_export(store: Store) -> list[dict[str, Any]]:
    """Write an export of seven small pictures in two tars; return what is said of the tars."""
    with store.create("shards/s/00000000.tar") as stream:
        writer = ShardWriter(stream)
        offsets, sizes = [], []
        for number, uid in enumerate(UIDS):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (30 * number, 0, 0)).save(picture, "JPEG")
            members = pair_bytes(uid, picture.getvalue(), f"caption {number} ü", {"uid": uid})
            offsets.append(writer.append(members))
            sizes.append(len(members))
        writer.close()
    keys = np.array([bytes.fromhex(uid) for uid in UIDS], "S16")
    pieces = ByteRanges(("shards/s/00000000.tar",), keys, np.zeros(7, np.int32), np.array(offsets), np.array(sizes))
    tars = [
        write_tar(store, "e", number, pieces.take(np.arange(*span))) for number, span in enumerate([(0, 4), (4, 7)])
    ]
    return [{"tar": tar.name, "pairs": tar.pairs, "bytes": tar.bytes, "sha256": tar.sha256} for tar in tars]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Write an export with its papers; return its folder and tars."""
    store = Store(str(tmp_path_factory.mktemp("store")))
    tars = write_export(store)
    for name, data in render_documents(ABOUT, tars).items():
        store.write(f"e/{name}", data)
    return Path(store.path("e")), tars


@pytest.fixture(scope="module")
def croissants(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Import mlcroissant with a cache of its own: it knows tars again by their names alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROISSANT_CACHE", str(tmp_path_factory.mktemp("croissant")))
        import mlcroissant

    return mlcroissant


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise AssertionError(f"the network was asked: {arguments[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.usefixtures("offline")
def test_the_validator_takes_the_paper_and_asks_no_network(
    exported: tuple[Path, list[dict[str, Any]]], croissants: Any
) -> None:
    folder, tars = exported
    dataset = croissants.Dataset(jsonld=json.loads((folder / "croissant.json").read_text("utf-8")))
    metadata = dataset.metadata
    assert metadata.ctx.issues.errors == set()
    (warning,) = metadata.ctx.issues.warnings  # no date of publication is known
    assert "datePublished" in warning
    assert metadata.ctx.conforms_to.value == "http://mlcommons.org/croissant/1.1"
    assert {one.id: one.sha256 for one in metadata.file_objects} == {tar["tar"]: tar["sha256"] for tar in tars}
    assert {one.id: one.includes for one in metadata.file_sets} == {
        f"{suffix}-files": [f"*.{suffix}"] for suffix in ("jpg", "txt", "json")
    }
    fields = {record_set.id: [field.id for field in record_set.fields] for record_set in metadata.record_sets}
    assert fields["pairs"] == ["pairs/uid", "pairs/image", "pairs/caption"]
    assert metadata.license == ["CC BY-SA 3.0", "unknown"]
    assert metadata.cite_as == ABOUT["sources"]["wit"]["citation"]
    assert metadata.data_collection.startswith("Each pair is a row that a source published")
    assert "respected: robots.txt." in metadata.data_collection
    assert metadata.data_collection_missing_data.startswith("Of 9 published rows, 6 were stored as pairs; the rest")
    assert metadata.machine_annotation_tools == ["caption_v1 (caption)", "clip_v1 (clip, ViT-B-32 laion2b)"]
    assert any("Some pairs are repeated" in limit for limit in metadata.data_limitations)
    assert "remove_me@example.org" in metadata.data_release_maintenance_plan


@pytest.mark.usefixtures("offline")
def test_mlcroissant_reads_images_and_captions_from_the_tars(
    exported: tuple[Path, list[dict[str, Any]]], croissants: Any
) -> None:
    dataset = croissants.Dataset(jsonld=str(exported[0] / "croissant.json"))
    captions = {one["captions/uid"]: one["captions/caption"] for one in dataset.records("captions")}
    assert captions == {uid.encode(): f"caption {number} ü".encode() for number, uid in enumerate(UIDS)}
    reds = {one["images/uid"]: np.asarray(one["images/image"])[:, :, 0].mean() for one in dataset.records("images")}
    assert set(reds) == set(captions)
    assert all(abs(reds[uid.encode()] - 30 * number) < 3 for number, uid in enumerate(UIDS))


@pytest.mark.usefixtures("offline")
def test_a_paper_with_a_fault_is_not_taken(exported: tuple[Path, list[dict[str, Any]]], croissants: Any) -> None:
    said = json.loads((exported[0] / "croissant.json").read_text("utf-8"))
    del said["distribution"][0]["sha256"]
    with pytest.raises(croissants.ValidationError, match="sha256"):
        croissants.Dataset(jsonld=said)


def test_each_source_is_named_with_what_is_known_of_it() -> None:
    said = json.loads(croissant(ABOUT, []))
    wit, laion = said["prov:wasDerivedFrom"]
    assert (wit["name"], wit["license"], wit["version"]) == ("wit", "CC BY-SA 3.0", "2026-11-01")
    assert "citation" not in laion
    assert said["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]


def test_papers_are_the_same_for_the_same_tars_in_any_order(exported: tuple[Path, list[dict[str, Any]]]) -> None:
    assert render_documents(ABOUT, exported[1]) == render_documents(ABOUT, exported[1][::-1])
    weighted = render_documents({**ABOUT, "factors": {"00000000.tar": 2.5, "00000001.tar": 1.0}}, exported[1])
    assert json.loads(weighted["manifest.json"])["upsampling_factors"] == "2.5::1.0"


def card(tars: list[dict[str, Any]], **changes: Any) -> tuple[dict[str, Any], str]:
    """Return a data card's header and body."""
    said = data_card({**ABOUT, **changes}, tars).decode()  # type: ignore[typeddict-item]
    empty, header, body = said.split("---\n", 2)
    assert empty == ""
    found: dict[str, Any] = yaml.safe_load(header)
    return found, body


def test_the_card_says_what_is_known(exported: tuple[Path, list[dict[str, Any]]]) -> None:
    header, body = card(exported[1])
    assert header["license"] == "other"
    assert header["task_categories"] == ["zero-shot-image-classification"]
    assert header["size_categories"] == ["n<1K"]
    assert header["pretty_name"] == f"{ABOUT['title']}: half"
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "*.tar"}]
    assert "7 image-text pairs, 6 of them distinct, in 2 WebDataset tars" in body
    assert "| `wit` | `ingest` | 9 | 6 | `http_404` 2, `timeout` 1 |" in body
    assert "| `wit` | 4 | CC BY\\-SA 3.0 |" in body
    assert "drop as too_short when caption_v1.words < 2" in body
    assert "write to remove\\_me\\@example.org and give" in body
    assert "- Some pairs are repeated" in body
    digest = hashlib.sha256("".join(f"{tar['sha256']}  {tar['tar']}\n" for tar in exported[1]).encode()).hexdigest()
    assert digest in body
    _, without = card(exported[1], contact="", filters=[], signals=[])
    assert "the experiment file names no contact" in without
    assert "No filter was applied" in without


def test_what_the_experiment_file_says_is_no_markup(exported: tuple[Path, list[dict[str, Any]]]) -> None:
    _, body = card(exported[1])
    assert "<script>" not in body
    assert "<b>" not in body
    assert "](http" not in body
    assert "\n# heading" not in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    lengths = {line.split(" | ")[0]: line.replace("\\|", "").count("|") for line in rows}
    assert set(lengths.values()) <= {5, 6, 7}  # four, five and six columns: no text has made another


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_one_line_that_opens_no_markup(given_: str) -> None:
    shown = escape_markdown(given_)
    assert len(shown.splitlines()) <= 1
    bare = shown.replace("\\\\", "")
    for mark in "`*_[]()#|<>":
        assert bare.count(mark) == bare.count(f"\\{mark}")


@given(st.text("a`| \n\\", max_size=20))
def test_any_code_ends_where_its_fence_does(given_: str) -> None:
    shown = inline_code(given_)
    assert "|" not in shown
    assert "\n" not in shown
    if shown:
        fence = shown[: len(shown) - len(shown.lstrip("`"))]
        inner = shown[len(fence) : -len(fence)]
        assert shown == fence + inner + fence
        assert fence not in inner
        assert " ".join(given_.split()).replace("|", "¦") == inner.strip(" ") or "`" not in given_


def test_sizes_and_licences_have_the_names_that_hugging_face_knows() -> None:
    assert [size_category(pairs) for pairs in (0, 999, 1000, 10**6, 12_800_000_000)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "1M<n<10M",
        "10B<n<100B",
    ]
    assert licence_id(["CC BY-SA 3.0"]) == "cc-by-sa-3.0"
    assert licence_id(["unknown"]) == "unknown"
    assert licence_id(["CC BY-SA 3.0", "unknown"]) == licence_id(["proprietary, by agreement"]) == "other"
    assert "cc-by-4.0" in LICENCES
