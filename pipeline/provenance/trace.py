"""A pair's whole life: the published row, its fetches, where it lies, what was said and decided, where it went."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import InputError
from pipeline.fetch.urls import url_key
from pipeline.ingest.tombstones import IMAGE, UID, URL, hashed
from pipeline.ledger.job_graph import _upstream
from pipeline.ledger.scan import rows_with
from pipeline.ledger.tables import JobRow, Ledger

_UID = re.compile(r"[0-9a-f]{32}")


_SHA256 = re.compile(r"[0-9a-f]{64}")


PARTS = ("published", "fetches", "stored", "signals", "decisions", "mixtures", "exports", "taken_down")
"""What a life consists of, in its order."""


_TABLES = ("pairs", "fetches", "samples", "decisions", "mixtures", "export_members")


_RESEMBLED = {"evaluation_copy": "pdq", "evaluation_lookalike": "cosine", "evaluation_aligned": "aligned"}
"""By the reason of a decision the search that found the evaluation image."""


def stones_of(ledger: Ledger, key: str, uids: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the tombstones of a uid, a URL or an image's SHA-256: what, when, why, and the trainings that saw it.

    Those of further `uids` as well.
    """
    kind, value = URL, hashed(url_key(key))
    if _UID.fullmatch(key):
        kind, value = UID, key
    elif _SHA256.fullmatch(key):
        kind, value = IMAGE, key
    asked = {(kind, value), *((UID, uid) for uid in uids)}
    rows = rows_with(ledger, "tombstones", ["value"], [value for _, value in asked])
    return [_stone(row) for row in rows if (row["kind"], row["value"]) in asked]


def _stone(row: Mapping[str, Any]) -> dict[str, Any]:
    told = {"kind": row["kind"], "value": row["value"], "at": row["at"].isoformat(), "reason": row["reason"]}
    return {**told, "seen": json.loads(row["seen"] or "{}"), "job": row["job"]}


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its binaries as their length, as nobody reads an embedding."""
    return {
        key: f"{len(value)} bytes" if isinstance(value, bytes) else value
        for key, value in row.items()
        if key not in ("uid", "source")
    }


def trace(ledger: Ledger, key: str) -> list[dict[str, Any]]:
    """Return the lives of all pairs that `key` stands for, as `PARTS`; raise InputError where the ledger knows none.

    Of what was taken down there is a life of a tombstone alone, whose uid is "" unless it was asked for.
    """
    if _UID.fullmatch(key):
        found = rows_with(ledger, "pairs", ["uid"], [key])
    elif _SHA256.fullmatch(key):
        found = rows_with(ledger, "samples", ["raw_sha256", "jpg_sha256"], [key])
    else:
        found = rows_with(ledger, "pairs", ["url"], [key])
    uids = sorted({row["uid"] for row in found})
    stones = stones_of(ledger, key, uids)
    if not uids:
        if not stones:
            said = "no pair and no tombstone; expected a uid, a URL or a SHA-256 of an image"
            raise InputError(f"{ledger.store.root}: {key!r}: {said}")
        return [_life(key if _UID.fullmatch(key) else "", {}, {}, {}, stones)]
    jobs = {row.job: row for row in ledger.jobs()}
    names = [name for name in ledger.tables() if name in _TABLES or name.startswith("signals_")]
    tables = {name: rows_with(ledger, name, ["uid"], uids) for name in names if name != "pairs" or uids != [key]}
    trainings = _saw(ledger, jobs)
    return [
        _life(
            uid,
            {"pairs": found, **tables},
            jobs,
            trainings,
            [one for one in stones if one["kind"] != UID or one["value"] == uid],
        )
        for uid in uids
    ]


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
    tables: Mapping[str, list[dict[str, Any]]],
    jobs: Mapping[str, JobRow],
    trainings: Mapping[str, list[dict[str, Any]]],
    stones: list[dict[str, Any]],
) -> dict[str, Any]:
    mine = {table: [row for row in rows if row["uid"] == uid] for table, rows in tables.items()}
    pairs = mine.get("pairs", [])
    digests = {
        job: {one["file"]: one["sha256"] for one in jobs[job].config["files"]} for job in {row["job"] for row in pairs}
    }
    exports = []
    for row in mine.get("export_members", []):
        exports.append(_brief(row) | {"trainings": [_training(one) for one in trainings.get(row["job"], [])]})
    signals = {table: rows for table, rows in mine.items() if table.startswith("signals_") and rows}
    near = [row for rows in signals.values() for row in rows if "pdq_key" in row]
    return {
        "uid": uid,
        "source": pairs[0]["source"] if pairs else "",
        "published": [_brief(row) | {"file_sha256": digests[row["job"]].get(row["file"], "")} for row in pairs],
        "fetches": [_brief(row) for row in sorted(mine.get("fetches", []), key=lambda row: row["attempt"])],
        "stored": [_brief(row) for row in mine.get("samples", [])],
        "signals": {table.removeprefix("signals_"): [_brief(row) for row in rows] for table, rows in signals.items()},
        "decisions": [_brief(row) | _resembled(row, near, jobs) for row in mine.get("decisions", [])],
        "mixtures": [_brief(row) for row in mine.get("mixtures", [])],
        "exports": exports,
        "taken_down": stones,
    }


def _resembled(
    decision: Mapping[str, Any], near: Iterable[Mapping[str, Any]], jobs: Mapping[str, JobRow]
) -> dict[str, Any]:
    """Return the evaluation image for which a pair was dropped, by the signal that the decision stands on."""
    found = _RESEMBLED.get(decision["reason"])
    if found is None:
        return {}
    behind = _upstream(decision["job"], jobs)
    for row in near:
        if row["job"] in behind and row.get(f"{found}_key"):
            measure = "pdq_distance" if found == "pdq" else found
            image = {"evaluation_set": row[f"{found}_set"], "key": row[f"{found}_key"], measure: row[measure]}
            return {"resembles": image}
    return {}


def _training(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("training", "mixture", "seed", "samples_seen", "checkpoint", "checkpoint_sha256")}


def as_text(life: dict[str, Any]) -> str:
    """Return one pair's life as a tree for a terminal."""
    lines = [f"{life['uid']}  ({life['source']})"]
    for part in PARTS:
        entries = life[part]
        if part == "taken_down" and not entries:
            continue
        lines.append(f"├─ {part.replace('_', ' ')}" + ("" if entries else ": nothing"))
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
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(one)}" for key, one in value.items()) + ")"
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return f"of {len(value)}"  # an entry for each evaluation set; --json has them
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text[:16]}…" if _SHA256.fullmatch(text) else text
