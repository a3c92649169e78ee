"""What changed between two mixtures: pairs in and out, of which source and for which reason, and whether one is a part
of the other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.uid_arrays import Keys, keys, order, places
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import MISMATCH

NOT_STORED, QUARANTINED, NOT_DRAWN = "not_stored", "quarantined", "not_drawn"
"""Why a pair is not in a mixture that no filter keeps it out of. What is not drawn is beyond its part's quota, in no
part, or not listed."""


@dataclass(frozen=True)
class Behind:
    """What a mixture was drawn from: the jobs of its filters by name, as they are asked, its ingest jobs, and whether
    it takes images that are not what their source says they are.
    """

    filters: Mapping[str, str]
    ingests: Sequence[str]
    mismatched: bool = False


@dataclass(frozen=True)
class Drawn:
    """A mixture's pairs, sorted by uid: columns of its rows in the ledger."""

    keys: Keys
    source: npt.NDArray[np.object_]
    times: npt.NDArray[np.int64]
    by_part: dict[str, int]

    @classmethod
    def read(cls, ledger: Ledger, job: str) -> "Drawn":
        """Return what a blend job drew."""
        rows = ledger.read("mixtures", ["uid", "source", "part", "times"], [job])
        found = keys(rows["uid"])
        at = order(found)
        return cls(
            found[at],
            rows["source"].to_numpy(zero_copy_only=False)[at],
            rows["times"].to_numpy()[at].astype(np.int64),
            _sums(rows, "part"),
        )

    def plain(self) -> dict[str, Any]:
        """Return its pairs with copies and without, by source and by part."""
        by_source = pa.table({"source": pa.array(self.source, pa.string()), "times": self.times})
        return {
            "pairs": int(self.times.sum()),
            "distinct": len(self.keys),
            "by_source": _sums(by_source, "source"),
            "by_part": self.by_part,
        }


def _sums(rows: pa.Table, column: str) -> dict[str, int]:
    grouped = rows.group_by(column).aggregate([("times", "sum")]).to_pylist()
    return {str(one[column]): one["times_sum"] for one in sorted(grouped, key=lambda one: str(one[column]))}


def reasons(ledger: Ledger, behind: Behind, wanted: Keys) -> npt.NDArray[np.object_]:
    """Return for each of the sorted keys why a mixture left it out: "<filter>: <reason>" of the first filter that drops
    it, `NOT_STORED`, `QUARANTINED` or `NOT_DRAWN`.
    """
    found = np.full(len(wanted), NOT_STORED, np.object_)
    for _, path in ledger.snapshot("samples", behind.ingests) if len(wanted) else []:
        with ledger.store.arrow(path) as stream:
            rows = pq.read_table(stream, columns=["uid", "verdict"])
        at, there = places(keys(rows["uid"]), wanted)
        found[at[there]] = NOT_DRAWN
        if not behind.mismatched:
            wrong = pc.equal(rows["verdict"], MISMATCH).to_numpy()
            found[at[there & wrong]] = QUARANTINED
    for name, job in behind.filters.items() if len(wanted) else []:
        for _, path in ledger.snapshot("decisions", [job]):
            with ledger.store.arrow(path) as stream:
                rows = pq.read_table(stream, columns=["uid", "reason"])
            dropped = rows.filter(pc.not_equal(rows["reason"], ""))
            at, there = places(keys(dropped["uid"]), wanted)
            said = np.array([f"{name}: {one}" for one in dropped["reason"].filter(pa.array(there)).to_pylist()], object)
            at = at[there]
            first = np.isin(found[at], (NOT_DRAWN, QUARANTINED))
            found[at[first]] = said[first]
    return found


def _told(source: npt.NDArray[np.object_], why: npt.NDArray[np.object_]) -> dict[str, Any]:
    by_reason = Counter(why.tolist())
    return {
        "pairs": len(source),
        "by_source": dict(sorted(Counter(source.tolist()).items())),
        "by_reason": dict(sorted(by_reason.items(), key=lambda one: (-one[1], one[0]))),
    }


def changes(ledger: Ledger, before: tuple[Drawn, Behind], after: tuple[Drawn, Behind]) -> dict[str, Any]:
    """Return what changed: `out` by why the mixture after leaves the pairs out, `in` by why the one before did.

    `nested` is "same", "after in before", "before in after" or "neither", for pairs without their copies.
    """
    (old, behind_old), (new, behind_new) = before, after
    at, stays = places(old.keys, new.keys)
    _, had = places(new.keys, old.keys)
    out, came = old.keys[~stays], new.keys[~had]
    kind = {(0, 0): "same", (1, 0): "after in before", (0, 1): "before in after"}
    return {
        "before": old.plain(),
        "after": new.plain(),
        "out": _told(old.source[~stays], reasons(ledger, behind_new, out)),
        "in": _told(new.source[~had], reasons(ledger, behind_old, came)),
        "stay": int(stays.sum()),
        "times_changed": int((new.times[at[stays]] != old.times[stays]).sum()),
        "nested": kind.get((min(1, len(out)), min(1, len(came))), "neither"),
    }


def _side(told: Mapping[str, Any], word: str) -> list[str]:
    lines = [f"{word}: {told['pairs']} pairs"]
    for key in ("by_source", "by_reason"):
        lines += [f"  {name:<52} {count:>9}" for name, count in told[key].items()]
    return lines


def as_text(told: Mapping[str, Any]) -> str:
    """Return `changes` as a table for a terminal."""
    before, after = told["before"], told["after"]
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
    lines += _side(told["out"], "out") + _side(told["in"], "in")
    lines.append(f"stay: {told['stay']} pairs, {told['times_changed']} of them another number of times")
    lines.append(f"nested: {told['nested']}")
    return "\n".join(lines)
