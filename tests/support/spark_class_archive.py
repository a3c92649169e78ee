"""`python -m tests.support.spark_class_archive FILE`: Spark's classes as Java has read and checked them, kept in a file
for the tests.

Most of what a Spark session takes to start is loading its classes from jars and verifying them. Java maps them from an
archive instead (JEP 350), which it writes as it ends. It takes an archive with the options alone that it was made with.
"""

import os
import sys
from pathlib import Path

JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""A test's JVM lives for seconds: what the second compiler makes of it, it never earns back."""


SILENT = "-Xlog:disable"  # what it has to say of an archive would go among a command's answers


def options(archive: Path) -> str:
    """Return the tests' Java options, with the archive where there is one; where it does not fit, Java does without."""
    there = archive.exists() and archive.stat().st_size
    return f"{JAVA} -XX:SharedArchiveFile={archive} {SILENT}" if there else JAVA


def main(archive: Path) -> None:
    """Do a little of everything in a session, end it, and wait for its Java."""
    from pyspark import SparkContext

    from jobs.spark.session import start_session
    from pipeline.config.experiment import SparkConfig

    archive.parent.mkdir(exist_ok=True)
    draft = archive.with_suffix(".draft")
    os.environ["SPARK_SUBMIT_OPTS"] = f"{JAVA} -XX:ArchiveClassesAtExit={draft} {SILENT}"
    spark = start_session(SparkConfig(), "class data")
    rows = spark.createDataFrame([(number,) for number in range(10)], "id int").mapInArrow(lambda some: some, "id int")
    rows.createOrReplaceTempView("rows")
    spark.sql("select id % 3 as id, count(*) as n from rows group by 1").join(rows, "id").collect()
    spark.sparkContext.parallelize([1, 2], 2).map(str).collect()
    spark.stop()
    java = SparkContext._gateway.proc
    java.stdin.close()  # by which it knows that it is to end
    java.wait(300)
    if not draft.exists():
        sys.stderr.write(f"this Java writes no archive of its classes; tests do without, and {archive} is empty\n")
        draft.touch()
    draft.rename(archive)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
