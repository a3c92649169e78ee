"""Exports: tars of byte ranges, the same every time, read by any reader of tars, and papers that agree with them."""

import hashlib
import io
import json
import tarfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.exports import (
    ExportedTar,
    Range,
    croissant,
    export_digest,
    laid_out,
    manifest,
    order_key,
    sizes,
    write_tar,
)
from pipeline.shards import END, SUFFIXES, ShardWriter, pair_bytes, read_pairs
from pipeline.store import Store

PAIRS = 23
PER_SHARD = 6
UIDS = [f"{number:032x}" for number in range(PAIRS)]


def members_of(number: int) -> bytes:
    jpg = bytes([number]) * (1 + 211 * number)
    return pair_bytes(UIDS[number], jpg, f"caption {number} ü", {"number": number, "uid": UIDS[number]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def ranges(store: Store) -> dict[str, Range]:
    """Write the pairs to shards and return where each lies."""
    found = {}
    for first in range(0, PAIRS, PER_SHARD):
        shard = f"shards/s/{first:08d}.tar"
        with store.create(shard) as stream:
            writer = ShardWriter(stream)
            for number in range(first, min(first + PER_SHARD, PAIRS)):
                members = members_of(number)
                found[UIDS[number]] = Range(UIDS[number], shard, writer.append(members), len(members))
            writer.close()
    return found


def export(store: Store, folder: str, ranges: dict[str, Range], times: dict[str, int], per_tar: int) -> list[Any]:
    """Export as the job does; return the tars as mappings with the fields that its papers are made of."""
    tars: list[ExportedTar] = []
    for number, uids in enumerate(laid_out(times, 7, per_tar)):
        tars.append(write_tar(store, folder, number, (ranges[uid] for uid in uids)))
    return [{"tar": tar.name, "pairs": tar.pairs, "bytes": tar.bytes, "sha256": tar.sha256} for tar in tars]


def test_ranges_are_copied_byte_for_byte_to_where_the_export_says(store: Store, ranges: dict[str, Range]) -> None:
    chosen = [UIDS[20], UIDS[0], UIDS[7], UIDS[21], UIDS[5]]  # across four shards, back and forth
    tar = write_tar(store, "exports/m/e", 3, [ranges[uid] for uid in chosen])
    content = store.read("exports/m/e/00000003.tar")
    assert (tar.name, tar.pairs, tar.bytes) == ("00000003.tar", 5, len(content))
    assert tar.sha256 == hashlib.sha256(content).hexdigest()
    assert [uid for uid, _, _ in tar.members] == chosen
    for uid, offset, size in tar.members:
        assert content[offset : offset + size] == members_of(UIDS.index(uid))
    assert content == b"".join(members_of(UIDS.index(uid)) for uid in chosen) + END
    assert store.files("exports") == ["exports/m/e/00000003.tar"]  # and no draft


def test_pythons_tarfile_reads_an_exported_tar(store: Store, ranges: dict[str, Range]) -> None:
    chosen = UIDS[::-2]
    write_tar(store, "e", 0, [ranges[uid] for uid in chosen])
    with tarfile.open(fileobj=io.BytesIO(store.read("e/00000000.tar")), mode="r:") as tar:
        assert tar.getnames() == [f"{uid}.{suffix}" for uid in chosen for suffix in SUFFIXES]
        captions = [tar.extractfile(f"{uid}.txt").read().decode() for uid in chosen]  # type: ignore[union-attr]
    assert captions == [f"caption {UIDS.index(uid)} ü" for uid in chosen]


def test_webdataset_reads_an_exported_tar(store: Store, ranges: dict[str, Range]) -> None:
    write_tar(store, "e", 0, [ranges[uid] for uid in UIDS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = list(wds.WebDataset(store.path("e/00000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == UIDS
    assert [json.loads(sample["json"])["number"] for sample in samples] == list(range(PAIRS))
    assert [len(sample["jpg"]) for sample in samples] == [1 + 211 * number for number in range(PAIRS)]


def test_a_repeated_export_is_the_same_to_the_byte(store: Store, ranges: dict[str, Range]) -> None:
    times = {uid: 1 + number % 3 for number, uid in enumerate(UIDS)}
    one = export(store, "one", ranges, times, 5)
    other = export(store, "other", dict(reversed(ranges.items())), dict(reversed(times.items())), 5)
    assert one == other
    assert export_digest(one) == export_digest(other[::-1])
    for tar in one:
        assert store.read(f"one/{tar['tar']}") == store.read(f"other/{tar['tar']}")


def test_every_copy_of_every_pair_is_in_the_export_and_none_twice_in_a_tar(
    store: Store, ranges: dict[str, Range]
) -> None:
    times = {uid: number % 4 for number, uid in enumerate(UIDS)}
    tars = export(store, "e", ranges, times, 5)
    found = Counter[str]()
    for tar in tars:
        uids = [pair.uid for pair in read_pairs(io.BytesIO(store.read(f"e/{tar['tar']}")))]
        assert len(uids) == len(set(uids)) == tar["pairs"] <= 5
        found.update(uids)
    assert found == Counter(times)


TIMES = st.dictionaries(st.text("abcdef0123", min_size=1, max_size=6), st.integers(0, 5), max_size=60)


@given(TIMES, st.integers(0, 2**64), st.integers(1, 20))
@example({}, 0, 1)
@example({"a": 0}, 0, 1)
@example({str(number): 1 for number in range(21)}, 0, 20)
def test_a_layout_is_a_permutation_of_all_copies(times: dict[str, int], seed: int, per_tar: int) -> None:
    layout = list(laid_out(times, seed, per_tar))
    assert Counter(uid for tar in layout for uid in tar) == Counter(times)
    assert all(0 < len(tar) <= per_tar and len(tar) == len(set(tar)) for tar in layout)
    for copy in range(max(times.values(), default=0)):  # round by round, each as few tars as hold it, evenly filled
        wanted = {uid for uid, count in times.items() if count > copy}
        number = -(-len(wanted) // per_tar)
        tars, layout = layout[:number], layout[number:]
        assert {uid for tar in tars for uid in tar} == wanted
        assert max(map(len, tars)) - min(map(len, tars)) <= 1
    assert layout == []


@given(TIMES, st.integers(0, 2**64), st.integers(1, 20))
def test_a_layout_does_not_depend_on_the_order_of_its_input(times: dict[str, int], seed: int, per_tar: int) -> None:
    turned = dict(sorted(times.items(), reverse=True))
    assert list(laid_out(times, seed, per_tar)) == list(laid_out(turned, seed, per_tar))


def test_the_order_is_shuffled_by_the_seed_and_anew_in_each_round() -> None:
    times = dict.fromkeys(UIDS, 2)
    (first, second), (other, _) = list(laid_out(times, 1, PAIRS)), list(laid_out(times, 2, PAIRS))
    assert first != sorted(first)
    assert first != second
    assert first != other
    assert order_key(1, "a", 0) != order_key(1, "a", 1) != order_key(2, "a", 1)


@pytest.mark.parametrize(("offset", "size"), [(0, 10**9), (10**9, 512), (-1, 512), (0, -1)])
def test_a_range_outside_its_shard_is_an_error_and_leaves_nothing(
    store: Store, ranges: dict[str, Range], offset: int, size: int
) -> None:
    wrong = Range(UIDS[1], ranges[UIDS[1]].shard, offset, size)
    with pytest.raises((OSError, ValueError)):
        write_tar(store, "e", 0, [ranges[UIDS[0]], wrong])
    assert store.files("e") == []


def test_a_range_over_the_end_names_shard_place_and_lengths(store: Store, ranges: dict[str, Range]) -> None:
    place = ranges[UIDS[0]]
    length = store.size(place.shard)
    with pytest.raises(OSError, match=rf"{place.shard}: 100 bytes at {length - 100}, the ledger says 512"):
        write_tar(store, "e", 0, [Range(UIDS[0], place.shard, length - 100, 512)])


def test_a_shard_that_is_gone_is_an_error_and_leaves_nothing(store: Store, ranges: dict[str, Range]) -> None:
    store.remove(ranges[UIDS[-1]].shard)
    with pytest.raises(FileNotFoundError):
        write_tar(store, "e", 0, [ranges[UIDS[0]], ranges[UIDS[-1]]])
    assert store.files("e") == []


def test_an_export_that_fails_leaves_the_tar_that_was_there(store: Store, ranges: dict[str, Range]) -> None:
    write_tar(store, "e", 0, [ranges[UIDS[0]]])
    before = store.read("e/00000000.tar")
    with pytest.raises(OSError, match="the ledger says"):
        write_tar(store, "e", 0, [Range(UIDS[0], ranges[UIDS[0]].shard, 10**9, 1)])
    assert store.read("e/00000000.tar") == before


@pytest.fixture
def exported(store: Store, ranges: dict[str, Range]) -> list[Any]:
    return export(store, "e", ranges, {uid: 1 + number % 2 for number, uid in enumerate(UIDS)}, 4)


def test_the_manifest_tells_the_truth_about_each_tar(store: Store, exported: list[Any]) -> None:
    found = json.loads(manifest("mine", "j" * 64, {"blend": "b", "ingest": ["i"]}, exported))
    assert (found["mixture"], found["job"], found["inputs"]) == ("mine", "j" * 64, {"blend": "b", "ingest": ["i"]})
    assert found["pairs"] == PAIRS + PAIRS // 2
    assert sorted(found["tars"]) == [path.removeprefix("e/") for path in store.files("e")]
    for name, about in found["tars"].items():
        content = store.read(f"e/{name}")
        pairs = sum(1 for _ in read_pairs(io.BytesIO(content)))
        assert about == {"pairs": pairs, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    lines = "".join(f"{about['sha256']}  {name}\n" for name, about in sorted(found["tars"].items()))
    assert found["digest"] == hashlib.sha256(lines.encode()).hexdigest()  # as `sha256sum *.tar | sha256sum` gives


def test_the_digest_changes_with_any_tar(exported: list[Any]) -> None:
    first, *others = exported
    digests = {export_digest(tars) for tars in ([first, *others], others, [{**first, "sha256": "0" * 64}, *others])}
    assert len(digests | {export_digest([{**first, "tar": "x.tar"}, *others])}) == 4


def test_sizes_give_open_clip_the_pairs_of_each_tar(store: Store, exported: list[Any]) -> None:
    found = json.loads(sizes(exported))
    assert len(found) == len(store.files("e"))
    for name, pairs in found.items():
        assert pairs == sum(1 for _ in read_pairs(io.BytesIO(store.read(f"e/{name}"))))


def test_croissant_lists_each_tar_with_its_digest_and_every_licence_once(store: Store, exported: list[Any]) -> None:
    licences = {"yfcc": "CC BY", "wit": "CC BY", "laion": "unknown"}
    found = json.loads(croissant("Títle", "mine", licences, exported))
    assert (found["@type"], found["name"]) == ("sc:Dataset", "mine")
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert found["license"] == ["CC BY", "unknown"]
    assert f"Títle: {PAIRS + PAIRS // 2} image-text pairs" in found["description"]
    files = {file["contentUrl"]: file for file in found["distribution"]}
    assert sorted(f"e/{name}" for name in files) == store.files("e")
    assert len({file["@id"] for file in files.values()}) == len(found["distribution"])
    for name, file in files.items():
        content = store.read(f"e/{name}")
        assert (file["contentSize"], file["sha256"]) == (f"{len(content)} B", hashlib.sha256(content).hexdigest())
        assert file["@type"] == "cr:FileObject"


def test_papers_are_the_same_whatever_the_order_of_the_tars(exported: list[Any]) -> None:
    turned = exported[::-1]
    assert manifest("m", "j", {"b": 1, "a": 2}, exported) == manifest("m", "j", {"a": 2, "b": 1}, turned)
    assert sizes(exported) == sizes(turned)
    assert sizes(exported).endswith(b"}\n")
