"""`spark-submit` of this environment's pyspark, on the Java that Cuvée finds; its driver and its tasks run this Python.

.venv/bin/python infra/spark_submit.py --master … infra/submit.py run experiments/demo.yaml
"""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyspark

from jobs.spark.java import java_home
from pipeline.core.processes import end_with_parent

ROOT = Path(__file__).resolve().parent.parent


sys.path[0] = str(ROOT)  # not this folder, of which the names are other packages'


def main(arguments: list[str]) -> int:
    """Run spark-submit; return its exit code. It ends with this process, be it by SIGKILL, and its driver with it."""
    spark = Path(pyspark.__file__).parent
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ,
        "JAVA_HOME": str(java_home()),
        "SPARK_HOME": str(spark),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": path,
    }
    master = arguments[arguments.index("--master") + 1 :][:1] if "--master" in arguments else []
    if not master or master[0].startswith("local"):  # then nothing has to be reached from elsewhere
        environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    process = subprocess.Popen(
        [spark / "bin" / "spark-submit", *arguments],
        env=environment,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.terminate())
    code = process.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
