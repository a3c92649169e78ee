"""The command `cuvee` on a cluster, with its code sent along as a zip.

    python infra/submit.py --master spark://HOST:7077 [--conf KEY=VALUE] [--zip FILE] run EXPERIMENT --until export

starts spark-submit with the zip that `make dist` made and a Java that suits it, and hands it this same file, as one
inside `jobs` would lead sys.path with its folder. Where a scheduler has a spark-submit and a Java of its own:

    spark-submit --master … --py-files cuvee.zip infra/submit.py run EXPERIMENT --until export
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _arguments() -> argparse.Namespace:
    top = argparse.ArgumentParser(prog="submit.py", usage="%(prog)s --master URL [--conf K=V] [--zip FILE] COMMAND …")
    top.add_argument("--master", required=True, help="the cluster, such as spark://HOST:7077")
    top.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="Spark's; may be given again")
    top.add_argument("--zip", type=Path, default=ROOT / "dist" / "cuvee.zip", help="what `make dist` made")
    top.add_argument("command", nargs=argparse.REMAINDER, help="what `cuvee` is told, such as run EXPERIMENT")
    return top.parse_args()


def submit(given: argparse.Namespace) -> int:
    """Become spark-submit; return 2 where the zip is not there."""
    if not given.zip.is_file():
        sys.stderr.write(f"cuvee: --zip: {given.zip}: not found; expected the zip that `make dist` builds\n")
        return 2
    sys.path.insert(0, str(given.zip))
    import pyspark

    from jobs.spark.java import java_home, logging_options, spark_home

    folder = ROOT / "build" / "spark"
    # the driver's Java looks for data sources with a Python of its own, which is else the first on PATH
    environment = {"PYSPARK_PYTHON": sys.executable, **os.environ, "JAVA_HOME": str(java_home(folder / "java"))}
    if given.master.startswith("local-cluster"):
        environment["SPARK_HOME"] = str(spark_home(folder / "home"))
    program = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
    command = [program, "--master", given.master, "--py-files", str(given.zip)]
    command += ["--driver-java-options", logging_options(folder)]
    for pair in (f"spark.pyspark.driver.python={sys.executable}", *given.conf):
        command += ["--conf", pair]
    sys.stdout.flush()
    os.execve(program, [*command, str(Path(__file__).resolve()), *given.command], environment)  # noqa: S606


if __name__ == "__main__":
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # nobody has started Spark's Java yet
        sys.exit(submit(_arguments()))
    import signal

    from jobs.cli.main import console_script
    from pipeline.core.processes import end_with_parent

    end_with_parent(signal.SIGINT)  # spark-submit's Java, which a schedule may kill: it is an interrupt, and resumes
    console_script()
