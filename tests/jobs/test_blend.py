"""Mixtures as Spark draws them: the pairs that an independent count in Python gives, for every way to share."""

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyspark.sql import SparkSession

from jobs import blend, decide
from jobs.export import stage
from jobs.export.stage import copy_tar, run_in_threads
from jobs.spark.tasks import run_units
from jobs.workflow.experiment import load_experiment, models_of_mixture
from pipeline.core.sampling import rank_key, rank_sql
from pipeline.errors import InputError
from pipeline.export.layout import layout_tars
from pipeline.mixtures.apportionment import Quota, apportion
from pipeline.storage.store import Store
from pipeline.storage.uid_files import write_subset
from tests.support.ingested_store import (
    LANGUAGES,
    SIZES,
    Pair,
    facts_of,
    ingest,
    opened,
    pairs,
    score,
    write_experiment,
)
from tests.support.shard_files import PAIRS, write_shards

SEED = 11


Takes = Callable[[Pair], bool]


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """Write a store with pairs, signals and decisions; return its experiment file."""
    path = write_experiment(tmp_path_factory.mktemp("decided"))
    with opened(path, spark=spark) as run:
        ingest(run)
        score(run)
        decide.execute(run, [run.plan.decide(name) for name in ("basic", "narrow")])
    return path


def blended(path: Path, spark: SparkSession, **given: Any) -> tuple[dict[str, Counter[str]], dict[str, Any]]:
    """Draw a mixture; return how often each pair is in each part, and what the ledger keeps of the job."""
    setting = f"mixtures.mine={yaml.safe_dump(given, default_flow_style=True, allow_unicode=True, width=9999).strip()}"
    with opened(path, setting, spark=spark) as run:
        job = run.plan.blend("mine")
        blend.execute(run, [job])
        rows = run.ledger.read("mixtures", jobs=[job.id]).to_pylist()
        facts = facts_of(run, job)
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row["part"], Counter())[row["uid"]] += row["times"]
    assert len({row["uid"] for row in rows}) == len(rows)
    for part, counts in found.items():
        assert facts["parts"][part]["pairs"] == counts.total()
    return found, facts


def expected(parts: dict[str, Takes], counts: dict[str, int], of: list[Pair]) -> dict[str, Counter[str]]:
    """Return the same, of the pairs `of`: each is in the first part that takes it, drawn by its hash."""
    members: dict[str, list[str]] = {name: [] for name in parts}
    for pair in of:
        for name, takes in parts.items():
            if takes(pair):
                members[name].append(pair.uid)
                break
    found = {}
    for name, uids in members.items():
        ranked = sorted(uids, key=lambda uid: rank_key(SEED, uid))
        quota = Quota(counts[name], len(uids))
        found[name] = Counter({uid: quota.times(rank) for rank, uid in enumerate(ranked) if quota.times(rank)})
    return found


RIGHT = [pair for pair in pairs() if not pair.wrong]


def basic(pair: Pair) -> bool:
    return pair.words >= 3


def narrow(pair: Pair) -> bool:
    return bool(np.float32(pair.aspect) <= np.float32(2.5))


def test_parts_are_asked_in_their_order_and_drawn_by_their_shares(decided: Path, spark: SparkSession) -> None:
    found, facts = blended(
        decided,
        spark,
        parts=[
            {"share": 0.7, "filter": "narrow"},
            {"share": 0.2, "sources": ["wit"], "filter": "basic"},
            {"share": 0.1, "dropped_by": "basic", "name": "short"},
        ],
        total=41,
        shortage="repeat",
        repeat=3,
    )
    parts: dict[str, Takes] = {
        "narrow": narrow,
        "wit, basic": lambda pair: pair.source == "wit" and basic(pair),
        "short": lambda pair: not basic(pair),
    }
    counts = apportion({"narrow": 0.7, "wit, basic": 0.2, "short": 0.1}, 41)
    assert found == expected(parts, counts, RIGHT)
    assert max(found["wit, basic"].values()) == 2  # its eight pairs are drawn from fewer
    taken = [pair for pair in pairs() if any(takes(pair) for takes in parts.values())]
    assert facts["available"] == Counter(pair.source for pair in taken if not pair.wrong)
    assert facts["quarantined"] == Counter(pair.source for pair in taken if pair.wrong)
    assert sum(facts["by_source"].values()) == 41


def test_a_mixture_by_the_values_of_a_column_takes_no_other(decided: Path, spark: SparkSession) -> None:
    shares = {LANGUAGES[0]: 2, LANGUAGES[2]: 1}
    found, facts = blended(decided, spark, filter="basic", by="caption_v1.language", shares=shares, total=20)
    parts: dict[str, Takes] = {name: lambda pair, name=name: pair.language == name for name in shares}  # type: ignore[misc]
    assert found == expected(parts, apportion(shares, 20), [pair for pair in RIGHT if basic(pair)])
    assert facts["parts"].keys() == shares.keys()


def test_buckets_are_half_open_in_the_columns_own_precision_and_hold_no_nan(decided: Path, spark: SparkSession) -> None:
    found, facts = blended(
        decided, spark, by="image_v1.entropy", buckets=[0.07, 0.7], shares=[1, 5, 3], mismatched=True
    )
    edges = [np.float32(0.07), np.float32(0.7)]
    assert {edge in {np.float32(pair.entropy) for pair in pairs()} for edge in edges} == {True}
    names = ["image_v1.entropy < 0.07", "0.07 <= image_v1.entropy < 0.7", "0.7 <= image_v1.entropy"]
    parts: dict[str, Takes] = {
        name: lambda pair, place=place: (  # type: ignore[misc]
            not isnan(pair.entropy) and np.searchsorted(edges, np.float32(pair.entropy), "right") == place
        )
        for place, name in enumerate(names)
    }
    available = {name: sum(map(takes, pairs())) for name, takes in parts.items()}
    assert {name: told["available"] for name, told in facts["parts"].items()} == available
    total = sum(counts.total() for counts in found.values())
    assert found == expected(parts, apportion(dict(zip(names, (1, 5, 3), strict=True)), total), pairs())
    assert facts["quarantined"] == {}


@pytest.fixture
def listed(tmp_path: Path) -> tuple[list[Pair], Path, Path]:
    """Write some uids as text and as a subset, two of them stored nowhere; return the pairs and both files."""
    chosen = [pair for pair in pairs() if pair.number % 3 == 1]
    uids = [pair.uid for pair in chosen] + ["0" * 32, "f" * 31 + "0"]
    text, subset = tmp_path / "uids.txt", tmp_path / "uids.npy"
    text.write_text("\n".join([*uids, uids[0]]) + "\n")
    with subset.open("wb") as stream:
        write_subset(stream, np.array([bytes.fromhex(uid) for uid in uids], "S16"))
    return chosen, text, subset


def test_a_list_of_uids_is_a_mixture_and_what_is_not_stored_is_counted(
    decided: Path, spark: SparkSession, listed: tuple[list[Pair], Path, Path]
) -> None:
    chosen, text, subset = listed
    parts: dict[str, Takes] = {source: lambda pair, source=source: pair.source == source for source in SIZES}  # type: ignore[misc]
    right = [pair for pair in chosen if not pair.wrong]
    counts = Counter(pair.source for pair in right)
    found, facts = blended(decided, spark, uids=str(subset), missing=2)
    assert found == expected(parts, counts, right)
    assert facts["uids"] == {"listed": len(chosen) + 2, "repeated": 0, "missing": 2}
    with pytest.raises(InputError, match=rf"mixtures\.mine\.uids: {text}: 2 of its .* uids .*{'0' * 32}.* at most 1"):
        blended(decided, spark, uids=str(text), missing=1)


def test_a_lists_content_is_in_the_jobs_id_and_its_path_is_not(decided: Path, tmp_path: Path) -> None:
    ids = []
    for name, text in (("a", "0" * 32), ("b", "0" * 32), ("c", "1" * 32)):
        (tmp_path / name).write_text(text)
        with opened(decided, f"mixtures.mine={{uids: {tmp_path / name}}}") as run:
            ids.append(run.plan.blend("mine").id)
    assert ids[0] == ids[1] != ids[2]
    with opened(decided, "mixtures.everything.repeat_as=weights") as run, opened(decided) as other:
        assert run.plan.blend("everything").id == other.plan.blend("everything").id
        assert run.plan.export("everything").id != other.plan.export("everything").id


def test_spark_draws_nested_samples_by_the_ranks_that_python_gives(spark: SparkSession) -> None:
    uids = [f"{number:032x}" for number in range(60)]
    parts = {"0": uids[:30], "1": uids[30:50], "2": uids[50:]}
    rows = [(uid, name) for name, members in parts.items() for uid in members]
    spark.createDataFrame(rows, "uid string, part string").createOrReplaceTempView("eligible")
    quotas = [
        {name: Quota(count, len(parts[name])) for name, count in apportion({"0": 3, "1": 2, "2": 1}, total).items()}
        for total in (6, 12, 30, 60, 120, 240)
    ]
    times = ", ".join(f"{blend.times_sql(one, 'part')} as t{place}" for place, one in enumerate(quotas))
    ranked = f"select *, row_number() over (partition by part order by {rank_sql(SEED)}, uid) - 1 as rank from eligible"
    answers = spark.sql(f"select uid, part, {times} from ({ranked})").collect()
    assert len(answers) == len(uids)
    ranks: dict[str, int] = {}
    for members in parts.values():
        ranks |= {uid: rank for rank, uid in enumerate(sorted(members, key=lambda uid: rank_key(SEED, uid)))}
    for row in answers:
        found = [row[f"t{place}"] for place in range(len(quotas))]
        assert found == [one[row["part"]].times(ranks[row["uid"]]) for one in quotas]
        assert found == sorted(found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{filter: basi}", "mixtures.mine.filter: unknown filter 'basi'"),
        ("{parts: [{dropped_by: basi}]}", "mixtures.mine.filter: unknown filter 'basi'"),
        ("{sources: [wits]}", "mixtures.mine: unknown source 'wits'"),
        ("{sources: [wit], parts: [{sources: [yfcc]}]}", "mixtures.mine: the part 'yfcc' is of no source of"),
        ("{by: captio_v1.language, shares: {en: 1}}", "mixtures.mine.by: unknown signal 'captio_v1'"),
        ("{by: caption_v1.lang, shares: {en: 1}}", "mixtures.mine.by: unknown column of caption_v1 'lang'"),
        ("{by: image_v1.entropy, shares: {en: 1}}", "mixtures.mine.by: expected a column of text, found entropy"),
        ("{by: caption_v1.language, buckets: [1], shares: [1, 2]}", "mixtures.mine.by: expected a column of numbers"),
    ],
)
def test_what_a_mixture_names_must_be_there(decided: Path, given: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment(decided, [f"mixtures.mine={given}"])
    assert str(caught.value).startswith(f"{decided}: {said}")


def test_a_smaller_size_is_a_part_of_a_larger_and_of_the_whole(decided: Path, spark: SparkSession) -> None:
    settings = ["mixtures.mine={shares: {yfcc: 2, wit: 1}, shortage: shrink}", "training.mixtures=[mine]"]
    with opened(decided, *settings, "training.sizes=[9, 30, 500]", spark=spark) as run:
        names = ["mine@9", "mine@30", "mine@500", "mine"]
        assert run.experiment.trained_mixtures() == names[:3]
        blend.execute(run, [run.plan.blend(name) for name in names])
        drawn = []
        for name in names:
            rows = run.ledger.read("mixtures", ["mixture", "uid"], [run.plan.blend(name).id])
            assert set(rows["mixture"].to_pylist()) == {name}
            drawn.append(set(rows["uid"].to_pylist()))
        stage.execute(run, [run.plan.export("mine@9")])
        folder = stage.export_folder(run.plan.export("mine@9"))
        said = json.loads(run.store.read(f"{folder}/manifest.json"))
    assert list(map(len, drawn[:2])) == [9, 30]
    assert drawn[0] < drawn[1] < drawn[2] == drawn[3]  # the mixture's own rule for a shortage
    assert (said["mixture"], said["pairs"]) == ("mine@9", 9)


def test_a_mixture_stands_on_the_models_behind_its_parts(decided: Path) -> None:
    settings = [
        "models.big={name: ViT-B-32, pretrained: x}",
        "signals.clip_v1={model: big}",
        "filters.similar={drop_when: {far: clip_v1.similarity < 0.2}}",
        "mixtures.kept={parts: [{dropped_by: similar}]}",
        "mixtures.cut={by: clip_v1.similarity, buckets: [0.3], shares: [1, 1]}",
    ]
    experiment = load_experiment(decided, settings)
    assert {name: models_of_mixture(experiment, name) for name in ("kept", "cut", "everything")} == {
        "kept": {"big"},
        "cut": {"big"},
        "everything": set(),
    }


def test_spark_and_threads_export_the_same_bytes(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    pieces = write_shards(store)
    layout = layout_tars(pieces.keys, np.ones(PAIRS, np.int32), SEED, 6)
    units = [(f"tar-{number}", (number, pieces.take(at))) for number, at in enumerate(layout)]

    def work(folder: str, payload: Any) -> Any:
        return copy_tar(store, folder, "m", folder, payload)

    def quiet(done: int, of: int) -> None: ...

    by_spark = run_units(spark, store, "by-spark", units, partial(work, "by-spark"), quiet)
    by_threads = run_in_threads(store, "by-threads", units, partial(work, "by-threads"), 3, quiet)
    assert [one.facts for one in by_spark.values()] == [one.facts for one in by_threads.values()]
    assert len(by_spark) == len(store.files("by-spark")) == 4
    for path in store.files("by-spark"):
        assert store.read(path) == store.read(path.replace("by-spark", "by-threads"))
