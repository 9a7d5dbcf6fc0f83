"""A real headless Chromium, driven over its DevTools protocol with nothing but aiohttp."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiohttp

DEADLINE_SECONDS = 60.0


def chromium() -> str | None:
    """Path of a Chromium, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Tab:
    """One page.

    Attributes:
        errors: What the page's console complained of, and exceptions that nobody caught.
        requests: Addresses that the page asked for.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def open(self, address: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=address)

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page; a promise is waited for."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression holds."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await self.run(f"Boolean({script})"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def picture(self, path: Path) -> None:
        """Take a screenshot."""
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._answers[number]

    async def listen(self) -> None:
        """Hand out answers, and note events, until the socket closes."""
        async for message in self._socket:
            self._hear(json.loads(message.data))

    def _hear(self, event: dict[str, Any]) -> None:
        if "id" in event:
            answer = self._answers.pop(event["id"])
            if not answer.cancelled():
                answer.set_result(event.get("result", event))
            return
        told = event["params"]
        match event["method"]:
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["exceptionDetails"]))
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.errors.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])

    async def ready(self, width: int, height: int) -> Self:
        """Switch on what is noted, and set the window's size."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        return self


@asynccontextmanager
async def browser_tab(profile: Path, *, width: int = 1280, height: int = 900) -> AsyncIterator[Tab]:
    """Start a browser with one empty tab; it ends with the block."""
    path = chromium()
    assert path is not None, "there is no Chromium on PATH"
    process = await asyncio.create_subprocess_exec(
        path,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
        "about:blank",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as listed:
                targets = await listed.json()
            address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
            async with session.ws_connect(address, max_msg_size=2**27) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                yield await tab.ready(width, height)
                listening.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _port(path: Path) -> int:
    def read() -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (lines := await asyncio.to_thread(read)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return int(lines[0])
