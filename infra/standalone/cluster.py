"""A Spark standalone cluster on this machine: a master and workers, each a process of its own, on loopback alone.

Each worker has an address of its own where the machine has more than one loopback address (Linux has 127.0.0.0/8), so
that Spark takes them for hosts, between which alone it makes speculative attempts.

    python infra/standalone/cluster.py start     # prints spark://127.0.0.1:PORT
    python infra/standalone/cluster.py status
    python infra/standalone/cluster.py stop

It runs the pyspark of this Python. Everything lies in one folder (build/standalone): a file for each process with its
id and ports, its log, and the workers' folders. The workers hand their environment down to the executors: that is how
these get the credentials of S3, which then stand in no conf and on no page of Spark's.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


HOST = "127.0.0.1"


MOST = 250
"""Addresses that workers take in turn."""


START_SECONDS, STOP_SECONDS = 60.0, 20.0


class Refused(Exception):
    """What was asked for cannot be done; a line for a person."""


@dataclass(frozen=True)
class Daemon:
    """A process of the cluster. `born` is when it started, in clock ticks since boot: ids are used again."""

    name: str
    pid: int
    born: int
    port: int
    web: int

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.born == born(self.pid) != 0


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the command's name, none where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def born(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 where it has ended."""
    found = _stat(pid)
    return int(found[19]) if found and found[0] != "Z" else 0


def children(pid: int) -> list[int]:
    """Return the ids of a process's children and of theirs."""
    parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found, todo = [], [pid]
    while todo:
        parent = str(todo.pop())
        mine = [one for one, fields in parents.items() if fields and fields[1] == parent]
        found += mine
        todo += mine
    return found


def _own_address(number: int) -> str:
    """Return the loopback address of the worker of this number, the first one where the machine has no other."""
    address = f"127.0.0.{2 + (number - 1) % MOST}"
    with socket.socket() as one:
        try:
            one.bind((address, 0))
        except OSError:
            return HOST
    return address


def _free_ports(host: str, count: int) -> list[int]:
    held = []
    for _ in range(count):
        one = socket.socket()
        one.bind((host, 0))
        held.append(one)
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Cluster:
    """The cluster whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def daemons(self) -> list[Daemon]:
        """Return the processes that were started and not stopped, the master first."""
        return [Daemon(**json.loads(path.read_text("utf-8"))) for path in sorted(self.folder.glob("*.pid"))]

    @property
    def url(self) -> str:
        """The master's URL."""
        return f"spark://{HOST}:{self._master().port}"

    def _master(self) -> Daemon:
        for one in self.daemons():
            if one.name == "master" and one.alive:
                return one
        raise Refused(f"{self.folder}: no master runs; expected one that `start` has started")

    def state(self) -> dict[str, Any]:
        """Return what the master says of itself and its workers."""
        with urllib.request.urlopen(f"http://{HOST}:{self._master().web}/json/", timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
        return said

    def start(self, workers: int = 2, cores: int = 1, memory: str = "2g") -> str:
        """Start a master and workers, wait until these have registered, and return the master's URL."""
        if running := [one.name for one in self.daemons() if one.alive]:
            raise Refused(f"{self.folder}: {', '.join(running)} runs already; stop it first")
        if self.folder.exists():
            if any(self.folder.iterdir()) and not (self.folder / "master.log").exists():
                raise Refused(f"{self.folder}: not empty; expected a new folder, or one of a cluster that was stopped")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        sys.path.insert(0, str(ROOT))
        from jobs.spark.java import java_home

        java_home(self.folder / "java")
        try:
            self._run("master", "master.Master", HOST, [])
            for number in range(1, workers + 1):
                self.add(number, cores, memory)
            self._wait(workers)
        except BaseException:
            self.stop()
            raise
        return self.url

    def add(self, number: int, cores: int = 1, memory: str = "2g") -> None:
        """Start one worker more, `worker-NUMBER`; it registers by itself."""
        name = f"worker-{number}"
        more = ["--cores", str(cores), "--memory", memory, "--work-dir", str(self.folder / name), self.url]
        self._run(name, "worker.Worker", _own_address(number), more)

    def _run(self, name: str, kind: str, host: str, more: list[str]) -> None:
        import pyspark

        ports = _free_ports(host, 2)
        spark = Path(pyspark.__file__).parent
        scratch = self.folder / f"{name}-scratch"
        scratch.mkdir()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
        environment |= {
            "JAVA_HOME": str(self.folder / "java"),
            "SPARK_HOME": str(spark),
            "SPARK_LOCAL_IP": host,
            "SPARK_LOCAL_DIRS": str(scratch),
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
            "SPARK_CONF_DIR": str(self.folder / "conf"),  # none: what this machine has for other clusters is not ours
        }
        command = [str(spark / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}"]
        command += ["--host", host, "--port", str(ports[0]), "--webui-port", str(ports[1]), *more]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        daemon = Daemon(name, process.pid, born(process.pid), *ports)
        (self.folder / f"{name}.pid").write_text(json.dumps(asdict(daemon)), "utf-8")

    def _wait(self, workers: int) -> None:
        """Wait until so many workers have registered; raise Refused where one has ended, or it takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for one in self.daemons():
                if not one.alive:
                    raise Refused(f"{one.name} has ended; {self._last_words(one.name)}")
            try:
                if self.state()["aliveworkers"] == workers:
                    return
            except (OSError, urllib.error.URLError):
                pass  # its pages are not served yet
            time.sleep(0.2)
        raise Refused(f"{self.folder}: expected {workers} workers within {START_SECONDS:.0f} s; see the logs there")

    def _last_words(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text("utf-8", "replace").splitlines()
        return lines[-1] if lines else "its log is empty"

    def stop(self) -> None:
        """Stop what `start` has started, by its ids, the workers first, whose executors they end."""
        for one in reversed(self.daemons()):
            executors = [(pid, born(pid)) for pid in children(one.pid)] if one.alive else []
            _end(one.pid, one.born)
            for pid, since in executors:
                _end(pid, since)
            (self.folder / f"{one.name}.pid").unlink()

    def kill(self, name: str) -> list[int]:
        """End one process and all that it has started with SIGKILL, as a machine that is lost; return their ids."""
        [one] = [one for one in self.daemons() if one.name == name]
        lost = [one.pid, *children(one.pid)]
        for pid in lost:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        (self.folder / f"{name}.pid").unlink()
        return lost


def _end(pid: int, since: int) -> None:
    """End a process: by SIGTERM, and by SIGKILL where it still runs a while later."""
    for signal_, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        deadline = time.monotonic() + seconds
        if born(pid) != since or not since:
            return
        os.kill(pid, signal_)
        while born(pid) == since and time.monotonic() < deadline:
            time.sleep(0.05)


def main() -> int:
    """Start, stop or tell of the cluster; return 0, or 1 where it cannot be done."""
    top = argparse.ArgumentParser(prog="cluster.py", description="A Spark standalone cluster on this machine.")
    top.add_argument("what", choices=("start", "stop", "status"))
    top.add_argument("--folder", type=Path, default=ROOT / "build" / "standalone", help="where its files lie")
    top.add_argument("--workers", type=int, default=2, help="how many workers to start")
    top.add_argument("--cores", type=int, default=1, help="cores of each worker")
    top.add_argument("--memory", default="2g", help="memory of each worker, for its executors")
    given = top.parse_args()
    cluster = Cluster(given.folder)
    try:
        if given.what == "start":
            print(cluster.start(given.workers, given.cores, given.memory))
        elif given.what == "stop":
            cluster.stop()
        else:
            said = cluster.state()
            print(f"{cluster.url}: {said['aliveworkers']} workers, {len(said['activeapps'])} applications")
    except Refused as error:
        sys.stderr.write(f"cluster.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
