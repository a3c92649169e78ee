"""Report: all results of an experiment, as one HTML page and one JSON file."""

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow.compute as pc

from jobs.report.contamination import contamination
from jobs.report.error_analysis import analyse_errors
from jobs.report.examples import examples
from jobs.report.robustness import analyse_grid, external_label, read_grid
from jobs.report.self_check import self_check
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from jobs.workflow.stages import STAGES
from pipeline.analysis.results import Robustness, RobustnessPoint, TrainingCost, TuningResult
from pipeline.errors import StageFailed
from pipeline.mixtures.names import base_name
from pipeline.provenance.funnel import inconsistencies, source_funnels
from pipeline.report.page import render_page
from pipeline.report.schema import (
    EvaluationResults,
    FilterRule,
    MixtureSummary,
    Provenance,
    ReportData,
    SourceFunnelData,
)
from pipeline.report.summary import summary_sentences
from pipeline.robustness.axes import PROBIT, to_axis
from pipeline.robustness.lines import fit_line


def report_path(run: Run) -> str:
    """Return the page's path in the store."""
    return f"reports/{run.experiment.name}/index.html"


def execute(run: Run, jobs: Sequence[Job]) -> None:
    """Write the report."""
    for job in jobs:
        started = datetime.now(UTC)
        report = collect_report(run, started)
        page, data = render_page(report).encode(), (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode()
        page_path = report_path(run)
        json_path = page_path.replace("index.html", "report.json")
        run.store.write(page_path, page)
        run.store.write(json_path, data)
        digests = {page_path: hashlib.sha256(page).hexdigest(), json_path: hashlib.sha256(data).hexdigest()}
        run.finish([(job, [], {"files": digests})], started)


def collect_report(run: Run, made_at: datetime) -> ReportData:
    """Return the report's numbers; raise StageFailed where the funnel does not add up."""
    file = run.experiment.file
    main_filter = file.report.filter
    jobs = {
        "ingest": {job.name: job.id for job in run.plan.ingests()},
        "decide": {main_filter: run.plan.decide(main_filter).id},
        "blend": dict[str, str](),
    }
    funnels = source_funnels(run.ledger, jobs)
    if problems := inconsistencies(funnels):
        raise StageFailed(f"{run.store.root}: the counts do not add up: {'; '.join(problems)}")
    evaluation = _evaluation(run)
    grid = read_grid(run)
    checks, robustness = self_check(run), analyse_grid(run, grid)
    return {
        "experiment": run.experiment.name,
        "title": file.title,
        "made_at": made_at.isoformat(timespec="seconds"),
        "question": file.question,
        "answer": summary_sentences(
            evaluation, robustness["standings"], robustness["filtered"], robustness["dilution"], file.report.baseline
        ),
        "funnel": cast("list[SourceFunnelData]", [source.plain() for source in funnels]),
        "filters": _filters(run),
        "examples": examples(run, main_filter, file.report.examples),
        "mixtures": [_mixture(run, name) for name in file.mixtures],
        "evaluation": _with_models(run, evaluation),
        "robustness": _robustness(evaluation, _baseline(run)),
        **robustness,
        "contamination": contamination(run, grid),
        "tuning": tuning_results(run),
        "cost": _cost(run),
        **analyse_errors(run),
        "self_check": checks,
        "provenance": _provenance(run),
    }


def _filters(run: Run) -> list[FilterRule]:
    rules: list[FilterRule] = []
    for name, rule in run.experiment.rules.items():
        keeps = run.ledger.read("decisions", ["keep"], [run.plan.decide(name).id])["keep"]
        kept = pc.sum(keeps, min_count=0).as_py()
        rules.append({"name": name, "rule": rule.text(), "kept": kept, "dropped": len(keeps) - kept})
    return rules


def _label(run: Run, mixture: str, seed: int) -> str:
    return mixture if len(run.experiment.file.training.seeds) == 1 else f"{mixture} (seed {seed})"


def _mixture(run: Run, name: str) -> MixtureSummary:
    rows = run.ledger.read("mixtures", ["source", "times"], [run.plan.blend(name).id])
    times = rows.group_by("source").aggregate([("times", "sum")]).to_pylist()
    by_source = {row["source"]: row["times_sum"] for row in times}
    exported = run.ledger.finished(run.plan.export(name).id)
    trainings = [job for job in _trainings(run) if job.local["mixture"] == name]
    training_rows = run.ledger.read("trainings", jobs=[job.id for job in trainings]).to_pylist()
    first = min(training_rows, key=lambda row: row["seed"]) if training_rows else None
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


def tuning_results(run: Run) -> list[TuningResult]:
    """Return the result of the search for each mixture's training settings."""
    results: list[TuningResult] = []
    for job in run.plan.targets("tune"):
        row = run.ledger.finished(job.id)
        if row is None:
            raise StageFailed(f"{run.store.root}: expected the search for {job.name} to be finished")
        losses, chosen = [trial["loss"] for trial in row.facts["trials"]], row.facts["chosen"]
        results.append(
            {
                "mixture": job.name,
                "trials": len(losses),
                "diverged": losses.count(None),
                "values": chosen["values"],
                "loss": chosen["loss"],
                "written": losses[0],
            }
        )
    return results


def _cost(run: Run) -> list[TrainingCost]:
    rows = run.ledger.read("trainings", ["mixture", "samples_seen", "seconds"], [job.id for job in run.plan.grid()])
    by_mixture: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        by_mixture.setdefault(base_name(row["mixture"]), []).append(row)
    return [
        {
            "mixture": name,
            "trainings": len(training_rows),
            "samples": sum(row["samples_seen"] for row in training_rows),
            "seconds": sum(row["seconds"] for row in training_rows),
        }
        for name, training_rows in by_mixture.items()
    ]


def _trainings(run: Run) -> list[Job]:
    return [job for job in run.plan.until("report") if job.stage == "train"]


RESULT_COLUMNS = ("n", "correct", "top1", "low", "high")


def _evaluation(run: Run) -> EvaluationResults:
    """Return the trainings' accuracies on every set."""
    file = run.experiment.file
    grid = run.plan.grid()
    results: Any = []
    jobs = {job.id: training for training in grid for job in run.plan.evaluate(training)}
    rows = run.ledger.read("evaluations", jobs=jobs).to_pylist()
    by_cell = {(jobs[row["job"]].name, row["evaluation_set"]): row for row in rows}
    for training in grid:
        label = _label(run, training.local["mixture"], training.config["seed"])
        for name in file.evaluation.sets:
            row = by_cell[training.name, name]
            results.append({"mixture": label, "set": name, **{key: row[key] for key in RESULT_COLUMNS}})
    counts = {result["set"]: result["n"] for result in results}
    sets = run.experiment.evaluation_sets()
    return {
        "reference": file.evaluation.reference,
        "sets": [
            {
                "name": name,
                "images": counts.get(name, 0),
                "classes": len(evaluated.classes),
                "chance": evaluated.chance,
            }
            for name, evaluated in sets.items()
        ],
        "results": results,
    }


def _with_models(run: Run, trained: EvaluationResults) -> EvaluationResults:
    """Return the accuracies with those of the external models, which the summary does not include."""
    results: Any = []
    for name in run.experiment.file.evaluation.models:
        rows = run.ledger.read("evaluations", jobs=[job.id for job in run.plan.evaluate_model(name)]).to_pylist()
        by_set = {row["evaluation_set"]: row for row in rows}
        results += [
            {"mixture": external_label(name), "set": set_name, **{key: by_set[set_name][key] for key in RESULT_COLUMNS}}
            for set_name in run.experiment.file.evaluation.sets
        ]
    return {**trained, "results": [*trained["results"], *results]}


def _baseline(run: Run) -> set[str]:
    """Return the labels, in the results, of the models that the baseline's line is fitted on."""
    mixtures = run.experiment.file.report.baseline
    return {
        _label(run, mixture, training.config["seed"])
        for training in run.plan.grid()
        if base_name(mixture := training.local["mixture"]) in mixtures or not mixtures
    }


def _robustness(evaluation: EvaluationResults, baseline: Collection[str]) -> list[Robustness]:
    """Fit a line of each shift's accuracy against the reference's to the baseline's models, on probit axes."""
    by_cell = {(result["mixture"], result["set"]): result for result in evaluation["results"]}
    models = list(dict.fromkeys(result["mixture"] for result in evaluation["results"]))
    reference, shifts = evaluation["reference"], list[Robustness]()
    for shift in (evaluated["name"] for evaluated in evaluation["sets"] if evaluated["name"] != reference):
        pairs = [(name, by_cell[name, reference], by_cell[name, shift]) for name in models]
        x = [float(to_axis(PROBIT, result["top1"], result["n"]).values) for _, result, _ in pairs]
        y = [float(to_axis(PROBIT, result["top1"], result["n"]).values) for _, _, result in pairs]
        baseline_numbers = [number for number, name in enumerate(models) if name in baseline]
        line = fit_line(PROBIT, [x[number] for number in baseline_numbers], [y[number] for number in baseline_numbers])
        points: list[RobustnessPoint] = [
            {
                "mixture": name,
                "reference": on_reference["top1"],
                "shift": on_shift["top1"],
                "effective": on_shift["top1"] - float(line.predict(at_reference)) if line else None,
            }
            for (name, on_reference, on_shift), at_reference in zip(pairs, x, strict=True)
        ]
        shifts.append(
            {
                "set": shift,
                "slope": line.slope if line else None,
                "intercept": line.intercept if line else None,
                "r2": line.r2 if line else None,
                "points": points,
            }
        )
    return shifts


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
