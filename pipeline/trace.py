"""A pair's whole life: the published row, its fetches, where it lies, what was said and decided, where it went."""

import re
from collections.abc import Iterable
from typing import Any

from pipeline.errors import InputError
from pipeline.ledger import JobRow, Ledger

_UID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _where(ledger: Ledger, table: str, column: str, values: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of finished jobs whose `column` is one of `values`."""
    import pyarrow.parquet as pq

    wanted: list[str] = sorted(set(values))
    found: list[dict[str, Any]] = []
    for job, path in ledger.snapshot(table):
        if ledger.finished(job) is None:
            continue
        with ledger.store.arrow(path) as stream:
            rows = pq.read_table(stream, filters=[(column, "in", wanted)])
        found.extend({**row, "job": job} for row in rows.to_pylist())
    return found


def uids_of(ledger: Ledger, key: str) -> list[str]:
    """Return the uids that a uid, a URL or an image's SHA-256 (as fetched or as stored) stands for."""
    if _UID.fullmatch(key):
        rows = _where(ledger, "pairs", "uid", [key])
    elif _SHA256.fullmatch(key):
        rows = _where(ledger, "samples", "raw_sha256", [key]) or _where(ledger, "samples", "jpg_sha256", [key])
    else:
        rows = _where(ledger, "pairs", "url", [key])
    return sorted({row["uid"] for row in rows})


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its binaries as their length, as nobody reads an embedding."""
    return {
        key: f"{len(value)} bytes" if isinstance(value, bytes) else value
        for key, value in row.items()
        if key not in ("uid", "source")
    }


def trace(ledger: Ledger, key: str) -> list[dict[str, Any]]:
    """Return the lives of all pairs that `key` stands for; raise InputError where the ledger knows none."""
    uids = uids_of(ledger, key)
    if not uids:
        raise InputError(f"{ledger.store.root}: no pair for {key!r}; expected a uid, a URL or a SHA-256 of an image")
    jobs = {row.job: row for row in ledger.jobs()}
    tables = {
        table: _where(ledger, table, "uid", uids)
        for table in ledger.tables()
        if table in ("pairs", "fetches", "samples", "decisions", "mixtures", "export_members")
        or table.startswith("signals_")
    }
    trainings = _saw(ledger, jobs)
    return [_life(uid, tables, jobs, trainings) for uid in uids]


def _saw(ledger: Ledger, jobs: dict[str, JobRow]) -> dict[str, list[dict[str, Any]]]:
    """Return by export job the trainings that read it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.read("trainings").to_pylist():
        if (job := jobs.get(row["job"])) is not None:
            for source in job.inputs:
                found.setdefault(source, []).append(row)
    return found


def _life(
    uid: str,
    tables: dict[str, list[dict[str, Any]]],
    jobs: dict[str, JobRow],
    trainings: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    mine = {table: [row for row in rows if row["uid"] == uid] for table, rows in tables.items()}
    digests = {
        job: {one["file"]: one["sha256"] for one in jobs[job].config["files"]}
        for job in {row["job"] for row in mine["pairs"]}
    }
    exports = []
    for row in mine.get("export_members", []):
        exports.append(_brief(row) | {"trainings": [_training(one) for one in trainings.get(row["job"], [])]})
    return {
        "uid": uid,
        "source": mine["pairs"][0]["source"] if mine["pairs"] else "",
        "published": [_brief(row) | {"file_sha256": digests[row["job"]].get(row["file"], "")} for row in mine["pairs"]],
        "fetches": [_brief(row) for row in sorted(mine.get("fetches", []), key=lambda row: row["attempt"])],
        "stored": [_brief(row) for row in mine.get("samples", [])],
        "signals": {
            table.removeprefix("signals_"): [_brief(row) for row in rows]
            for table, rows in mine.items()
            if table.startswith("signals_") and rows
        },
        "decisions": [_brief(row) for row in mine.get("decisions", [])],
        "mixtures": [_brief(row) for row in mine.get("mixtures", [])],
        "exports": exports,
    }


def _training(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("training", "mixture", "seed", "samples_seen", "checkpoint", "checkpoint_sha256")}


def as_text(life: dict[str, Any]) -> str:
    """Return one pair's life as a tree for a terminal."""
    lines = [f"{life['uid']}  ({life['source']})"]
    for part in ("published", "fetches", "stored", "signals", "decisions", "mixtures", "exports"):
        entries = life[part]
        lines.append(f"├─ {part}" + ("" if entries else ": nothing"))
        if isinstance(entries, dict):
            entries = [{"signal": name, **row} for name, rows in entries.items() for row in rows]
        for entry in entries:
            trained = entry.pop("trainings", [])
            lines.append("│   ├─ " + ", ".join(f"{key} {_short(value)}" for key, value in entry.items() if value != ""))
            lines.extend(
                f"│   │   └─ trained {one['training']} (mixture {one['mixture']}, seed {one['seed']}), "
                f"checkpoint {one['checkpoint']}"
                for one in trained
            )
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text[:16]}…" if _SHA256.fullmatch(text) else text
