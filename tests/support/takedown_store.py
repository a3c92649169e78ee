"""A store that was never ingested: two sources, their shards, signals, a mixture, its export, a training and a report.

Written by hand in a second, with everything in it that a takedown must find: what a list names and its copies.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.export.documents import render_documents
from pipeline.export.manifest import export_digest
from pipeline.images.pdq import pdq_fingerprint
from pipeline.ledger.data_files import DataFile, write_rows
from pipeline.ledger.schemas import TABLES
from pipeline.ledger.tables import JobRow, Ledger
from pipeline.provenance.funnel import source_funnels
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.store import Store

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


FILTER, MIXTURE, SOURCES = "tall", "everything", ("alpha", "beta")


SIGNALS = {
    "signals_pdq_v1": pa.schema(
        [("uid", pa.string()), ("source", pa.string()), ("pdq", pa.binary()), ("quality", pa.int32())]
    ),
    "signals_caption_v1": pa.schema([("uid", pa.string()), ("source", pa.string()), ("normalised", pa.string())]),
}


def picture(seed: int, quality: int = 90, flat: bool = False) -> bytes:
    """Return a JPEG of soft blots that follow from `seed`; a flat one has too little in it for a fingerprint."""
    noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    image = Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)
    if flat:
        image = Image.new("RGB", (96, 96), (seed % 256, 40, 40))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@dataclass(frozen=True)
class Made:
    """A published row; without a `jpg`, one of which nothing is stored. `raw` is what was fetched, if not the same.

    A `late` one failed at first, and a retry brought it.
    """

    name: str
    source: str
    url: str
    jpg: bytes = b""
    raw: bytes = b""
    verdict: str = ""
    outcome: str = "stored"
    late: bool = False

    @property
    def uid(self) -> str:
        """The row's uid."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:32]

    @property
    def caption(self) -> str:
        """A caption that no other row has."""
        return f"the caption of {self.name}, which nobody else has"

    @property
    def fetched(self) -> bytes:
        """The bytes as fetched."""
        return self.raw or self.jpg


def rows() -> list[Made]:
    """Return the rows: ten plain ones of each source, and around `named` its copies of every kind."""
    plain = [
        Made(f"{source}{number}", source, f"http://{source}.test/{number}.jpg", picture(100 * at + number))
        for at, source in enumerate(("alpha", "beta"))
        for number in range(10)
    ]
    original, url = picture(1000), "http://Named.test/pictures/1.jpg"
    special = [
        Made("named", "alpha", url, original, raw=b"as it was fetched" + original),
        Made("same_url", "beta", "http://named.test:80/pictures/1.jpg#top", picture(1001)),
        Made("same_url_failed", "beta", url, outcome="http_404"),
        Made("alike", "beta", "http://mirror.test/copy.jpg", picture(1000, quality=35), verdict="mismatch"),
        Made("same_stored", "alpha", "http://other.test/a.jpg", original, raw=b"fetched as another file" + original),
        Made("same_fetched_as_alike", "alpha", "http://far.test/b.jpg", picture(1002), raw=picture(1000, quality=35)),
        Made("on_the_site", "beta", "http://img.cdn.site.test/x.png", picture(1003)),
        Made("of_the_site", "alpha", "https://site.test/y.png", picture(1004)),
        Made("not_the_site", "alpha", "http://site.test.example/z.png", picture(1005)),
        Made("flat", "alpha", "http://flat.test/1.jpg", picture(7, flat=True)),
        Made("flat_too", "beta", "http://flat.test/2.jpg", picture(8, flat=True)),
        Made("late", "alpha", "http://late.test/1.jpg", original, late=True),
        Made("broken", "beta", "", outcome="malformed"),
    ]
    return plain + special


def job_id(name: str) -> str:
    """Return a job's id, from its name."""
    return hashlib.sha256(name.encode()).hexdigest()


class Builder:
    """Writes the store."""

    def __init__(self, root: str | Path, made: Sequence[Made], per_shard: int = 5, lanes: int = 1000) -> None:
        self.ledger = Ledger(Store(str(root)))
        self.store = self.ledger.store
        self.made, self.per_shard, self.lanes = made, per_shard, lanes
        self.samples: list[dict[str, Any]] = []
        self._minutes = 0

    def finish(self, name: str, stage: str, tables: Mapping[str, Sequence[pa.Table]], **given: Any) -> str:
        """Commit a job's rows, and its own; return its id."""
        job = job_id(f"{stage}/{name}")
        counts = {}
        for table, parts in tables.items():
            files = [write_rows(self.store, job, table, part) for part in parts]
            self.ledger.commit(job, table, TABLES.get(table) or SIGNALS[table], files)
            counts[table] = sum(part.num_rows for part in parts)
        self._minutes += 1
        at = START + timedelta(minutes=self._minutes)
        plain = {"config": {}, "inputs": [], "facts": {}, "code": "c", "versions": {}} | given
        plain["rows"] = plain.get("rows", {}) | counts
        row = JobRow(job=job, stage=stage, name=name, started=at, finished=at, **plain)
        self.ledger.finish([row])
        self.store.write(f"lineage/{job}.jsonl", b"{}")
        return job

    def ingest(self, source: str) -> list[str]:
        """Write a source's pairs, fetches, shards and samples; return its jobs."""
        job, mine = job_id(f"ingest/{source}"), [one for one in self.made if one.source == source]
        pairs, fetches, samples, shards = [], [], [], []
        for number, start in enumerate(range(0, len(mine), self.per_shard)):
            part = sorted(mine[start : start + self.per_shard], key=lambda one: one.uid)
            file = write_rows(self.store, job, "pairs", table("pairs", [pair_row(one) for one in part]))
            fetches.append(table("fetches", [fetch_row(one) for one in part]))
            shard, found = self.shard(f"shards/{source}/{job[:16]}", number, [one for one in part if not one.late])
            shards.append(
                shard | {"rows": [f"tables/pairs/{file.path}"], "published": len(part), "lane": number % self.lanes}
            )
            samples.append(table("samples", found))
            pairs.append(file)
        self.ledger.commit(job, "pairs", TABLES["pairs"], pairs)
        verdicts = [one.verdict for one in mine if one.jpg and one.verdict]
        facts = {"shards": shards, "verdicts": {name: verdicts.count(name) for name in set(verdicts)}}
        own = {"facts": facts, "config": {"files": []}, "rows": {"pairs": len(mine)}}
        self.samples += [row for part in samples for row in part.to_pylist()]
        self.finish(source, "ingest", {"fetches": fetches, "samples": samples}, **own)
        return [job, *self.retry(source, job, [one for one in mine if one.late], pairs)]

    def retry(self, source: str, job: str, late: Sequence[Made], pairs: Sequence[DataFile]) -> list[str]:
        """Write what a second attempt brought."""
        if not late:
            return []
        name = f"{source}/retry-1"
        shard, found = self.shard(f"shards/{source}/{job_id(f'ingest/{name}')[:16]}", 0, late)
        shard |= {"rows": [f"tables/pairs/{file.path}" for file in pairs], "published": len(late), "lane": 0}
        fetches = table("fetches", [fetch_row(one) | {"attempt": 2, "outcome": "stored"} for one in late])
        own = {"facts": {"shards": [shard], "verdicts": {}}, "config": {"retry": {"of": job, "number": 1}}}
        self.samples += found
        rows_ = {"fetches": [fetches], "samples": [table("samples", found)]}
        return [self.finish(name, "ingest", rows_, inputs=[job], **own)]

    def shard(self, folder: str, number: int, part: Sequence[Made]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Write a shard; return what the job's row says of it, and its rows of `samples`."""
        stream, found = io.BytesIO(), []
        writer = ShardWriter(stream)
        for one in part:
            if not one.jpg:
                continue
            meta = {"uid": one.uid, "url": one.url, "caption": one.caption}
            members = pair_bytes(one.uid, one.jpg, one.caption, meta)
            found.append(sample_row(one) | {"offset": writer.append(members), "size": len(members)})
        sha256 = writer.close()
        path = f"{folder}/{number:08d}-{sha256[:12]}.tar"
        self.store.write(path, stream.getvalue())
        told = {"shard": path, "sha256": sha256, "bytes": writer.bytes, "pairs": len(found)}
        return told, [row | {"shard": path} for row in found]


def table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table; what a row does not say is empty, or 0."""
    schema = TABLES.get(name) or SIGNALS[name]
    empty: dict[str, Any] = {field.name: "" if pa.types.is_string(field.type) else 0 for field in schema}
    empty |= {field.name: None for field in schema if pa.types.is_binary(field.type)}
    return pa.Table.from_pylist([empty | dict(row) for row in rows], schema)


def pair_row(one: Made) -> dict[str, Any]:
    """Return a row of `pairs`."""
    problem = one.outcome if one.outcome == "malformed" else ""
    published = json.dumps({"page": f"see {one.name}"})
    plain = {"uid": one.uid, "source": one.source, "record_id": one.name, "url": one.url, "caption": one.caption}
    return plain | {"file": "file.tsv", "problem": problem, "published": published, "licence": "unknown"}


def fetch_row(one: Made) -> dict[str, Any]:
    """Return a row of `fetches`."""
    outcome = "timeout" if one.late else one.outcome
    plain = {"uid": one.uid, "source": one.source, "final": True, "outcome": outcome, "bytes": len(one.fetched)}
    return plain | {"attempt": 0 if one.outcome == "malformed" else 1, "seconds": 0.0}


def sample_row(one: Made) -> dict[str, Any]:
    """Return a row of `samples`, without its place."""
    hashes = [hashlib.sha256(data).hexdigest() for data in (one.jpg, one.fetched)]
    plain = {"uid": one.uid, "source": one.source, "jpg_bytes": len(one.jpg), "jpg_sha256": hashes[0]}
    return plain | {"raw_bytes": len(one.fetched), "raw_sha256": hashes[1], "verdict": one.verdict}


def kept(one: Mapping[str, Any]) -> bool:
    """Tell whether the filter keeps a sample: by its uid, as good as any."""
    return int(one["uid"], 16) % 5 != 0


def build(root: str | Path, made: Sequence[Made] | None = None, trained: bool = True, per_shard: int = 5) -> Ledger:
    """Write the store; return its ledger, opened anew."""
    builder = Builder(root, rows() if made is None else made, per_shard)
    ingests = [job for source in sorted({one.source for one in builder.made}) for job in builder.ingest(source)]
    return road(builder, ingests) if trained else Ledger(builder.store)


def road(builder: Builder, ingests: list[str]) -> Ledger:
    """Write what comes behind the ingests: signals, decisions, a mixture, its export, a training and a report."""
    samples, by_uid = builder.samples, {one.uid: one for one in builder.made}
    images = [np.asarray(Image.open(io.BytesIO(by_uid[one["uid"]].jpg)).convert("RGB")) for one in samples]
    prints = [pdq_fingerprint(image) for image in images]
    names = [{"uid": one["uid"], "source": one["source"]} for one in samples]
    looks = [name | {"pdq": bits, "quality": quality} for name, (bits, quality) in zip(names, prints, strict=True)]
    half = len(looks) // 2
    builder.finish(
        "pdq_v1", "score", {"signals_pdq_v1": [table("signals_pdq_v1", part) for part in (looks[:half], looks[half:])]}
    )
    captions = [name | {"normalised": by_uid[name["uid"]].caption} for name in names]
    builder.finish("caption_v1", "score", {"signals_caption_v1": [table("signals_caption_v1", captions)]})
    decided = [
        {**name, "filter": FILTER, "keep": kept(name), "reason": "kept" if kept(name) else "short"} for name in names
    ]
    decide = builder.finish(FILTER, "decide", {"decisions": [table("decisions", decided)]}, inputs=ingests)
    blend, times = mixture(builder, [decide, *ingests])
    export = exported(builder, [blend, *ingests], times)
    training(builder, export)
    return Ledger(builder.store)


def mixture(builder: Builder, inputs: list[str]) -> tuple[str, dict[str, int]]:
    """Write the mixture: most of what the filter keeps and is what its source says, every third pair twice."""
    right = [one for one in builder.samples if kept(one)]
    eligible = [one for one in right if one["verdict"] != "mismatch"]
    taken = [one for one in eligible if int(one["uid"], 16) % 4]
    times = {one["uid"]: 1 + (number % 3 == 0) for number, one in enumerate(taken)}
    drawn = [
        {key: one[key] for key in ("uid", "source")}
        | {"mixture": MIXTURE, "part": one["source"], "times": times[one["uid"]], "rank": rank}
        for rank, one in enumerate(taken)
    ]
    wrong = count([one for one in right if one not in eligible])
    by_source = {source: sum(one["times"] for one in drawn if one["source"] == source) for source in SOURCES}
    parts = {source: {"available": count(eligible).get(source, 0), "pairs": by_source[source]} for source in SOURCES}
    facts = {"available": count(eligible), "quarantined": wrong, "by_source": by_source, "parts": parts}
    own = {"inputs": inputs, "facts": facts, "config": {"filter": FILTER, "of": list(SOURCES)}}
    return builder.finish(MIXTURE, "blend", {"mixtures": [table("mixtures", drawn)]}, **own), times


def count(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of rows by source."""
    found = [str(row["source"]) for row in rows]
    return {source: found.count(source) for source in sorted(set(found))}


def exported(builder: Builder, inputs: list[str], times: Mapping[str, int], per_tar: int = 4) -> str:
    """Write the export: first copies in the order of the uids, then second ones."""
    job = job_id(f"export/{MIXTURE}")
    folder, place = f"exports/{MIXTURE}/{job[:16]}", {one["uid"]: one for one in builder.samples}
    order = [sorted(uid for uid, much in times.items() if much > copy) for copy in (0, 1)]
    tars, members = [], []
    for uids in [part[start : start + per_tar] for part in order for start in range(0, len(part), per_tar)]:
        stream, name, own = io.BytesIO(), f"{len(tars):08d}.tar", []
        writer = ShardWriter(stream)
        for uid in uids:
            at, size = place[uid]["offset"], place[uid]["size"]
            data = builder.store.read(place[uid]["shard"])[at : at + size]
            own.append({"mixture": MIXTURE, "uid": uid, "tar": name, "offset": writer.append(data), "size": size})
        sha256 = writer.close()
        builder.store.write(f"{folder}/{name}", stream.getvalue())
        tars.append({"tar": name, "pairs": len(uids), "bytes": writer.bytes, "sha256": sha256})
        members.append(table("export_members", own))
    said = about(builder.ledger, job, inputs[0])
    texts = {f"{folder}/{name}": data for name, data in render_documents(said, tars).items()}
    for path, data in texts.items():
        builder.store.write(path, data)
    facts = {"folder": folder, "digest": export_digest(tars), "about": said}
    facts["files"] = {path: hashlib.sha256(data).hexdigest() for path, data in texts.items()}
    rows_ = {"exports": [table("exports", [one | {"mixture": MIXTURE} for one in tars])], "export_members": members}
    return builder.finish(MIXTURE, "export", rows_, inputs=inputs, facts=facts)


def about(ledger: Ledger, job: str, blend: str) -> Any:
    """Return what the export's papers are made of, as the ledger has it now."""
    drawn, row = ledger.read("mixtures", jobs=[blend]).to_pylist(), ledger.finished(blend)
    assert row is not None
    jobs = {stage: {one.name: one.job for one in ledger.jobs() if one.stage == stage} for stage in ("ingest", "decide")}
    same = {"format": "table", "licence": "unknown", "terms": "", "snapshot": "", "citation": ""}
    parts = []
    for name in SOURCES:
        times = [one["times"] for one in drawn if one["part"] == name]
        parts.append({"name": name, "share": None, "pairs": sum(times), "distinct": len(times)})
    return {
        "title": "by hand",
        "mixture": MIXTURE,
        "job": job,
        "inputs": {"blend": blend, "decide": jobs["decide"], "ingest": sorted(jobs["ingest"].values())},
        "sources": {name: same | {"pairs": count(drawn).get(name, 0)} for name in SOURCES},
        "parts": parts,
        "filters": [{"name": FILTER, "rule": "by its uid"}],
        "signals": [],
        "funnel": [one.plain() for one in source_funnels(ledger, {**jobs, "blend": {MIXTURE: blend}})],
        "ingest": {},
        "mismatched": False,
        "contact": "",
        "factors": {},
    }


def training(builder: Builder, export: str) -> None:
    """Write a training on the export, and a report that shows some pairs."""
    folder = "trainings/0123456789abcdef/model"
    weights = b"weights"
    builder.store.write(f"{folder}/open_clip_model.safetensors", weights)
    row = {
        "training": "0123456789abcdef",
        "mixture": MIXTURE,
        "samples_seen": 640,
        "checkpoint": folder,
        "checkpoint_sha256": hashlib.sha256(weights).hexdigest(),
    }
    train = builder.finish(
        f"{MIXTURE}/0", "train", {"trainings": [table("trainings", [row])]}, inputs=[export], config={"batch_size": 16}
    )
    for name in ("shows", "hides"):
        report(builder, name, train)


def report(builder: Builder, name: str, train: str) -> None:
    """Write a report that shows the named pair by its first digits, or a plain one by its uid."""
    one = next(one for one in builder.made if one.name == ("named" if name == "shows" else "alpha0"))
    shown = one.uid[:8] if name == "shows" else one.uid
    path = f"reports/{name}/index.html"
    page = f"<p>{shown} {one.caption}</p>".encode()
    builder.store.write(path, page)
    builder.finish(name, "report", {}, inputs=[train], facts={"files": {path: hashlib.sha256(page).hexdigest()}})


def content(store: Store) -> dict[str, Any]:
    """Return what is in a store, but for the names of data files, times, and Delta's logs: tables by their rows."""
    ledger, found = Ledger(store), dict[str, Any]()
    for name in ledger.tables():
        rows_ = ledger.read(name).to_pylist()
        for row in rows_:
            for key in ("at", "started", "finished"):
                row.pop(key, None)
        found[name] = sorted(map(repr, rows_))
    for path in store.files(""):
        if not path.startswith(("tables/", "lineage/")):
            found[path] = store.read(path)
        elif path.startswith("lineage/"):
            found[path] = b""
        elif path.endswith(".parquet"):
            folder = f"{path.rpartition('/')[0]}: files"
            found[folder] = found.get(folder, 0) + 1
    return found


def everything(root: Path) -> bytes:
    """Return all bytes under a folder: of files as they lie, and of Parquet files every column too, decompressed."""
    parts = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        parts.append(path.read_bytes())
        if path.suffix == ".parquet":
            for row in pq.ParquetFile(path).read().to_pylist():
                for value in row.values():
                    parts.append(value if isinstance(value, bytes) else str(value).encode())
    return b"\n".join(parts)
