"""`make bench`: runs every benchmark and writes `benchmarks/results.json`."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import decide, decontamination, dedup, export, ingest, score, search, trace

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Run all, print each figure, write the file."""
    figures = {}
    for module in (ingest, export, trace, score, search, dedup, decide, decontamination):
        for name, figure in module.measure().items():
            figures[name] = figure
            print(f"{name}: {json.dumps(figure)}", flush=True)
    machine = {"cores": os.cpu_count(), "python": sys.version.split()[0], "system": platform.system()}
    body = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "figures": figures}
    RESULTS.write_text(json.dumps(body, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
