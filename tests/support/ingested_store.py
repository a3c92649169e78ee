"""A store with ingested and scored pairs that never saw a web: for the tests of what comes after."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from jobs.workflow.experiment import load_experiment
from jobs.workflow.plan import Job
from jobs.workflow.progress import Display
from jobs.workflow.runner import Run
from pipeline.core.uids import uid
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.schemas import TABLES, signal_table
from pipeline.outcomes import VERDICT_MISMATCH
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from tests.support.road_experiment import ROOT

PER_SHARD = 40


LANGUAGES = ("en", "de", "it's \\ 中文")


SIZES = {"yfcc": 90, "wit": 60, "laion": 30}


LICENCES = {"yfcc": "CC BY 2.0", "wit": "CC BY-SA 3.0", "laion": "unknown"}


DEAD, WRONG = 7, 9
"""Of the rows of a source: every 7th has no image any more, every 9th pair of wit is not the image it should be."""


EXPERIMENT: dict[str, Any] = {
    "title": "Three | sources <b>of</b> `rows`",
    "question": "?",
    "seed": 11,
    "web": {"kind": "world"},
    "evaluation": {"reference": "photo", "sets": {"photo": "nowhere"}},
    "signals": {"caption_v1": None, "image_v1": None},
    "filters": {
        "basic": {"drop_when": {"too_short": "caption_v1.words < 3"}},
        "narrow": {"drop_when": {"too_long": "image_v1.aspect > 2.5"}},
        "filtered": {"all": ["basic", "narrow"]},
    },
    "mixtures": {"everything": {}},
    "export": {"pairs_per_tar": 25},
    "training": {
        "model": str(ROOT / "experiments/models/resnet_64px"),
        "mixtures": ["everything"],
        "samples_seen": 10,
    },
    "report": {"filter": "filtered"},
}


@dataclass(frozen=True)
class Pair:
    """A stored pair: its uid, source, number in it, and what its signals say."""

    uid: str
    source: str
    number: int
    words: int
    language: str
    aspect: float
    entropy: float
    wrong: bool


def pairs() -> list[Pair]:
    """Return the stored pairs, by source and number."""
    found = []
    for place, (source, size) in enumerate(SIZES.items()):
        for number in range(size):
            if number % DEAD:
                entropy = float("nan") if number % 10 == 3 else float(np.float32((number * 37 % 100) / 100))
                key = uid(source, "", url(source, number), caption(number))
                language = LANGUAGES[(number + place) % len(LANGUAGES)]
                wrong = source == "wit" and not number % WRONG
                aspect = 1 + number % 10 / 5
                found.append(Pair(key, source, number, number % 6 + 1, language, aspect, entropy, wrong))
    return found


def url(source: str, number: int) -> str:
    """Return a row's URL."""
    return f"http://{source}.example/{number}.jpg?private"


def caption(number: int) -> str:
    """Return a row's caption."""
    return f"secret caption {number}"


def jpg_of(pair: Pair) -> bytes:
    """Return bytes that stand for a pair's image: nothing in these tests decodes it."""
    return pair.uid.encode() * (1 + pair.number % 17)


def write_experiment(folder: Path, **changes: Any) -> Path:
    """Write an experiment file, `folder`/mine.yaml, and its sources' files; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {**EXPERIMENT, "store": str(folder / "store"), **changes}
    data["web"] = {**data["web"], "folder": str(folder / "web")}
    data["sources"] = {}
    for source, size in SIZES.items():
        table = folder / f"{source}.csv"
        table.write_text("".join(["url,caption\n", *(f"{url(source, n)},{caption(n)}\n" for n in range(size))]))
        data["sources"][source] = {
            "format": "table",
            "files": [str(table)],
            "options": {"kind": "csv", "columns": {"url": "url", "caption": "caption"}},
            "licence": LICENCES[source],
            "snapshot": "2026-11-01",
            "citation": f"The makers of {source}",
        }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), "utf-8")
    return path


@contextmanager
def opened(path: Path, *settings: str, spark: Any = None) -> Iterator[Run]:
    """Open an experiment's run; it uses this Spark session where it needs one."""
    run = Run(load_experiment(path, list(settings)), Display())
    if spark is not None:
        run.__dict__["spark"] = spark
    yield run
    run.close()


def _filled(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table of rows; what they leave out is "" for a text and null for all else."""
    names = [field.name for field in schema if pa.types.is_string(field.type)]
    return pa.Table.from_pylist([{**dict.fromkeys(names, ""), **row} for row in rows], schema)


def ingest(run: Run) -> None:
    """Finish the ingest of all sources, with two shards or more of each."""
    for source, size in SIZES.items():
        job = run.plan.ingest(source)[0]
        mine = {pair.number: pair for pair in pairs() if pair.source == source}
        shards, samples = _shards(run, job, list(mine.values()))
        keys = [uid(source, "", url(source, number), caption(number)) for number in range(size)]
        named: list[dict[str, Any]] = [{"uid": key, "source": source} for key in keys]
        published = [
            {**row, "url": url(source, n), "caption": caption(n), "line": n, "published": "{}"}
            for n, row in enumerate(named)
        ]
        fetched = [
            {**row, "attempt": 1, "final": True, "outcome": "stored" if n in mine else "http_404"}
            for n, row in enumerate(named)
        ]
        tables = {"pairs": published, "fetches": fetched, "samples": samples}
        files = [write_rows(run.store, job.id, name, _filled(TABLES[name], rows)) for name, rows in tables.items()]
        verdicts = {VERDICT_MISMATCH: wrong} if (wrong := sum(pair.wrong for pair in mine.values())) else {}
        run.finish([(job, files, {"shards": shards, "verdicts": verdicts})], datetime.now(UTC))


def _shards(run: Run, job: Job, mine: list[Pair]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    shards, samples = [], []
    for first in range(0, len(mine), PER_SHARD):
        path = f"shards/{mine[0].source}/{job.short}/{first // PER_SHARD:08d}.tar"
        with run.store.create(path) as stream:
            writer = ShardWriter(stream)
            for pair in mine[first : first + PER_SHARD]:
                members = pair_bytes(pair.uid, jpg_of(pair), caption(pair.number), {"uid": pair.uid})
                place = {"shard": path, "offset": writer.append(members), "size": len(members)}
                said = {"verdict": VERDICT_MISMATCH} if pair.wrong else {}
                samples.append({"uid": pair.uid, "source": pair.source, **place, **said})
            sha256 = writer.close()
        shards.append({"shard": path, "sha256": sha256, "bytes": writer.bytes})
    return shards, samples


def score(run: Run) -> None:
    """Finish the signals `caption_v1` and `image_v1`; what they say of a pair stands in `pairs`."""
    for name, columns in (("caption_v1", ("words", "language")), ("image_v1", ("aspect", "entropy"))):
        table = signal_table(name)
        made: list[tuple[Job, list[DataFile], Mapping[str, Any]]] = []
        for job in run.plan.signal(name):
            mine = [pair for pair in pairs() if job.name == f"{name}/{pair.source}"]
            rows = [
                {"uid": one.uid, "source": one.source, **{key: getattr(one, key) for key in columns}} for one in mine
            ]
            made.append((job, [write_rows(run.store, job.id, table, _filled(run.schema(table), rows))], {}))
        run.finish([(job, files, dict(facts)) for job, files, facts in made], datetime.now(UTC))


def facts_of(run: Run, job: Job) -> dict[str, Any]:
    """Return what the ledger keeps of a finished job."""
    row = run.ledger.finished(job.id)
    assert row is not None
    plain: dict[str, Any] = json.loads(json.dumps(row.facts))
    return plain


def draw(run: Run, name: str, times: Mapping[str, int], part: Mapping[str, str]) -> None:
    """Finish a mixture of the pairs that `times` names, each of the part that `part` gives its source."""
    job = run.plan.blend(name)
    drawn = [one for one in pairs() if times.get(one.uid)]
    rows = [
        {"mixture": name, "uid": one.uid, "source": one.source, "part": part[one.source], "times": times[one.uid]}
        for one in drawn
    ]
    files = [write_rows(run.store, job.id, "mixtures", _filled(TABLES["mixtures"], rows))]
    right = [one for one in pairs() if not one.wrong]
    facts = {
        "available": {source: sum(one.source == source for one in right) for source in SIZES},
        "quarantined": {"wit": sum(one.wrong for one in pairs())},
        "by_source": {source: sum(times.get(one.uid, 0) for one in drawn if one.source == source) for source in SIZES},
    }
    run.finish([(job, files, facts)], datetime.now(UTC))
