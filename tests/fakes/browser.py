"""A Chromium driven over its own debugging protocol: just enough to log in and read a page."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol; its result."""
        self._number += 1
        words = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(words))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                return dict(answer.get("result", {}))

    def script(self, text: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call(
            "Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True
        )
        return found.get("result", {}).get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait for an expression to be true; its value."""
        deadline = time.monotonic() + seconds
        while not (found := self.script(expression)):
            assert time.monotonic() < deadline, self.script("document.body.innerText")
            time.sleep(0.3)
        return found


@contextmanager
def open_page(url: str, profile: Path) -> Iterator[Page]:
    """A tab at `url` in a browser with a profile of its own."""
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
    browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port.exists() and port.read_text().strip()):
            assert time.monotonic() < deadline and browser.poll() is None
            time.sleep(0.2)
        number = port.read_text().split()[0]
        with urlopen(f"http://127.0.0.1:{number}/json", timeout=20) as answer:
            [tab, *_] = [t for t in json.load(answer) if t["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        browser.kill()
        browser.wait()
