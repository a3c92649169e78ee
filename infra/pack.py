"""Pack an environment for executors that have none: Python itself, the packages Cuvée needs, and Cuvée, in one tar.gz.

    python infra/pack.py [FILE]        # dist/cuvee-env.tar.gz, from the Python that runs this

venv-pack leaves Python out, and links to where this machine has it; an executor that has no environment has no Python
there either. So the interpreter and its standard library go in, and the packages beside them, as in a plain
installation, which is found wherever it is unpacked. Packed are the distributions that Cuvée requires, and what those
require, without what only its tests do. What the interpreter itself links to (libc, libssl, libffi …) is the system's.
"""

import importlib.util
import io
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


LEFT_OUT = {"site-packages", "dist-packages", "test", "idlelib", "turtledemo", "ensurepip", "tkinter", "lib2to3"}
"""Of the standard library: what is no part of it, and what no job runs."""


_COMMAND = """#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/python" -m jobs.cli.main "$@"
"""


_PYTHON = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export LD_LIBRARY_PATH="$here/../lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "$here/{version}" "$@"
"""
"""Starts an interpreter that is built on a shared library of its own, which it looks for where it was built."""


def required(name: str) -> list[importlib.metadata.Distribution]:
    """Return the distributions that one requires here with its extras, directly or not, without itself."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo, seen = [Requirement(name)], set()
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), tuple(sorted(wanted.extras)))
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = distribution = importlib.metadata.distribution(wanted.name)
        for text in distribution.requires or []:
            other = Requirement(text)
            extras = [{"extra": extra} for extra in ("", *wanted.extras)]
            if other.marker is None or any(other.marker.evaluate(extra) for extra in extras):
                todo.append(other)
    del found[canonicalize_name(Requirement(name).name)]
    return [found[one] for one in sorted(found)]


def packages(name: str) -> Iterator[tuple[Path, str]]:
    """Yield (file, its path below site-packages) of all that one requires, bytecode included, scripts left out."""
    for distribution in required(name):
        for file in distribution.files or []:
            if ".." in file.parts:
                continue
            path = Path(str(distribution.locate_file(file)))
            yield path, str(file)
            if path.suffix == ".py":
                cached = Path(importlib.util.cache_from_source(str(path)))
                yield cached, str(Path(str(file)).parent / "__pycache__" / cached.name)


def library(base: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, its path below the library's folder) of the standard library."""
    for path in sorted(base.rglob("*")):
        inside = path.relative_to(base)
        if path.is_file() and LEFT_OUT.isdisjoint(inside.parts) and "config-" not in str(inside):
            yield path, str(inside)


def write(tar: tarfile.TarFile, packed: Path) -> int:
    """Write the environment; return how many bytes it unpacks to. `packed` is the wheel."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    lib, size, there = f"lib/{version}", 0, set()
    interpreter = Path(sys.executable).resolve()

    def add(path: Path, name: str) -> None:
        nonlocal size
        if name in there or not path.exists():
            return
        there.add(name)
        tar.add(path.resolve(), name, recursive=False)
        size += path.stat().st_size

    def link(name: str, target: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        tar.addfile(info)

    def script(name: str, text: str) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(text), 0o755, int(time.time())
        tar.addfile(info, io.BytesIO(text.encode()))

    add(interpreter, f"bin/{version}")
    shared = str(sysconfig.get_config_var("INSTSONAME"))
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        add(Path(str(sysconfig.get_config_var("LIBDIR"))) / shared, f"lib/{shared}")
        script("bin/python", _PYTHON.format(version=version))
    else:
        link("bin/python", version)
    link("bin/python3", "python")
    script("bin/cuvee", _COMMAND)
    for path, name in library(Path(sysconfig.get_path("stdlib"))):
        add(path, f"{lib}/{name}")
    for path, name in packages("cuvee[all]"):
        add(path, f"{lib}/site-packages/{name}")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "zipfile", "-e", str(packed), folder], check=True)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                add(path, f"{lib}/site-packages/{path.relative_to(folder)}")
    # Debian's own Python looks for packages here
    link("lib/python3", version)
    link(f"{lib}/dist-packages", "site-packages")
    return size


def main() -> int:
    """Pack, and print the file with its size."""
    target = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist" / "cuvee-env.tar.gz"
    wheels = sorted((ROOT / "dist").glob("cuvee-*.whl"))
    if len(wheels) != 1:
        sys.stderr.write(f"pack.py: {ROOT / 'dist'}: found {len(wheels)} wheels, expected the one of `make dist`\n")
        return 2
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(target.name + ".draft")
    started = time.monotonic()
    with tarfile.open(draft, "w:gz", compresslevel=1) as tar:
        size = write(tar, wheels[0])
    draft.replace(target)
    seconds = time.monotonic() - started
    print(f"{target}: {target.stat().st_size / 1e9:.2f} GB, {size / 1e9:.2f} GB unpacked, in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
