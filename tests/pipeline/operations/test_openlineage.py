"""OpenLineage events: what the specification asks of one, and that they go where the environment says."""

import json
import uuid
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlparse

import pytest

from pipeline.operations.openlineage import event_path, write_events
from pipeline.storage.store import Store
from tests.pipeline.ledger.test_tables import job_row


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return Store(str(tmp_path / "store"))


def lines(store: Store, job: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read(event_path(job)).decode().splitlines()]


def test_a_job_has_a_start_and_a_completion_of_one_run(store: Store) -> None:
    row = job_row("a", 3)
    write_events(store, row, ["ingest.web"])
    start, end = lines(store, "a")
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert (start["eventTime"], end["eventTime"]) == (row.started.isoformat(), row.finished.isoformat())
    assert start["run"]["runId"] == end["run"]["runId"]
    assert [one["name"] for one in end["inputs"]] == ["ingest.web"]
    assert [one["name"] for one in end["outputs"]] == ["exports"]


def test_an_event_has_what_the_specification_requires(store: Store) -> None:
    write_events(store, job_row("a"), ["ingest.web"])
    events = lines(store, "a")
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]
    for event in events:
        assert {"run", "job", "eventTime", "producer", "schemaURL"} <= event.keys()
        assert uuid.UUID(event["run"]["runId"]).version is not None
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert all(urlparse(event[key]).scheme for key in ("producer", "schemaURL"))
        for one in (event["job"], *event["inputs"], *event["outputs"]):
            assert one["namespace"]
            assert one["name"]


def test_a_repeated_job_names_the_same_run_and_another_another(store: Store) -> None:
    for job in ("a", "b", "a"):
        write_events(store, job_row(job), [])
    assert len(lines(store, "a")) == 2
    assert lines(store, "a")[0]["run"] != lines(store, "b")[0]["run"]


class _Receiver(BaseHTTPRequestHandler):
    had: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.had.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_events_are_sent_where_the_environment_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    had: list[dict[str, Any]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Receiver", (_Receiver,), {"had": had}))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    write_events(store, job_row("a"), [])
    server.shutdown()
    assert [one["eventType"] for one in had] == ["START", "COMPLETE"]
    assert {one["run"]["runId"] for one in had} == {lines(store, "a")[0]["run"]["runId"]}


def test_a_transport_that_fails_is_said_and_fails_no_job(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "no such transport")
    write_events(store, job_row("a"), [])
    assert len(lines(store, "a")) == 2
    assert "lineage of export.m was not sent" in caplog.text
