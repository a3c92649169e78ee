"""Replay: what other thresholds would change in a mixture, told without a change to the store."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs import blend, decide
from jobs.cli.main import main
from jobs.cli.replay import replay
from jobs.workflow.runner import Run
from pipeline.core.sampling import rank_key
from pipeline.errors import InputError
from pipeline.ledger.tables import Ledger
from pipeline.mixtures.apportionment import apportion
from pipeline.mixtures.diff import format_diff
from pipeline.storage.store import Store
from tests.support.ingested_store import Pair, ingest, opened, pairs, score, write_experiment

MIXTURES = {
    "all_filtered": {"filter": "filtered"},
    "half": {"filter": "basic", "shares": {"yfcc": 1, "wit": 1}, "total": 30},
    "plain": {"shares": {"yfcc": 1, "wit": 1}, "total": 30},
    "never": {},
}


SETTING = "filters.basic.drop_when.too_short=caption_v1.words < 5"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """Write a store with two finished mixtures; return its experiment file."""
    path = write_experiment(
        tmp_path_factory.mktemp("finished"),
        mixtures=MIXTURES | {"everything": {}},
        spark={"conf": {"spark.sql.shuffle.partitions": "2"}},
    )
    with opened(path, spark=spark) as run:
        ingest(run)
        score(run)
        decide.execute(run, [run.plan.decide(name) for name in ("basic", "narrow", "filtered")])
        blend.execute(run, [run.plan.blend(name) for name in ("all_filtered", "half", "plain")])
    return path


@pytest.fixture(autouse=True)
def _on_this_session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay works on the session that is there; its own would be another of its settings, and stopped behind it."""
    monkeypatch.setattr(Run, "spark", spark)


def kept(pair: Pair, words: int) -> bool:
    return pair.words >= words and np.float32(pair.aspect) <= np.float32(2.5)


def right(words: int) -> list[Pair]:
    """Return what `all_filtered` is made of; `half` is drawn from pairs of any aspect."""
    return [pair for pair in pairs() if kept(pair, words) and not pair.wrong]


def ranked(words: int, source: str) -> list[str]:
    """Return a source's pairs of so many words, in the order in which `half` takes them."""
    uids = [one.uid for one in pairs() if one.source == source and one.words >= words and not one.wrong]
    return sorted(uids, key=lambda uid: rank_key(11, uid))


def half(words: int, total: int) -> set[str]:
    """Return the pairs of the mixture `half`."""
    return {
        uid
        for source, count in apportion({"yfcc": 1, "wit": 1}, total).items()
        for uid in ranked(words, source)[:count]
    }


def stand(path: Path) -> dict[str, Any]:
    """Return all that a replay must leave as it is: files, their sizes and the tables' versions."""
    store = Store(str(path.parent / "store"))
    return {name: store.size(name) for name in store.files("")} | Ledger(store).versions()


def test_a_replay_tells_what_goes_and_why_and_leaves_the_store(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stand(finished)
    assert main(["replay", str(finished), "all_filtered", "--set", SETTING, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert stand(finished) == before
    old, new = right(3), right(5)
    assert (told["mixture"], told["settings"]) == ("all_filtered", [SETTING])
    assert told["before"]["distinct"] == told["before"]["pairs"] == len(old)
    assert told["after"]["by_source"] == Counter(pair.source for pair in new)
    gone = [pair for pair in old if not kept(pair, 5)]
    assert told["out"] == {
        "pairs": len(gone),
        "by_source": Counter(pair.source for pair in gone),
        "by_reason": {"filtered: too_short": len(gone)},
    }
    assert told["in"] == {"pairs": 0, "by_source": {}, "by_reason": {}}
    assert (told["stay"], told["times_changed"], told["nested"]) == (len(new), 0, "after in before")
    text = format_diff(told)
    assert f"filtered: too_short{'':<35}{len(gone):>9}".split() == next(
        line.split() for line in text.splitlines() if "too_short" in line
    )
    assert "nested: after in before" in text


def test_pairs_come_in_for_those_that_go(finished: Path) -> None:
    told = replay(
        finished, "half", ["filters.basic.drop_when.too_short=caption_v1.words < 2", "mixtures.half.total=40"]
    )
    sources = {pair.uid: pair.source for pair in pairs()}
    new, old = half(2, 40), half(3, 30)
    assert told["after"]["by_part"] == apportion({"yfcc": 1, "wit": 1}, 40)
    assert told["in"]["by_source"] == Counter(sources[uid] for uid in new - old)
    assert told["out"]["pairs"] == len(old - new)
    short = {pair.uid for pair in pairs() if pair.words < 3}
    reasons = Counter("basic: too_short" if uid in short else "not_drawn" for uid in new - old)
    assert told["in"]["by_reason"] == reasons
    assert reasons["not_drawn"] > 0 < reasons["basic: too_short"]
    assert set(told["out"]["by_reason"]) <= {"not_drawn"}


def test_what_was_quarantined_comes_in_once_it_is_allowed(finished: Path) -> None:
    told = replay(finished, "all_filtered", ["mixtures.all_filtered.mismatched=true"])
    came = [pair for pair in pairs() if kept(pair, 3) and pair.wrong]
    assert told["in"] == {
        "pairs": len(came),
        "by_source": Counter(pair.source for pair in came),
        "by_reason": {"quarantined": len(came)},
    }
    assert came
    assert told["out"]["pairs"] == 0


def test_without_a_change_nothing_changes(finished: Path) -> None:
    told = replay(finished, "plain", [])
    assert (told["nested"], told["stay"], told["times_changed"]) == ("same", 30, 0)
    assert told["out"] == told["in"] == {"pairs": 0, "by_source": {}, "by_reason": {}}


@pytest.mark.parametrize(
    ("mixture", "settings", "said"),
    [
        ("al_filtered", [], "unknown mixture 'al_filtered' (did you mean 'all_filtered'?)"),
        ("never", [], "found no finished mixture never"),
        (
            "half",
            [
                "signals.caption_v2={kind: caption}",
                "mixtures.half.filter=new",
                "filters.new={drop_when: {short: caption_v2.words < 3}}",
            ],
            "score caption_v2/laion",
        ),
        ("half", ["filters.basic.drop_when.too_short=caption_v1.word < 3"], "unknown column of caption_v1 'word'"),
    ],
)
def test_what_cannot_be_replayed_is_said_in_one_line_and_nothing_is_computed(
    finished: Path, mixture: str, settings: list[str], said: str
) -> None:
    before = stand(finished)
    with pytest.raises(InputError) as caught:
        replay(finished, mixture, settings)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert stand(finished) == before


def test_a_replay_that_fails_leaves_nothing(finished: Path) -> None:
    before = stand(finished)
    with pytest.raises(InputError, match=r"mixtures\.half\.total: found 4000"):
        replay(finished, "half", ["mixtures.half={total: 4000}"])
    assert stand(finished) == before
