"""The full provenance of a pair: published row, fetches, stored image, signals, decisions, mixtures and exports."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import InputError
from pipeline.fetch.urls import url_key
from pipeline.ingest.tombstones import KIND_SHA256, KIND_UID, KIND_URL, hash_key
from pipeline.ledger.job_graph import upstream as _upstream
from pipeline.ledger.scan import rows_with
from pipeline.ledger.tables import JobRow, Ledger

_UID = re.compile(r"[0-9a-f]{32}")


_SHA256 = re.compile(r"[0-9a-f]{64}")


SECTIONS = ("published", "fetches", "stored", "signals", "decisions", "mixtures", "exports", "taken_down")
"""The sections of a pair's provenance, in order."""


_TABLES = ("pairs", "fetches", "samples", "decisions", "mixtures", "export_members")


_SEARCH_OF_REASON = {"evaluation_copy": "pdq", "evaluation_lookalike": "cosine", "evaluation_aligned": "aligned"}
"""The search that found the evaluation image, by the reason of the decision."""


def tombstones_of(ledger: Ledger, key: str, uids: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the tombstones of a uid, a URL or an image's SHA-256: kind, time, reason, and the trainings that saw it.

    Tombstones of the additional `uids` are included.
    """
    kind, value = KIND_URL, hash_key(url_key(key))
    if _UID.fullmatch(key):
        kind, value = KIND_UID, key
    elif _SHA256.fullmatch(key):
        kind, value = KIND_SHA256, key
    identifiers = {(kind, value), *((KIND_UID, uid) for uid in uids)}
    rows = rows_with(ledger, "tombstones", ["value"], [value for _, value in identifiers])
    return [_tombstone(row) for row in rows if (row["kind"], row["value"]) in identifiers]


def _tombstone(row: Mapping[str, Any]) -> dict[str, Any]:
    tombstone = {"kind": row["kind"], "value": row["value"], "at": row["at"].isoformat(), "reason": row["reason"]}
    return {**tombstone, "seen": json.loads(row["seen"] or "{}"), "job": row["job"]}


def _without_binaries(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without uid and source, with binaries such as embeddings replaced by their length."""
    return {
        key: f"{len(value)} bytes" if isinstance(value, bytes) else value
        for key, value in row.items()
        if key not in ("uid", "source")
    }


def trace(ledger: Ledger, key: str) -> list[dict[str, Any]]:
    """Return the provenance of all pairs that match `key`, with the sections in `SECTIONS`; raise InputError where
    there is none.

    For a pair that was taken down the result has tombstones alone, and its uid is "" unless `key` is the uid.
    """
    if _UID.fullmatch(key):
        rows = rows_with(ledger, "pairs", ["uid"], [key])
    elif _SHA256.fullmatch(key):
        rows = rows_with(ledger, "samples", ["raw_sha256", "jpg_sha256"], [key])
    else:
        rows = rows_with(ledger, "pairs", ["url"], [key])
    uids = sorted({row["uid"] for row in rows})
    tombstones = tombstones_of(ledger, key, uids)
    if not uids:
        if not tombstones:
            message = "no pair and no tombstone; expected a uid, a URL or a SHA-256 of an image"
            raise InputError(f"{ledger.store.root}: {key!r}: {message}")
        return [_pair_history(key if _UID.fullmatch(key) else "", {}, {}, {}, tombstones)]
    jobs = {row.job: row for row in ledger.jobs()}
    names = [name for name in ledger.tables() if name in _TABLES or name.startswith("signals_")]
    tables = {name: rows_with(ledger, name, ["uid"], uids) for name in names if name != "pairs" or uids != [key]}
    trainings = _trainings_by_export(ledger, jobs)
    return [
        _pair_history(
            uid,
            {"pairs": rows, **tables},
            jobs,
            trainings,
            [stone for stone in tombstones if stone["kind"] != KIND_UID or stone["value"] == uid],
        )
        for uid in uids
    ]


def _trainings_by_export(ledger: Ledger, jobs: dict[str, JobRow]) -> dict[str, list[dict[str, Any]]]:
    """Return the trainings that read an export, by export job."""
    trainings: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.read("trainings").to_pylist():
        if (job := jobs.get(row["job"])) is not None:
            for source in job.inputs:
                trainings.setdefault(source, []).append(row)
    return trainings


def _pair_history(
    uid: str,
    tables: Mapping[str, list[dict[str, Any]]],
    jobs: Mapping[str, JobRow],
    trainings: Mapping[str, list[dict[str, Any]]],
    tombstones: list[dict[str, Any]],
) -> dict[str, Any]:
    rows_of_pair = {table: [row for row in rows if row["uid"] == uid] for table, rows in tables.items()}
    pairs = rows_of_pair.get("pairs", [])
    file_digests = {
        job: {file["file"]: file["sha256"] for file in jobs[job].config["files"]}
        for job in {row["job"] for row in pairs}
    }
    exports = []
    for row in rows_of_pair.get("export_members", []):
        exports.append(
            _without_binaries(row)
            | {"trainings": [_training_summary(training) for training in trainings.get(row["job"], [])]}
        )
    signals = {table: rows for table, rows in rows_of_pair.items() if table.startswith("signals_") and rows}
    overlaps = [row for rows in signals.values() for row in rows if "pdq_key" in row]
    return {
        "uid": uid,
        "source": pairs[0]["source"] if pairs else "",
        "published": [
            _without_binaries(row) | {"file_sha256": file_digests[row["job"]].get(row["file"], "")} for row in pairs
        ],
        "fetches": [
            _without_binaries(row) for row in sorted(rows_of_pair.get("fetches", []), key=lambda row: row["attempt"])
        ],
        "stored": [_without_binaries(row) for row in rows_of_pair.get("samples", [])],
        "signals": {
            table.removeprefix("signals_"): [_without_binaries(row) for row in rows] for table, rows in signals.items()
        },
        "decisions": [
            _without_binaries(row) | _matched_evaluation_image(row, overlaps, jobs)
            for row in rows_of_pair.get("decisions", [])
        ],
        "mixtures": [_without_binaries(row) for row in rows_of_pair.get("mixtures", [])],
        "exports": exports,
        "taken_down": tombstones,
    }


def _matched_evaluation_image(
    decision: Mapping[str, Any], overlaps: Iterable[Mapping[str, Any]], jobs: Mapping[str, JobRow]
) -> dict[str, Any]:
    """Return the evaluation image for which a pair was dropped, from the signal that the decision depends on."""
    measure_name = _SEARCH_OF_REASON.get(decision["reason"])
    if measure_name is None:
        return {}
    upstream = _upstream(decision["job"], jobs)
    for row in overlaps:
        if row["job"] in upstream and row.get(f"{measure_name}_key"):
            measure = "pdq_distance" if measure_name == "pdq" else measure_name
            image = {
                "evaluation_set": row[f"{measure_name}_set"],
                "key": row[f"{measure_name}_key"],
                measure: row[measure],
            }
            return {"resembles": image}
    return {}


def _training_summary(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("training", "mixture", "seed", "samples_seen", "checkpoint", "checkpoint_sha256")}


def format_trace(life: dict[str, Any]) -> str:
    """Return one pair's provenance as a tree for a terminal."""
    lines = [f"{life['uid']}  ({life['source']})"]
    for part in SECTIONS:
        entries = life[part]
        if part == "taken_down" and not entries:
            continue
        lines.append(f"├─ {part.replace('_', ' ')}" + ("" if entries else ": nothing"))
        if isinstance(entries, dict):
            entries = [{"signal": name, **row} for name, rows in entries.items() for row in rows]
        for entry in entries:
            trainings = entry.pop("trainings", [])
            lines.append(
                "│   ├─ " + ", ".join(f"{key} {_format_value(value)}" for key, value in entry.items() if value != "")
            )
            lines.extend(
                f"│   │   └─ trained {training['training']} (mixture {training['mixture']}, seed {training['seed']}), "
                f"checkpoint {training['checkpoint']}"
                for training in trainings
            )
    return "\n".join(lines)


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_format_value(item)}" for key, item in value.items()) + ")"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"of {len(value)}"  # one entry per evaluation set; --json prints them
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text[:16]}…" if _SHA256.fullmatch(text) else text
