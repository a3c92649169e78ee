"""A store that an earlier version of Cuvée wrote: every question to it is answered as that version answered it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.main import main
from pipeline.ledger.schemas import SCHEMA_VERSION, TABLES
from pipeline.ledger.tables import Ledger, schema_version
from pipeline.storage.store import Store
from tests.support.road_experiment import ROOT

OLD = ROOT / "tests/stores/version-1"
ANSWERS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((OLD / "answers").glob("*.json"))}
KEYS = {name: key["uid"] for name, key in json.loads((OLD / "keys.json").read_text("utf-8")).items()}

Ask = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store and its experiment, in which commands run."""
    shutil.copytree(OLD / "data", tmp_path / "store")
    shutil.copytree(OLD / "experiment", tmp_path / "experiment")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Ask a command for JSON."""

    def answered(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return answered


def test_the_store_is_of_an_earlier_version(folder: Path) -> None:
    ledger = Ledger(Store("store"))
    versions = {table: schema_version(delta) for table in ledger.tables() if (delta := ledger.open(table)) is not None}
    assert len(versions) > 15
    assert set(versions.values()) == {1}
    assert SCHEMA_VERSION > 1
    assert "pdq" in TABLES["samples"].names


def test_the_funnel_is_the_same(ask: Ask) -> None:
    assert ask("funnel", "store") == ANSWERS["funnel"]


@pytest.mark.parametrize("name", ["kept", "dropped", "failed", "taken"])
def test_a_pairs_trace_is_the_same_but_for_columns_that_came_since(ask: Ask, name: str) -> None:
    trace, before = ask("trace", "store", KEYS[name]), ANSWERS[f"trace_{name}"]
    assert without_new_columns(trace) == before


def without_new_columns(value: Any) -> Any:
    """Return an answer without the columns of `samples` that this version added, which must be null there."""
    if isinstance(value, list):
        return [without_new_columns(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    assert value.get("pdq") is None or "quality" in value
    assert value.get("pdq_quality") is None or "pdq_distance" in value
    new = ("pdq", "pdq_quality") if "jpg_sha256" in value else ()
    return {key: without_new_columns(entry) for key, entry in value.items() if key not in new}


def test_verification_finds_no_difference(ask: Ask) -> None:
    assert ask("verify", "store") == ANSWERS["verify"]


def test_a_takedown_names_the_same_pairs_and_can_be_made(ask: Ask, folder: Path) -> None:
    listed = ("--list", "experiment/takedown.txt", "--reason", "test")
    planned = ask("takedown", "store", *listed, "--dry-run")
    assert planned == ANSWERS["takedown"]
    taken = ask("takedown", "store", *listed)["takedown"]
    assert len(taken["pairs"]) == len(planned["takedown"]["pairs"]) > 0
    verified = ask("verify", "store")
    assert verified["differences"] == []
    ledger = Ledger(Store("store"))
    assert not set(taken["pairs"]) & set(ledger.read("samples", ["uid"])["uid"].to_pylist())
    assert set(ledger.read("samples", ["pdq"])["pdq"].to_pylist()) == {None}


def test_compaction_keeps_every_row(ask: Ask) -> None:
    ledger = Ledger(Store("store"))
    before = ledger.read("samples").sort_by("uid").to_pylist()
    ask("compact", "store")
    assert Ledger(Store("store")).read("samples").sort_by("uid").to_pylist() == before
    assert ask("funnel", "store") == ANSWERS["funnel"]


@pytest.mark.slow
def test_the_experiment_runs_on_in_the_old_store_and_both_versions_rows_are_read(folder: Path, ask: Ask) -> None:
    run = [sys.executable, "-m", "jobs.cli.main", "run", "experiment/previous.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ask("verify", "store")["differences"] == []
    ledger = Ledger(Store("store"))
    delta = ledger.open("samples")
    assert delta is not None
    assert schema_version(delta) == SCHEMA_VERSION
    replay = ask("replay", "experiment/previous.yaml", "filtered", "--set", "filters.clip_top.top_fraction=0.5")
    assert replay["mixture"] == ANSWERS["replay"]["mixture"]
