"""Example pairs of a filter's decisions: some for each drop reason, and some kept ones, with what they resemble."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from filters.rules.corpus import Unique
from filters.rules.sql_expressions import KEEP
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.errors import StageFailed
from pipeline.images.normalize import RefusedImage
from pipeline.images.thumbnails import thumbnail_url
from pipeline.ledger.schemas import signal_table
from pipeline.report.schema import Example, SimilarImage
from pipeline.shards.tar_format import TAR_BLOCK_BYTES

RowsByUid = dict[str, dict[str, Any]]


def choose_decisions(decisions: pa.Table, count: int) -> list[dict[str, Any]]:
    """Return about `count` decisions: a third kept, the others spread evenly over the reasons, the first uids of each.

    Uids are hashes, so the first ones are a random sample.
    """
    by_reason = {
        reason: _first(decisions, reason, count) for reason in sorted(pc.unique(decisions["reason"]).to_pylist())
    }
    kept = by_reason.pop(KEEP, [])[: count // 3]
    per_reason = max(1, (count - len(kept)) // max(1, len(by_reason)))
    return [row for rows in by_reason.values() for row in rows[:per_reason]] + kept


def _first(decisions: pa.Table, reason: str, count: int) -> list[dict[str, Any]]:
    rows = decisions.filter(pc.equal(decisions["reason"], reason))
    first: list[dict[str, Any]] = rows.take(pc.select_k_unstable(rows, count, [("uid", "ascending")])).to_pylist()
    return first


def _first_of_each(count: int) -> Callable[[pa.Table], pa.Table]:
    """Return a function that keeps those of a file's decisions that `choose` can select."""
    return lambda rows: pa.Table.from_pylist(
        [row for reason in pc.unique(rows["reason"]).to_pylist() for row in _first(rows, reason, count)], rows.schema
    )


def _stored_thumbnail(run: Run, sample: dict[str, Any]) -> str:
    """Return a stored pair's thumbnail; raise StageFailed where its shard has no image at the recorded offset."""
    with run.store.open(sample["shard"]) as stream:
        stream.seek(sample["offset"] + TAR_BLOCK_BYTES)
        image = thumbnail_url(stream.read(sample["jpg_bytes"]))
    if isinstance(image, RefusedImage):
        problem = f"expected an image at {sample['offset']}, found {image.outcome}"
        raise StageFailed(f"{run.store.uri(sample['shard'])}: {sample['uid']}: {problem}; see cuvee verify")
    return image


def _rows(
    run: Run, table: str, columns: Sequence[str], jobs: Iterable[Job], uids: Collection[str]
) -> list[dict[str, Any]]:
    """Return a table's rows of the given pairs."""
    uid_array = pa.array(sorted(uids), pa.string())
    rows = run.ledger.read(
        table, columns, [job.id for job in jobs], keep=lambda rows: rows.filter(pc.is_in(rows["uid"], uid_array))
    )
    dicts: list[dict[str, Any]] = rows.to_pylist()
    return dicts


def _signals(run: Run, uids: Sequence[str]) -> dict[str, RowsByUid]:
    """Return the rows of the chosen pairs by signal and uid."""
    rows_by_signal = dict[str, RowsByUid]()
    for name, spec in run.experiment.signals.items():
        columns = ["uid", *(field.name for field in spec.target().columns if str(field.type) != "binary")]
        rows = _rows(run, signal_table(name), columns, run.plan.signal(name), uids)
        rows_by_signal[name] = {row["uid"]: row for row in rows}
    return rows_by_signal


SHOWN_COLUMNS = {
    "clip": ("similarity",),
    "caption": ("words",),
    "image": ("short_side", "aspect"),
    "nearest": ("pdq_distance", "cosine"),
    "duplicates": ("exact_size", "near_size"),
}
"""The columns of each kind of signal that are shown with an example."""


def _scores(run: Run, signals: dict[str, RowsByUid], uid: str) -> dict[str, float | str | None]:
    scores: dict[str, float | str | None] = {}
    for name, rows in signals.items():
        for column in SHOWN_COLUMNS.get(run.experiment.signals[name].kind, ()):
            short_name = re.sub(r"_v\d+$", "", name)  # the cards are narrow
            scores[f"{name if f'{short_name}.{column}' in scores else short_name}.{column}"] = rows.get(uid, {}).get(
                column
            )
    return scores


def _evaluation_images(run: Run, keys: set[tuple[str, str]]) -> dict[tuple[str, str], str | None]:
    """Return thumbnails of evaluation images by (set, key); None for an image that ingest would refuse."""
    thumbnails = dict[tuple[str, str], str | None]()
    for name, evaluation_set in run.experiment.evaluation_sets().items():
        if any(name == set_name for set_name, _ in keys):
            for image in evaluation_set.images():
                if (name, image.key) in keys:
                    result = thumbnail_url(image.data)
                    thumbnails[name, image.key] = None if isinstance(result, RefusedImage) else result
    return thumbnails


def _nearest(signals: dict[str, RowsByUid], run: Run, uid: str) -> dict[str, Any]:
    rows = [by_uid.get(uid, {}) for name, by_uid in signals.items() if run.experiment.signals[name].kind == "nearest"]
    return rows[0] if rows else {}


def _group(signals: dict[str, RowsByUid], run: Run, row: dict[str, Any]) -> str:
    """Return the uid that identifies the group of a duplicate, or ""."""
    column = {"exact_duplicate": "exact_group", "near_duplicate": "near_group"}.get(row["reason"], "")
    for name, by_uid in signals.items():
        if column and run.experiment.signals[name].kind == "duplicates":
            return str(by_uid.get(row["uid"], {}).get(column, ""))
    return ""


def examples(run: Run, filter_name: str, count: int) -> list[Example]:
    """Return the examples of one filter's decisions: the dropped ones first, sorted by reason."""
    job, columns = run.plan.decide(filter_name).id, ["uid", "source", "keep", "reason"]
    chosen = choose_decisions(run.ledger.read("decisions", columns, [job], keep=_first_of_each(count)), count)
    uids = [row["uid"] for row in chosen]
    signals = _signals(run, uids)
    kept_uids = _kept_of_groups(run, {_group(signals, run, row) for row in chosen} - {""})
    ingests, needed, location = (
        run.plan.ingests(),
        {*uids, *kept_uids.values()},
        ["uid", "shard", "offset", "jpg_bytes"],
    )
    samples = {row["uid"]: row for row in _rows(run, "samples", location, ingests, needed)}
    captions = {row["uid"]: row["caption"] for row in _rows(run, "pairs", ["uid", "caption"], ingests, uids)}
    near = {row["uid"]: _nearest(signals, run, row["uid"]) for row in chosen if row["reason"].startswith("evaluation")}
    images = _evaluation_images(run, {(row["pdq_set"], row["pdq_key"]) for row in near.values() if row})
    result: list[Example] = []
    for row in chosen:
        uid = row["uid"]
        resemblance: SimilarImage | None = None
        if near.get(uid):
            set_and_key = (near[uid]["pdq_set"], near[uid]["pdq_key"])
            resemblance = {
                "what": f"evaluation image {set_and_key[0]}/{set_and_key[1]}",
                "thumbnail": images[set_and_key],
            }
        elif (other := kept_uids.get(_group(signals, run, row))) and other != uid:
            resemblance = {"what": f"kept pair {other[:8]}", "thumbnail": _stored_thumbnail(run, samples[other])}
        result.append(
            {
                "uid": uid,
                "source": row["source"],
                "caption": captions[uid],
                "kept": row["keep"],
                "reason": row["reason"],
                "scores": _scores(run, signals, uid),
                "thumbnail": _stored_thumbnail(run, samples[uid]),
                "resembles": resemblance,
            }
        )
    return result


def _kept_of_groups(run: Run, groups: set[str]) -> dict[str, str]:
    """Return for each duplicate group the uid of the member that the `unique` filters keep."""
    if not groups:
        return {}
    group_array, columns, members = pa.array(sorted(groups)), ("exact_group", "near_group"), dict[str, set[str]]()

    def in_groups(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.or_kleene(*(pc.is_in(rows[column], group_array) for column in columns)))

    for name, spec in run.experiment.signals.items():
        if spec.kind == "duplicates":
            jobs = [job.id for job in run.plan.signal(name)]
            for row in run.ledger.read(signal_table(name), ["uid", *columns], jobs, keep=in_groups).to_pylist():
                members.setdefault(row["uid"], set()).update(groups & {row[column] for column in columns})
    unique = [run.plan.decide(name) for name, rule in run.experiment.rules.items() if isinstance(rule, Unique)]
    rows = _rows(run, "decisions", ["uid", "keep"], unique, members)
    kept = sorted((row["uid"] for row in rows if row["keep"]), reverse=True)
    return {group: uid for uid in kept for group in members[uid]}
