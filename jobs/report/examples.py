"""Pairs to look at: some for each reason of a filter, and some that it kept, with what they resemble."""

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
from pipeline.images.normalize import Refused
from pipeline.images.thumbnails import thumbnail
from pipeline.ledger.schemas import signal_table
from pipeline.report.schema import Example, Resemblance
from pipeline.shards.tar_format import BLOCK

Rows = dict[str, dict[str, Any]]


def choose(decisions: pa.Table, count: int) -> list[dict[str, Any]]:
    """Return about `count` decisions: a third kept, the rest spread evenly over the reasons, of each the first uids.

    Uids are hashes, so the first are a draw.
    """
    by_reason = {one: _first(decisions, one, count) for one in sorted(pc.unique(decisions["reason"]).to_pylist())}
    kept = by_reason.pop(KEEP, [])[: count // 3]
    each = max(1, (count - len(kept)) // max(1, len(by_reason)))
    return [row for rows in by_reason.values() for row in rows[:each]] + kept


def _first(decisions: pa.Table, reason: str, count: int) -> list[dict[str, Any]]:
    rows = decisions.filter(pc.equal(decisions["reason"], reason))
    found: list[dict[str, Any]] = rows.take(pc.select_k_unstable(rows, count, [("uid", "ascending")])).to_pylist()
    return found


def _first_of_each(count: int) -> Callable[[pa.Table], pa.Table]:
    """Return what keeps of a file's decisions those of which `choose` may take some."""
    return lambda rows: pa.Table.from_pylist(
        [row for one in pc.unique(rows["reason"]).to_pylist() for row in _first(rows, one, count)], rows.schema
    )


def _stored(run: Run, sample: dict[str, Any]) -> str:
    """Return a stored pair's thumbnail; raise StageFailed where its shard has no image there."""
    with run.store.open(sample["shard"]) as stream:
        stream.seek(sample["offset"] + BLOCK)
        small = thumbnail(stream.read(sample["jpg_bytes"]))
    if isinstance(small, Refused):
        found = f"expected an image at {sample['offset']}, found {small.outcome}"
        raise StageFailed(f"{run.store.uri(sample['shard'])}: {sample['uid']}: {found}; see cuvee verify")
    return small


def _rows(
    run: Run, table: str, columns: Sequence[str], jobs: Iterable[Job], uids: Collection[str]
) -> list[dict[str, Any]]:
    """Return the rows of some pairs, out of many."""
    wanted = pa.array(sorted(uids), pa.string())
    rows = run.ledger.read(
        table, columns, [job.id for job in jobs], keep=lambda rows: rows.filter(pc.is_in(rows["uid"], wanted))
    )
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def _signals(run: Run, uids: Sequence[str]) -> dict[str, Rows]:
    """Return by signal and uid the rows of the chosen pairs."""
    found = dict[str, Rows]()
    for name, spec in run.experiment.signals.items():
        columns = ["uid", *(field.name for field in spec.target().columns if str(field.type) != "binary")]
        rows = _rows(run, signal_table(name), columns, run.plan.signal(name), uids)
        found[name] = {row["uid"]: row for row in rows}
    return found


SHOWN = {
    "clip": ("similarity",),
    "caption": ("words",),
    "image": ("short_side", "aspect"),
    "nearest": ("pdq_distance", "cosine"),
    "duplicates": ("exact_size", "near_size"),
}
"""The columns of each kind of signal that stand beside an example."""


def _scores(run: Run, signals: dict[str, Rows], uid: str) -> dict[str, float | str | None]:
    scores: dict[str, float | str | None] = {}
    for name, rows in signals.items():
        for column in SHOWN.get(run.experiment.signals[name].kind, ()):
            short = re.sub(r"_v\d+$", "", name)  # the cards are narrow
            scores[f"{name if f'{short}.{column}' in scores else short}.{column}"] = rows.get(uid, {}).get(column)
    return scores


def _evaluation_images(run: Run, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], str | None]:
    """Return thumbnails of evaluation images by (set, key), none of those that ingest would refuse."""
    found = dict[tuple[str, str], str | None]()
    for name, one in run.experiment.evaluation_sets().items():
        if any(name == named for named, _ in wanted):
            for image in one.images():
                if (name, image.key) in wanted:
                    small = thumbnail(image.data)
                    found[name, image.key] = None if isinstance(small, Refused) else small
    return found


def _nearest(signals: dict[str, Rows], run: Run, uid: str) -> dict[str, Any]:
    rows = [found.get(uid, {}) for name, found in signals.items() if run.experiment.signals[name].kind == "nearest"]
    return rows[0] if rows else {}


def _group(signals: dict[str, Rows], run: Run, row: dict[str, Any]) -> str:
    """Return the uid that names the group a duplicate belongs to, or ""."""
    column = {"exact_duplicate": "exact_group", "near_duplicate": "near_group"}.get(row["reason"], "")
    for name, found in signals.items():
        if column and run.experiment.signals[name].kind == "duplicates":
            return str(found.get(row["uid"], {}).get(column, ""))
    return ""


def examples(run: Run, filter_name: str, count: int) -> list[Example]:
    """Return the examples of one filter's decisions, dropped ones first, by reason."""
    job, columns = run.plan.decide(filter_name).id, ["uid", "source", "keep", "reason"]
    chosen = choose(run.ledger.read("decisions", columns, [job], keep=_first_of_each(count)), count)
    uids = [row["uid"] for row in chosen]
    signals = _signals(run, uids)
    kept_of = _kept_of_groups(run, {_group(signals, run, row) for row in chosen} - {""})
    ingests, needed, place = run.plan.ingests(), {*uids, *kept_of.values()}, ["uid", "shard", "offset", "jpg_bytes"]
    samples = {row["uid"]: row for row in _rows(run, "samples", place, ingests, needed)}
    captions = {row["uid"]: row["caption"] for row in _rows(run, "pairs", ["uid", "caption"], ingests, uids)}
    near = {row["uid"]: _nearest(signals, run, row["uid"]) for row in chosen if row["reason"].startswith("evaluation")}
    images = _evaluation_images(run, {(one["pdq_set"], one["pdq_key"]) for one in near.values() if one})
    result: list[Example] = []
    for row in chosen:
        uid = row["uid"]
        like: Resemblance | None = None
        if near.get(uid):
            at = (near[uid]["pdq_set"], near[uid]["pdq_key"])
            like = {"what": f"evaluation image {at[0]}/{at[1]}", "thumbnail": images[at]}
        elif (other := kept_of.get(_group(signals, run, row))) and other != uid:
            like = {"what": f"kept pair {other[:8]}", "thumbnail": _stored(run, samples[other])}
        result.append(
            {
                "uid": uid,
                "source": row["source"],
                "caption": captions[uid],
                "kept": row["keep"],
                "reason": row["reason"],
                "scores": _scores(run, signals, uid),
                "thumbnail": _stored(run, samples[uid]),
                "resembles": like,
            }
        )
    return result


def _kept_of_groups(run: Run, groups: set[str]) -> dict[str, str]:
    """Return for each duplicate group the member that the unique filters let stay."""
    if not groups:
        return {}
    wanted, columns, members = pa.array(sorted(groups)), ("exact_group", "near_group"), dict[str, set[str]]()

    def of_groups(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.or_kleene(*(pc.is_in(rows[column], wanted) for column in columns)))

    for name, spec in run.experiment.signals.items():
        if spec.kind == "duplicates":
            jobs = [one.id for one in run.plan.signal(name)]
            for row in run.ledger.read(signal_table(name), ["uid", *columns], jobs, keep=of_groups).to_pylist():
                members.setdefault(row["uid"], set()).update(groups & {row[column] for column in columns})
    unique = [run.plan.decide(name) for name, rule in run.experiment.rules.items() if isinstance(rule, Unique)]
    rows = _rows(run, "decisions", ["uid", "keep"], unique, members)
    stays = sorted((row["uid"] for row in rows if row["keep"]), reverse=True)
    return {group: uid for uid in stays for group in members[uid]}
