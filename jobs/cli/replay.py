"""The command `cuvee replay`: recompute a mixture with other settings, or after a takedown, and print the diff."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.ledger.tables import Ledger
    from pipeline.mixtures.diff import MixtureInputs


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `replay`."""
    summary = "recompute a mixture with other settings from the stored signals, and print what changes"
    parser = commands.add_parser(
        "replay",
        help=summary,
        description=f"{summary}; compared with the latest finished mixture of that name; the store is not changed",
    )
    parser.add_argument("experiment", type=Path, help="the experiment file, such as experiments/demo.yaml")
    parser.add_argument("mixture", help="the mixture's name in the experiment file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the experiment file, such as filters.clip_top.top_fraction=0.5; may be given again",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def run_command(arguments: argparse.Namespace) -> int:
    """Replay a mixture and print the diff; return the exit code."""
    from pipeline.mixtures.diff import format_diff

    result = replay(arguments.experiment, arguments.mixture, arguments.set)
    if arguments.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
        return 0
    settings = f" with {', '.join(result['settings'])}" if result["settings"] else ""
    heading = (
        f"{result['mixture']}{settings}, against job {result['against']['job'][:16]} of {result['against']['finished']}"
    )
    sys.stdout.write(f"{heading}\n{format_diff(result)}\n")
    return 0


def replay(path: Path, mixture: str, settings: list[str]) -> dict[str, Any]:
    """Return the diff of a mixture under these settings, as plain data (`pipeline.mixtures.diff.diff_mixtures`).

    Raises InputError where no mixture of that name is finished, or a signal that it needs is missing.
    """
    from jobs.workflow.dry_run import DryRun
    from jobs.workflow.experiment import load_experiment
    from jobs.workflow.progress import Display
    from pipeline.errors import InputError, unknown_message
    from pipeline.ledger.job_graph import newest_jobs
    from pipeline.ledger.journal import check_none_unfinished
    from pipeline.mixtures.diff import MixturePairs, diff_mixtures

    experiment = load_experiment(path, settings)
    if mixture not in experiment.file.mixtures:
        raise InputError(f"{path}: {unknown_message('mixture', mixture, experiment.file.mixtures)}")
    check_none_unfinished(experiment.store)
    display = Display()
    with DryRun(experiment, display) as run, display.stage("replay", mixture):
        old = newest_jobs(run.ledger.jobs(), "blend").get(mixture)
        if old is None:
            raise InputError(
                f"{run.store.root}: found no finished mixture {mixture}, expected one that cuvee blend finished"
            )
        new = run.mixture(mixture)
        before = MixturePairs.read(run.ledger, old.job), _mixture_inputs(run.ledger, old.inputs, old.config)
        after = (
            MixturePairs.read(run.ledger, new.id),
            _mixture_inputs(run.ledger, [job.id for job in new.needs], new.config),
        )
        diff = diff_mixtures(run.ledger, before, after)
    against = {"job": old.job, "finished": old.finished.isoformat(timespec="seconds")}
    return {"mixture": mixture, "settings": settings, "against": against, **diff}


def _mixture_inputs(ledger: "Ledger", inputs: Sequence[str], config: Mapping[str, Any]) -> "MixtureInputs":
    """Return the inputs of a mixture among the jobs that it read: its filters in their order, and its ingests."""
    from pipeline.config.mixture import MixtureConfig
    from pipeline.mixtures.diff import MixtureInputs
    from pipeline.mixtures.parts import filters_of

    jobs = [row for job in inputs if (row := ledger.finished(job)) is not None]
    decide_jobs = {row.name: row.job for row in jobs if row.stage == "decide"}
    mixture = MixtureConfig.model_validate({key: config[key] for key in ("filter", "parts") if key in config})
    filters = {name: decide_jobs[name] for name in filters_of(mixture) if name in decide_jobs}
    ingests = [row.job for row in jobs if row.stage == "ingest"]
    return MixtureInputs(filters, ingests, bool(config.get("mismatched")))
