"""The command `cuvee`."""

import argparse
import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from filters.rules.presets import describe_presets
from jobs.cli import compact, plan, replay, schema, takedown
from jobs.cli.extras import install_hint
from jobs.cli.options import add_wait
from jobs.workflow.stages import STAGES
from jobs.workflow.versions import cuvee_version
from pipeline.errors import CuveeError

EPILOG = """\
exit codes: 0 done; 1 a check failed or a stage could not finish; 2 the input is wrong; 130 interrupted by Ctrl-C or
SIGTERM: the same command resumes

  cuvee run experiments/demo.yaml                       the whole pipeline; a second run has nothing to do
  cuvee ingest experiments/demo.yaml --retry-failed     retry the transient failures
  cuvee run experiments/demo.yaml --until decide --set filters.clip_top.top_fraction=0.5
  cuvee replay experiments/demo.yaml all_filtered --set filters.clip_top.top_fraction=0.5      what that would change
  cuvee funnel build/demo/store                         input, kept and dropped counts by reason
  cuvee trace build/demo/store KEY                      the full provenance of a pair, by uid, URL or SHA-256
  cuvee subset build/demo/store filtered --out kept.npy the pairs that a filter keeps, as DataComp's tools read it
  cuvee takedown build/demo/store --list FILE --reason TEXT --dry-run      what a takedown would remove
  cuvee compact build/demo/store --keep-days 7          join small files of the ledger; remove expired versions
  cuvee plan experiments/demo.yaml --pairs 1e9 --cores 512      the cost of that many pairs, from measured rates
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    main_parser = argparse.ArgumentParser(
        prog="cuvee",
        description="Which web sources, filtered how and mixed in what shares, give a model that stays accurate when "
        "the images change? Ingest, score, decide, blend, export, train, evaluate, report; every pair traceable.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main_parser.add_argument("--version", action="version", version=f"cuvee {cuvee_version()}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the whole pipeline, or up to a stage; resumes where it was stopped")
    run.add_argument("--until", choices=STAGES, default="report", metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    _add_experiment(run)
    for stage in STAGES:
        subparser = commands.add_parser(stage, help=f"run up to {stage}, including missing earlier stages")
        subparser.set_defaults(until=stage)
        _add_experiment(subparser)
        if stage == "decide":
            subparser.epilog = f"presets, as in filters: {{best: {{preset: datacomp_1b}}}}:\n\n{describe_presets()}"
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
        if stage == "ingest":
            subparser.add_argument(
                "--retry-failed",
                action="store_true",
                help="retry transient failures (timeouts, 429, 5xx, hosts that asked to wait), recorded as new "
                "attempts beside the old ones",
            )
    for name, help_text in (
        ("funnel", "input, kept and dropped counts by reason, for each source and stage"),
        (
            "trace",
            "the full provenance of a pair: published row, fetches, shard, signals, decisions, mixtures, trainings",
        ),
        ("subset", "write the uids that a filter keeps as a DataComp subset file"),
        ("verify", "recount rows and rehash files against the ledger; exit 1 on any difference"),
    ):
        subparser = commands.add_parser(name, help=help_text, description=help_text)
        subparser.add_argument("store", help="the store's folder, such as build/demo/store")
        if name == "funnel":
            subparser.add_argument(
                "--as-of", metavar="JOB", help="the state when this job finished; the first digits of its id suffice"
            )
        if name == "trace":
            subparser.add_argument("key", help="a uid, a URL, or the SHA-256 of an image as fetched or as stored")
        if name == "subset":
            subparser.add_argument("filter", help="a filter with finished decisions, such as filtered")
            subparser.add_argument("--out", type=Path, required=True, metavar="FILE.npy", help="the file to write")
        if name == "verify":
            subparser.add_argument("--prune", action="store_true", help="remove files that no finished job owns")
            add_wait(subparser)
        subparser.add_argument("--json", action="store_true", help="print JSON for programs")
    takedown.add_parser(commands)
    replay.add_parser(commands)
    compact.add_parser(commands)
    plan.add_parser(commands)
    schema.add_parser(commands)
    return main_parser


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", type=Path, help="the experiment file, such as experiments/demo.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the experiment file, such as filters.clip_top.top_fraction=0.5; may be repeated",
    )
    add_wait(parser)


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command in ("funnel", "trace", "subset", "verify"):
        from jobs.cli.queries import run_command

        return run_command(arguments)
    if arguments.command == "takedown":
        return takedown.run_command(arguments)
    if arguments.command == "replay":
        return replay.run_command(arguments)
    if arguments.command == "compact":
        return compact.run_command(arguments)
    if arguments.command == "plan":
        return plan.run_command(arguments)
    if arguments.command == "schema":
        return schema.answer(arguments)
    from jobs.workflow.experiment import load_experiment
    from jobs.workflow.progress import Display
    from jobs.workflow.runner import execute

    experiment = load_experiment(arguments.experiment, arguments.set)
    run = execute(experiment, arguments.until, Display(), getattr(arguments, "retry_failed", False), arguments.wait)
    if arguments.until == "report":
        from jobs.report.stage import report_path

        print(run.store.uri(report_path(run)))  # noqa: T201 - the command's answer
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code. Errors for the user are one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arguments = build_parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except CuveeError as error:
        sys.stderr.write(f"cuvee: {' '.join(str(error).split())}\n")
        return error.exit_code
    except ModuleNotFoundError as error:
        if (hint := install_hint(error)) is None:
            raise
        sys.stderr.write(f"cuvee: {hint}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("cuvee: interrupted; the same command resumes\n")
        return 130
    except BrokenPipeError:
        return 0


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    """Do as Ctrl-C does, with the SIGINT handler of the moment: PySpark's cancels its jobs first."""
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt):
        interrupt(signal.SIGINT, frame)
    raise KeyboardInterrupt


def console_script() -> None:
    """Run the console script. SIGTERM, by which schedulers end a command, has the effect of Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())


if __name__ == "__main__":
    console_script()
