"""The stage decide over a store's tables: every kind of rule against plain Python, whatever the files and parts."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs import decide as stage
from jobs.spark.uid_join import JoinSide, pieces
from pipeline.core.sampling import uniform_hash
from pipeline.errors import InputError, StageFailed
from pipeline.storage.uid_files import write_subset
from tests.support.rule_statistics import quick
from tests.support.scored_store import SOURCES, Rows, decide, fill, opened, write_experiment

SEED = 7


FILTERS: dict[str, Any] = {
    "basic": {"drop_when": {"too_short": "caption_v1.words < 2", "foreign": "caption_v1.language <> 'en'"}},
    "top_of_basic": {"top_fraction": 0.5, "by": "published_v1.similarity", "per_source": True, "among": "basic"},
    "once": {"unique_by": "caption_v1.normalised", "prefer": "published_v1.similarity", "among": "basic"},
    "balanced": {"balanced": "concepts_v1", "t": 9, "among": {"threshold": {"above": 0, "by": "caption_v1.words"}}},
    "both": {"all": ["basic", {"not": {"random_fraction": 0.6}}, {"subset": "SUBSET"}]},
    "either": {
        "any": [
            {"top_fraction": 0.3, "by": "published_v1.similarity"},
            {"concepts": "concepts_v1", "any_of": [2]},
        ]
    },
}


def rows_of(count: int, seed: int) -> Rows:
    """Draw pairs with ties, nulls, NaN, empty captions and missing signal rows among them."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        concepts = sorted({int(one) for one in rng.choice(4, rng.integers(0, 3), p=[0.7, 0.1, 0.1, 0.1])})
        words = int(rng.integers(0, 6))
        signals: dict[str, Any] = {
            "caption_v1": {
                "words": words,
                "language": rng.choice(["en", "en", "de"]) if words else None,
                "normalised": f"text {rng.integers(0, 12)}" if words else "",
            },
            "concepts_v1": {"concepts": concepts, "concept_count": len(concepts)},
            "published_v1": {"similarity": [None, math.nan, *(number / 8 for number in range(8))][rng.integers(0, 10)]},
        }
        signals = {name: None if rng.random() < 0.05 else signal for name, signal in signals.items()}
        rows.append({"uid": rng.bytes(16).hex(), "source": SOURCES[rng.integers(0, 2)], **signals})
    return rows


ROWS = rows_of(120, 3)


LISTED = {row["uid"] for row in ROWS[::3]}


@pytest.fixture(scope="module")
def spark(spark: SparkSession) -> SparkSession:
    return quick(spark)


def with_subset(folder: Path) -> dict[str, Any]:
    """Write the subset of FILTERS; return these with its path in place."""
    path = folder / "subset.npy"
    with path.open("wb") as stream:
        write_subset(stream, np.array([bytes.fromhex(uid) for uid in [*sorted(LISTED), "f" * 32]], "S16"))
    return FILTERS | {"both": {"all": [*FILTERS["both"]["all"][:2], {"subset": str(path)}]}}


@pytest.fixture(scope="module")
def decided(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("decide")
    run = opened(write_experiment(folder, with_subset(folder)), spark=spark)
    fill(run, ROWS)
    return decide(run)


def value(row: Any, signal: str, column: str) -> Any:
    found = (row[signal] or {}).get(column)
    return None if isinstance(found, float) and math.isnan(found) else found


def basic(row: Any) -> str:
    words, language = value(row, "caption_v1", "words"), value(row, "caption_v1", "language")
    return "too_short" if words is None or words < 2 else "foreign" if language != "en" else ""


def ranked(rows: Rows) -> list[Any]:
    scored = [row for row in rows if value(row, "published_v1", "similarity") is not None]
    return sorted(scored, key=lambda row: (-row["published_v1"]["similarity"], row["uid"]))


def top(row: Any, best: set[str]) -> str:
    if value(row, "published_v1", "similarity") is None:
        return "no_score"
    return "" if row["uid"] in best else "below_top_fraction"


def by_hand() -> dict[str, dict[str, str]]:
    """Return what FILTERS say, pair by pair in Python."""
    kept = [row for row in ROWS if not basic(row)]
    best = {row["uid"] for row in ranked(ROWS)[: math.ceil(len(ranked(ROWS)) * 3 / 10)]}
    of_basic = set[str]()
    for source in SOURCES:
        mine = ranked([row for row in kept if row["source"] == source])
        of_basic |= {row["uid"] for row in mine[: math.ceil(len(mine) / 2)]}
    groups: dict[str, list[Any]] = {}
    for row in kept:
        groups.setdefault(row["caption_v1"]["normalised"], []).append(row)
    firsts = {(ranked(rows) or sorted(rows, key=lambda row: row["uid"]))[0]["uid"] for rows in groups.values()}
    found = {
        "basic": basic,
        "top_of_basic": lambda row: basic(row) or top(row, of_basic),
        "once": lambda row: basic(row) or ("" if row["uid"] in firsts else "normalised_duplicate"),
        "balanced": _balanced,
        "both": _both,
        "either": lambda row: "" if 2 in (value(row, "concepts_v1", "concepts") or []) else top(row, best),
    }
    return {name: {row["uid"]: say(row) for row in ROWS} for name, say in found.items()}


def _both(row: Any) -> str:
    drawn = uniform_hash(SEED, row["uid"], "fraction") < 0.6
    return basic(row) or ("random_fraction_keeps" if drawn else "") or ("" if row["uid"] in LISTED else "not_in_subset")


def _balanced(row: Any) -> str:
    words = value(row, "caption_v1", "words")
    if words is None or words <= 0:
        return "no_score" if words is None else "below_threshold"
    counted = [one for one in ROWS if (value(one, "caption_v1", "words") or 0) > 0]
    counts = Counter(concept for one in counted for concept in value(one, "concepts_v1", "concepts") or [])
    concepts = value(row, "concepts_v1", "concepts")
    if not concepts:
        return "no_concept"
    return (
        "" if any(uniform_hash(SEED, row["uid"], one) < min(1, 9 / counts[one]) for one in concepts) else "balanced_out"
    )


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_says_of_each_pair_what_plain_python_does(name: str, decided: dict[str, dict[str, str]]) -> None:
    expected = by_hand()[name]
    assert decided[name] == expected
    assert "" in expected.values()
    assert len(set(expected.values())) > 1


def test_decisions_depend_on_no_order_of_rows_nor_on_files_nor_on_parts(
    decided: dict[str, dict[str, str]], spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PARTITION_ROWS", 50)
    monkeypatch.setattr("jobs.spark.uid_join.MAX_BUFFERED_ROWS", 20)
    some = {name: with_subset(tmp_path)[name] for name in ("basic", "top_of_basic", "both")}
    run = opened(write_experiment(tmp_path, some), spark=spark)
    fill(run, ROWS[::-1], per_file=7)
    assert decide(run) == {name: decided[name] for name in some}
    files = run.ledger.snapshot("decisions", [run.plan.decide("basic").id])
    assert len(files) > 1


def test_a_signal_with_a_pair_twice_is_no_signal(spark: SparkSession, tmp_path: Path) -> None:
    run = opened(write_experiment(tmp_path, {"basic": FILTERS["basic"]}), spark=spark)
    row = {**ROWS[0], "caption_v1": {"words": 3, "language": "en"}}
    fill(run, [row, row])
    with pytest.raises(Exception, match=f"expected one row for each uid, found more of {row['uid']}"):
        decide(run)


def test_a_pair_that_is_lost_is_not_passed_over(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(write_experiment(tmp_path, {"basic": FILTERS["basic"]}), spark=spark)
    fill(run, ROWS)
    monkeypatch.setattr(stage, "_count_stored", lambda run: len(ROWS) + 1)
    with pytest.raises(StageFailed, match=f"filters.basic: found {len(ROWS)} decisions, expected {len(ROWS) + 1},"):
        decide(run)
    assert run.ledger.finished(run.plan.decide("basic").id) is None


def test_nothing_stored_is_decided_about(spark: SparkSession, tmp_path: Path) -> None:
    run = opened(write_experiment(tmp_path, {name: FILTERS[name] for name in ("either", "balanced")}), spark=spark)
    fill(run, [])
    assert decide(run) == {"either": {}, "balanced": {}}


def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    run = opened(write_experiment(tmp_path, {"basic": FILTERS["basic"]}))
    fill(run, ROWS[:4])
    path = run.ledger.snapshot("signals_caption_v1")[0][1]
    one = pa.RecordBatch.from_pydict({"chunk": [0]})
    schema = pa.schema([run.schema("signals_caption_v1").field(name) for name in ("uid", "words")])
    [batch] = pieces(run.store, [JoinSide("caption_v1", ("words",), (path,))], [schema], 1, 1, [one])
    assert pa.ipc.open_stream(batch["rows"][0].as_buffer()).schema.names == ["uid", "words"]


WRONG = {
    "filters.x: unknown signal 'image_v1'": {"threshold": {"at_least": 1, "by": "image_v1.bytes"}},
    "filters.x: unknown column of published_v1 'punsafe'": {"top_fraction": 0.5, "by": "published_v1.punsafe"},
    "filters.x: unknown column of published_v1 'concepts'": {"balanced": "published_v1", "t": 3},
    "filters.x: unknown column of caption_v1 'near_reference'": {"near_reference": "caption_v1"},
    "filters.x: unknown signal 'nearest_v1'": {"all": ["a", {"not": {"not_in_evaluation": "nearest_v1"}}]},
    "filters.x: unknown filter 'b'": {"any": ["a", {"all": ["b"]}]},
    "filters.x: unknown filter 'c'": {"top_fraction": 0.5, "by": "caption_v1.words", "among": "c"},
    "filters.x: expected a column of numbers, found caption_v1.language (string)": {
        "top_fraction": 0.5,
        "by": "caption_v1.language",
    },
    "filters.x: unknown source 'wit'": {
        "threshold": {"at_least": 1, "by": "caption_v1.words", "per_source": {"wit": 2}}
    },
    "filters.x: none.npy: cannot be read": {"subset": "none.npy"},
    "filters.x: built on itself: x -> x": {"not": "x"},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_a_filter_names_and_is_not_there_is_said_before_anything_runs(said: str, tmp_path: Path) -> None:
    filters = {"a": FILTERS["basic"], "x": WRONG[said]}
    with pytest.raises(InputError) as caught:
        opened(write_experiment(tmp_path, filters))
    assert said in str(caught.value)


def test_a_seed_and_a_files_bytes_are_part_of_what_a_filter_is(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, with_subset(tmp_path))

    def ids(*settings: str) -> dict[str, str]:
        run = opened(path, settings)
        return {name: run.plan.decide(name).id for name in FILTERS}

    first, other = ids(), ids("seed=8")
    assert {name for name in FILTERS if first[name] != other[name]} == {"balanced", "both"}
    with (tmp_path / "subset.npy").open("wb") as stream:
        write_subset(stream, np.array([b"x" * 16], "S16"))
    assert {name for name in FILTERS if first[name] != ids()[name]} == {"both"}
