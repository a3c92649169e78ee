"""`make bench`: runs every benchmark and writes `benchmarks/results.json`, after each of them.

`python -m benchmarks.run export trace` runs these alone and leaves the figures of the others as they are. So each
figure says when it was made, and on what; ratios are within one run, and no figure is compared with another's.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    decide,
    decontamination,
    dedup,
    export,
    ingest,
    report,
    score,
    search,
    stages,
    takedown,
    trace,
    training,
)
from pipeline.core.hardware import has_bf16

RESULTS = Path(__file__).with_name("results.json")


ALL: dict[str, Callable[[], dict[str, Any]]] = {
    "export": export.measure,
    "trace": trace.measure,
    "takedown": takedown.measure,
    "decide": decide.measure,
    "dedup": dedup.measure,
    "search": search.measure,
    "score": score.measure,
    "ingest": ingest.measure,
    "training": training.measure,
    "decontamination_drawn": decontamination.measure_drawn,
    "decontamination_real": decontamination.measure_real,
    "stages": stages.measure,
    "report": report.measure,
}


def _made() -> dict[str, Any]:
    """Say when and on what a figure is made."""
    machine = {"cores": os.cpu_count(), "multiplies_bf16": has_bf16(), "python": platform.python_version()}
    return {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), **machine}


def main(names: list[str]) -> None:
    """Run these or all, print each figure, write the file after each benchmark."""
    if unknown := [name for name in names if name not in ALL]:
        sys.exit(f"benchmarks: no {unknown[0]!r}; expected of: {', '.join(ALL)}")
    figures = json.loads(RESULTS.read_text("utf-8")) if names and RESULTS.exists() else {}
    for name in names or ALL:
        keep(figures, ALL[name]())


def keep(figures: dict[str, Any], made: dict[str, Any]) -> None:
    """Put what a benchmark made among the figures, and write them all."""
    for figure, told in made.items():
        figures[figure] = {**_made(), **told}
        print(f"{figure}: {json.dumps(told)}", flush=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
