"""The least that a client in Python does: ask for images over kept connections and count their bytes. No host has a
limit, nothing is checked, hashed, decoded or written: what `benchmarks.ingest` sets beside the rates of those that do.

  python -m benchmarks.bare_client PORT HOSTS IMAGES PROCESSES        prints the seconds from the first to the last byte
"""

import re
import selectors
import socket
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

CONNECTIONS = 32
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)


@dataclass
class _Connection:
    stream: socket.socket
    left: int = -1  # bytes of the body to come, -1 before its headers
    head: bytes = field(default=b"", repr=False)

    def ask(self, number: int) -> None:
        self.left = -1
        self.stream.sendall(b"GET /i/%d.jpg HTTP/1.1\r\nHost: bare\r\n\r\n" % number)

    def took(self) -> bool:
        """Receive once; tell whether the image is whole."""
        data = self.stream.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed a connection")
        if self.left < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return False
            found = _LENGTH.search(self.head, 0, end + 2)
            if found is None or not self.head.startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(f"no image: {self.head[:80]!r}")
            self.left, data, self.head = int(found[1]), self.head[end + 4 :], b""
        self.left -= len(data)
        return self.left == 0


def fetch(port: int, hosts: int, numbers: range) -> tuple[float, float]:
    """Fetch the images of these numbers; return when that began and when it ended, in seconds since the epoch."""
    waiting = iter(numbers)
    started = time.time()
    with selectors.DefaultSelector() as ready:
        for place in range(min(CONNECTIONS, len(numbers))):
            one = _Connection(socket.create_connection((f"127.0.0.{1 + place % hosts}", port)))
            one.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(one.stream, selectors.EVENT_READ, one)
            one.ask(next(waiting))
        left = len(numbers)
        while left:
            for key, _ in ready.select():
                if not key.data.took():
                    continue
                left -= 1
                if (number := next(waiting, None)) is not None:
                    key.data.ask(number)
        for key in list(ready.get_map().values()):
            key.data.stream.close()
    return started, time.time()


def main(port: int, hosts: int, images: int, processes: int) -> float:
    """Fetch in several processes; return the seconds from the first one's start to the last one's end."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        running = [pool.submit(fetch, port, hosts, range(first, images, processes)) for first in range(processes)]
        times = [one.result() for one in running]
    return max(end for _, end in times) - min(start for start, _ in times)


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
