"""What Prometheus is told: a file that its own parser reads, pushes to a real server, and nothing that fails a job."""

import base64
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jobs.workflow.progress import Display
from jobs.workflow.runner import execute
from pipeline.config.experiment import ExperimentFile, MetricsConfig
from pipeline.config.loader import build_section, override
from pipeline.errors import InputError
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow
from pipeline.operations.prometheus import METRICS, Monitor
from pipeline.storage.store import Store
from tests.pipeline.config.test_experiment import DATA
from tests.pipeline.ledger.test_tables import job_row
from tests.support.road_experiment import ROOT
from tests.support.scored_store import fill, opened, write_experiment

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Return the samples of a text, each once, after Prometheus' own parser; every metric is declared a gauge."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge", family
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def of(samples: Samples, metric: str, **labels: str) -> dict[str, float]:
    """Return a metric's samples that carry these labels, by the values of their others."""
    found = {}
    for (name, carried), value in samples.items():
        if name == metric and labels.items() <= dict(carried).items():
            found["/".join(text for key, text in sorted(carried) if key not in labels)] = value
    return found


@dataclass
class Gateway:
    """What a push gateway was sent: method, path and text of each request."""

    url: str
    had: list[tuple[str, dict[str, str], Samples]] = field(default_factory=list)


@contextmanager
def gateway(status: int = 200) -> Iterator[Gateway]:
    """Serve on loopback what takes pushes, or refuses them."""

    class Taker(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            assert self.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            taken.had.append(("PUT", _group(self.path), parsed(text)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    taken = Gateway(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        server.shutdown()
        server.server_close()


def _group(path: str) -> dict[str, str]:
    """Return the grouping labels of a push gateway's path."""
    parts = path.removeprefix("/metrics/").split("/")
    found = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        plain, at, _ = name.partition("@")
        text = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).decode() if at else unquote(value)
        found[plain] = text
    return found


FETCHES = TABLES["fetches"]


def ingested(store: Store, *outcomes: str, earlier: int = 0) -> tuple[JobRow, list[DataFile]]:
    """Write an ingest's `fetches` with these outcomes; `earlier` attempts before them were not final."""
    rows = [{"uid": f"{n:032x}", "outcome": one, "final": True} for n, one in enumerate(outcomes)]
    rows += [{"uid": f"{n:032x}", "outcome": "http_503", "final": False} for n in range(earlier)]
    full = [dict.fromkeys(FETCHES.names) | row for row in rows]
    file = write_rows(store, "a", "fetches", pa.Table.from_pylist(full, FETCHES))
    start, end = (datetime(2026, 11, 24, 12, 0, second, tzinfo=UTC) for second in (0, 10))
    return JobRow("a", "ingest", "web", start, end, {"fetches": len(rows)}, {}, [], "c", {}, {}), [file]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_a_job_is_told_with_its_rows_bytes_failures_and_times(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "metrics" / "mine.prom"
    row, files = ingested(store, "stored", "stored", "http_404", "timeout", "http_404", earlier=3)
    Monitor(MetricsConfig(file=str(file)), "mine").jobs(store, [(row, files)])
    samples = parsed(file.read_text("utf-8"))
    job = {"experiment": "mine", "stage": "ingest", "name": "web"}
    assert of(samples, "cuvee_job_rows", **job) == {"fetches": 8}
    assert of(samples, "cuvee_job_rows_per_second", **job) == {"fetches": 0.8}
    assert of(samples, "cuvee_job_bytes", **job) == {"fetches": store.size(f"tables/fetches/{files[0].path}")}
    assert of(samples, "cuvee_job_tried", **job) == {"": 5}
    assert of(samples, "cuvee_job_failures", **job) == {"http_404": 2, "timeout": 1}
    assert of(samples, "cuvee_job_seconds", **job) == {"": 10}
    assert of(samples, "cuvee_job_finished_timestamp_seconds", **job) == {"": row.finished.timestamp()}
    assert [path.name for path in file.parent.iterdir()] == ["mine.prom"]  # no draft is left


def test_a_job_that_ran_again_leaves_nothing_of_its_last_run_and_the_others_stay(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "mine.prom"
    monitor = Monitor(MetricsConfig(file=str(file)), "mine")
    monitor.jobs(store, [ingested(store, "stored", "http_404"), (job_row("b"), [DataFile("exports", "p", 2, 70)])])
    Monitor(MetricsConfig(file=str(file)), "other").jobs(store, [ingested(store, "timeout")])
    monitor.jobs(store, [ingested(store, "stored", "stored")])
    samples = parsed(file.read_text("utf-8"))
    assert of(samples, "cuvee_job_failures", experiment="mine") == {}
    assert of(samples, "cuvee_job_tried", experiment="mine") == {"web/ingest": 2}
    assert of(samples, "cuvee_job_bytes", experiment="mine", stage="export") == {"m/exports": 70}
    assert of(samples, "cuvee_job_failures", experiment="other") == {"web/timeout/ingest": 1}


def test_a_name_with_what_the_format_escapes_comes_back(store: Store, tmp_path: Path) -> None:
    file, name = tmp_path / "mine.prom", 'quo"te\\back\nline'
    for _ in range(2):  # the second time the file is read first
        Monitor(MetricsConfig(file=str(file)), name).jobs(store, [ingested(store, "stored")])
    assert of(parsed(file.read_text("utf-8")), "cuvee_job_tried", experiment=name) == {"web/ingest": 1}


@pytest.mark.parametrize("held", ["node_load1 0.5\n", "cuvee_job_seconds{ 3\n", b"\xff\xfe"])
def test_a_file_of_others_is_left_as_it_is_and_told(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, held: str | bytes
) -> None:
    file = tmp_path / "mine.prom"
    before = held.encode() if isinstance(held, str) else held
    file.write_bytes(before)
    Monitor(MetricsConfig(file=str(file)), "mine").jobs(store, [ingested(store, "stored")])
    [said] = caplog.messages
    assert said.startswith(f"cuvee: metrics.file: {file}: not written (")
    assert len(said.splitlines()) == 1
    assert file.read_bytes() == before


def test_a_file_that_cannot_be_written_is_told(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "plain").write_text("")
    Monitor(MetricsConfig(file=str(tmp_path / "plain/mine.prom")), "mine").jobs(store, [ingested(store, "stored")])
    assert caplog.messages == [f"cuvee: metrics.file: {tmp_path}/plain/mine.prom: not written (Not a directory)"]


def test_a_gateway_is_pushed_a_group_for_each_job(store: Store) -> None:
    with gateway() as taken:
        monitor = Monitor(MetricsConfig(gateway=taken.url + "/"), "mine")
        row = job_row("b")
        monitor.jobs(store, [ingested(store, "stored", "timeout"), (row, [DataFile("exports", "p", 2, 70)])])
        with monitor.run("export"):
            pass
    (_, first, samples), (_, second, _), (_, third, ended) = taken.had
    assert first == {"job": "cuvee", "experiment": "mine", "stage": "ingest", "name": "web"}
    assert second == {"job": "cuvee", "experiment": "mine", "stage": "export", "name": "m"}
    assert third == {"job": "cuvee", "experiment": "mine", "outcome": "finished"}
    assert of(samples, "cuvee_job_failures", name="web") == {"mine/timeout/ingest": 1}
    assert of(ended, "cuvee_run_timestamp_seconds", outcome="finished", stage="export", experiment="mine").keys() == {
        ""
    }


@pytest.mark.parametrize("kind", ["nobody listens", "refused", "no HTTP"])
def test_a_gateway_that_fails_is_one_warning_and_fails_nothing(
    store: Store, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    jobs = [ingested(store, "stored"), ingested(store, "stored")]
    if kind == "refused":
        with gateway(500) as taken:
            Monitor(MetricsConfig(gateway=taken.url), "mine").jobs(store, jobs)
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"

            def answer() -> None:
                with server.accept()[0] as one:
                    one.recv(1 << 16)
                    one.sendall(b"220 mail.example ESMTP\r\n\r\n")

            if kind == "no HTTP":
                threading.Thread(target=answer, daemon=True).start()
            else:
                server.close()
            Monitor(MetricsConfig(gateway=url), "mine").jobs(store, jobs)
    [said] = caplog.messages
    assert said.startswith("cuvee: metrics.gateway: http://127.0.0.1:")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("metrics.gateway=127.0.0.1:9091", "expected a URL such as http://127.0.0.1:9091"),
        ("metrics.gateway=http://me:secret@gateway", "without a user"),
        ("metrics.gateway=http://gateway/?token=secret", "without a user"),
        ("metrics.file=mine.txt", "metrics.file"),
        ("metrics.flie=mine.prom", "did you mean 'file'?"),
    ],
)
def test_where_metrics_go_is_checked_when_the_file_is_read(setting: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        build_section(ExperimentFile, override(DATA, [setting]), "mine.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("mine.yaml: metrics.")


def test_a_run_tells_of_its_end_and_its_failure_and_where_metrics_go_is_in_no_id(tmp_path: Path) -> None:
    rule = {"short": {"drop_when": {"short": "caption_v1.words < 3"}}}
    path, file = write_experiment(tmp_path, rule), tmp_path / "mine.prom"
    setting = f"metrics.file={file}"
    plain, told = opened(path), opened(path, [setting])
    ids = [[job.id for job in run.plan.until("report")] for run in (plain, told)]
    assert ids[0] == ids[1]
    fill(told, [])
    samples = parsed(file.read_text("utf-8"))
    assert of(samples, "cuvee_job_seconds", stage="ingest").keys() == {"decide/laion", "decide/yfcc"}
    assert not of(samples, "cuvee_run_timestamp_seconds")
    execute(opened(path, [setting]).experiment, "score", Display())  # nothing to do
    samples = parsed(file.read_text("utf-8"))
    assert of(samples, "cuvee_run_timestamp_seconds").keys() == {"decide/finished//score"}
    (tmp_path / "store" / "takedowns" / "x").mkdir(parents=True)
    (tmp_path / "store" / "takedowns" / "x" / "intent.json").write_text("{}")
    with pytest.raises(Exception, match="unfinished"):
        execute(opened(path, [setting]).experiment, "score", Display())
    samples = parsed(file.read_text("utf-8"))
    ended = of(samples, "cuvee_run_timestamp_seconds")
    assert ended.keys() == {"decide/finished//score", "decide/failed/StageFailed/"}
    assert ended["decide/failed/StageFailed/"] >= ended["decide/finished//score"]


def _queries() -> Iterator[tuple[str, str]]:
    """Yield where each expression of the dashboard and of the alerts stands, and the expression."""
    board = json.loads((ROOT / "infra/grafana/dashboard.json").read_text("utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            yield variable["name"], f"max by ({label}) ({metric})"
    for group in yaml.safe_load((ROOT / "infra/prometheus/alerts.yaml").read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_the_dashboard_and_the_alerts_ask_for_metrics_and_labels_that_are_written() -> None:
    seen = set()
    for where, query in _queries():
        metrics = re.findall(r"\bcuvee_\w+", query)
        assert metrics, where
        assert set(metrics) <= METRICS.keys(), where
        seen |= set(metrics)
        for metric, matchers in re.findall(r"(cuvee_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', matchers)) <= set(METRICS[metric][1]), where
        grouped = {label for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in labels.split(", ")}
        assert all(grouped <= set(METRICS[metric][1]) for metric in metrics) or "on (" in query, where
    assert seen == METRICS.keys()


def test_what_an_alert_or_a_panel_names_in_its_text_is_a_label_that_its_expression_keeps() -> None:
    for group in yaml.safe_load((ROOT / "infra/prometheus/alerts.yaml").read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            said = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
            kept = re.search(r"\bby \(([^)]*)\)", rule["expr"])
            assert said <= set(kept[1].split(", ") if kept else []), rule["alert"]
            assert {"summary", "description"} <= rule["annotations"].keys()
    board = json.loads((ROOT / "infra/grafana/dashboard.json").read_text("utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        for target in panel["targets"]:
            said = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = re.search(r"\bby \(([^)]*)\)", target["expr"])
            assert said <= set(kept[1].split(", ") if kept else []), panel["title"]
