"""The command `cuvee`."""

import argparse
import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from filters.rules.presets import listed
from jobs.cli import compact, plan, replay, takedown
from jobs.cli.options import add_wait
from jobs.workflow.stages import STAGES
from pipeline.errors import CuveeError

EPILOG = """\
exit codes: 0 done; 1 the answer is no (a verification failed, a stage could not finish); 2 the input is wrong;
130 interrupted, by Ctrl-C or SIGTERM: the same command resumes

  cuvee run experiments/demo.yaml                       the whole road; run it again and it does nothing
  cuvee ingest experiments/demo.yaml --retry-failed     what could not be reached, again
  cuvee run experiments/demo.yaml --until decide --set filters.clip_top.top_fraction=0.5
  cuvee replay experiments/demo.yaml all_filtered --set filters.clip_top.top_fraction=0.5      what that would change
  cuvee funnel build/demo/store                         what came in, what stayed, why the rest went
  cuvee trace build/demo/store KEY                      a pair's whole life, by uid, URL or SHA-256
  cuvee subset build/demo/store filtered --out kept.npy what a filter keeps, as DataComp's tools read it
  cuvee takedown build/demo/store --list FILE --reason TEXT --dry-run      who and what a takedown would touch
  cuvee compact build/demo/store --keep-days 7          small files of the ledger become few; older versions go
  cuvee plan experiments/demo.yaml --pairs 1e9 --cores 512      what that many pairs would cost, from measured rates
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    top = argparse.ArgumentParser(
        prog="cuvee",
        description="Which web sources, filtered how and mixed in what shares, give a model that stays accurate when "
        "the images change? Ingest, score, decide, blend, export, train, evaluate, report; every pair traceable.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="the whole road, or up to a stage; resumes where it was stopped")
    run.add_argument("--until", choices=STAGES, default="report", metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    _experiment(run)
    for stage in STAGES:
        one = commands.add_parser(stage, help=f"up to {stage}: what is missing before it is done first")
        one.set_defaults(until=stage)
        _experiment(one)
        if stage == "decide":
            one.epilog = f"presets, as in filters: {{best: {{preset: datacomp_1b}}}}:\n\n{listed()}"
            one.formatter_class = argparse.RawDescriptionHelpFormatter
        if stage == "ingest":
            one.add_argument(
                "--retry-failed",
                action="store_true",
                help="try again what failed for reasons that pass (timeouts, 429, 5xx, hosts that asked to wait), as a "
                "new attempt beside the old",
            )
    for name, text in (
        ("funnel", "what came in, what stayed, why the rest went"),
        (
            "trace",
            "a pair's whole life: published row, fetches, shard, signals, decisions, mixtures, trainings",
        ),
        ("subset", "write the uids that a decided filter keeps as a subset file of DataComp's"),
        ("verify", "recount and rehash everything; exit 1 on any difference"),
    ):
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("store", help="the store's folder, such as build/demo/store")
        if name == "funnel":
            one.add_argument(
                "--as-of", metavar="JOB", help="as it was when this job, by its id's first digits, finished"
            )
        if name == "trace":
            one.add_argument("key", help="a uid, a URL, or the SHA-256 of an image as fetched or as stored")
        if name == "subset":
            one.add_argument("filter", help="a filter that was decided by, such as filtered")
            one.add_argument("--out", type=Path, required=True, metavar="FILE.npy", help="the file to write")
        if name == "verify":
            one.add_argument("--prune", action="store_true", help="remove files that no finished job owns")
            add_wait(one)
        one.add_argument("--json", action="store_true", help="print JSON for programs")
    takedown.add_parser(commands)
    replay.add_parser(commands)
    compact.add_parser(commands)
    plan.add_parser(commands)
    return top


def _experiment(one: argparse.ArgumentParser) -> None:
    one.add_argument("experiment", type=Path, help="the experiment file, such as experiments/demo.yaml")
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the experiment file, such as filters.clip_top.top_fraction=0.5; may be given again",
    )
    add_wait(one)


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command in ("funnel", "trace", "subset", "verify"):
        from jobs.cli.queries import answer

        return answer(arguments)
    if arguments.command == "takedown":
        return takedown.answer(arguments)
    if arguments.command == "replay":
        return replay.answer(arguments)
    if arguments.command == "compact":
        return compact.answer(arguments)
    if arguments.command == "plan":
        return plan.answer(arguments)
    from jobs.workflow.experiment import load
    from jobs.workflow.progress import Display
    from jobs.workflow.runner import execute

    experiment = load(arguments.experiment, arguments.set)
    run = execute(experiment, arguments.until, Display(), getattr(arguments, "retry_failed", False), arguments.wait)
    if arguments.until == "report":
        from jobs.report.stage import report_path

        print(run.store.uri(report_path(run)))  # noqa: T201 - the command's answer
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit code. Errors for a person are one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arguments = parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except CuveeError as error:
        sys.stderr.write(f"cuvee: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("cuvee: interrupted; the same command resumes\n")
        return 130
    except BrokenPipeError:
        return 0


def _terminated(number: int, frame: FrameType | None) -> None:
    """Do as Ctrl-C does, whatever stands behind that now: PySpark cancels its jobs first."""
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt):
        interrupt(signal.SIGINT, frame)
    raise KeyboardInterrupt


def entry() -> None:
    """The console script. SIGTERM, by which schedules end a command, ends what it has started as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())


if __name__ == "__main__":
    entry()
