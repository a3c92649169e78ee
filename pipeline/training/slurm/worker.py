"""`python -m pipeline.training.slurm.worker FOLDER INDEX`: what a task of a Slurm job array runs: one training of a
grid.

It reads FOLDER/tasks/INDEX.json and writes FOLDER/results/INDEX.json, last. A task that was requeued goes on from the
training's last whole epoch, as any other attempt does. One whose file is gone was given up by the launcher, and does
nothing: it may have been submitted by a launcher that was killed before it knew.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from pipeline.errors import CuveeError
from pipeline.training.launcher import DONE, FAILED, TrainingResult
from pipeline.training.task import TrainingTask, check_devices, write_json


def main(arguments: list[str]) -> int:
    """Train; return 0 where the training is done, 1 where it came to nothing."""
    folder, index = Path(arguments[0]), int(arguments[1])
    asked, answer = folder / "tasks" / f"{index}.json", folder / "results" / f"{index}.json"
    if not asked.exists() or answer.exists():
        sys.stdout.write(f"{asked}: given up, or done: nothing to do\n")
        return 0
    task = TrainingTask.from_plain(json.loads(asked.read_text("utf-8"))["task"])
    try:
        check_devices(task.recipe.device, task.recipe.processes, "training")
        result = task.run()
    except CuveeError as error:
        result = TrainingResult(FAILED, str(error))
    write_json(answer, asdict(result))
    sys.stdout.write(f"{result.outcome}: {result.samples_seen} samples {result.reason}\n")
    return 0 if result.outcome == DONE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
