"""How long a command takes, and how much memory it and all below it hold."""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def resident(root: int) -> int:
    """Return the sum of the resident bytes of a process and of all below it."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(entry.name)] = int(fields[1]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    total = 0
    for process, (_, size) in found.items():
        above = process
        while above and above != root:
            above = found[above][0] if above in found else 0
        total += size if above == root else 0
    return total


def watched(command: Sequence[str]) -> tuple[float, int, str]:
    """Run a command; return its seconds, the largest sum of resident bytes that was seen, and its standard output.

    Looked at five times a second; pages that processes share are counted once for each. Raises where it fails.
    """
    peak, started = 0, time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=said, text=True)
        while child.poll() is None:
            peak = max(peak, resident(child.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        said.seek(0)
        assert child.returncode == 0, said.read()[-2000:]
        out.seek(0)
        return seconds, peak, out.read()
