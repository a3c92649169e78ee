"""`spark-submit` of this environment's pyspark, on the Java that Cuvée finds; its driver and its tasks run this Python.

.venv/bin/python infra/spark_submit.py --master … infra/submit.py run experiments/demo.yaml
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, of which the names are other packages'

import pyspark  # noqa: E402

from jobs.spark import java_home  # noqa: E402


def main(arguments: list[str]) -> int:
    """Run spark-submit, and end it with all its processes where this one is told to end; return its exit code."""
    spark = Path(pyspark.__file__).parent
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ,
        "JAVA_HOME": str(java_home()),
        "SPARK_HOME": str(spark),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": path,
    }
    process = subprocess.Popen([spark / "bin" / "spark-submit", *arguments], env=environment, start_new_session=True)

    def end(number: int, frame: Any) -> None:
        os.killpg(process.pid, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    code = process.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
