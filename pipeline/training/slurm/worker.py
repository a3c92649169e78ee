"""`python -m pipeline.training.slurm.worker FOLDER INDEX`: a task of a Slurm job array, which runs one training of a
grid.

It reads FOLDER/tasks/INDEX.json and writes FOLDER/results/INDEX.json last. A requeued task resumes from the training's
last whole epoch, as any other attempt does. A task whose file was removed was abandoned by the launcher, and does
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
    """Train; return 0 where the training is done, 1 where it failed."""
    folder, index = Path(arguments[0]), int(arguments[1])
    task_file, result_file = folder / "tasks" / f"{index}.json", folder / "results" / f"{index}.json"
    if not task_file.exists() or result_file.exists():
        sys.stdout.write(f"{task_file}: abandoned or done; nothing to do\n")
        return 0
    task = TrainingTask.from_plain(json.loads(task_file.read_text("utf-8"))["task"])
    try:
        check_devices(task.recipe.device, task.recipe.processes, "training")
        result = task.run()
    except CuveeError as error:
        result = TrainingResult(FAILED, str(error))
    write_json(result_file, asdict(result))
    sys.stdout.write(f"{result.outcome}: {result.samples_seen} samples {result.reason}\n")
    return 0 if result.outcome == DONE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
