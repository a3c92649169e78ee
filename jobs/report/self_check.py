"""A run's results compared with what its generated web planted, for the report and tests; no stage reads the truth."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.workflow.runner import Run
from pipeline.ledger.schemas import signal_table
from pipeline.ledger.tables import Ledger
from pipeline.outcomes import TAKEN_DOWN
from pipeline.provenance.funnel import final_attempts
from pipeline.report.schema import SelfCheck

EXPECTED_OUTCOMES = {
    "http_404": {"http_404"},
    "html": {"not_an_image"},
    "truncated": {"truncated_image"},
    "oversized": {"body_too_large"},
    "pixels": {"too_many_pixels"},
    "noai": {"opted_out"},
    "ok": {"stored"},
    "slow": {"stored"},
    "error_once": {"stored"},
}
"""The expected outcomes of each planted behaviour of the web."""


def truth_path(folder: str) -> Path:
    """Return the path of a generated web's ground truth."""
    return Path(folder) / "truth.parquet"


def outcomes_with_truth(run: Run) -> pd.DataFrame:
    """Return every published row with its ground truth and outcome: uid, source, url, behaviour, plant, …, outcome."""
    web = run.experiment.file.web
    assert web is not None
    ingests = [job.id for job in run.plan.ingests()]
    pairs = run.ledger.read("pairs", ["uid", "source", "url", "problem"], ingests).to_pandas().drop(columns="job")
    pairs = pairs[pairs["problem"] != TAKEN_DOWN]  # they have no field left to match them by
    columns = ["uid", "attempt", "outcome", "final"]
    final = final_attempts([run.ledger.read("fetches", columns, [job]) for job in ingests])
    final = final.filter(pc.greater(final["attempt"], 0)).select(["uid", "outcome"]).to_pandas()
    rows = pairs.merge(final, on="uid", how="left")
    rows["outcome"] = rows["outcome"].where(rows["problem"] == "", rows["problem"])
    truth = pq.read_table(truth_path(web.folder)).to_pandas()
    joined: pd.DataFrame = rows.merge(
        truth, on=["source", "url"], how="left", validate="one_to_one", suffixes=("", "_true")
    )
    return joined


def read_decisions(ledger: Ledger, job: str) -> pd.DataFrame:
    """Return uid, keep and reason of one filter's decisions."""
    rows: pd.DataFrame = ledger.read("decisions", ["uid", "keep", "reason"], [job]).to_pandas().drop(columns="job")
    return rows


def auc(right: "pd.Series[float]", wrong: "pd.Series[float]") -> float:
    """Return the probability that a right caption scores higher than a wrong one, ties count half (Mann-Whitney)."""
    ranks = pd.concat([right, wrong]).rank()
    return float((ranks.iloc[: len(right)].sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))


@dataclass(frozen=True)
class Share:
    """`hits` of `of` rows or groups."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        """The share, 0 to 1; 1 where `of` is 0."""
        return self.hits / self.of if self.of else 1.0

    def __str__(self) -> str:
        return f"{self.hits} of {self.of} ({self.share:.1%})"


def _check(what: str, share: Share, expected: str, holds: Callable[[float], bool]) -> SelfCheck:
    return {"what": what, "found": str(share), "expected": expected, "ok": holds(share.share)}


def self_check(run: Run) -> list[SelfCheck]:
    """Return the checks that the experiment's web and filters allow; none where the web is not a generated one."""
    web = run.experiment.file.web
    if web is None or not truth_path(web.folder).exists():
        return []
    rows = outcomes_with_truth(run)
    checks = [_outcomes_as_planted(rows)]
    stored = rows[rows["outcome"] == "stored"]
    for name, rule in run.experiment.rules.items():
        kind = type(rule).__name__
        if kind == "NotInEvaluation":
            checks += _contamination(stored.merge(read_decisions(run.ledger, run.plan.decide(name).id), on="uid"))
        if kind == "Unique" and getattr(rule, "reason", "") == "exact_duplicate":
            checks.append(
                _exact_duplicates(stored.merge(read_decisions(run.ledger, run.plan.decide(name).id), on="uid"))
            )
        if kind == "Unique" and getattr(rule, "reason", "") == "near_duplicate":
            checks.append(
                _near_duplicates(stored.merge(read_decisions(run.ledger, run.plan.decide(name).id), on="uid"))
            )
    for name, spec in run.experiment.signals.items():
        if spec.kind == "clip" and (stored["caption_kind"] == "wrong").any():
            checks.append(_caption_scores(run, name, stored))
    return checks


def _outcomes_as_planted(rows: pd.DataFrame) -> SelfCheck:
    fetched = rows[rows["problem"] == ""]
    matching = sum(
        outcome in EXPECTED_OUTCOMES[behaviour]
        for outcome, behaviour in zip(fetched["outcome"], fetched["behaviour"], strict=True)
    )
    what = "rows whose outcome is the one that the web planted (dead links, opt-outs, broken and oversized images)"
    return _check(what, Share(int(matching), len(fetched)), "all", lambda share: share == 1)


def _contamination(rows: pd.DataFrame) -> list[SelfCheck]:
    copies = rows[rows["plant"].isin(["evaluation_copy", "evaluation_near_copy"])]
    clean = rows[~rows["plant"].isin(["evaluation_copy", "evaluation_near_copy"])]
    dropped_copies = Share(int((~copies["keep"]).sum()), len(copies))
    dropped_clean = Share(int((~clean["keep"]).sum()), len(clean))
    return [
        _check(
            "planted copies of evaluation images that are dropped",
            dropped_copies,
            "at least 95 %",
            lambda share: share >= 0.95,
        ),
        *(
            _transformed(str(name), group)
            for name, group in copies[copies["transformation"] != ""].groupby("transformation")
        ),
        _check(
            "pairs without a planted copy that are dropped as copies",
            dropped_clean,
            "at most 0.5 %",
            lambda share: share <= 0.005,
        ),
    ]


def _transformed(name: str, copies: pd.DataFrame) -> SelfCheck:
    dropped = Share(int((~copies["keep"]).sum()), len(copies))
    missed, allowed = dropped.of - dropped.hits, max(1, dropped.of // 4)
    what = f"planted copies of evaluation images, {name.replace('_', ' ')}, that are dropped"
    return {
        "what": what,
        "found": str(dropped),
        "expected": "all but one, or at least three quarters",
        "ok": missed <= allowed,
    }


def _survivors(rows: pd.DataFrame, plant: str) -> tuple[int, int]:
    """Return (groups with exactly one kept member, groups) for the planted groups that contain such a duplicate."""
    groups = set(rows[rows["plant"] == plant]["plant_group"])
    members = rows[rows["plant_group"].isin(groups)]
    kept = members.groupby("plant_group")["keep"].sum()
    return int((kept == 1).sum()), len(kept)


def _exact_duplicates(rows: pd.DataFrame) -> SelfCheck:
    copies = rows[rows["plant"] == "exact_duplicate"]
    members = rows[rows["plant_group"].isin(set(copies["plant_group"])) & (rows["plant"] != "near_duplicate")]
    kept = members.groupby("plant_group")["keep"].sum()
    kept_once = Share(int((kept == 1).sum()), len(kept))
    return _check(
        "planted groups of exact duplicates of which exactly one pair is kept",
        kept_once,
        "all",
        lambda share: share == 1,
    )


def _near_duplicates(rows: pd.DataFrame) -> SelfCheck:
    kept_once = Share(*_survivors(rows, "near_duplicate"))
    return _check(
        "planted groups of near duplicates of which exactly one pair is kept",
        kept_once,
        "at least 80 %",
        lambda share: share >= 0.8,
    )


def _caption_scores(run: Run, name: str, stored: pd.DataFrame) -> SelfCheck:
    jobs = [job.id for job in run.plan.signal(name)]
    scores = run.ledger.read(signal_table(name), ["uid", "similarity"], jobs).to_pandas()
    rows: Any = stored.merge(scores, on="uid")
    value = auc(
        rows[rows["caption_kind"] == "right"]["similarity"], rows[rows["caption_kind"] == "wrong"]["similarity"]
    )
    what = f"probability that a right caption scores higher than a wrong one by {name} (AUC)"
    return {"what": what, "found": f"{value:.3f}", "expected": "above 0.7", "ok": value > 0.7}
