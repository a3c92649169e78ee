"""Exports: tars of byte ranges in a seeded order, the same every time, read by any reader, and papers that agree."""

import hashlib
import io
import json
import tarfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.sampling import order_keys
from pipeline.export.layout import ExportPairs, layout_tars, tars_of_parts
from pipeline.export.manifest import export_digest, manifest, reading_options, sizes_json
from pipeline.export.tar_writer import ExportedTar, write_tar
from pipeline.shards.tar_format import SUFFIXES, TAR_END, read_pairs
from pipeline.storage.byte_ranges import ByteRanges
from pipeline.storage.store import Store
from pipeline.training.recipe import TrainingRecipe, open_clip_arguments, sampling_arguments
from tests.support.shard_files import KEYS, PAIRS, UIDS, members_of, write_shards


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def pieces(store: Store) -> ByteRanges:
    return write_shards(store)


def export(store: Store, folder: str, pieces: ByteRanges, times: list[int], per_tar: int) -> list[dict[str, Any]]:
    """Export as the job does; return the tars as mappings with the fields that its papers are made of."""
    tars: list[ExportedTar] = []
    for number, at in enumerate(layout_tars(pieces.keys, np.array(times, np.int32), 7, per_tar)):
        tars.append(write_tar(store, folder, number, pieces.take(at)))
    return [{"tar": tar.name, "pairs": tar.pairs, "bytes": tar.bytes, "sha256": tar.sha256} for tar in tars]


def test_ranges_are_copied_byte_for_byte_in_their_order(store: Store, pieces: ByteRanges) -> None:
    chosen = [20, 0, 7, 21, 5]  # across four shards, back and forth
    tar = write_tar(store, "exports/m/e", 3, pieces.take(np.array(chosen)))
    content = store.read("exports/m/e/00000003.tar")
    assert (tar.name, tar.pairs, tar.bytes) == ("00000003.tar", 5, len(content))
    assert tar.sha256 == hashlib.sha256(content).hexdigest()
    assert content == b"".join(map(members_of, chosen)) + TAR_END
    assert store.files("exports") == ["exports/m/e/00000003.tar"]  # and no draft


def test_pythons_tarfile_reads_an_exported_tar(store: Store, pieces: ByteRanges) -> None:
    chosen = np.arange(PAIRS)[::-2]
    write_tar(store, "e", 0, pieces.take(chosen))
    with tarfile.open(fileobj=io.BytesIO(store.read("e/00000000.tar")), mode="r:") as tar:
        assert tar.getnames() == [f"{UIDS[number]}.{suffix}" for number in chosen for suffix in SUFFIXES]
        captions = [tar.extractfile(f"{UIDS[number]}.txt").read().decode() for number in chosen]  # type: ignore[union-attr]
    assert captions == [f"caption {number} ü" for number in chosen]


def test_webdataset_reads_an_exported_tar(store: Store, pieces: ByteRanges) -> None:
    write_tar(store, "e", 0, pieces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = list(wds.WebDataset(store.path("e/00000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == UIDS
    assert [json.loads(sample["json"])["number"] for sample in samples] == list(range(PAIRS))
    assert [len(sample["jpg"]) for sample in samples] == [1 + 211 * number for number in range(PAIRS)]


def test_every_copy_of_every_pair_is_in_the_export_and_none_twice_in_a_tar(store: Store, pieces: ByteRanges) -> None:
    times = [number % 4 for number in range(PAIRS)]
    tars = export(store, "e", pieces, times, 5)
    found = Counter[str]()
    for tar in tars:
        uids = [pair.uid for pair in read_pairs(io.BytesIO(store.read(f"e/{tar['tar']}")))]
        assert len(uids) == len(set(uids)) == tar["pairs"] <= 5
        found.update(uids)
    assert found == Counter(dict(zip(UIDS, times, strict=True)))
    again = export(store, "again", pieces, times, 5)
    assert again == tars
    assert export_digest(again) == export_digest(tars[::-1])


TIMES = st.dictionaries(st.integers(0, 2**128 - 1), st.integers(0, 5), max_size=60)


def arrays(times: dict[int, int]) -> tuple[Any, Any]:
    """Return sorted keys and their times."""
    ordered = sorted(times)
    keys = np.array([number.to_bytes(16, "big") for number in ordered], "S16")
    return keys, np.array([times[number] for number in ordered], np.int32)


@given(TIMES, st.integers(0, 2**64), st.integers(1, 20))
@example({}, 0, 1)
@example({0: 0}, 0, 1)
@example({number << 120: 1 for number in range(21)}, 0, 20)
def test_a_layout_is_a_permutation_of_all_copies(times: dict[int, int], seed: int, per_tar: int) -> None:
    keys, counts = arrays(times)
    layout = [at.tolist() for at in layout_tars(keys, counts, seed, per_tar)]
    assert Counter(place for tar in layout for place in tar) == Counter(dict(enumerate(counts.tolist())))
    assert all(0 < len(tar) <= per_tar and len(tar) == len(set(tar)) for tar in layout)
    for copy in range(max(times.values(), default=0)):  # round by round, each as few tars as hold it, evenly filled
        wanted = set(np.flatnonzero(counts > copy).tolist())
        number = -(-len(wanted) // per_tar)
        tars, layout = layout[:number], layout[number:]
        assert {place for tar in tars for place in tar} == wanted
        assert max(map(len, tars)) - min(map(len, tars)) <= 1
    assert layout == []


@given(TIMES, st.integers(0, 99), st.integers(1, 20))
def test_a_pairs_place_among_others_is_its_own_affair(times: dict[int, int], seed: int, per_tar: int) -> None:
    keys, counts = arrays(times)
    order = [keys[at].tolist() for at in layout_tars(keys, np.minimum(counts, 1), seed, len(keys) or 1)]
    fewer = counts * (np.arange(len(counts)) % 2).astype(np.int32)
    left = [keys[at].tolist() for at in layout_tars(keys, np.minimum(fewer, 1), seed, len(keys) or 1)]
    kept = set(keys[fewer > 0].tolist())
    assert [key for tar in left for key in tar] == [key for tar in order for key in tar if key in kept]


def test_the_order_is_shuffled_by_the_seed_and_anew_in_each_round() -> None:
    first, second = (at.tolist() for at in layout_tars(KEYS, np.full(PAIRS, 2, np.int32), 1, PAIRS))
    other = next(layout_tars(KEYS, np.full(PAIRS, 1, np.int32), 2, PAIRS)).tolist()
    assert sorted(first) == list(range(PAIRS)) != first
    assert first != second
    assert first != other
    numbers = [order_keys(seed, copy, KEYS) for seed, copy in ((1, 0), (1, 1), (2, 1), (2**64 + 1, 0))]
    assert all(len(set(one.tolist())) == PAIRS for one in numbers)
    assert len({one.tobytes() for one in numbers}) == 4


def test_order_numbers_are_even_over_their_range() -> None:
    keys = np.array([number.to_bytes(16, "big") for number in range(20_000)], "S16")  # as unlike hashes as can be
    counts = np.bincount((order_keys(3, 0, keys) >> np.uint64(60)).astype(np.int64), minlength=16)
    assert abs(counts / 20_000 - 1 / 16).max() < 0.01


@pytest.fixture
def exported(store: Store, pieces: ByteRanges) -> list[dict[str, Any]]:
    return export(store, "e", pieces, [1 + number % 2 for number in range(PAIRS)], 4)


def test_the_manifest_tells_the_truth_about_each_tar(store: Store, exported: list[Any]) -> None:
    found = json.loads(manifest("mine", "j" * 64, {"blend": "b", "ingest": ["i"]}, exported))
    assert (found["mixture"], found["job"], found["inputs"]) == ("mine", "j" * 64, {"blend": "b", "ingest": ["i"]})
    assert found["pairs"] == PAIRS + PAIRS // 2
    assert sorted(found["tars"]) == [path.removeprefix("e/") for path in store.files("e")]
    for name, about in found["tars"].items():
        content = store.read(f"e/{name}")
        count = sum(1 for _ in read_pairs(io.BytesIO(content)))
        assert about == {"pairs": count, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    lines = "".join(f"{about['sha256']}  {name}\n" for name, about in sorted(found["tars"].items()))
    assert found["digest"] == hashlib.sha256(lines.encode()).hexdigest()  # as `sha256sum *.tar | sha256sum` gives
    assert found["train_data"] == f"{{00000000..{len(exported) - 1:08d}}}.tar"
    assert "upsampling_factors" not in found
    turned = exported[::-1]
    assert manifest("m", "j", {"b": 1, "a": 2}, exported) == manifest("m", "j", {"a": 2, "b": 1}, turned)
    assert sizes_json(exported) == sizes_json(turned)


def test_the_digest_changes_with_any_tar(exported: list[Any]) -> None:
    first, *others = exported
    digests = {export_digest(tars) for tars in ([first, *others], others, [{**first, "sha256": "0" * 64}, *others])}
    assert len(digests | {export_digest([{**first, "tar": "x.tar"}, *others])}) == 4


def test_sizes_give_open_clip_the_pairs_of_each_tar(store: Store, exported: list[Any]) -> None:
    found = json.loads(sizes_json(exported))
    assert len(found) == len(store.files("e"))
    for name, count in found.items():
        assert count == sum(1 for _ in read_pairs(io.BytesIO(store.read(f"e/{name}"))))


FACTORS = st.lists(st.sampled_from([1.0, 2.5, 1 / 3, None]), min_size=1, max_size=30)


@given(FACTORS, st.data())
def test_open_clip_reads_each_tar_with_its_factor(factors: list[float | None], data: Any) -> None:
    from open_clip_train.data import expand_urls

    weights = [one for one in factors if one is not None] or factors
    numbers = sorted(data.draw(st.sets(st.integers(0, 60), min_size=len(weights), max_size=len(weights))))
    tars = [{"tar": f"{number:08d}.tar", "factor": factor} for number, factor in zip(numbers, weights, strict=True)]
    found = reading_options(tars[::-1])
    urls, drawn = expand_urls(found["train_data"], found.get("upsampling_factors"))
    if drawn is None:  # the loader's own splitting of a string, without weights
        urls = [url for part in found["train_data"].split("::") for url in expand_urls(part, "1")[0]]
    assert urls == [tar["tar"] for tar in tars]
    assert drawn == (None if weights[0] is None else weights)


def test_the_launcher_hands_the_factors_to_open_clip(tmp_path: Path) -> None:
    from open_clip_train.data import expand_urls
    from open_clip_train.params import parse_args

    tars = [{"tar": f"{number:08d}.tar", "pairs": 9, "bytes": 1, "sha256": "0"} for number in range(4)]
    recipe = TrainingRecipe(18, 9, 1e-3, 0.1, 2, "fp32", 0, 1, {})
    paths = [tmp_path / str(tar["tar"]) for tar in tars]
    for factors in ((2.5, 2.5, 1.0, 1.0), (None,) * 4):
        drawn = [{**tar, "factor": factor} for tar, factor in zip(tars, factors, strict=True)]
        (tmp_path / "manifest.json").write_bytes(manifest("m", "j", {}, drawn))
        given_ = open_clip_arguments(recipe, paths, tmp_path / "model", tmp_path, sampling_arguments(tmp_path))
        asked = parse_args(given_)
        assert asked.dataset_resampled == (factors[0] is not None)
        if factors[0] is None:
            assert asked.train_data == "::".join(map(str, paths))
            assert asked.train_data_upsampling_factors is None
        else:
            assert expand_urls(asked.train_data, asked.train_data_upsampling_factors) == (
                list(map(str, paths)),
                list(factors),
            )


def test_by_weights_each_pair_is_there_once_and_each_part_is_read_by_its_quota() -> None:
    times = np.array([1 + number % 3 if number < 12 else 1 for number in range(PAIRS)], np.int32)
    part = np.array([0 if number < 12 else 1 for number in range(PAIRS)], np.int32)
    chosen = ExportPairs(KEYS, times, part, ("few", "many"))
    assert chosen.pairs() == {"few": (24, 12), "many": (11, 11)}
    tars = list(tars_of_parts(chosen, 5, 5))
    assert sorted(place for at, _ in tars for place in at.tolist()) == list(range(PAIRS))
    assert [sorted(set(part[at].tolist())) for at, _ in tars] == [[0], [0], [0], [1], [1], [1]]
    drawn = {number: sum(len(at) * factor for at, factor in tars if part[at[0]] == number) for number in (0, 1)}
    assert drawn == {0: pytest.approx(24), 1: pytest.approx(11)}
