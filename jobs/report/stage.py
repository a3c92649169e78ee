"""Report: everything that was found, as one HTML page and one JSON file."""

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow.compute as pc

from jobs.report.contamination import contamination
from jobs.report.error_analysis import closeup
from jobs.report.examples import examples
from jobs.report.robustness import answered, beside_label, findings
from jobs.report.self_check import self_check
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from jobs.workflow.stages import STAGES
from pipeline.analysis.results import Cost, Robustness, RobustnessPoint, Tuned
from pipeline.errors import StageFailed
from pipeline.mixtures.names import unsized
from pipeline.provenance.funnel import faults, funnel
from pipeline.report.page import render
from pipeline.report.schema import Evaluation, FilterRule, Mixture, Provenance, Report, SourceFunnel
from pipeline.report.summary import answer
from pipeline.robustness.axes import PROBIT, place
from pipeline.robustness.lines import fit_line


def report_path(run: Run) -> str:
    """Return where the page lies in the store."""
    return f"reports/{run.experiment.name}/index.html"


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Write the report."""
    for job in jobs:
        started = datetime.now(UTC)
        report = collect(run, started)
        page, data = render(report).encode(), (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode()
        path = report_path(run)
        beside = path.replace("index.html", "report.json")
        run.store.write(path, page)
        run.store.write(beside, data)
        digests = {path: hashlib.sha256(page).hexdigest(), beside: hashlib.sha256(data).hexdigest()}
        run.finish([(job, [], {"files": digests})], started)


def collect(run: Run, made_at: datetime) -> Report:
    """Return the report's numbers; raise StageFailed where the funnel does not add up."""
    file = run.experiment.file
    main = file.report.filter
    chosen = {
        "ingest": {job.name: job.id for job in run.plan.ingests()},
        "decide": {main: run.plan.decide(main).id},
        "blend": dict[str, str](),
    }
    funnels = funnel(run.ledger, chosen)
    if lines := faults(funnels):
        raise StageFailed(f"{run.store.root}: the counts do not add up: {'; '.join(lines)}")
    evaluation = _evaluation(run)
    grid = answered(run)
    checks, found = self_check(run), findings(run, grid)
    return {
        "experiment": run.experiment.name,
        "title": file.title,
        "made_at": made_at.isoformat(timespec="seconds"),
        "question": file.question,
        "answer": answer(evaluation, found["standings"], found["filtered"], found["dilution"], file.report.baseline),
        "funnel": cast("list[SourceFunnel]", [one.plain() for one in funnels]),
        "filters": _filters(run),
        "examples": examples(run, main, file.report.examples),
        "mixtures": [_mixture(run, name) for name in file.mixtures],
        "evaluation": _with_models(run, evaluation),
        "robustness": _robustness(evaluation, _baseline(run)),
        **found,
        "contamination": contamination(run, grid),
        "tuning": tuned(run),
        "cost": _cost(run),
        **closeup(run),
        "self_check": checks,
        "provenance": _provenance(run),
    }


def _filters(run: Run) -> list[FilterRule]:
    found: list[FilterRule] = []
    for name, rule in run.experiment.rules.items():
        keeps = run.ledger.read("decisions", ["keep"], [run.plan.decide(name).id])["keep"]
        kept = pc.sum(keeps, min_count=0).as_py()
        found.append({"name": name, "rule": rule.text(), "kept": kept, "dropped": len(keeps) - kept})
    return found


def _label(run: Run, mixture: str, seed: int) -> str:
    return mixture if len(run.experiment.file.training.seeds) == 1 else f"{mixture} (seed {seed})"


def _mixture(run: Run, name: str) -> Mixture:
    rows = run.ledger.read("mixtures", ["source", "times"], [run.plan.blend(name).id])
    times = rows.group_by("source").aggregate([("times", "sum")]).to_pylist()
    by_source = {row["source"]: row["times_sum"] for row in times}
    exported = run.ledger.finished(run.plan.export(name).id)
    trainings = [job for job in _trainings(run) if job.local["mixture"] == name]
    trained = run.ledger.read("trainings", jobs=[job.id for job in trainings]).to_pylist()
    first = min(trained, key=lambda row: row["seed"]) if trained else None
    return {
        "name": name,
        "pairs": sum(by_source.values()),
        "distinct": len(rows),
        "by_source": dict(sorted(by_source.items())),
        "export_digest": exported.facts["digest"] if exported else "",
        "training": None
        if first is None
        else {
            "id": first["training"],
            "samples_seen": first["samples_seen"],
            "seconds": first["seconds"],
            "checkpoint_sha256": first["checkpoint_sha256"],
            "model": first["model"],
            "outcome": first["outcome"],
        },
    }


def tuned(run: Run) -> list[Tuned]:
    """Return what the search for each mixture found."""
    found: list[Tuned] = []
    for job in run.plan.targets("tune"):
        row = run.ledger.finished(job.id)
        if row is None:
            raise StageFailed(f"{run.store.root}: expected the search for {job.name} to be finished")
        losses, best = [trial["loss"] for trial in row.facts["trials"]], row.facts["chosen"]
        found.append(
            {
                "mixture": job.name,
                "trials": len(losses),
                "diverged": losses.count(None),
                "values": best["values"],
                "loss": best["loss"],
                "written": losses[0],
            }
        )
    return found


def _cost(run: Run) -> list[Cost]:
    rows = run.ledger.read("trainings", ["mixture", "samples_seen", "seconds"], [job.id for job in run.plan.grid()])
    held: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        held.setdefault(unsized(row["mixture"]), []).append(row)
    return [
        {
            "mixture": name,
            "trainings": len(mine),
            "samples": sum(row["samples_seen"] for row in mine),
            "seconds": sum(row["seconds"] for row in mine),
        }
        for name, mine in held.items()
    ]


def _trainings(run: Run) -> list[Job]:
    return [job for job in run.plan.until("report") if job.stage == "train"]


NUMBERS = ("n", "correct", "top1", "low", "high")


def _evaluation(run: Run) -> Evaluation:
    """Return the trainings' accuracies on every set."""
    file = run.experiment.file
    grid = run.plan.grid()
    results: Any = []
    jobs = {job.id: training for training in grid for job in run.plan.evaluate(training)}
    rows = run.ledger.read("evaluations", jobs=jobs).to_pylist()
    at = {(jobs[row["job"]].name, row["evaluation_set"]): row for row in rows}
    for training in grid:
        label = _label(run, training.local["mixture"], training.config["seed"])
        for name in file.evaluation.sets:
            row = at[training.name, name]
            results.append({"mixture": label, "set": name, **{key: row[key] for key in NUMBERS}})
    counts = {one["set"]: one["n"] for one in results}
    sets = run.experiment.evaluation_sets()
    return {
        "reference": file.evaluation.reference,
        "sets": [
            {"name": name, "images": counts.get(name, 0), "classes": len(one.classes), "chance": one.chance}
            for name, one in sets.items()
        ],
        "results": results,
    }


def _with_models(run: Run, trained: Evaluation) -> Evaluation:
    """Return the accuracies with those of the models that are put beside the trainings, which answer no question."""
    results: Any = []
    for name in run.experiment.file.evaluation.models:
        rows = run.ledger.read("evaluations", jobs=[job.id for job in run.plan.evaluate_model(name)]).to_pylist()
        at = {row["evaluation_set"]: row for row in rows}
        results += [
            {"mixture": beside_label(name), "set": one, **{key: at[one][key] for key in NUMBERS}}
            for one in run.experiment.file.evaluation.sets
        ]
    return {**trained, "results": [*trained["results"], *results]}


def _baseline(run: Run) -> set[str]:
    """Return what the models are called in the results through which the line of robustness goes."""
    named = run.experiment.file.report.baseline
    return {
        _label(run, mixture, training.config["seed"])
        for training in run.plan.grid()
        if unsized(mixture := training.local["mixture"]) in named or not named
    }


def _robustness(evaluation: Evaluation, baseline: Collection[str]) -> list[Robustness]:
    """Fit each shift's accuracy to the reference's over the baseline's models, on probit axes."""
    at = {(one["mixture"], one["set"]): one for one in evaluation["results"]}
    models = list(dict.fromkeys(one["mixture"] for one in evaluation["results"]))
    reference, found = evaluation["reference"], list[Robustness]()
    for shift in (one["name"] for one in evaluation["sets"] if one["name"] != reference):
        pairs = [(name, at[name, reference], at[name, shift]) for name in models]
        x = [float(place(PROBIT, one["top1"], one["n"]).values) for _, one, _ in pairs]
        y = [float(place(PROBIT, one["top1"], one["n"]).values) for _, _, one in pairs]
        fitted = [number for number, name in enumerate(models) if name in baseline]
        line = fit_line(PROBIT, [x[number] for number in fitted], [y[number] for number in fitted])
        points: list[RobustnessPoint] = [
            {
                "mixture": name,
                "reference": ref["top1"],
                "shift": one["top1"],
                "effective": one["top1"] - float(line.predict(at_reference)) if line else None,
            }
            for (name, ref, one), at_reference in zip(pairs, x, strict=True)
        ]
        found.append(
            {
                "set": shift,
                "slope": line.slope if line else None,
                "intercept": line.intercept if line else None,
                "r2": line.r2 if line else None,
                "points": points,
            }
        )
    return found


def _provenance(run: Run) -> Provenance:
    jobs = [run.ledger.finished(job.id) for job in run.plan.until("evaluate")]
    rows = sorted((row for row in jobs if row), key=lambda row: (STAGES.index(row.stage), row.finished))
    return {
        "jobs": [
            {
                "stage": f"{row.stage} {row.name}",
                "job": row.job,
                "seconds": (row.finished - row.started).total_seconds(),
                "rows": row.rows,
                "finished": row.finished.isoformat(timespec="seconds"),
            }
            for row in rows
        ],
        "versions": rows[0].versions if rows else {},
        "sources": [
            {"source": job.name, "files": job.config["files"], "licence": job.config["about"]["licence"]}
            for job in run.plan.ingests()
        ],
        "evaluation_sets": [{"name": name, "sha256": sha} for name, sha in run.plan.evaluation_digests().items()],
        "tables": run.ledger.versions(),
    }
