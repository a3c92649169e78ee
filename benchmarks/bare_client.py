"""The least that aiohttp's client does: ask for images over kept connections and read them. No host has a limit,
nothing is checked, hashed, decoded or written: what `benchmarks.ingest` sets beside the rates of those that do.
"""

import asyncio
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import aiohttp

CONNECTIONS = 32


async def _fetch(port: int, hosts: int, numbers: Iterable[int]) -> None:
    waiting = iter(numbers)

    async def ask(session: aiohttp.ClientSession) -> None:
        for number in waiting:
            async with session.get(f"http://127.0.0.{1 + number % hosts}:{port}/i/{number}.jpg") as reply:
                reply.raise_for_status()
                assert await reply.read(), f"image {number} is empty"

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        await asyncio.gather(*(ask(session) for _ in range(CONNECTIONS)))


def fetch(port: int, hosts: int, numbers: range) -> tuple[float, float]:
    """Fetch the images of these numbers; return when that began and when it ended, in seconds since the epoch."""
    started = time.time()
    asyncio.run(_fetch(port, hosts, numbers))
    return started, time.time()


def main(port: int, hosts: int, images: int, processes: int) -> float:
    """Fetch in several processes; return the seconds from the first one's start to the last one's end."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        running = [pool.submit(fetch, port, hosts, range(first, images, processes)) for first in range(processes)]
        times = [one.result() for one in running]
    return max(end for _, end in times) - min(start for start, _ in times)
