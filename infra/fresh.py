"""Is the report of an experiment new enough? Exit 0 where it is, 1 where it is not; a schedule asks it at its end.

.venv/bin/python infra/fresh.py experiments/demo.yaml --hours 26
.venv/bin/python infra/fresh.py experiments/demo.yaml --since 2026-11-28T00:00:00+00:00
"""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.workflow.experiment import load_experiment
from pipeline.errors import CheckFailed, CuveeError
from pipeline.ledger.tables import Ledger

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not this folder, of which the names are other packages'


def moment(text: str) -> datetime:
    """Return a time with its zone; UTC where it names none."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def newest(path: Path, settings: list[str], since: datetime) -> datetime:
    """Return when the experiment's newest report was finished; raise AnswerNo where that was before `since`."""
    experiment = load_experiment(path, settings)
    jobs = Ledger(experiment.store).jobs()
    times = [job.finished for job in jobs if (job.stage, job.name) == ("report", experiment.name)]
    if not times or max(times) < since:
        found = f"the newest is of {max(times):%Y-%m-%d %H:%M:%S} UTC" if times else "none was finished"
        root = experiment.store.root
        raise CheckFailed(f"{root}: {experiment.name}: expected a report since {since:%Y-%m-%d %H:%M:%S %Z}, {found}")
    return max(times)


def main(arguments: list[str]) -> int:
    """Answer; return the exit code."""
    asked = argparse.ArgumentParser(prog="fresh.py", description="Is an experiment's report new enough?")
    asked.add_argument("experiment", type=Path)
    asked.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of cuvee run")
    limit = asked.add_mutually_exclusive_group(required=True)
    limit.add_argument("--since", type=moment, metavar="TIME", help="ISO 8601; the report is of then or later")
    limit.add_argument("--hours", type=float, help="the report is at most so old")
    given = asked.parse_args(arguments)
    since = given.since or datetime.now(UTC) - timedelta(hours=given.hours)
    try:
        print(f"{newest(given.experiment, given.set, since):%Y-%m-%d %H:%M:%S} UTC")
    except CuveeError as error:
        sys.stderr.write(f"cuvee: {' '.join(str(error).split())}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
