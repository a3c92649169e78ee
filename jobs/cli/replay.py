"""Replay: a mixture derived again under other settings, or after a takedown, and what that changes."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.ledger.tables import Ledger
    from pipeline.mixtures.diff import Behind


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `replay`."""
    text = "derive a mixture again with other thresholds, from the signals that are there, and say what changes"
    one = commands.add_parser(
        "replay",
        help=text,
        description=f"{text}; against the latest finished mixture of that name; the store stays as it is",
    )
    one.add_argument("experiment", type=Path, help="the experiment file, such as experiments/demo.yaml")
    one.add_argument("mixture", help="the mixture's name in it")
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the experiment file, such as filters.clip_top.top_fraction=0.5; may be given again",
    )
    one.add_argument("--json", action="store_true", help="print JSON for programs")


def answer(arguments: argparse.Namespace) -> int:
    """Replay; print what changed; return the exit code."""
    from pipeline.mixtures.diff import as_text

    told = replay(arguments.experiment, arguments.mixture, arguments.set)
    if arguments.json:
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
        return 0
    settings = f" with {', '.join(told['settings'])}" if told["settings"] else ""
    head = f"{told['mixture']}{settings}, against job {told['against']['job'][:16]} of {told['against']['finished']}"
    sys.stdout.write(f"{head}\n{as_text(told)}\n")
    return 0


def replay(path: Path, mixture: str, settings: list[str]) -> dict[str, Any]:
    """Return what changes in a mixture with these settings, as plain data (`pipeline.mixtures.diff.changes`).

    Raises InputError where no mixture of that name is finished, or a signal that it needs is not there.
    """
    from jobs.workflow.dry_run import Rehearsal
    from jobs.workflow.experiment import load
    from jobs.workflow.progress import Display
    from pipeline.errors import InputError, unknown
    from pipeline.ledger.job_graph import latest
    from pipeline.ledger.journal import refuse_unfinished
    from pipeline.mixtures.diff import Drawn, changes

    experiment = load(path, settings)
    if mixture not in experiment.file.mixtures:
        raise InputError(f"{path}: {unknown('mixture', mixture, experiment.file.mixtures)}")
    refuse_unfinished(experiment.store)
    display = Display()
    with Rehearsal(experiment, display) as run, display.stage("replay", mixture):
        old = latest(run.ledger.jobs(), "blend").get(mixture)
        if old is None:
            raise InputError(
                f"{run.store.root}: mixture {mixture} was never drawn; expected one that cuvee blend finished"
            )
        new = run.mixture(mixture)
        before = Drawn.read(run.ledger, old.job), _behind(run.ledger, old.inputs, old.config)
        after = Drawn.read(run.ledger, new.id), _behind(run.ledger, [job.id for job in new.needs], new.config)
        told = changes(run.ledger, before, after)
    against = {"job": old.job, "finished": old.finished.isoformat(timespec="seconds")}
    return {"mixture": mixture, "settings": settings, "against": against, **told}


def _behind(ledger: "Ledger", inputs: Sequence[str], config: Mapping[str, Any]) -> "Behind":
    """Return what a mixture was drawn from: of the jobs that it read, its filters in their order, and its ingests."""
    from pipeline.config.mixture import Mixture
    from pipeline.mixtures.diff import Behind
    from pipeline.mixtures.parts import filters_of

    rows = [row for job in inputs if (row := ledger.finished(job)) is not None]
    decided = {row.name: row.job for row in rows if row.stage == "decide"}
    given = Mixture.model_validate({key: config[key] for key in ("filter", "parts") if key in config})
    asked = {name: decided[name] for name in filters_of(given) if name in decided}
    ingests = [row.job for row in rows if row.stage == "ingest"]
    return Behind(asked, ingests, bool(config.get("mismatched")))
