"""The diff between two mixtures: pairs added and removed, by source and reason, and whether one is a subset."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.uid_arrays import UidKeys, find_keys, sort_order
from pipeline.core.uid_arrays import uid_keys as keys
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import VERDICT_MISMATCH

NOT_STORED, QUARANTINED, NOT_DRAWN = "not_stored", "quarantined", "not_drawn"
"""Why a pair is not in a mixture although no filter drops it. `NOT_DRAWN` pairs are beyond their part's quota, in no
part, or not listed."""


@dataclass(frozen=True)
class MixtureInputs:
    """The inputs of a mixture: the jobs of its filters by name, in the order they apply, its ingest jobs, and whether
    it accepts images that differ from the hash that their source publishes.
    """

    filters: Mapping[str, str]
    ingests: Sequence[str]
    mismatched: bool = False


@dataclass(frozen=True)
class MixturePairs:
    """A mixture's pairs, sorted by uid: columns of its rows in the ledger."""

    keys: UidKeys
    source: npt.NDArray[np.object_]
    times: npt.NDArray[np.int64]
    by_part: dict[str, int]

    @classmethod
    def read(cls, ledger: Ledger, job: str) -> "MixturePairs":
        """Return the pairs of a blend job."""
        rows = ledger.read("mixtures", ["uid", "source", "part", "times"], [job])
        uid_keys = keys(rows["uid"])
        by_uid = sort_order(uid_keys)
        return cls(
            uid_keys[by_uid],
            rows["source"].to_numpy(zero_copy_only=False)[by_uid],
            rows["times"].to_numpy()[by_uid].astype(np.int64),
            _sums_by(rows, "part"),
        )

    def plain(self) -> dict[str, Any]:
        """Return the counts of pairs with and without copies, and those with copies by source and by part."""
        by_source = pa.table({"source": pa.array(self.source, pa.string()), "times": self.times})
        return {
            "pairs": int(self.times.sum()),
            "distinct": len(self.keys),
            "by_source": _sums_by(by_source, "source"),
            "by_part": self.by_part,
        }


def _sums_by(rows: pa.Table, column: str) -> dict[str, int]:
    grouped = rows.group_by(column).aggregate([("times", "sum")]).to_pylist()
    return {str(group[column]): group["times_sum"] for group in sorted(grouped, key=lambda group: str(group[column]))}


def exclusion_reasons(ledger: Ledger, inputs: MixtureInputs, keys_left_out: UidKeys) -> npt.NDArray[np.object_]:
    """Return why a mixture left out each of the sorted keys: "<filter>: <reason>" of the first filter that drops the
    pair, `NOT_STORED`, `QUARANTINED` or `NOT_DRAWN`.
    """
    reasons_out = np.full(len(keys_left_out), NOT_STORED, np.object_)
    for _, path in ledger.snapshot("samples", inputs.ingests) if len(keys_left_out) else []:
        with ledger.store.arrow(path) as stream:
            rows = pq.read_table(stream, columns=["uid", "verdict"])
        positions, is_wanted = find_keys(keys(rows["uid"]), keys_left_out)
        reasons_out[positions[is_wanted]] = NOT_DRAWN
        if not inputs.mismatched:
            mismatched = pc.equal(rows["verdict"], VERDICT_MISMATCH).to_numpy()
            reasons_out[positions[is_wanted & mismatched]] = QUARANTINED
    for name, job in inputs.filters.items() if len(keys_left_out) else []:
        for _, path in ledger.snapshot("decisions", [job]):
            with ledger.store.arrow(path) as stream:
                rows = pq.read_table(stream, columns=["uid", "reason"])
            dropped = rows.filter(pc.not_equal(rows["reason"], ""))
            positions, is_wanted = find_keys(keys(dropped["uid"]), keys_left_out)
            drop_reasons = np.array(
                [f"{name}: {reason}" for reason in dropped["reason"].filter(pa.array(is_wanted)).to_pylist()], object
            )
            positions = positions[is_wanted]
            is_first = np.isin(reasons_out[positions], (NOT_DRAWN, QUARANTINED))
            reasons_out[positions[is_first]] = drop_reasons[is_first]
    return reasons_out


def _change_counts(source: npt.NDArray[np.object_], reasons_out: npt.NDArray[np.object_]) -> dict[str, Any]:
    by_reason = Counter(reasons_out.tolist())
    return {
        "pairs": len(source),
        "by_source": dict(sorted(Counter(source.tolist()).items())),
        "by_reason": dict(sorted(by_reason.items(), key=lambda entry: (-entry[1], entry[0]))),
    }


def diff_mixtures(
    ledger: Ledger, before: tuple[MixturePairs, MixtureInputs], after: tuple[MixturePairs, MixtureInputs]
) -> dict[str, Any]:
    """Return the diff as plain data: `out` by the reason why the mixture after leaves pairs out, `in` by the reason why
    the one before did.

    `nested` is "same", "after in before", "before in after" or "neither", for distinct pairs.
    """
    (old, old_inputs), (new, new_inputs) = before, after
    positions, is_in_new = find_keys(old.keys, new.keys)
    _, was_in_old = find_keys(new.keys, old.keys)
    removed, added = old.keys[~is_in_new], new.keys[~was_in_old]
    kind = {(0, 0): "same", (1, 0): "after in before", (0, 1): "before in after"}
    return {
        "before": old.plain(),
        "after": new.plain(),
        "out": _change_counts(old.source[~is_in_new], exclusion_reasons(ledger, new_inputs, removed)),
        "in": _change_counts(new.source[~was_in_old], exclusion_reasons(ledger, old_inputs, added)),
        "stay": int(is_in_new.sum()),
        "times_changed": int((new.times[positions[is_in_new]] != old.times[is_in_new]).sum()),
        "nested": kind.get((min(1, len(removed)), min(1, len(added))), "neither"),
    }


def _change_lines(change: Mapping[str, Any], word: str) -> list[str]:
    lines = [f"{word}: {change['pairs']} pairs"]
    for key in ("by_source", "by_reason"):
        lines += [f"  {name:<52} {count:>9}" for name, count in change[key].items()]
    return lines


def format_diff(diff: Mapping[str, Any]) -> str:
    """Return `changes` as a table for a terminal."""
    before, after = diff["before"], diff["after"]
    lines = [f"{'':<36} {'before':>9} {'after':>9}"]
    for key in ("pairs", "distinct"):
        lines.append(f"{key:<36} {before[key]:>9} {after[key]:>9}")
    for title, key in (("of source", "by_source"), ("of part", "by_part")):
        for name in dict.fromkeys((*before[key], *after[key])):
            counts = [side[key].get(name, 0) for side in (before, after)]
            shares = [
                f"{count / (side['pairs'] or 1):.1%}" for count, side in zip(counts, (before, after), strict=True)
            ]
            shown = " ".join(f"{count:>9}" for count in counts)
            lines.append(f"  {f'{title} {name}':<34} {shown}   {shares[0]} -> {shares[1]}")
    lines += _change_lines(diff["out"], "out") + _change_lines(diff["in"], "in")
    lines.append(f"stay: {diff['stay']} pairs, {diff['times_changed']} of them a different number of times")
    lines.append(f"nested: {diff['nested']}")
    return "\n".join(lines)
