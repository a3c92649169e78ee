"""The report in a real browser: headless Chromium, spoken to by the DevTools protocol over loopback."""

import asyncio
import base64
import io
import itertools
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from pipeline.report.page import render_page
from tests.support.sample_report import SECTIONS, empty_report, sample_report

CHROMIUM = shutil.which("chromium")


FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0"),
)


WIDE, NARROW = 1280, 390


pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed on this machine")


class Tab:
    """One page of a running browser; `events` keeps every DevTools event it sent."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command and its result; raises AssertionError where the browser refuses."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while (message := await self._socket.receive_json(timeout=60)).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        found: dict[str, Any] = message["result"]
        return found

    async def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Load a page at this width (CSS pixels) in the light or dark scheme."""
        for domain in ("Page", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Page.navigate", url=page.as_uri())
        while await self.evaluate("document.readyState") != "complete":
            await asyncio.sleep(0.05)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def picture(self) -> bytes:
        """The whole page, from top to bottom, as PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])


def visit(profile: Path, steps: Callable[[Tab], Awaitable[None]]) -> None:
    """Start Chromium with a profile of its own, run `steps` on its first tab, and end it."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            asyncio.run(_with_tab(_port(profile, browser), steps))
        finally:
            browser.terminate()


def _port(profile: Path, browser: subprocess.Popen[bytes]) -> int:
    """The loopback port that the browser chose; it writes it to its profile once it listens."""
    written = profile / "DevToolsActivePort"
    for _ in range(1200):
        if written.exists() and (lines := written.read_text().split()):
            return int(lines[0])
        assert browser.poll() is None, "chromium ended before it listened"
        time.sleep(0.05)
    raise TimeoutError("chromium did not open its DevTools port within 60 s")


async def _with_tab(port: int, steps: Callable[[Tab], Awaitable[None]]) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            address = next(each["webSocketDebuggerUrl"] for each in await answer.json() if each["type"] == "page")
        async with session.ws_connect(address, max_msg_size=0) as socket:
            await steps(Tab(socket))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The sample report as a file."""
    path = tmp_path / "report.html"
    path.write_text(render_page(sample_report()), encoding="utf-8")
    return path


def _not_blank(png: bytes, width: int) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert picture.width == width
    assert picture.height > 2000
    colours = picture.resize((width // 2, picture.height // 2)).getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 500


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_page_is_drawn_whole_and_never_scrolls_sideways(page: Path, tmp_path: Path, width: int) -> None:
    brightness: dict[str, float] = {}

    async def look(tab: Tab) -> None:
        for scheme in ("light", "dark"):
            await tab.open(page, width, scheme)
            png = await tab.picture()
            (tmp_path / f"report-{width}-{scheme}.png").write_bytes(png)
            _not_blank(png, width)
            corner = Image.open(io.BytesIO(png)).convert("L").getpixel((2, 900))
            brightness[scheme] = float(corner)  # type: ignore[arg-type]
            assert await tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert await tab.evaluate("window.innerWidth") == width
            images = "[...document.images]"
            assert await tab.evaluate(f"{images}.length > 10 && {images}.every(i => i.naturalWidth > 0)")
            figures = "[...document.querySelectorAll('.drawing')].filter(f => f.offsetParent)"
            assert await tab.evaluate(f"{figures}.length") == 2 + 5 + 4 + 5
            assert await tab.evaluate(f"{figures}.every(f => f.getBoundingClientRect().height > 50)")

    visit(tmp_path / "profile", look)
    assert brightness["light"] > 200 > 80 > brightness["dark"]


def test_policy_lets_the_page_through_and_nothing_is_fetched(page: Path, tmp_path: Path) -> None:
    async def look(tab: Tab) -> None:
        await tab.open(page, WIDE)
        dom = await tab.evaluate("document.documentElement.outerHTML")
        assert all(f'id="{section}"' in dom for section in SECTIONS)
        assert await tab.evaluate("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
        logged = [event for event in tab.events if event.get("method") == "Log.entryAdded"]
        assert not logged
        asked = [e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith("data:image/jpeg;base64,")] == [page.as_uri()]

    visit(tmp_path / "profile", look)


def test_policy_stops_a_script_that_got_in(page: Path, tmp_path: Path) -> None:
    """The second wall: even if escaping failed somewhere, nothing would run."""
    hostile = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    page.write_text(page.read_text(encoding="utf-8").replace("</main>", hostile + "</main>"), encoding="utf-8")

    async def look(tab: Tab) -> None:
        await tab.open(page, WIDE)
        assert "taken" not in await tab.evaluate("document.title")
        assert any("Content Security Policy" in str(event) for event in tab.events)

    visit(tmp_path / "profile", look)


def test_empty_report_opens(tmp_path: Path) -> None:
    path = tmp_path / "empty.html"
    path.write_text(render_page(empty_report()), encoding="utf-8")

    async def look(tab: Tab) -> None:
        await tab.open(path, NARROW)
        assert await tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert await tab.evaluate("document.querySelectorAll('.nothing').length") >= 8

    visit(tmp_path / "profile", look)
