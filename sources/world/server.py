"""The server of the demo's web: one process on loopback that answers for every host of a published folder.

It routes by the Host header and the path, and fails as `site.json` specifies. `WebServer` starts it as a separate
process:

    with WebServer(folder) as web:
        fetch(web.address, host="live.yfcc.test", path="/65535/1_o.jpg")
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from aiohttp import web

_START_TIMEOUT_S = 30.0


_STOP_TIMEOUT_S = 5.0


_SLOW_DELAY_S = 0.5


_PARENT_POLL_S = 0.5


_TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


_PADDING = bytes(2**16)


# Start of a JPEG: image marker, JFIF segment, and a comment segment; what follows is padding, never an image.
_JPEG_START = bytes.fromhex("ffd8ffe000104a46494600010100000100010000fffe0002")


_PAGE = "<!doctype html><html><head><title>{0}</title></head><body><p>{0}</p></body></html>\n"


class _Handler:
    """The request handler with its state: files by "host/path", behaviours, and the paths that have failed once."""

    def __init__(self, folder: Path) -> None:
        site = folder / "site"
        # Only files listed here are ever opened, so no path can leave the folder.
        self._files = {file.relative_to(site).as_posix(): file for file in site.rglob("*") if file.is_file()}
        self._behaviours: Mapping[str, Mapping[str, object]] = json.loads(
            (folder / "site.json").read_text(encoding="utf-8")
        )["paths"]
        self._failed: set[str] = set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        key = f"{request.host.partition(':')[0].lower()}{request.path}"
        behaviour = self._behaviours.get(key)
        if behaviour is None:
            return self._file(key)
        name = behaviour["behaviour"]
        if name == "redirect":
            return web.Response(status=301, headers={"Location": str(behaviour["location"])})
        if name == "html":
            return web.Response(text=_PAGE.format("Please log in to see this image"), content_type="text/html")
        if name == "oversized":
            return await self._oversized(request, int(str(behaviour["bytes"])), chunked=bool(behaviour["chunked"]))
        if name == "error_once" and key not in self._failed:
            self._failed.add(key)
            return web.Response(status=500, text=_PAGE.format("Internal error"), content_type="text/html")
        if name == "slow":
            await asyncio.sleep(_SLOW_DELAY_S)
        response = self._file(key)
        robots = behaviour.get("robots")
        if isinstance(robots, list):
            for value in robots:
                response.headers.add("X-Robots-Tag", str(value))
        return response

    def _file(self, key: str) -> web.Response:
        file = self._files.get(key)
        if file is None:
            return web.Response(status=404, text=_PAGE.format("Not found"), content_type="text/html")
        # Small files from the page cache: reading them here is cheaper than in a thread.
        return web.Response(body=file.read_bytes(), content_type=_TYPES.get(file.suffix, "application/octet-stream"))

    async def _oversized(self, request: web.BaseRequest, size: int, *, chunked: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = size
        await response.prepare(request)
        try:
            await response.write(_JPEG_START)
            remaining = size - len(_JPEG_START)
            while remaining > 0:
                await response.write(_PADDING[:remaining])
                remaining -= len(_PADDING)
            await response.write_eof()
        except ConnectionError:
            # The client closed the connection; this response exists to test a limit on bodies.
            pass
        return response


async def _serve(folder: Path, parent: int) -> None:
    """Serve until a signal, until standard input ends, or until `parent` is no longer this process's parent."""
    # The low-level server: routing and an access log would cost more than the responses.
    runner = web.ServerRunner(web.Server(_Handler(folder), access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)

    def read_input() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop.set()

    loop.add_reader(0, read_input)
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    # A forked child of the parent can keep the pipe open after the parent has ended, so its pid is polled, too.
    while not stop.is_set() and os.getppid() == parent:
        try:
            await asyncio.wait_for(stop.wait(), _PARENT_POLL_S)
        except TimeoutError:
            continue
    # The clients of pending responses have ended, too: exit at once.
    os._exit(0)


class WebServer:
    """Context manager: the server as a subprocess. Raises FileNotFoundError if `folder` has no finished web."""

    address: tuple[str, int]
    hosts: list[str]

    def __init__(self, folder: Path) -> None:
        for name in ("web.json", "site.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name}: not found, publish the web first")
        self._folder = folder.resolve()
        self.address = ("127.0.0.1", 0)
        self.hosts = json.loads((folder / "site.json").read_text(encoding="utf-8"))["hosts"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "WebServer":
        # The caller's sys.path may differ from the interpreter's default path.
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sources.world.server", str(self._folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            self.address = ("127.0.0.1", self._port(self._process))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return None if self._process is None else self._process.pid

    @staticmethod
    def _port(process: "subprocess.Popen[bytes]") -> int:
        assert process.stdout is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(process.stdout.fileno(), 64) if ready else b""
            if not chunk:
                raise RuntimeError(
                    f"the demo's web server did not start within {_START_TIMEOUT_S:.0f} s or ended early"
                )
            line += chunk
        return int(line)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
